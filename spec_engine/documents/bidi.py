"""Right-to-left lines from a page's geometry.

Job: put the characters of one line, given with their horizontal extents, into reading order.
Non-job: shaping, and the full Unicode algorithm (UAX #9): the page has been laid out already, so it is enough to undo
that layout: take the characters from right to left and turn the left-to-right runs inside round again.

Page producers store such text in visual or in logical order and extraction libraries guess which; positions do not lie.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

_BRACKETS = str.maketrans("()[]{}«»‹›", ")(][}{»«›‹")
_OPENING, _CLOSING = "([{", ")]}"
_MAX_LIGATURE = 4


@dataclass(frozen=True, slots=True)
class Glyph:
    """Characters drawn by one glyph, and its left and right edge; direction is "L", "R" or "" (neutral)."""

    text: str
    x0: float
    x1: float
    direction: str


def is_rtl(char: str) -> bool:
    """Whether a character is a right-to-left letter."""
    return char >= "\u0590" and unicodedata.bidirectional(char) in ("R", "AL")


def is_rtl_line(text: str) -> bool:
    """Whether more letters of a line run from right to left than the other way."""
    num_rtl = sum(map(is_rtl, text))
    return 2 * num_rtl > num_rtl + sum(unicodedata.bidirectional(char) == "L" for char in text)


def reading_order(text: str, extents: Sequence[tuple[float, float]], min_gap: float) -> str:
    """The characters of a line in reading order.

    Args:
        text: the line in any order.
        extents: left and right edge of every character; characters of one glyph share their extent.
        min_gap: distance of two glyphs that stands for a space; spaces without a width of their own are not trusted.
    """
    groups = _groups(text, extents)
    if any(len(chars) > _MAX_LIGATURE and is_rtl(chars[0]) for chars, _ in groups):
        # Replacement text for a whole word has no positions of its own: only its direction can be mended.
        return "".join(_unturned(chars, is_turned=True) for chars, _ in groups)
    visual = _with_spaces(sorted(_glyphs(groups), key=lambda glyph: glyph.x0 + glyph.x1), min_gap)
    if is_rtl_line(text):
        runs = reversed(_runs(visual, "L"))
        ordered = "".join(_text(run, is_reversed=not is_ltr) for is_ltr, run in runs)
        return _face_brackets(ordered)
    parts: list[str] = []
    for is_run, run in _runs(visual, "R"):
        inner = reversed(_runs(run, "L")) if is_run else [(True, run)]
        parts.extend(_text(piece, is_reversed=not is_ltr) for is_ltr, piece in inner)
    return "".join(parts)


def _groups(text: str, extents: Sequence[tuple[float, float]]) -> list[tuple[str, tuple[float, float]]]:
    """Characters by glyph, without spaces that have no width."""
    groups: list[tuple[str, tuple[float, float]]] = []
    for char, extent in zip(text, extents, strict=True):
        if groups and groups[-1][1] == extent and not char.isspace() and not groups[-1][0].isspace():
            groups[-1] = (groups[-1][0] + char, extent)
        elif not char.isspace() or extent[1] > extent[0]:
            groups.append((char, extent))
    return groups


def _glyphs(groups: Sequence[tuple[str, tuple[float, float]]]) -> list[Glyph]:
    """Hang combining marks on the base they stand over, and mend the order inside of ligatures."""
    is_turned = _are_groups_turned(groups)
    bases = [group for group in groups if not _is_mark(group[0])]
    hanging = [""] * len(bases)
    for mark, (x0, x1) in groups:
        if _is_mark(mark) and bases:
            distances = [abs(sum(extent) - x0 - x1) if not base.isspace() else inf for base, extent in bases]
            hanging[distances.index(min(distances))] += mark
    return [
        Glyph(_unturned(base, is_turned) + marks, *extent, _direction(base))
        for (base, extent), marks in zip(bases, hanging, strict=True)
    ]


def _with_spaces(visual: Sequence[Glyph], min_gap: float) -> list[Glyph]:
    """Put a space into every gap that no space fills."""
    spaced: list[Glyph] = []
    for glyph in visual:
        if spaced and glyph.x0 - spaced[-1].x1 > min_gap and not (glyph.text.isspace() or spaced[-1].text.isspace()):
            spaced.append(Glyph(" ", spaced[-1].x1, glyph.x0, ""))
        spaced.append(glyph)
    return spaced


def _is_mark(chars: str) -> bool:
    return all(map(unicodedata.combining, chars))


def _are_groups_turned(groups: Sequence[tuple[str, tuple[float, float]]]) -> bool:
    """Whether the extraction reversed the line, and with it the letters inside of glyphs that stand for several.

    It did when neighbouring right-to-left letters already come from right to left; a single glyph counts as reversed.
    """
    letters = [extent for chars, extent in groups if any(map(is_rtl, chars))]
    steps = [b[0] - a[0] for a, b in pairwise(letters)]
    return sum(step < 0 for step in steps) >= sum(step > 0 for step in steps)


def _unturned(base: str, is_turned: bool) -> str:
    return base[::-1] if is_turned and any(map(is_rtl, base)) else base


def _direction(base: str) -> str:
    if any(map(is_rtl, base)):
        return "R"
    return "L" if any(unicodedata.bidirectional(char) in ("L", "EN", "AN") for char in base) else ""


def _runs(visual: Sequence[Glyph], direction: str) -> list[tuple[bool, list[Glyph]]]:
    """Split a visual line into runs that begin and end with a glyph of the direction, and what lies between them."""
    other = {"L": "R", "R": "L"}[direction]
    runs: list[tuple[bool, list[Glyph]]] = []
    pending: list[Glyph] = []
    for glyph in visual:
        if glyph.direction == direction and runs and runs[-1][0]:
            runs[-1][1].extend([*pending, glyph])
            pending = []
        elif glyph.direction == direction:
            runs.append((True, [glyph]))
        elif runs and runs[-1][0] and glyph.direction != other:
            pending.append(glyph)
        else:
            if not runs or runs[-1][0]:
                runs.append((False, []))
            runs[-1][1].extend([*pending, glyph])
            pending = []
    return [*runs, (False, pending)] if pending else runs


def _text(run: Sequence[Glyph], is_reversed: bool) -> str:
    return "".join(glyph.text for glyph in (reversed(run) if is_reversed else run))


def _face_brackets(text: str) -> str:
    """Mirror the brackets of a line that opens with a closing one: they were drawn, not written, that way."""
    brackets = [char for char in text if char in _OPENING + _CLOSING]
    if brackets and brackets[0] in _CLOSING and brackets[-1] in _OPENING:
        return text.translate(_BRACKETS)
    return text
