"""PDF pages as blocks, through pypdfium2.

Job: open, decrypt, go through the pages, report what holds no text.
Non-job: lines (`pdf_lines`), paragraphs and columns (`layout`), optical character recognition, forms, attachments.
"""

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from spec_engine.documents import layout, pdf_lines
from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.errors import PasswordRequired, UnreadableDocument

MIN_PAGE_CHARS = 20

# PDFium keeps process-wide state and must never run in two threads at once, even on different files.
PDFIUM = threading.Lock()

_FORMS = re.compile("[\ufb00-\ufdff\ufe70-\ufefc]+")
_GENERATOR_PREFIX = re.compile(r"^Microsoft \w+ - ", re.IGNORECASE)
_MAX_UNMAPPED = 0.2


@dataclass(frozen=True, slots=True)
class Page:
    """What was read from a page; `lines` is None when the page is damaged."""

    lines: tuple[layout.Line, ...] | None
    has_image: bool
    unmapped: float


def read_pdf(
    data: bytes, name: str, stem: str, password: str | None, on_progress: Callable[[int, int], None] | None
) -> Document:
    """Read a PDF: one block a page.

    Args:
        name: file name, for messages and the document.
        stem: title when the file states none.
        on_progress: called with pages done and pages in all.

    Raises:
        PasswordRequired: encrypted, and the password is missing or wrong.
        UnreadableDocument: damaged, or no page holds text.
    """
    with PDFIUM, closing(_open(data, name, password)) as pdf:
        title = _title(pdf, stem)
        pages = []
        for index in range(len(pdf)):
            pages.append(_read_page(pdf, index))
            if on_progress is not None:
                on_progress(index + 1, len(pdf))
    vocabulary = layout.words(line for page in pages for line in page.lines or ())
    texts = [_expand_forms(layout.compose(page.lines or (), vocabulary)) for page in pages]
    if not any(text.strip() for text in texts):
        raise UnreadableDocument(_no_text_message(name, pages))
    blocks = tuple(Block(Anchor("page", f"p. {i + 1}", i), text) for i, text in enumerate(texts))
    problems = [problem for i, page in enumerate(pages) for problem in _problems(page, i, texts[i])]
    if b"%%EOF" not in data[-2_048:]:
        problems.insert(0, Problem(None, "The end of the file is missing (a broken download?), perhaps pages too"))
    return Document(title, name, blocks, tuple(problems))


def _open(data: bytes, name: str, password: str | None) -> pdfium.PdfDocument:
    try:
        pdf = pdfium.PdfDocument(data, password=password)
    except pdfium.PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            state = "needs a password" if password is None else "does not open with this password"
            raise PasswordRequired(f"{name} is encrypted and {state}. Give its password and try again.") from error
        if error.err_code == raw.FPDF_ERR_SECURITY:
            raise UnreadableDocument(
                f"{name} is protected by an unknown encryption scheme. Open it in a viewer and print it to a new PDF."
            ) from error
        raise UnreadableDocument(
            f"{name} is damaged or incomplete and cannot be opened as a PDF. Download or export it again."
        ) from error
    if len(pdf) == 0:
        pdf.close()
        raise UnreadableDocument(f"{name} is a PDF without pages. Download or export it again.")
    return pdf


def _title(pdf: pdfium.PdfDocument, stem: str) -> str:
    title = _GENERATOR_PREFIX.sub("", pdf.get_metadata_value("Title").strip())
    return title if title.strip() and title.lower() != "untitled" else stem


def _read_page(pdf: pdfium.PdfDocument, index: int) -> Page:
    try:
        with closing(pdf[index]) as page, closing(page.get_textpage()) as textpage:
            has_image = any(True for _ in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3))
            return Page(tuple(pdf_lines.pieces(textpage)), has_image, pdf_lines.unmapped_share(textpage))
    except pdfium.PdfiumError:
        return Page(None, has_image=False, unmapped=0.0)


def _expand_forms(text: str) -> str:
    """Write ligatures and the shaped forms of Hebrew and Arabic letters as plain letters; drop soft hyphens."""
    return _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).replace("\xad", "")


def _problems(page: Page, index: int, text: str) -> Iterator[Problem]:
    """What a reader should know about a page."""
    label = f"p. {index + 1}"
    num_chars = len(text.strip())
    if page.lines is None:
        yield Problem(label, f"{label} is damaged and could not be read")
    elif num_chars == 0:
        cause = "a scan?" if page.has_image else "a blank page, or a drawing?"
        yield Problem(label, f"{label} has no text ({cause})")
    elif num_chars < MIN_PAGE_CHARS:
        cause = " beside a picture (a scan?)" if page.has_image else ""
        yield Problem(label, f"{label} has almost no text: {num_chars} characters{cause}")
    if page.unmapped > _MAX_UNMAPPED:
        share = f"{page.unmapped:.0%}"
        yield Problem(label, f"{label} may read as gibberish: its fonts do not say which letters {share} of it are")


def _no_text_message(name: str, pages: list[Page]) -> str:
    """Why nothing could be read."""
    if all(page.lines is None for page in pages):
        return f"No page of {name} can be read: the file is damaged. Download or export it again."
    if any(page.has_image for page in pages):
        return (
            f"{name} holds pictures of pages and no text, so nothing can be read. "
            "Run optical character recognition on it (ocrmypdf, for instance) and open the result."
        )
    return f"{name} holds no text on any of its {len(pages)} pages. Check that it is the right file."
