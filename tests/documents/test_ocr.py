"""Scanned pages: pages drawn by hand and turned into pictures, read by the real engine."""

import io
import socket

import pypdfium2 as pdfium
import pytest
from PIL import Image

from spec_engine.documents import ocr
from spec_engine.documents.ocr_lines import Found, reading_lines
from spec_engine.documents.pdf import read_pdf
from spec_engine.documents.pdf_page import page_picture
from spec_engine.documents.pdf_scans import draw
from spec_engine.errors import MissingDependency, Stopped, UnreadableDocument
from tests.documents.files import INLINE_IMAGE, make_pdf, paragraph, show

LINES = [
    "The quarterly survey counts every vessel that enters the harbour,",
    "and the figures below were gathered in the months of spring.",
    "Größe und Gewöhnung ändern sich über die Jahre nur wenig.",
    "A second survey followed in autumn and found 1,482 vessels.",
]
needs_ocr = pytest.mark.skipif(not ocr.is_installed(), reason="the extra [ocr] is not installed")


def scanned(content: bytes, turns: int = 0) -> Image.Image:
    """A page as a scanner would see it, turned against the clock."""
    pdf = pdfium.PdfDocument(make_pdf([content]))
    return pdf[0].render(scale=130 / 72).to_pil().convert("L").rotate(90 * turns, expand=True)


def picture_pdf(*pictures: Image.Image) -> bytes:
    """A PDF of pictures alone, as scanners make."""
    out = io.BytesIO()
    pictures[0].save(out, "PDF", resolution=130, save_all=True, append_images=pictures[1:])
    return out.getvalue()


def read(data: bytes):
    return read_pdf(data, "a.pdf", "a", None, None)


def box(text: str, x: float, y: float, width: float, height: float = 20) -> Found:
    return Found(text, ((x, y), (x + width, y), (x + width, y + height), (x, y + height)))


@needs_ocr
def test_scans_are_read_whichever_way_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("reading a page must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    content = show(paragraph(50, 700, LINES, size=12, pitch=15))
    data = picture_pdf(*(scanned(content, turns) for turns in range(3)))
    document = read(data)
    assert [block.anchor.label for block in document.blocks] == ["p. 1", "p. 2", "p. 3"]
    for block in document.blocks:
        assert " ".join(block.text.split()) == " ".join(LINES)
    assert [problem.message for problem in document.problems] == [
        f"p. {number} was read from a picture (OCR); words may be wrong" for number in (1, 2, 3)
    ]


@needs_ocr
def test_columns_of_a_scan() -> None:
    left = paragraph(50, 700, [f"Left line {i} is about as long as these lines get" for i in range(8)])
    right = paragraph(310, 694, [f"Right line {i} is about as long as these lines" for i in range(8)])
    text = read(picture_pdf(scanned(show([*left, *right])))).text
    assert text.index("Left line 7") < text.index("Right line 0")


@needs_ocr
def test_a_scan_with_a_line_of_text_beside_it() -> None:
    pdf = pdfium.PdfDocument(make_pdf([show([(50, 30, 8, "Scanned by the harbour office")])]))
    picture = pdfium.PdfImage.new(pdf)
    scan = scanned(show(paragraph(50, 700, LINES, size=12, pitch=15))).crop((0, 0, 1_075, 1_400))
    picture.set_bitmap(pdfium.PdfBitmap.from_pil(scan))
    picture.set_matrix(pdfium.PdfMatrix().scale(595, 775).translate(0, 67))
    page = pdf[0]
    page.insert_obj(picture)
    page.gen_content()
    out = io.BytesIO()
    pdf.save(out)
    document = read(out.getvalue())
    assert LINES[3] in document.text
    assert "Scanned by the harbour office" in document.text
    assert "read from a picture" in document.problems[0].message


@needs_ocr
def test_many_scans_are_told_in_one_remark_and_can_be_shown_and_stopped(tmp_path) -> None:
    pages = [scanned(show(paragraph(50, 700, LINES[:1], size=12)))] * 5
    data = picture_pdf(*pages)
    document = read(data)
    assert [(p.anchor_label, p.message) for p in document.problems] == [
        (None, "p. 1-5 were read from pictures (OCR); words may be wrong")
    ]
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    assert page_picture(path, 1, LINES[0]) == page_picture(path, 1)  # there is nothing to mark, and it is shown

    seen = []

    def stop(num_done: int, num_pages: int) -> None:
        seen.append((num_done, num_pages))
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        read_pdf(data, "a.pdf", "a", None, stop)
    assert seen == [(1, 5)]


@needs_ocr
def test_pictures_without_text() -> None:
    document = read(make_pdf([show(paragraph(50, 700, LINES)), INLINE_IMAGE]))
    assert [p.message for p in document.problems] == ["p. 2 has no text, and none was found in its picture"]
    with pytest.raises(UnreadableDocument, match="no text was found in them"):
        read(make_pdf([INLINE_IMAGE]))


@needs_ocr
def test_huge_and_tiny_pages_are_drawn_within_bounds() -> None:
    for width, height in ((20_000, 20_000), (3, 3), (10, 10_000)):
        pdf = pdfium.PdfDocument.new()
        picture = draw(pdf.new_page(width, height))
        assert 1 <= picture.width * picture.height <= 1.01 * ocr.MAX_PIXELS


def test_a_broken_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise MissingDependency("OCR cannot be used: no library. Run here: this")

    monkeypatch.setattr(ocr, "is_installed", lambda: True)
    monkeypatch.setattr(ocr, "Reader", fail)
    document = read(make_pdf([show(paragraph(50, 700, LINES)), INLINE_IMAGE]))
    assert [p.message for p in document.problems] == [
        "p. 2 has no text (a scan?)",
        "OCR cannot be used: no library. Run here: this",
    ]


def test_rows_of_a_table_stay_together() -> None:
    cells = [
        box(text, x, 100 + 30 * row + (x > 200) * 4, 80)
        for row in range(6)
        for x, text in ((300, f"{row}.5"), (50, f"Item {row}"), (180, "tons"))
    ]
    lines = reading_lines(cells)
    assert [line.text for line in lines[:6]] == ["Item 0", "tons", "0.5", "Item 1", "tons", "1.5"]


def test_columns_below_a_heading_and_askew() -> None:
    def askew(found: Found) -> Found:
        corners = tuple((x - 0.03 * y, y + 0.03 * x) for x, y in found.corners)
        return Found(found.text, (corners[0], corners[1], corners[2], corners[3]))

    words = "some words that fill the column"
    columns = [box(f"{x} {i} {words}", x, 150 + 25 * i, 240) for i in range(6) for x in (600, 325, 50)]
    heading = box("A heading that stands across all of the columns of this page", 100, 80, 700, 40)
    texts = [line.text for line in reading_lines([askew(found) for found in (*columns, heading)])]
    assert texts == [heading.text, *(f"{x} {i} {words}" for x in (50, 325, 600) for i in range(6))]


def test_what_runs_up_a_margin_comes_last() -> None:
    lines = [box(f"line {i}", 50, 100 + 30 * i, 300) for i in range(3)]
    texts = [line.text for line in reading_lines([box("on its side", 10, 50, 20, 300), *lines])]
    assert texts == ["line 0", "line 1", "line 2", "on its side"]


def test_nothing_found() -> None:
    assert reading_lines([]) == ()
