"""What stands on a page of a PDF beside its content: filled fields, text boxes and stamps, and comments.

Job: `loaded_page`, a page with those drawn into its content where they stand, so that they are read, shown and marked
as the rest, the comments of readers that hang on it, and how many ticks are drawn without a letter.
Non-job: reading text (`pdf_lines`).
"""

import ctypes
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
        comments: what readers remarked, each with who did, if that is told.
        num_ticks: boxes that are ticked, and hold nothing that could be read.
    """

    page: pdfium.PdfPage
    num_own: int | None
    comments: tuple[str, ...]
    num_ticks: int = 0


def loaded_page(pdf: pdfium.PdfDocument, index: int) -> LoadedPage:
    """Page `index`. Raises `pdfium.PdfiumError` when it cannot be loaded."""
    page = pdf[index]
    annotations = _annotations(page)
    comments = tuple(words for kind, words in annotations if kind in _REMARKS and words)
    if not any(kind in _DRAWN for kind, _ in annotations):
        return LoadedPage(page, None, comments)
    if pdf.formenv is None:
        page.close()
        pdf.init_forms()  # draws the fields that have no appearance of their own
        page = pdf[index]
    with closing(page.get_textpage()) as textpage:
        num_own = int(textpage.count_chars())
    ticked = _ticked(pdf, page)
    if raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY) != raw.FLATTEN_SUCCESS:
        return LoadedPage(page, None, comments, len(ticked))
    page.close()
    page = pdf[index]
    with closing(page.get_textpage()) as textpage:
        num_ticks = sum(not textpage.get_text_bounded(*box).strip() for box in ticked)
    return LoadedPage(page, num_own, comments, num_ticks)


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


def _annotations(page: pdfium.PdfPage) -> list[tuple[int, str]]:
    """Kind of each annotation, and its words as a comment; "" where it has none."""
    found = []
    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        if annotation:
            author, words = _string(annotation, b"T").strip(), _string(annotation, b"Contents").strip()
            comment = f"Comment{f' by {author}' if author else ''}: {words}" if words else ""
            found.append((raw.FPDFAnnot_GetSubtype(annotation), comment))
            raw.FPDFPage_CloseAnnot(annotation)
    return found


def _string(annotation: object, key: bytes) -> str:
    """A text that an annotation holds."""
    size = raw.FPDFAnnot_GetStringValue(annotation, key, None, 0)  # in bytes, with two zeros at the end
    held = ctypes.create_string_buffer(size)
    raw.FPDFAnnot_GetStringValue(annotation, key, ctypes.cast(held, ctypes.POINTER(raw.FPDF_WCHAR)), size)
    return held.raw.decode("utf-16-le", "replace").rstrip("\0")


def attached_names(pdf: pdfium.PdfDocument) -> list[str]:
    """The names of the files that are attached to a document as a whole."""
    names = []
    for number in range(raw.FPDFDoc_GetAttachmentCount(pdf)):
        attachment = raw.FPDFDoc_GetAttachment(pdf, number)
        size = raw.FPDFAttachment_GetName(attachment, None, 0)
        held = ctypes.create_string_buffer(size)
        raw.FPDFAttachment_GetName(attachment, ctypes.cast(held, ctypes.POINTER(raw.FPDF_WCHAR)), size)
        names.append(held.raw.decode("utf-16-le", "replace").rstrip("\0") or "a file without a name")
    return names
