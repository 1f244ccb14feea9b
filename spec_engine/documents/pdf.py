"""PDF pages as blocks, through pypdfium2.

Job: open, decrypt, go through the pages.
Non-job: lines (`pdf_lines`), paragraphs and columns (`layout`), scanned pages (`pdf_scans`), remarks (`pdf_remarks`),
filled forms and comments (`pdf_forms`), reading what is attached.
"""

import re
import threading
import unicodedata
from collections.abc import Callable
from contextlib import closing

import pypdfium2 as pdfium
import pypdfium2.raw as raw
from PIL import Image

from spec_engine.documents import layout, pdf_lines
from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.kept_scans import ScanStore
from spec_engine.documents.pdf_forms import attached_names, loaded_page
from spec_engine.documents.pdf_remarks import left_out, no_text_message, remarks
from spec_engine.documents.pdf_scans import Page, Scans, draw, is_scan
from spec_engine.errors import PasswordRequired, UnreadableDocument

# PDFium keeps process-wide state and must never run in two threads at once, even on different files.
PDFIUM = threading.Lock()

_FORMS = re.compile("[\ufb00-\ufdff\ufe70-\ufefc]+")
_GENERATOR_PREFIX = re.compile(r"^Microsoft \w+ - ", re.IGNORECASE)


def read_pdf(
    data: bytes,
    name: str,
    stem: str,
    password: str | None,
    on_progress: Callable[[int, int], None] | None,
    kept: ScanStore | None = None,
) -> Document:
    """Read a PDF: one block a page. Scanned pages are read from their pictures where the extra `[ocr]` is installed.

    Args:
        name: file name, for messages and the document.
        stem: title when the file states none.
        on_progress: called with pages done and pages in all; what it raises ends the reading.
        kept: where scanned pages are looked up and what is read of them is kept, if the file needs no password.

    Raises:
        PasswordRequired: encrypted, and the password is missing or wrong.
        UnreadableDocument: damaged, or no page holds text.
    """
    with PDFIUM:
        pdf = _open(data, name, password)
        is_locked = password is not None and raw.FPDF_GetSecurityHandlerRevision(pdf) != -1
        beside = list(left_out(attached_names(pdf), raw.FPDF_GetFormType(pdf) == raw.FORMTYPE_XFA_FULL))
    scans = Scans(data, None if is_locked else kept)  # what is locked stays so on disk
    try:
        title, pages = _read_pages(pdf, stem, scans, on_progress)
    finally:
        with PDFIUM:
            pdf.close()
    vocabulary = layout.words(line for page in pages for line in page.lines or ())
    texts = [_expand_forms(layout.compose(page.lines or (), vocabulary)) for page in pages]
    told = ["\n\n".join([text, *map(_expand_forms, page.comments)]) for text, page in zip(texts, pages, strict=True)]
    if not any(text.strip() for text in told):
        raise UnreadableDocument(no_text_message(name, pages, scans.trouble, beside))
    blocks = tuple(Block(Anchor("page", f"p. {i + 1}", i), text) for i, text in enumerate(told))
    problems = remarks(pages, texts, scans.trouble) + beside
    if b"%%EOF" not in data[-2_048:]:
        problems.insert(0, Problem(None, "The end of the file is missing (a broken download?), perhaps pages too"))
    return Document(title, name, blocks, tuple(problems), is_locked)


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


def _read_pages(
    pdf: pdfium.PdfDocument, stem: str, scans: Scans, on_progress: Callable[[int, int], None] | None
) -> tuple[str, list[Page]]:
    """Title and pages. PDFium is free for others while a picture is read, which takes seconds."""
    with PDFIUM:
        title, num_pages = _title(pdf, stem), len(pdf)
    pages = []
    for index in range(num_pages):
        with PDFIUM:
            page, picture = _read_page(pdf, index, scans)
        pages.append(scans.read(page, index, picture) if page.scan == "unread" else page)
        if on_progress is not None:
            on_progress(index + 1, num_pages)
    return title, pages


def _read_page(pdf: pdfium.PdfDocument, index: int, scans: Scans) -> tuple[Page, Image.Image | None]:
    """A page, and its picture if it is a scan that needs one."""
    try:
        loaded = loaded_page(pdf, index)
        with closing(loaded.page) as page, closing(page.get_textpage()) as textpage:
            lines = tuple(pdf_lines.pieces(textpage, page.get_rotation(), loaded.num_own, loaded.fields))
            has_image = any(True for _ in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3))
            is_scanned = has_image and is_scan(page, lines)
            unmapped = pdf_lines.unmapped_share(textpage)
            remarked = loaded.comments, loaded.attached, loaded.num_ticks
            picture = draw(page) if is_scanned and scans.needs_picture(index) else None
            return Page(lines, has_image, unmapped, "unread" if is_scanned else "no", *remarked), picture
    except pdfium.PdfiumError:
        return Page(None, has_image=False, unmapped=0.0), None


def _expand_forms(text: str) -> str:
    """Write ligatures and the shaped forms of Hebrew and Arabic letters as plain letters; drop soft hyphens."""
    return _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).replace("\xad", "")
