"""PDF files, written by hand so that every case is known."""

import threading

import pytest

from spec_engine.documents import ocr
from spec_engine.documents.pdf import read_pdf
from spec_engine.errors import PasswordRequired, UnreadableDocument
from tests.documents.files import INLINE_IMAGE, make_pdf, paragraph, show


@pytest.fixture
def without_ocr(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were not installed."""
    monkeypatch.setattr(ocr, "is_installed", lambda: False)


LINES = ["The quick brown fox jumps over the lazy dog and then", "goes on to the next line, where the sentence ends."]


def read(data: bytes, password: str | None = None):
    return read_pdf(data, "a.pdf", "a", password, None)


def test_pages_title_and_progress() -> None:
    pages = [show(paragraph(50, 700, LINES)), show(paragraph(50, 700, [LINES[1], LINES[0]]))]
    seen: list[tuple[int, int]] = []
    document = read_pdf(make_pdf(pages, title="Über Füchse"), "a.pdf", "a", None, lambda n, m: seen.append((n, m)))
    assert document.title == "Über Füchse"
    assert [block.anchor.label for block in document.blocks] == ["p. 1", "p. 2"]
    assert document.blocks[0].text == " ".join(LINES)
    assert document.problems == ()
    assert seen == [(1, 2), (2, 2)]
    assert read(make_pdf(pages)).title == "a"
    assert read(make_pdf(pages, title="Microsoft Word - Report.doc")).title == "Report.doc"


def test_same_bytes_same_text() -> None:
    data = make_pdf([show(paragraph(50, 700, LINES))])
    assert read(data).sha256 == read(data).sha256


def test_hyphenated_word_is_whole_again() -> None:
    document = read(
        make_pdf([show(paragraph(50, 700, ["A long line of ordinary words that ends in an exam-", "ple of a cut."]))])
    )
    assert "an example of a cut." in document.text


def test_columns_drawn_across() -> None:
    left = paragraph(50, 700, [f"Left line {i} is about as long as these lines get" for i in range(8)])
    right = paragraph(310, 700, [f"Right line {i} is about as long as these lines" for i in range(8)])
    text = read(make_pdf([show([piece for pair in zip(left, right, strict=True) for piece in pair])])).text
    assert text.index("Left line 7") < text.index("Right line 0")


def test_superscript_within_a_line() -> None:
    texts = [(50.0, 700.0, 10.0, "It measures 83"), (117.0, 704.0, 6.0, "2"), (124.0, 700.0, 10.0, "units of area.")]
    assert "83² units" in read(make_pdf([show(texts)])).text


def test_rotated_text_reads_in_its_own_direction() -> None:
    turned = b"\n".join(
        b"BT /F1 10 Tf 0 1 -1 0 %d 50 Tm (%b) Tj ET" % (100 + 12 * i, t.encode()) for i, t in enumerate(LINES)
    )
    assert " ".join(LINES) in read(make_pdf([turned])).text


@pytest.mark.parametrize("text", ["םלועל םולש", "123 רפסמ םע הרוש"])
def test_right_to_left_text(text: str) -> None:
    logical = {"םלועל םולש": "שלום לעולם", "123 רפסמ םע הרוש": "שורה עם מספר 123"}[text]
    assert read(make_pdf([show([(50, 700, 12, text), *paragraph(50, 600, LINES)])])).text.startswith(logical)


def test_pages_without_text_are_reported(without_ocr: None) -> None:
    pages = [show(paragraph(50, 700, LINES)), INLINE_IMAGE, b"", show([(50, 700, 10, "Short")])]
    document = read(make_pdf(pages))
    assert [block.anchor.index for block in document.blocks] == [0, 3]
    assert [(p.anchor_label, p.message) for p in document.problems] == [
        ("p. 2", "p. 2 has no text (a scan?)"),
        ("p. 3", "p. 3 has no text (a blank page, or a drawing?)"),
        ("p. 4", "p. 4 has almost no text: 5 characters"),
        (None, "Scanned pages can be read by OCR, which is not installed. Run here: pip install -e '.[ocr]'"),
    ]


def test_scan_cannot_be_read(without_ocr: None) -> None:
    with pytest.raises(UnreadableDocument, match=r"pip install -e '\.\[ocr\]'.*optical character recognition"):
        read(make_pdf([INLINE_IMAGE, INLINE_IMAGE]))
    with pytest.raises(UnreadableDocument, match="no text on any of its 1 pages"):
        read(make_pdf([b""]))


def test_private_characters_are_reported_and_left_out() -> None:
    document = read(make_pdf([show([(50, 700, 10, "\ue123\ue124\ue125\ue126" * 10), *paragraph(50, 600, LINES)])]))
    assert document.text == " ".join(LINES)
    assert "gibberish" in document.problems[0].message


def test_passwords() -> None:
    data = make_pdf([show(paragraph(50, 700, LINES))], title="Secret", password="open")
    with pytest.raises(PasswordRequired, match="needs a password"):
        read(data)
    with pytest.raises(PasswordRequired, match="does not open with this password"):
        read(data, "wrong")
    document = read(data, "open")
    assert (document.title, document.text) == ("Secret", " ".join(LINES))


def test_cut_files() -> None:
    data = make_pdf([show(paragraph(50, 700, LINES))] * 40)
    with pytest.raises(UnreadableDocument, match="damaged or incomplete"):
        read(data[:400])
    document = read(data[: data.rindex(b"startxref")])  # pdfium rebuilds the table while the trailer is there
    assert "end of the file is missing" in document.problems[0].message


def test_threads_may_read_at_once() -> None:
    data = make_pdf([show(paragraph(50, 700, LINES))] * 20)
    hashes: list[str] = []
    threads = [threading.Thread(target=lambda: hashes.append(read(data).sha256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hashes) == 4
    assert len(set(hashes)) == 1
