"""A page of a PDF as a picture, with a passage of it marked.

Job: `page_picture`, for showing where a passage stands.
Non-job: reading text (`pdf`), serving pictures (`ui.places`).

The text of a page was put together from its characters: words torn by a line's end are joined, columns sorted. So a
passage is looked for by its letters and digits alone, in the order in which pdfium has them.
"""

import ctypes
import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as raw
from PIL import Image, ImageDraw

from spec_engine.documents.pdf import PDFIUM
from spec_engine.documents.pdf_forms import loaded_page
from spec_engine.errors import UnreadableDocument

_MARK: Final = (255, 196, 0, 96)  # red, green, blue, opacity
_LEAST_LETTERS: Final = 12  # a shorter piece of a passage could stand anywhere
_AROUND: Final = 60  # letters on each side by which places of a passage are told apart
_MAX_PIXELS: Final = 8_000_000

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def page_picture(
    path: Path,
    index: int,
    passage: str = "",
    passwords: Sequence[str] = (),
    width: int = 1000,
    around: tuple[str, str] = ("", ""),
) -> bytes:
    """Page `index` of a PDF as PNG, `width` pixels wide, with `passage` marked where it is found. A locked file
    is opened with the one of `passwords` that fits. Of several places of the passage, its own is told by the text
    `around` it, before and behind.

    Raises `UnreadableDocument` when the file or the page cannot be drawn.
    """
    with _loaded(path, index, passwords) as (page, textpage):
        scale = min(width / page.get_width(), (_MAX_PIXELS / (page.get_width() * page.get_height())) ** 0.5)
        picture = page.render(scale=scale, may_draw_forms=False).to_pil().convert("RGBA")
        boxes = list(_boxes(page, textpage, (around[0], passage, around[1]), picture.size))
    marks = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(marks)
    for left, top, right, bottom in boxes:
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=_MARK)
    written = io.BytesIO()
    Image.alpha_composite(picture, marks).convert("RGB").save(written, "PNG", optimize=False)
    return written.getvalue()


def mark_height(
    path: Path, index: int, passage: str, passwords: Sequence[str] = (), around: tuple[str, str] = ("", "")
) -> float | None:
    """How far down its picture the mark of a passage begins, from 0 to 1; None where it is not found. Arguments and
    errors as of `page_picture`, which takes several times as long."""
    size = 1000, 1000
    with _loaded(path, index, passwords) as (page, textpage):
        tops = [top for _, top, _, _ in _boxes(page, textpage, (around[0], passage, around[1]), size)]
    return min(max(min(tops) / size[1], 0.0), 1.0) if tops else None


@contextmanager
def _loaded(path: Path, index: int, passwords: Sequence[str]) -> Iterator[tuple[pdfium.PdfPage, pdfium.PdfTextPage]]:
    """A page and its text, while nobody else uses pdfium; its errors as those of a document."""
    try:
        with PDFIUM, closing(_open(path.read_bytes(), passwords)) as pdf:
            if not 0 <= index < len(pdf):
                raise UnreadableDocument(f"{path.name} has no page {index + 1}. Open the document again.")
            with closing(loaded_page(pdf, index).page) as page, closing(page.get_textpage()) as textpage:
                yield page, textpage
    except (pdfium.PdfiumError, OSError) as error:
        raise UnreadableDocument(f"{path.name} cannot be drawn: {error}. Open the document again.") from error


def _open(data: bytes, passwords: Sequence[str]) -> pdfium.PdfDocument:
    attempts = (None, *passwords)  # a file that restricts printing alone opens with none, and with no wrong one
    for password in attempts[:-1]:
        try:
            return pdfium.PdfDocument(data, password=password)
        except pdfium.PdfiumError:
            continue
    return pdfium.PdfDocument(data, password=attempts[-1])


def _boxes(
    page: pdfium.PdfPage, textpage: pdfium.PdfTextPage, part: tuple[str, str, str], size: tuple[int, int]
) -> Iterator[Box]:
    """Where the lines of the passage stand that is the middle of a `part`; nowhere if it is not found."""
    letters, indices = [], []
    for index in range(textpage.count_chars()):
        for letter in _letters(chr(raw.FPDFText_GetUnicode(textpage, index))):
            letters.append(letter)
            indices.append(index)
    before, passage, behind = map(_letters, part)
    found = _find("".join(letters), before, passage, behind)
    if found is None:
        return
    first, last = indices[found[0]], indices[found[1] - 1]
    for number in range(textpage.count_rects(first, last - first + 1)):
        left, bottom, right, top = textpage.get_rect(number)
        (x0, y0), (x1, y1) = _pixel(page, size, left, top), _pixel(page, size, right, bottom)
        yield min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _find(text: str, before: str, passage: str, behind: str) -> tuple[int, int] | None:
    """Start and end of the passage; of a beginning or an end of it where no more is found. Of several places the one is
    taken that comes as the passage does in its part; unless around others far more is as there: columns may be in
    another order than on the page, and what was filled in stands behind all labels on the page and between them here,
    so that a few letters say nothing."""
    if places := _all(text, passage):
        part = before + passage + behind
        own = _all(part, passage)
        start = _in_order(places, own, len(before))
        alike = {at: _num_alike(text, at, before, passage, behind) for at in places}
        most = max(alike.values())
        if most >= alike[start] + _LEAST_LETTERS:
            places = [at for at in places if alike[at] == most]
            own = [at for at in own if _num_alike(part, at, before, passage, behind) >= most]
            start = _in_order(places, own, len(before))
        return start, start + len(passage)
    for share in (0.75, 0.5, 0.25):
        size = round(len(passage) * share)
        for piece in (passage[:size], passage[len(passage) - size :]):
            if size >= _LEAST_LETTERS and (start := text.find(piece)) >= 0:
                return start, start + size
    return None


def _in_order(places: Sequence[int], own: Sequence[int], at: int) -> int:
    """The place that comes among all as `at` does among its `own`; where there are more or fewer, the nearest."""
    return places[own.index(at)] if len(own) == len(places) else min(places, key=lambda place: abs(place - at))


def _num_alike(text: str, at: int, before: str, passage: str, behind: str) -> int:
    """How many letters around a place are those that stand around the passage in its part."""
    end = at + len(passage)
    left, right = text[max(0, at - _AROUND) : at], text[end : end + _AROUND]
    return _num_shared(left[::-1], before[-_AROUND:][::-1]) + _num_shared(right, behind[:_AROUND])


def _num_shared(one: str, other: str) -> int:
    """Letters with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _all(text: str, passage: str) -> list[int]:
    """Where a passage begins, every time; an empty one nowhere."""
    places, at = [], text.find(passage) if passage else -1
    while at >= 0:
        places.append(at)
        at = text.find(passage, at + 1)
    return places


def _letters(text: str) -> str:
    """Letters and digits without case and accents, ligatures taken apart; of each character by itself, because that is
    how a page has them."""
    apart = (part for letter in text for part in unicodedata.normalize("NFKD", letter).casefold())
    return "".join(letter for letter in apart if letter.isalnum())


def _pixel(page: pdfium.PdfPage, size: tuple[int, int], x: float, y: float) -> tuple[float, float]:
    """A point of the page in the picture, whatever the page's rotation and crop box."""
    across, down = ctypes.c_int(), ctypes.c_int()
    raw.FPDF_PageToDevice(page, 0, 0, size[0], size[1], 0, x, y, across, down)
    return float(across.value), float(down.value)
