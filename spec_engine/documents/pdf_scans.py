"""Pages of a PDF whose text is in their picture.

Job: decide which pages are read from their picture, draw them, have those read that were not before, choose the better
text. Non-job: recognising letters (`ocr`), keeping them (`kept_scans`), what is told about a page (`pdf_remarks`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import pypdfium2 as pdfium
import pypdfium2.raw as raw
from PIL import Image

from spec_engine.documents import ocr
from spec_engine.documents.kept_scans import KeptPages, ScanStore
from spec_engine.documents.layout import Line
from spec_engine.errors import MissingDependency

Scan = Literal["no", "unread", "read", "blank", "failed"]
"""Whether a page is a scan, and what became of it; `unread` where no reader can be had."""

_SIDE: Final = 1_520  # pixels of an A4 page's longer side, 130 dots an inch: finer ones run columns together
_MIN_SCALE: Final = 130 / 72
_MAX_SCALE: Final = 600 / 72
_FEW_CHARS: Final = 200  # a stamp, a page number, a line that says who scanned it
_MIN_COVER: Final = 0.5


@dataclass(frozen=True, slots=True)
class Page:
    """What was read from a page; `lines` is None when the page is damaged, `comments` are what readers remarked,
    `attached` the names of files that are pinned to it; `num_ticks` counts boxes whose ticks are drawings and not
    read."""

    lines: tuple[Line, ...] | None
    has_image: bool
    unmapped: float
    scan: Scan = "no"
    comments: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    num_ticks: int = 0


def is_scan(page: pdfium.PdfPage, lines: Sequence[Line]) -> bool:
    """Whether the page is a picture without text, or with a line or two beside a picture of most of the page."""
    num_chars = _num_chars(lines)
    return num_chars < _FEW_CHARS and _cover(page) > (_MIN_COVER if num_chars else 0.0)


def draw(page: pdfium.PdfPage) -> Image.Image:
    """The page as a picture to be read, of bounded size whatever the page's."""
    width, height = page.get_size()
    scale = min(max(_MIN_SCALE, _SIDE / max(width, height)), _MAX_SCALE, (ocr.MAX_PIXELS / (width * height)) ** 0.5)
    picture: Image.Image = page.render(scale=scale, may_draw_forms=False).to_pil()
    return picture.convert("RGB")


class Scans:
    """Reads the scanned pages of one document. The reader is loaded with the first that was not read before.

    Args:
        data: the document's bytes.
        store: where results are kept as they are found; None: nowhere.

    Attributes:
        trouble: why the reader cannot be used, and what to do; empty while it can.
    """

    def __init__(self, data: bytes, store: ScanStore | None) -> None:
        self.trouble = ""
        self._data = data
        self._store = store
        self._opened: KeptPages | None = None
        self._reader: ocr.Reader | None = None
        if not ocr.is_installed():
            self.trouble = f"Scanned pages can be read by OCR, which is not installed. Run here: {ocr.INSTALL}"

    def needs_picture(self, index: int) -> bool:
        """Whether a scanned page is worth drawing: a reader can be had, and it has not been read."""
        kept = self._kept()
        return not self.trouble and (kept is None or kept.get(index) is None)

    def read(self, page: Page, index: int, picture: Image.Image | None) -> Page:
        """A scanned page with the text of its picture, if that holds much more than the page's own text.

        `picture` is None for one that needs none.
        """
        kept = self._kept()
        lines = kept.get(index) if kept and picture is None else None
        if lines is None and picture is not None:
            try:
                self._reader = self._reader or ocr.Reader()
            except MissingDependency as error:
                self.trouble = str(error)
                return page
            lines = self._reader.read(picture)
            if lines is None:
                return replace(page, scan="failed")
            if kept:
                kept.keep(index, lines)
        if lines is None:
            return page
        if not lines:
            return replace(page, scan="blank")
        num_own = _num_chars(page.lines or ())
        if _num_chars(lines) <= 2 * num_own:  # the picture shows what the page says anyway
            return replace(page, scan="no")
        return replace(page, lines=lines, unmapped=0.0, scan="read")

    def _kept(self) -> KeptPages | None:
        """What is kept of the document, which is looked up when its first scanned page comes."""
        if self._opened is None and self._store is not None and (version := ocr.version()) is not None:
            self._opened = self._store.pages_of(self._data, version)
        return self._opened


def _num_chars(lines: Sequence[Line]) -> int:
    return sum(len("".join(line.text.split())) for line in lines)


def _cover(page: pdfium.PdfPage) -> float:
    """Share of the page that its pictures cover, at most."""
    left, bottom, right, top = page.get_bbox()
    area = max(1.0, (right - left) * (top - bottom))
    covered = 0.0
    for image in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3):
        x0, y0, x1, y1 = image.get_bounds()
        covered += max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, top) - max(y0, bottom))
    return float(min(1.0, covered / area))
