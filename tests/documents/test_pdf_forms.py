"""PDFs with more on their pages than content: filled forms, text boxes, comments; and pages that are turned."""

import io
from pathlib import Path

import pypdfium2 as pdfium
import pytest

from spec_engine.documents.anchors import Document
from spec_engine.documents.pdf import read_pdf
from spec_engine.documents.pdf_page import page_picture
from spec_engine.errors import UnreadableDocument
from tests.documents.files import _assembled, _stream, make_pdf, show

TEXTS = [
    (60.0, 740.0, 10.0, "Name of the applicant:"),
    (60.0, 700.0, 10.0, "Amount in dollars:"),
    (60.0, 660.0, 10.0, "The fund was closed by the board in 1954."),
]
LINES = [
    "The fund of the turned page was closed.",
    "It was opened again by the board in May.",
    "A third line follows here in the text.",
]
MATRICES = {0: (b"1 0 0 1", 0, -1), 90: (b"0 1 -1 0", 1, 0), 180: (b"-1 0 0 -1", 0, 1), 270: (b"0 -1 1 0", -1, 0)}


def read(data: bytes) -> Document:
    return read_pdf(data, "a.pdf", "a", None, None)


def form(num_pages: int = 1) -> bytes:
    """A form, filled in: a field with an appearance, one without, a text box, a comment and a link."""

    def drawn(text: bytes) -> bytes:
        content = b"q BT /F1 10 Tf 2 5 Td (%b) Tj ET Q" % text
        head = b"/Type /XObject /Subtype /Form /BBox [0 0 200 20] /Resources << /Font << /F1 3 0 R >> >>"
        return b"<< %b /Length %d >>\nstream\n%b\nendstream" % (head, len(content), content)

    field = b"<< /Type /Annot /Subtype /Widget /FT /Tx /F 4 /DA (/F1 10 Tf 0 g) /Rect [200 %d 400 %d] %b >>"
    note = b"<< /Type /Annot /Subtype /%b /Contents (%b) /F 4 /DA (/F1 10 Tf 0 g) /Rect [60 600 260 620] %b >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 21 0 R /Annots [%b] "
    page += b"/Resources << /Font << /F1 3 0 R >> >> >>"
    own = b" ".join(b"%d 0 R" % number for number in range(30, 35))
    kids = b" ".join(b"%d 0 R" % (50 + number) for number in range(num_pages))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [30 0 R 31 0 R] /NeedAppearances true "
        b"/DR << /Font << /F1 3 0 R >> >> /DA (/F1 10 Tf 0 g) >> >>",
        2: b"<< /Type /Pages /Count %d /Kids [%b] >>" % (num_pages, kids),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        8: b"<< /Title (Form) >>",
        21: _stream(show(TEXTS)),
        30: field % (735, 755, b"/T (name) /V (Zoe Miller) /AP << /N 40 0 R >>"),
        31: field % (695, 715, b"/T (amount) /V (2,500)"),
        32: note % (b"FreeText", b"Approved", b"/AP << /N 41 0 R >>"),
        33: note % (b"Text", b"Check the sum", b"/T (Zo\xeb)"),
        34: b"<< /Type /Annot /Subtype /Link /Rect [60 655 160 670] /A << /S /URI /URI (https://x.org) >> >>",
        40: drawn(b"Zoe Miller"),
        41: drawn(b"Approved by the board"),
        **{50 + number: page % (own if number == 0 else b"34 0 R") for number in range(num_pages)},
    }
    return _assembled(objects, b"")


def test_what_was_filled_in_is_read_where_it_stands_and_comments_behind_it() -> None:
    document = read(form(num_pages=2))
    assert document.blocks[0].text == (
        "Name of the applicant: | Zoe Miller\n\nAmount in dollars: | 2,500\n\n"
        "The fund was closed by the board in 1954.\n\nApproved by the board\n\nComment by Zo\u00eb: Check the sum"
    )
    assert document.blocks[1].text.startswith("Name of the applicant:\n\nAmount")
    assert document.problems == ()


def test_a_field_that_touches_its_label_stands_apart_from_it() -> None:
    data = form()
    touching = data.replace(b"/Rect [200 735 400 755]", b"/Rect [157 735 357 755]")
    assert touching != data
    assert read(touching).blocks[0].text.startswith("Name of the applicant: Zoe Miller\n")


def test_what_is_in_one_field_stays_together() -> None:
    texts = [
        (60.0, 700.0, 10.0, "Remarks:"),
        (60.0, 676.0, 10.0, "(use more paper)"),
        (400.0, 690.0, 10.0, "Office use only"),
        (60.0, 600.0, 10.0, "Signed:"),
        (300.0, 600.0, 10.0, "Date:"),
        (60.0, 500.0, 10.0, "Colours:"),
    ]
    field = b"/Subtype /Widget /FT /%b /T (f%d) /Rect [%d %d %d %d] %b"
    fields = [
        field % (b"Tx", 0, 200, 640, 390, 712, b"/Ff 4096 /V (The first line of it,\\rthe second,\\rand a third.)"),
        field % (b"Tx", 1, 120, 595, 200, 612, b"/V (Zoe)"),
        field % (b"Tx", 2, 200, 595, 290, 612, b"/V (Berlin)"),
        field % (b"Tx", 3, 330, 595, 420, 612, b"/V (5 May)"),
        field % (b"Ch", 4, 200, 480, 260, 515, b"/V [(red) (green)] /Opt [(red) (green) (blue)] /Ff 2097152"),
    ]
    catalog = b"/AcroForm << /Fields [%b] /NeedAppearances true /DR << /Font << /F1 3 0 R >> >> /DA (/F1 10 Tf 0 g) >>"
    catalog %= b" ".join(b"%d 0 R" % (30 + number) for number in range(len(fields)))
    text = " ".join(read(with_notes(*fields, content=show(texts), catalog=catalog)).text.replace("|", "").split())
    assert text.startswith("Remarks: The first line of it, the second, and a third. (use more paper) Office use")
    assert "Signed: Zoe Berlin Date: 5 May Colours: red green blue" in text
    assert text.endswith("Field f4: red, green")


def with_notes(*notes: bytes, content: bytes = b"", catalog: bytes = b"") -> bytes:
    """A page with these annotations, and perhaps nothing else."""
    head = b"<< /Type /Annot /F 4 /DA (/F1 10 Tf 0 g) /Rect [60 600 260 620] %b >>"
    own = b" ".join(b"%d 0 R" % (30 + number) for number in range(len(notes)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R %b >>" % catalog,
        2: b"<< /Type /Pages /Count 1 /Kids [50 0 R] >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        8: b"<< /Title (Notes) >>",
        21: _stream(content),
        **{30 + number: head % note for number, note in enumerate(notes)},
        50: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 21 0 R /Annots [%b] "
        b"/Resources << /Font << /F1 3 0 R >> >> >>" % own,
    }
    return _assembled(objects, b"")


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (b"/Subtype /Text /T (Ada) /Contents (Check ex\\255ample)", "Comment by Ada: Check example"),
        (b"/Subtype /Text /RC (<body><p>Rich &amp; bold</p></body>)", "Comment: Rich & bold"),
        (b"/Subtype /Text /IRT 21 0 R /Contents (So do I)", "Reply: So do I"),
        (b"/Subtype /Text /StateModel (Review) /State (Accepted) /Contents (Accepted set by B)", None),
        (b"/Subtype /Stamp /Contents (Rejected because of clause 4)", "Comment: Rejected because of clause 4"),
        (b"/Subtype /FreeText /Contents (Not drawn at all)", "Comment: Not drawn at all"),
        (b"/Subtype /Redact /Contents (Out with it)", "Comment: Out with it"),
    ],
)
def test_what_readers_left_on_a_page_without_text_is_read(note: bytes, words: str | None) -> None:
    data = with_notes(note)
    if words is None:
        with pytest.raises(UnreadableDocument, match="holds no text"):
            read(data)
        return
    document = read(data)
    assert document.text == words
    assert document.problems == ()


def test_a_file_that_is_pinned_to_a_page_is_named() -> None:
    pinned = b"/Subtype /FileAttachment /FS << /F (b\\012ill.xml) /UF (b\\012ill.xml) >> /Contents (The bill)"
    document = read(with_notes(pinned, content=show(TEXTS)))
    assert document.text.endswith("Comment: The bill")
    told = "b ill.xml is attached to p. 1 and was not read; save it and add it as a file of its own"
    assert [(problem.anchor_label, problem.message) for problem in document.problems] == [("p. 1", told)]


def test_a_field_in_letters_that_its_font_lacks_is_read_behind_the_page() -> None:
    field = b"/Subtype /Widget /FT /Tx /T (name) /V <feff05e905dc05d505dd>%b"
    catalog = (
        b"/AcroForm << /Fields [30 0 R] /NeedAppearances true /DR << /Font << /F1 3 0 R >> >> /DA (/F1 10 Tf 0 g) >>"
    )
    text = read(with_notes(field % b"", content=show(TEXTS), catalog=catalog)).text
    assert text.endswith("1954.\n\nField name: שלום")
    secret = read(with_notes(field % b" /Ff 8192", content=show(TEXTS), catalog=catalog)).text
    assert "שלום" not in secret


def test_a_document_without_text_says_what_hangs_on_it() -> None:
    catalog = b"/NeedsRendering true /AcroForm << /Fields [] /XFA [(x) 21 0 R] >>"
    with pytest.raises(
        UnreadableDocument, match=r"no text on any of its 1 pages\. The form in it is of a kind \(XFA\)"
    ):
        read(with_notes(catalog=catalog))


def test_what_hangs_on_a_document_and_is_not_read_is_named() -> None:
    pdf = pdfium.PdfDocument(form())
    pdf.new_attachment("bill.xml").set_data(b"<bill/>")
    saved = io.BytesIO()
    pdf.save(saved)
    pdf.close()
    messages = [problem.message for problem in read(saved.getvalue()).problems]
    assert messages == ["bill.xml is attached and was not read; save it and add it as a file of its own"]


def test_a_form_that_makes_its_own_pages_is_named() -> None:
    forms = form().replace(b"/NeedAppearances true ", b"/XFA [(x) 21 0 R]      ")
    assert not read(forms).problems  # its fields are there as those of an ordinary form
    whole = forms.replace(b"<< /Type /Catalog ", b"<< /NeedsRendering true ")
    assert ["(XFA)" in problem.message for problem in read(whole).problems] == [True]


def test_a_passage_that_was_filled_in_is_marked_on_its_page(tmp_path: Path) -> None:
    path = tmp_path / "form.pdf"
    path.write_bytes(form())
    plain, marked = (page_picture(path, 0, passage) for passage in ("", "Approved by the board"))
    assert plain != marked


@pytest.mark.parametrize("angle", MATRICES)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("num_lines", [2, 3])
def test_lines_keep_their_order_however_page_and_text_are_turned(rotation: int, angle: int, num_lines: int) -> None:
    matrix, across, up = MATRICES[angle]
    drawn = b"\n".join(
        b"BT /F1 10 Tf %b %d %d Tm (%b) Tj ET" % (matrix, 300 + 12 * across * i, 300 + 12 * up * i, line.encode())
        for i, line in enumerate(LINES[:num_lines])
    )
    data = make_pdf([drawn]).replace(b"/MediaBox", b"/Rotate %d /MediaBox" % rotation)
    assert read(data).text == " ".join(LINES[:num_lines])


def test_slanted_letters_stand_on_their_line() -> None:
    slanted = b"BT /F1 10 Tf 1 0 0.3 1 60 700 Tm (The fund was) Tj ET BT /F1 10 Tf 1 0 0.3 1 125 700 Tm (closed.) Tj ET"
    below = show([(60, 688, 10, "It was opened again by the board in May of that year.")])
    assert read(make_pdf([slanted + b"\n" + below])).text.startswith("The fund was closed.")


@pytest.mark.parametrize("rotation", [90, 270])
def test_columns_of_a_turned_page_keep_their_order(rotation: int) -> None:
    columns = [[f"The {word} line of the {side} column." for word in ("first", "second", "third")] for side in "ab"]
    placed = [
        (60.0 + 260 * number, 740.0 - 12 * row, 10.0, line)
        for number, column in enumerate(columns)
        for row, line in enumerate(column)
    ]
    data = make_pdf([show(placed)]).replace(b"/MediaBox", b"/Rotate %d /MediaBox" % rotation)
    assert " ".join(read(data).text.split()) == " ".join(line for column in columns for line in column)


@pytest.mark.parametrize("is_letter", [True, False])
def test_a_tick_is_read_or_named(is_letter: bool) -> None:
    """Drawn as a letter of ZapfDingbats, and as two strokes."""
    head = b"/Type /XObject /Subtype /Form /BBox [0 0 12 12] /Resources << /Font << /Z 4 0 R >> >>"
    drawn = b"q BT /Z 10 Tf 2 2 Td (4) Tj ET Q" if is_letter else b"2 6 m 5 2 l 10 10 l S"
    box = b"<< /Type /Annot /Subtype /Widget /FT /Btn /F 4 /T (%b) /V /%b /AS /%b /Rect [200 %d 212 %d] "
    box += b"/AP << /N << /Yes 40 0 R /Off 41 0 R >> >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 21 0 R /Annots [30 0 R 31 0 R] "
    page += b"/Resources << /Font << /F1 3 0 R >> >> >>"
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [30 0 R 31 0 R] >> >>",
        2: b"<< /Type /Pages /Count 1 /Kids [50 0 R] >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: b"<< /Type /Font /Subtype /Type1 /BaseFont /ZapfDingbats >>",
        8: b"<< /Title (Form) >>",
        21: _stream(show(TEXTS)),
        30: box % (b"yes", b"Yes", b"Yes", 735, 747),
        31: box % (b"no", b"Off", b"Off", 695, 707),
        40: b"<< %b /Length %d >>\nstream\n%b\nendstream" % (head, len(drawn), drawn),
        41: b"<< %b /Length 0 >>\nstream\n\nendstream" % head,
        50: page,
    }
    document = read(_assembled(objects, b""))
    assert ("\u2714" in document.text) == is_letter
    remarks = [] if is_letter else ["p. 1 has a box whose tick is not read"]
    assert [problem.message for problem in document.problems] == remarks
