"""What stands on a page of a PDF beside its content: filled fields, text boxes and stamps, and comments.

Job: `loaded_page`, a page with those drawn into its content where they stand, so that they are read, shown and marked
as the rest, the comments of readers that hang on it, files that are pinned to it, and what is filled in but not drawn.
Non-job: reading text (`pdf_lines`).
"""

import ctypes
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from spec_engine.documents.names import shown_name
from spec_engine.documents.pdf_lines import Box

_DRAWN: Final = frozenset((raw.FPDF_ANNOT_WIDGET, raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_STAMP))
_REMARKS: Final = frozenset(
    (
        *(raw.FPDF_ANNOT_TEXT, raw.FPDF_ANNOT_HIGHLIGHT, raw.FPDF_ANNOT_UNDERLINE, raw.FPDF_ANNOT_STRIKEOUT),
        *(raw.FPDF_ANNOT_SQUIGGLY, raw.FPDF_ANNOT_CARET, raw.FPDF_ANNOT_SQUARE, raw.FPDF_ANNOT_CIRCLE),
        *(raw.FPDF_ANNOT_LINE, raw.FPDF_ANNOT_POLYGON, raw.FPDF_ANNOT_POLYLINE, raw.FPDF_ANNOT_INK),
        *(raw.FPDF_ANNOT_REDACT, raw.FPDF_ANNOT_FILEATTACHMENT, raw.FPDF_ANNOT_SOUND),
    )
)
_TYPED: Final = frozenset((raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX))
_UNSEEN: Final = raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW
_TAG: Final = re.compile("<[^>]*>")


@dataclass(frozen=True, slots=True)
class LoadedPage:
    """A page, to be closed by who asked for it.

    Attributes:
        num_own: characters of its own content, which come first; None where nothing was drawn behind them.
        comments: what readers remarked, each with who did, if that is told; also fields, text boxes and stamps whose
            words are not drawn, and what is chosen in lists.
        attached: names of the files that are pinned to the page.
        num_ticks: boxes that are ticked, and hold nothing that could be read.
        fields: where the fields lie that were drawn.
    """

    page: pdfium.PdfPage
    num_own: int | None
    comments: tuple[str, ...]
    attached: tuple[str, ...] = ()
    num_ticks: int = 0
    fields: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class _Note:
    """An annotation: its kind, its words, the comment that they make, and the file that is pinned to it."""

    kind: int
    words: str
    comment: str
    attached: str


@dataclass(frozen=True, slots=True)
class _Field:
    """A field that somebody has filled in; `is_list` where all that could be chosen is drawn."""

    name: str
    value: str
    box: Box
    is_list: bool


def loaded_page(pdf: pdfium.PdfDocument, index: int) -> LoadedPage:
    """Page `index`. Raises `pdfium.PdfiumError` when it cannot be loaded."""
    page = pdf[index]
    notes = _notes(page)
    comments = tuple(note.comment for note in notes if note.kind in _REMARKS and note.comment)
    attached = tuple(note.attached for note in notes if note.attached)
    if not any(note.kind in _DRAWN for note in notes):
        return LoadedPage(page, None, comments, attached)
    if pdf.formenv is None:
        page.close()
        pdf.init_forms()  # draws the fields that have no appearance of their own
        page = pdf[index]
    with closing(page.get_textpage()) as textpage:
        num_own: int | None = int(textpage.count_chars())
    ticked, fields = _ticked(pdf, page), _fields(pdf, page)
    if raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY) == raw.FLATTEN_SUCCESS:
        page.close()
        page = pdf[index]
    else:
        num_own = None
    with closing(page.get_textpage()) as textpage:
        num_ticks = sum(not textpage.get_text_bounded(*box).strip() for box in ticked)
        undrawn = tuple(_undrawn(textpage, notes, fields))
    return LoadedPage(page, num_own, comments + undrawn, attached, num_ticks, tuple(field.box for field in fields))


def _undrawn(textpage: pdfium.PdfTextPage, notes: list[_Note], fields: list[_Field]) -> Iterator[str]:
    """What text boxes, stamps and fields say that is not to be read where they stand, as where a font has no such
    letters: words that the page does not hold, values of which less than half is drawn, and what is chosen in lists."""
    held = _bare(textpage.get_text_bounded())
    for note in notes:
        if note.kind in _DRAWN and note.kind != raw.FPDF_ANNOT_WIDGET and _bare(note.words) not in held:
            yield note.comment
    for field in fields:
        drawn = len(_bare(textpage.get_text_bounded(*field.box)))
        is_drawn = 2 * drawn >= len(_bare(field.value)) or _bare(field.value) in held
        if field.is_list or not is_drawn:
            yield f"Field{f' {field.name}' if field.name else ''}: {field.value}"


def _bare(text: str) -> str:
    """Letters and digits alone."""
    return "".join(one for one in unicodedata.normalize("NFKC", text) if one.isalnum()).casefold()


def _each(page: pdfium.PdfPage) -> Iterator[tuple[object, Box]]:
    """The annotations of a page, while they are looked at, and where they lie."""
    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        if annotation:
            box = raw.FS_RECTF()
            raw.FPDFAnnot_GetRect(annotation, box)
            yield annotation, (box.left, box.bottom, box.right, box.top)
            raw.FPDFPage_CloseAnnot(annotation)


def _ticked(pdf: pdfium.PdfDocument, page: pdfium.PdfPage) -> list[Box]:
    """The boxes that are ticked."""
    return [box for one, box in _each(page) if pdf.formenv and raw.FPDFAnnot_IsChecked(pdf.formenv, one)]


def _fields(pdf: pdfium.PdfDocument, page: pdfium.PdfPage) -> list[_Field]:
    """The fields that hold words and are seen, without passwords."""
    found = []
    for one, box in _each(page) if pdf.formenv else ():
        is_seen = not raw.FPDFAnnot_GetFlags(one) & _UNSEEN and box[0] < box[2] and box[1] < box[3]
        is_typed = raw.FPDFAnnot_GetFormFieldType(pdf.formenv, one) in _TYPED
        is_secret = raw.FPDFAnnot_GetFormFieldFlags(pdf.formenv, one) & raw.FPDF_FORMFLAG_TEXT_PASSWORD
        if is_seen and is_typed and not is_secret:
            name = shown_name(_held(raw.FPDFAnnot_GetFormFieldName, pdf.formenv, one))
            chosen = _chosen(pdf, one)
            value = ", ".join(chosen) if chosen else _held(raw.FPDFAnnot_GetFormFieldValue, pdf.formenv, one)
            found += [_Field(name, value.replace("\r", "\n"), box, bool(chosen))] if value.strip() else []
    return found


def _chosen(pdf: pdfium.PdfDocument, field: object) -> list[str]:
    """What is chosen in a list."""
    if raw.FPDFAnnot_GetFormFieldType(pdf.formenv, field) != raw.FPDF_FORMFIELD_LISTBOX:
        return []
    numbers = range(max(0, raw.FPDFAnnot_GetOptionCount(pdf.formenv, field)))
    chosen = (number for number in numbers if raw.FPDFAnnot_IsOptionSelected(pdf.formenv, field, number))
    return [_held(raw.FPDFAnnot_GetOptionLabel, pdf.formenv, field, number) for number in chosen]


def _notes(page: pdfium.PdfPage) -> list[_Note]:
    """The annotations of a page. What only says in which state a comment is, as "Accepted", has no words."""
    found = []
    for one, _ in _each(page):
        kind, author = raw.FPDFAnnot_GetSubtype(one), shown_name(_string(one, b"T"))
        words = _string(one, b"Contents").strip() or html.unescape(_TAG.sub(" ", _string(one, b"RC"))).strip()
        words = "" if raw.FPDFAnnot_HasKey(one, b"StateModel") else words
        what = "Reply" if raw.FPDFAnnot_HasKey(one, b"IRT") else "Comment"
        comment = f"{what}{f' by {author}' if author else ''}: {words}" if words else ""
        file = raw.FPDFAnnot_GetFileAttachment(one) if kind == raw.FPDF_ANNOT_FILEATTACHMENT else None
        found.append(_Note(kind, words, comment, _name_of(file) if file else ""))
    return found


def _string(annotation: object, key: bytes) -> str:
    """A text that an annotation holds."""
    return _held(raw.FPDFAnnot_GetStringValue, annotation, key)


def _name_of(attachment: object) -> str:
    """The name of an attached file."""
    return shown_name(_held(raw.FPDFAttachment_GetName, attachment)) or "a file without a name"


def _held(ask: Callable[..., int], *asked: object) -> str:
    """What PDFium says when it is asked so, in UTF-16."""
    size = ask(*asked, None, 0)  # in bytes, with two zeros at the end
    held = ctypes.create_string_buffer(size)
    ask(*asked, ctypes.cast(held, ctypes.POINTER(raw.FPDF_WCHAR)), size)
    return held.raw.decode("utf-16-le", "replace").rstrip("\0")


def attached_names(pdf: pdfium.PdfDocument) -> list[str]:
    """The names of the files that are attached to a document as a whole."""
    found = (raw.FPDFDoc_GetAttachment(pdf, number) for number in range(raw.FPDFDoc_GetAttachmentCount(pdf)))
    return [_name_of(attachment) for attachment in found if attachment]
