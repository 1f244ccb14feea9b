"""Long texts in pieces, without a loss.

Job: `cut_places`, where a text that is too long can be cut, at best at ends of sentences; `cut_at`, the pieces with
what stands between them.
Non-job: how long is too long, what the pieces are called (`plain`).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from spec_engine.documents.anchors import BLOCK_SEPARATOR, without_blank_start

_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？]")
_BLANK: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text, from `start` on; `separator` is what stands behind it, up to the next piece."""

    start: int
    text: str
    separator: str = BLOCK_SEPARATOR


def cut_places(text: str, most: int) -> Iterator[int]:
    """Offsets at which `text` falls into pieces of at most `most` characters, white space between them not counted.

    Each is the last end of a sentence that leaves a piece of at least half that size, else the last blank, else
    anywhere.
    """
    start = 0
    while len(text) - start > most:
        start = _last_place(text, start + (most + 1) // 2, start + most)
        while start < len(text) and text[start].isspace():
            start += 1
        yield start


def _last_place(text: str, least: int, most: int) -> int:
    for pattern in (_SENTENCE_END, _BLANK):
        places = [found.end() for found in pattern.finditer(text, least, most)]
        if places:
            return places[-1]
    return most


def cut_at(text: str, places: Iterable[int]) -> list[Piece]:
    """The pieces of a text that is cut at these offsets, none of them blank. With their separators they are `text`
    again, but for blank lines at its start and white space at its end."""
    pieces: list[Piece] = []
    start = 0
    for end in (*places, len(text)):
        rest = without_blank_start(text[start:end])
        if body := rest.rstrip():
            pieces.append(Piece(end - len(rest), body))
        if pieces:  # else it is white space, which the first piece begins with
            start = end
    for number, (piece, following) in enumerate(pairwise(pieces)):
        separator = text[piece.start + len(piece.text) : following.start]
        pieces[number] = Piece(piece.start, piece.text, separator)
    return pieces
