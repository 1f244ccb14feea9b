"""From positioned lines to running text.

Job: join the pieces of a visual line, put columns in order, join soft line breaks and hyphenated words into paragraphs,
keep the breaks that the author made. Pure geometry; every length is in page units, y grows upwards.
Non-job: reading files.

The central test is whether a break was forced: a line was broken by hand when the first word of the next line would
still have fitted behind it.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import median
from typing import Literal

from spec_engine.documents.scripts import subscript, superscript

Break = Literal["join", "line", "paragraph"]

_MARKER = re.compile(r"(?:[•‣◦⁃∙●○■□▪▫–—*-]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]|\[\d{1,3}\])(?:\s|$)")
_TERMINAL = re.compile(r"[.!?:;…。！？؟][\"'”’»)\]]*$")
_LEADERS = re.compile(r"(?:\s*[.·…]){5,}\s*")
_HYPHENATED = re.compile(r"\w[-‐]$")
_LAST_WORD = re.compile(r"[\w‐-]*$")
_FIRST_WORD = re.compile(r"\w[\w‐-]*")
_WORD = re.compile(r"[^\W\d_]+(?:[-‐][^\W\d_]+)*")
_SUSPENDED = frozenset(("und", "oder", "bzw", "bis", "and", "or", "to", "et", "ou", "y", "o"))
WIDE_GAP = 1.2
"""Distance, in font sizes, that is too wide for a space between words."""

_NEIGHBOURS = 8
_MIN_PEERS = 4
_MAX_PITCHES = 1.3
_MAX_PITCHES_CLOSED = 1.15
_MAX_INDENT = 4.0
_MAX_WORD_CHARS = 100
_MAX_SCRIPT_SIZE = 0.85


@dataclass(frozen=True, slots=True)
class Line:
    """A visual line, or a piece of one.

    Attributes:
        text: without line ending; a hyphen at its end is kept as "-".
        x0: where reading starts; x1: where it ends (a right-to-left line has its x axis mirrored, so that x0 < x1).
        y: baseline.
        size: font size as drawn.
        is_row: whether it holds several table cells.
    """

    text: str
    x0: float
    x1: float
    y: float
    size: float
    is_row: bool = False


@dataclass(frozen=True, slots=True)
class _Setting:
    """What the surroundings of a row say.

    Attributes:
        pitch: usual distance of the page's baselines, in font sizes.
        room: free space behind the row, measured against the longest row of its column.
        is_list: whether most rows around end far from the right edge, as entries of an index or verses do.
    """

    pitch: float
    room: float
    is_list: bool


def compose(pieces: Sequence[Line], vocabulary: Collection[str]) -> str:
    """Text of a page: paragraphs divided by a blank line, forced breaks kept as newlines.

    Args:
        pieces: in the order in which the page draws them.
        vocabulary: lower-case words of the whole document, which decide about hyphens (`words`).
    """
    rows = [replace(row, text=" ".join(row.text.split())) for row in merge_pieces(order_columns(pieces))]
    rows = [row for row in rows if row.text]
    if not rows:
        return ""
    breaks = _smooth(rows, _breaks(rows))
    text = rows[0].text
    for row, kind in zip(rows[1:], breaks, strict=True):
        if kind == "join":
            text = _join(text, row.text, vocabulary)
        else:
            text += ("\n" if kind == "line" else "\n\n") + row.text
    return _LEADERS.sub(" … ", text)


def words(pieces: Iterable[Line]) -> set[str]:
    """Lower-case words that stand whole on a line; what is cut by a line end is left out."""
    found: set[str] = set()
    for piece in pieces:
        text = _LAST_WORD.sub("", piece.text) if _HYPHENATED.search(piece.text) else piece.text
        found.update(_WORD.findall(text.lower()))
    return found


def merge_pieces(pieces: Sequence[Line]) -> list[Line]:
    """Join neighbouring pieces that stand on one visual line: shifted figures, table cells, far apart words."""
    rows: list[Line] = []
    cells: list[list[Line]] = []
    for piece in pieces:
        if rows and _continues_line(rows[-1], piece):
            rows[-1] = _merged(rows[-1], piece)
            cells[-1].append(piece)
        else:
            rows.append(piece)
            cells.append([piece])
    return _mark_tables(rows, cells)


def _continues_line(row: Line, piece: Line) -> bool:
    size = max(row.size, piece.size)
    overlap = 1.2 if piece.size < _MAX_SCRIPT_SIZE * row.size else 0.3  # a subscript may stand under a superscript
    return abs(row.y - piece.y) < 0.5 * size and piece.x0 > row.x1 - overlap * row.size


def _merged(row: Line, piece: Line) -> Line:
    """A row with one more piece; small raised or lowered figures become superscripts or subscripts."""
    left, right = _as_script(row, piece), _as_script(piece, row)
    is_apart = piece.x0 - row.x1 > 0.15 * row.size or left[-1:].isspace() or right[:1].isspace()
    joined = left.rstrip() + (" " if is_apart else "") + right.lstrip()
    leading = piece if piece.size > 1.15 * row.size else row
    return Line(joined, row.x0, max(row.x1, piece.x1), leading.y, leading.size)


def _as_script(piece: Line, beside: Line) -> str:
    """Text of a piece, written small when it is drawn small and shifted beside its neighbour."""
    shift = piece.y - beside.y
    is_small = piece.size < _MAX_SCRIPT_SIZE * beside.size and abs(shift) > 0.08 * beside.size
    if not is_small:
        return piece.text
    return superscript(piece.text) if shift > 0 else subscript(piece.text)


def _mark_tables(rows: Sequence[Line], cells: Sequence[Sequence[Line]]) -> list[Line]:
    """Mark table rows, whose cells line up with a neighbouring row's, and entries of tables of contents."""
    starts = [_cell_starts(row_cells) for row_cells in cells]
    result = []
    for i, row in enumerate(rows):
        around = [x for j in (i - 1, i + 1) if 0 <= j < len(rows) for x in starts[j]]
        is_aligned = any(abs(x - other) < row.size for x in starts[i] for other in around)
        text = _cell_text(cells[i]) if is_aligned else row.text
        is_entry = bool(starts[i]) and cells[i][-1].text.strip().isdecimal()  # a line of a table of contents
        result.append(replace(row, text=text, is_row=is_aligned or is_entry or bool(_LEADERS.search(text))))
    return result


def _cell_starts(pieces: Sequence[Line]) -> list[float]:
    """Left and right edges of the cells after the first; list labels are no cells."""
    return [
        edge
        for left, right in pairwise(pieces)
        if right.x0 - left.x1 > WIDE_GAP * left.size and not (left is pieces[0] and _is_marker(left))
        for edge in (right.x0, right.x1)
    ]


def _is_marker(piece: Line) -> bool:
    return bool(_MARKER.fullmatch(piece.text.strip() + " "))


def _cell_text(pieces: Sequence[Line]) -> str:
    row = pieces[0]
    for left, right in pairwise(pieces):
        if right.x0 - left.x1 > WIDE_GAP * left.size:
            row = replace(right, text=f"{row.text.strip()} | {right.text.strip()}")
        else:
            row = _merged(row, right)
    return row.text


def order_columns(pieces: Sequence[Line]) -> list[Line]:
    """Read the left column before the right one on pages that draw both line by line.

    A page counts as such when much of its text stands in pairs of long pieces on one baseline, beside one gap.
    """
    pairs = [
        (left, right)
        for left, right in pairwise(pieces)
        if abs(left.y - right.y) < 0.3 * left.size and right.x0 - left.x1 > 0.8 * left.size
    ]
    long_pairs = [pair for pair in pairs if min(len(pair[0].text), len(pair[1].text)) >= 20]
    if len(long_pairs) < 6 or 4 * len(long_pairs) < len(pieces):
        return list(pieces)
    gap_left, gap_right = median(left.x1 for left, _ in long_pairs), median(right.x0 for _, right in long_pairs)
    num_clear = sum(left.x1 < gap_right and right.x0 > gap_right - left.size for left, right in long_pairs)
    fill = median((left.x1 - left.x0) / (gap_left - left.x0 + 1e-6) for left, _ in long_pairs)
    if num_clear < 0.8 * len(long_pairs) or fill < 0.8:
        return list(pieces)
    return _split_at(pieces, gap_right)


def _split_at(pieces: Sequence[Line], gutter: float) -> list[Line]:
    """Stable order: what crosses the gutter stays in place and divides the page into bands of left, then right."""
    ordered: list[Line] = []
    left: list[Line] = []
    right: list[Line] = []
    for piece in pieces:
        if piece.x0 < gutter - piece.size < piece.x1 - 2 * piece.size:
            ordered += [*left, *right, piece]
            left, right = [], []
        elif piece.x0 > gutter - piece.size:
            right.append(piece)
        else:
            left.append(piece)
    return [*ordered, *left, *right]


def _breaks(rows: Sequence[Line]) -> list[Break]:
    """What stands between each row and the next."""
    pitch = _pitch(rows)
    kinds: list[Break] = []
    for i, (row, following) in enumerate(pairwise(rows)):
        is_first = i == 0 or kinds[-1] != "join"
        kinds.append(_break(row, following, _setting(rows, i, pitch), is_first))
    return kinds


def _setting(rows: Sequence[Line], index: int, pitch: float) -> _Setting:
    """Measure a row against the rows of its column that stand near it without a gap between them."""
    row = rows[index]
    start, end = index, index
    while start > 0 and index - start < _NEIGHBOURS and _is_stacked(rows[start - 1], rows[start], pitch):
        start -= 1
    while end + 1 < len(rows) and end - index < _NEIGHBOURS and _is_stacked(rows[end], rows[end + 1], pitch):
        end += 1
    stack = [peer for peer in rows[start : end + 1] if _is_same_size(peer, row)]
    peers = [peer for peer in stack if abs(peer.x0 - row.x0) < 3 * row.size]
    right = max(peer.x1 for peer in (peers if len(peers) > 1 else stack))
    shortfall = median(right - peer.x1 for peer in peers)
    return _Setting(pitch, max(0.0, right - row.x1), len(peers) >= _MIN_PEERS and shortfall > 3 * row.size)


def _is_stacked(row: Line, following: Line, pitch: float) -> bool:
    return -0.5 < (row.y - following.y) / row.size < _MAX_PITCHES * pitch


def _pitch(rows: Sequence[Line]) -> float:
    """Usual distance of baselines, as a multiple of the font size."""
    steps = [(a.y - b.y) / a.size for a, b in pairwise(rows) if 0.8 < (a.y - b.y) / a.size < 2.6]
    return median(steps) if steps else 1.2


def _is_same_size(a: Line, b: Line) -> bool:
    return abs(a.size - b.size) <= 0.12 * max(a.size, b.size)


def _break(row: Line, following: Line, setting: _Setting, is_first: bool) -> Break:
    """What stands between two rows; `is_first` says whether the upper one begins its paragraph."""
    size = row.size
    drop = (row.y - following.y) / size
    is_open = not _TERMINAL.search(row.text)
    goes_on = is_open and (following.text[:1].islower() or bool(_HYPHENATED.search(row.text)))
    if not _is_same_size(row, following):
        return "paragraph"
    if drop < -0.5 or drop > 8:
        return "join" if goes_on else "paragraph"
    if goes_on and row.text[-1] in "-‐" and 0.3 < drop < _MAX_PITCHES * setting.pitch:
        return "join"
    if row.is_row and following.is_row and drop < 4:
        return "line"
    if drop > setting.pitch * (_MAX_PITCHES if is_open else _MAX_PITCHES_CLOSED):
        return "paragraph"
    if row.is_row or following.is_row or drop < 0.3 or _MARKER.match(following.text):
        return "line"
    indent = (following.x0 - row.x0) / size
    is_short = _would_fit(row, following, setting.room)
    if setting.is_list:
        return "join" if goes_on and not is_short else "line"
    if (indent > 0.7 and not _MARKER.match(row.text)) or (indent < -0.7 and not is_first):
        return "join" if is_open and not is_short else "paragraph"
    if indent < -_MAX_INDENT and not goes_on:
        return "paragraph"
    if is_short:
        return "line" if is_open or is_first else "paragraph"
    return "join"


def _would_fit(row: Line, following: Line, room: float) -> bool:
    """Whether the next row's first word had fitted behind the row, by the row's own width of a letter."""
    word = following.text.split(maxsplit=1)[0] if following.text.strip() else ""
    letter = (row.x1 - row.x0) / max(1, len(row.text))
    return room > (len(word) + 1) * letter + 1.2 * row.size


def _smooth(rows: Sequence[Line], kinds: Sequence[Break]) -> list[Break]:
    """Break also between whole sentences that stand alone on their lines amid forced breaks (verse, lists)."""
    smooth = list(kinds)
    start = 0
    for is_join, run in groupby(kinds, key=lambda kind: kind == "join"):
        end = start + len(list(run))
        beside = [kinds[i] for i in (start - 1, end) if 0 <= i < len(kinds)]
        if is_join and "line" in beside and all(_are_sentences(rows[i], rows[i + 1]) for i in range(start, end)):
            smooth[start:end] = ["line"] * (end - start)
        start = end
    return smooth


def _are_sentences(row: Line, following: Line) -> bool:
    return bool(_TERMINAL.search(row.text)) and following.text[:1].isupper() and not (row.is_row or following.is_row)


def _join(text: str, following: str, vocabulary: Collection[str]) -> str:
    """Join two lines of a paragraph; a word cut by a hyphen becomes whole, a compound keeps its hyphen."""
    text, following = text.rstrip(), following.lstrip()
    end = text[-_MAX_WORD_CHARS:]
    if not _HYPHENATED.search(end):
        return f"{text} {following}"
    first = _FIRST_WORD.match(following)
    tail = first.group().lower() if first else ""
    if tail in _SUSPENDED:
        return f"{text} {following}"
    if not following[:1].islower():
        return text + following
    head = _LAST_WORD.findall(end)[0].lower()
    is_compound = f"{head[:-1]}{tail}" not in vocabulary and f"{head}{tail}" in vocabulary
    return text + following if is_compound else text[:-1] + following
