"""What was recognised in a picture of a page, as lines in reading order.

Job: level a page that was scanned askew, give lines common sizes, put rows and columns in order, as `layout` wants.
Non-job: recognising (`ocr`), paragraphs (`layout`).

A PDF draws a column line by line, and `layout` sorts only what is drawn across. In a picture everything stands across,
so columns are found here by where lines begin and end. What was recognised as one line across a narrow gutter is cut
there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from spec_engine.documents.layout import Line

Point = tuple[float, float]

_SIZE_OF_HEIGHT: Final = 0.9  # font size of the height of a line's box
_SIZE_STEP: Final = 1.35  # heights nearer than this are one size: they differ with the letters of a line
_UPRIGHT: Final = 1.5  # a box so much taller than wide holds a line that runs up or down
_WIDE: Final = 3.0  # lines so much wider than tall tell the angle
_MIN_COLUMN_LINES: Final = 4
_MIN_COLUMN_CHARS: Final = 18
_MIN_FILL: Final = 0.6
_MAX_CROSSING: Final = 0.6
_MIN_GUTTER: Final = 0.6  # font sizes between two words that a gutter parts
_EDGE_SLACK: Final = 0.5  # font sizes by which the edges of boxes are off
_CUT_SLACK: Final = 0.7


@dataclass(frozen=True, slots=True)
class Gap:
    """Between two words: index of the character that follows, where it begins and ends as shares of the line."""

    index: int
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Found:
    """Text at a place of a picture: corners in pixels, from the top left one clockwise, y downwards."""

    text: str
    corners: tuple[Point, Point, Point, Point]
    gaps: tuple[Gap, ...] = ()

    @property
    def width(self) -> float:
        """Length of the upper edge."""
        return math.dist(self.corners[0], self.corners[1])

    @property
    def height(self) -> float:
        """Length of the left edge."""
        return math.dist(self.corners[0], self.corners[3])

    @property
    def is_tall(self) -> bool:
        """Whether its line runs up or down the picture."""
        return self.height > _UPRIGHT * self.width


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line, and the gaps between its words: index of the character that follows, left and right end."""

    line: Line
    gaps: tuple[tuple[int, float, float], ...]

    def cut_at(self, gutter: float) -> tuple["_Piece", "_Piece"] | None:
        """Its parts on both sides of a gutter; None when no wide gap is there."""
        line = self.line
        for number, (index, left, right) in enumerate(self.gaps):
            is_wide = right - left > _MIN_GUTTER * line.size
            if is_wide and abs(right - gutter) < _CUT_SLACK * line.size:
                rest = tuple((i - index, x0, x1) for i, x0, x1 in self.gaps[number + 1 :])
                return (
                    _Piece(replace(line, text=line.text[:index].rstrip(), x1=left), self.gaps[:number]),
                    _Piece(replace(line, text=line.text[index:], x0=right), rest),
                )
        return None


def reading_lines(found: Sequence[Found]) -> tuple[Line, ...]:
    """The lines as they are read; what runs up or down a margin comes last."""
    level = [one for one in found if not one.is_tall]
    aside = [one for one in found if one.is_tall]
    angle = _angle(level)
    body = _usual_height(level)
    pieces = [_piece(one, angle, body) for one in level]
    return (
        *(piece.line for piece in _ordered(pieces)),
        *(Line(one.text, 0.0, one.height, 0.0, one.width) for one in aside),
    )


def _angle(found: Sequence[Found]) -> float:
    """By how much the page is askew, in radians."""
    angles = [
        math.atan2(right[1] - left[1], right[0] - left[0])
        for one in found
        if one.width > _WIDE * one.height
        for left, right in [one.corners[:2], (one.corners[3], one.corners[2])]
    ]
    return median(angles) if angles else 0.0


def _usual_height(found: Sequence[Found]) -> float:
    """The height of most letters of the page."""
    heights = sorted((one.height, len(one.text)) for one in found)
    remaining = sum(size for _, size in heights) / 2
    for height, size in heights:
        remaining -= size
        if remaining <= 0:
            return max(1.0, height)
    return 1.0


def _piece(found: Found, angle: float, body: float) -> _Piece:
    """A level line, its middle taken for its baseline; all baselines are off by about the same."""
    cos, sin = math.cos(angle), math.sin(angle)
    xs = [x * cos + y * sin for x, y in found.corners]
    ys = [y * cos - x * sin for x, y in found.corners]
    steps = round(math.log(max(1.0, found.height) / body, _SIZE_STEP))
    size = _SIZE_OF_HEIGHT * body * _SIZE_STEP**steps
    x0, x1 = (xs[0] + xs[3]) / 2, (xs[1] + xs[2]) / 2
    gaps = tuple((gap.index, x0 + gap.left * (x1 - x0), x0 + gap.right * (x1 - x0)) for gap in found.gaps)
    return _Piece(Line(found.text, x0, x1, -sum(ys) / 4, size), gaps)


def _ordered(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Rows from the top; where there are columns, the left before the right between lines that stand across both."""
    rows = _rows(pieces)
    gutter = _gutter([piece.line for piece in rows])
    if gutter is None:
        return rows
    ordered: list[_Piece] = []
    left: list[_Piece] = []
    right: list[_Piece] = []
    for piece in rows:
        if _is_left(piece.line, gutter):
            left.append(piece)
        elif _is_right(piece.line, gutter):
            right.append(piece)
        elif parts := piece.cut_at(gutter):
            left.append(parts[0])
            right.append(parts[1])
        else:
            ordered += [*_ordered(left), *_ordered(right), piece]
            left, right = [], []
    return [*ordered, *_ordered(left), *_ordered(right)]


def _rows(pieces: Sequence[_Piece]) -> list[_Piece]:
    """From top to bottom, what stands on one level from left to right."""
    rows: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: (-piece.line.y, piece.line.x0)):
        head = rows[-1][0].line if rows else None
        if head and head.y - piece.line.y < 0.5 * min(head.size, piece.line.size):
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return [piece for row in rows for piece in sorted(row, key=lambda piece: piece.line.x0)]


def _is_left(line: Line, gutter: float) -> bool:
    return line.x1 <= gutter + _EDGE_SLACK * line.size


def _is_right(line: Line, gutter: float) -> bool:
    return line.x0 >= gutter - _EDGE_SLACK * line.size


def _gutter(lines: Sequence[Line]) -> float | None:
    """Where the right-hand column begins, at the place that the fewest lines cross; None without columns of prose."""
    best = None
    for gutter in sorted({line.x0 for line in lines}):
        left = [line for line in lines if _is_left(line, gutter)]
        right = [line for line in lines if _is_right(line, gutter) and not _is_left(line, gutter)]
        num_crossing = len(lines) - len(left) - len(right)
        is_better = best is None or num_crossing < best[0]
        if is_better and num_crossing <= _MAX_CROSSING * len(lines) and _is_prose(left) and _is_prose(right):
            start = median(line.x0 for line in right if line.x0 < gutter + 3 * line.size)
            best = num_crossing, start
    return best[1] if best else None


def _is_prose(lines: Sequence[Line]) -> bool:
    """Whether these are lines of running text: long, and most as long as the longest. Cells of a table are not."""
    if len(lines) < _MIN_COLUMN_LINES:
        return False
    start = min(line.x0 for line in lines)
    column = [line for line in lines if line.x0 < start + 3 * line.size]
    longest = max(line.x1 - line.x0 for line in column)
    fill = median(line.x1 - line.x0 for line in column) / max(1.0, longest)
    is_long = median(len(line.text) for line in column) >= _MIN_COLUMN_CHARS
    return len(column) >= _MIN_COLUMN_LINES and is_long and fill >= _MIN_FILL
