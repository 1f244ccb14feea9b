"""Characters of a PDF page as positioned pieces of lines.

Job: follow pdfium's lines, undo its hyphen joining, measure, cut at wide gaps and at small shifted figures.
Non-job: opening files (`pdf`), putting pieces together again (`layout`).
"""

import ctypes
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from spec_engine.documents import bidi
from spec_engine.documents.layout import WIDE_GAP, Line

_HYPHEN_CODES = frozenset((0x2, 0xFFFE))
_NEWLINE_CODES = frozenset((0xA, 0xD))
_NO_TEXT = frozenset(("Cc", "Co", "Cs", "Cn"))
# The no-break space, and the bullets of the Symbol and Wingdings fonts, which come as private characters.
_CHARS = {0xA0: " ", 0xF0B7: "•", 0xF0A7: "▪", 0xF0D8: "‣", 0xF0FC: "✓", 0xF06F: "○"}
_FIGURES = frozenset("0123456789+-−")
_MAX_SCRIPT_SIZE = 0.85
_MAX_LENGTH = 1e6
_SAMPLE_CHARS = 500
_MAX_RTL_CHARS = 2_000
_MIN_RTL_GAP = 0.2
_SIDEWAYS = 0.9  # sine of the angle from which a line runs along the other side of the page

Extent = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in points."""


@dataclass(frozen=True, slots=True)
class _Style:
    """How a character is drawn: size, baseline, and the cosine and sine of its line's angle."""

    size: float
    y: float
    cos: float
    sin: float


@dataclass(frozen=True, slots=True)
class _RawLine:
    """Text of a line and pdfium's index of each of its characters."""

    text: str
    indices: tuple[int, ...]

    def part(self, start: int, end: int) -> "_RawLine":
        """These characters of it."""
        return _RawLine(self.text[start:end], self.indices[start:end])


def unmapped_share(textpage: pdfium.PdfTextPage) -> float:
    """Share of the characters whose font does not say which letters they are, estimated on a long page."""
    num_chars = int(textpage.count_chars())
    sample = range(0, num_chars, max(1, num_chars // _SAMPLE_CHARS))
    num_unmapped = 0
    for index in sample:
        is_private = 0xE000 <= raw.FPDFText_GetUnicode(textpage, index) < 0xF900
        num_unmapped += is_private or raw.FPDFText_HasUnicodeMapError(textpage, index) == 1
    return num_unmapped / max(1, len(sample))


def pieces(
    textpage: pdfium.PdfTextPage, rotation: int = 0, num_own: int | None = None, fields: Sequence[Box] = ()
) -> list[Line]:
    """The text of a page that is shown turned by `rotation` degrees, in drawing order. Lengths are in points along the
    text's own direction. What is drawn behind the first `num_own` characters was filled in, some of it in `fields`: it
    is put where it stands, and what is in one field stays together."""
    own: list[_RawLine] = []
    filled: list[tuple[Box | None, _RawLine]] = []
    for line in _raw_lines(textpage):
        num_before = len(line.indices) if num_own is None else sum(index < num_own for index in line.indices)
        if num_before:
            own.append(line.part(0, num_before))
        if num_before < len(line.indices):
            filled += _by_field(textpage, line.part(num_before, len(line.indices)), fields)
    found = [piece for line in _in_order(textpage, own, math.radians(rotation)) for piece in _cut(textpage, line)]
    last_in: dict[Box | None, Line] = {}
    for field, line in filled:
        for piece in _with_blanks(list(_cut(textpage, line))):
            before = last_in.get(field)
            found.insert(_place(piece, found) if before is None else found.index(before) + 1, piece)
            if field is not None:
                last_in[field] = piece
    return found


def _with_blanks(pieces: Sequence[Line]) -> Iterator[Line]:
    """The pieces of what was filled in, kept apart from what it touches, as a label that ends there."""
    for number, piece in enumerate(pieces):
        before, behind = " " * (number == 0), " " * (number == len(pieces) - 1)
        yield replace(piece, text=f"{before}{piece.text}{behind}")


def _by_field(
    textpage: pdfium.PdfTextPage, line: _RawLine, fields: Sequence[Box]
) -> Iterator[tuple[Box | None, _RawLine]]:
    """What pdfium has as one line, although it stands in several fields: cut where one of `fields` ends and another
    begins, or the height changes. Each part with its field; None where there is none."""
    start, level, field = 0, _style(textpage, line.indices[0]), None
    for i, char in enumerate(line.text):
        if char.isspace():
            continue
        style, own = _style(textpage, line.indices[i]), _field_of(textpage, line.indices[i], fields)
        is_other = None not in (own, field) and own != field  # what runs out of a field belongs to it
        if is_other or abs(style.y - level.y) > 0.5 * level.size:
            if line.text[start:i].strip():
                yield field, line.part(start, i)
            start, level, field = i, style, None
        field = own or field
    if line.text[start:].strip():
        yield field, line.part(start, len(line.text))


def _field_of(textpage: pdfium.PdfTextPage, index: int, fields: Sequence[Box]) -> Box | None:
    """The field in which a character stands."""
    x, y = _origin(textpage, index)
    return next((box for box in fields if box[0] <= x <= box[2] and box[1] <= y <= box[3]), None)


def _place(piece: Line, lines: Sequence[Line]) -> int:
    """Where to put what was filled in: behind what stands to its left, or else behind the row above it."""
    beside = [line for line in lines if _is_level(line, piece) and line.x0 <= piece.x0]
    if beside:
        return lines.index(max(beside, key=lambda line: line.x0)) + 1
    above = [line for line in lines if line.y > piece.y]
    if not above:
        return 0
    over = [line for line in above if line.x0 < piece.x1 and piece.x0 < line.x1]
    place = lines.index(min(over or above, key=lambda line: line.y))
    while place + 1 < len(lines) and _is_level(lines[place], lines[place + 1]):
        place += 1
    return place + 1


def _is_level(left: Line, right: Line) -> bool:
    """Whether both stand at one height."""
    return abs(left.y - right.y) < 0.6 * right.size


def _in_order(textpage: pdfium.PdfTextPage, lines: Iterable[_RawLine], rotation: float) -> Iterator[_RawLine]:
    """The lines; those that run down the page as it is shown, which pdfium has from left to right and so from the last
    to the first, the other way round."""

    def runs_down(line: _RawLine) -> bool:
        style = _style(textpage, line.indices[0])
        return style.sin * math.cos(rotation) - style.cos * math.sin(rotation) < -_SIDEWAYS

    for is_down, run in groupby(lines, key=runs_down):
        ordered = list(run)
        heights = [_style(textpage, line.indices[0]).y for line in ordered] if is_down else []
        num_up = sum(following > before for before, following in pairwise(heights))
        if not is_down or 2 * num_up < len(heights):
            yield from ordered
            continue
        ends = [end for end in range(1, len(ordered)) if heights[end] < heights[end - 1]]  # of columns
        for start, end in pairwise((0, *ends, len(ordered))):
            yield from reversed(ordered[start:end])


def _raw_lines(textpage: pdfium.PdfTextPage) -> Iterator[_RawLine]:
    """pdfium's lines; where it joined two lines over a hyphen, the hyphen ends the first again."""
    indices: list[int] = []
    chars: list[str] = []
    for index in range(textpage.count_chars()):
        code = raw.FPDFText_GetUnicode(textpage, index)
        is_hyphen = code in _HYPHEN_CODES
        char = "-" if is_hyphen else _CHARS.get(code, chr(code))
        if unicodedata.category(char) not in _NO_TEXT:
            indices.append(index)
            chars.append(char)
        if (is_hyphen or code in _NEWLINE_CODES) and chars:
            yield _RawLine("".join(chars), tuple(indices))
            indices, chars = [], []
    if chars:
        yield _RawLine("".join(chars), tuple(indices))


def _cut(textpage: pdfium.PdfTextPage, line: _RawLine) -> Iterator[Line]:
    """One line as the pieces that its geometry calls for."""
    text = line.text.rstrip()
    if not text:
        return
    inked = [index for index, char in zip(line.indices, line.text, strict=True) if not char.isspace()]
    samples = [_style(textpage, inked[i]) for i in (0, len(inked) // 2, -1)]
    style = max(samples, key=lambda sample: sample.size)
    extents = [_extent(textpage, index, style) for index in line.indices[: len(text)]]
    if any(map(bidi.is_rtl, text)) and len(text) <= _MAX_RTL_CHARS:
        yield _rtl_line(text, extents, style)
        return
    start, is_small = 0, False
    for i, char in enumerate(text):
        own = _style(textpage, line.indices[i]) if char in _FIGURES else style
        was_small, is_small = is_small, own.size < _MAX_SCRIPT_SIZE * style.size
        is_gap = i > 0 and text[i - 1].isspace() and i > 1 and extents[i][0] - extents[i - 2][1] > WIDE_GAP * style.size
        if is_gap or is_small != was_small:
            yield from _piece(textpage, line, extents, (start, i), style)
            start = i
    yield from _piece(textpage, line, extents, (start, len(text)), style)


def _piece(
    textpage: pdfium.PdfTextPage, line: _RawLine, extents: list[Extent], span: tuple[int, int], style: _Style
) -> Iterator[Line]:
    """Characters `span` of a line as one piece, unless they are blank."""
    start, end = span
    inked = [i for i in range(start, end) if not line.text[i].isspace()]
    if inked:
        if line.text[inked[0]] in _FIGURES:
            style = _style(textpage, line.indices[inked[0]])
        x0, x1 = min(extents[i][0] for i in inked), max(extents[i][1] for i in inked)
        yield Line(line.text[start:end], x0, x1, style.y, style.size)


def _rtl_line(text: str, extents: list[Extent], style: _Style) -> Line:
    """A line that holds right-to-left text, with its x axis mirrored when it reads that way as a whole."""
    ordered = bidi.reading_order(text, extents, _MIN_RTL_GAP * style.size)
    x0, x1 = min(extent[0] for extent in extents), max(extent[1] for extent in extents)
    if bidi.is_rtl_line(text):
        x0, x1 = -x1, -x0
    return Line(ordered, x0, x1, style.y, style.size)


def _style(textpage: pdfium.PdfTextPage, index: int) -> _Style:
    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetMatrix(textpage, index, matrix)
    scale = _sane(math.hypot(matrix.c, matrix.d)) or 1.0
    angle = math.atan2(_sane(matrix.b), _sane(matrix.a))  # pdfium's own runs clockwise, and takes slanted for turned
    size = _sane(raw.FPDFText_GetFontSize(textpage, index) * scale)
    x, y = _origin(textpage, index)
    cos, sin = math.cos(angle), math.sin(angle)
    return _Style(size if size > 0.1 else 10.0, _sane(y * cos - x * sin), cos, sin)


def _origin(textpage: pdfium.PdfTextPage, index: int) -> tuple[float, float]:
    """Where a character begins on its baseline, on the page."""
    x, y = ctypes.c_double(), ctypes.c_double()
    raw.FPDFText_GetCharOrigin(textpage, index, x, y)
    return x.value, y.value


def _extent(textpage: pdfium.PdfTextPage, index: int, style: _Style) -> Extent:
    """Where a character begins and ends along its line."""
    rect = raw.FS_RECTF()
    raw.FPDFText_GetLooseCharBox(textpage, index, rect)
    rise = (rect.bottom, rect.top) if style.sin > 0 else (rect.top, rect.bottom)
    ends = (rect.left * style.cos + rise[0] * style.sin, rect.right * style.cos + rise[1] * style.sin)
    return _sane(min(ends)), _sane(max(ends))


def _sane(length: float) -> float:
    """A length as it is, or 0 for what only damaged files contain: infinite, absurd, not a number."""
    return length if abs(length) < _MAX_LENGTH else 0.0
