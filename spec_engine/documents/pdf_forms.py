"""What stands on a page of a PDF beside its content: filled fields, text boxes and stamps, and comments.

Job: `loaded_page`, a page with those drawn into its content where they stand, so that they are read, shown and marked
as the rest, and how many remarks of readers hang on it and ticks are drawn without a letter.
Non-job: reading text (`pdf_lines`), comments themselves.
"""

from contextlib import closing
from dataclasses import dataclass
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as raw

_DRAWN: Final = frozenset((raw.FPDF_ANNOT_WIDGET, raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_STAMP))
_REMARKS: Final = frozenset(
    (
        *(raw.FPDF_ANNOT_TEXT, raw.FPDF_ANNOT_HIGHLIGHT, raw.FPDF_ANNOT_UNDERLINE, raw.FPDF_ANNOT_STRIKEOUT),
        *(raw.FPDF_ANNOT_SQUIGGLY, raw.FPDF_ANNOT_CARET, raw.FPDF_ANNOT_SQUARE, raw.FPDF_ANNOT_CIRCLE),
        *(raw.FPDF_ANNOT_LINE, raw.FPDF_ANNOT_POLYGON, raw.FPDF_ANNOT_POLYLINE, raw.FPDF_ANNOT_INK),
    )
)


@dataclass(frozen=True, slots=True)
class LoadedPage:
    """A page, to be closed by who asked for it.

    Attributes:
        num_own: characters of its own content, which come first; None where nothing was drawn behind them.
        num_comments: remarks with words in them.
        num_ticks: boxes that are ticked, and hold nothing that could be read.
    """

    page: pdfium.PdfPage
    num_own: int | None
    num_comments: int
    num_ticks: int = 0


def loaded_page(pdf: pdfium.PdfDocument, index: int) -> LoadedPage:
    """Page `index`. Raises `pdfium.PdfiumError` when it cannot be loaded."""
    page = pdf[index]
    annotations = _annotations(page)
    num_comments = sum(has_words for kind, has_words in annotations if kind in _REMARKS)
    if not any(kind in _DRAWN for kind, _ in annotations):
        return LoadedPage(page, None, num_comments)
    if pdf.formenv is None:
        page.close()
        pdf.init_forms()  # draws the fields that have no appearance of their own
        page = pdf[index]
    with closing(page.get_textpage()) as textpage:
        num_own = int(textpage.count_chars())
    ticked = _ticked(pdf, page)
    if raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY) != raw.FLATTEN_SUCCESS:
        return LoadedPage(page, None, num_comments, len(ticked))
    page.close()
    page = pdf[index]
    with closing(page.get_textpage()) as textpage:
        num_ticks = sum(not textpage.get_text_bounded(*box).strip() for box in ticked)
    return LoadedPage(page, num_own, num_comments, num_ticks)


def _ticked(pdf: pdfium.PdfDocument, page: pdfium.PdfPage) -> list[tuple[float, float, float, float]]:
    """Left, bottom, right and top of the boxes that are ticked."""
    found = []
    for number in range(raw.FPDFPage_GetAnnotCount(page) if pdf.formenv else 0):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        if annotation:
            box = raw.FS_RECTF()
            if raw.FPDFAnnot_IsChecked(pdf.formenv, annotation) and raw.FPDFAnnot_GetRect(annotation, box):
                found.append((box.left, box.bottom, box.right, box.top))
            raw.FPDFPage_CloseAnnot(annotation)
    return found


def _annotations(page: pdfium.PdfPage) -> list[tuple[int, bool]]:
    """Kind of each annotation, and whether it holds words."""
    found = []
    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        if annotation:
            size = raw.FPDFAnnot_GetStringValue(annotation, b"Contents", None, 0)  # in bytes, with two zeros at the end
            found.append((raw.FPDFAnnot_GetSubtype(annotation), size > 2))
            raw.FPDFPage_CloseAnnot(annotation)
    return found
