"""Where tokens of a prompt, and words, stand in the document.

Job: `find_place`, from tokens of a prompt to characters of a part; `find_words`, all places of some words; `source_of`,
from a part to the page of its file; `most_seen`, the parts that were looked at most.
Non-job: showing a place (`places`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spec_engine.chat.prompt import WORD_JOINER
from spec_engine.documents.anchors import Block, Document, spelled
from spec_engine.documents.search import find_all
from spec_engine.documents.together import distinct

_MOST_PARTS: Final = 6  # that are named as looked at most …
_LEAST_SHARE: Final = 0.5  # … and how often each was, against the first of them
_HEAD: Final = 60  # characters by which the document's beginning is found in a prompt
_SLACK: Final = 16  # characters around its counted place where a passage is looked for


@dataclass(frozen=True, slots=True)
class Place:
    """Characters `start` to `end` of a part of a document, beyond its end for what goes on in the next one; none for
    the part as such."""

    part: int
    start: int = 0
    end: int = 0


def find_words(document: Document, words: str) -> list[Place]:
    """Where words stand in a document, in its order, as a reader would find them (`documents.search`), and however the
    text is broken into lines and parts."""
    places = []
    for start, end in find_all(document.text, spelled(words)):
        part = document.block_at(start)
        first, _ = document.span(part)
        places.append(Place(part, start - first, end - first))
    return places


def find_place(
    document: Document, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], token: int, num_tokens: int
) -> Place | None:
    """Where tokens of a prompt stand in the document that it begins with; None for those outside of it.

    Characters are counted from where the document begins in the decoded prompt. Word joiners, which a prompt may have
    and the document not, are left out of the count on both sides.
    """
    kept = [index for index, letter in enumerate(document.text) if letter != WORD_JOINER]
    plain = document.text if len(kept) == len(document.text) else "".join(document.text[index] for index in kept)
    whole, before, behind = (
        decode(prompt[:end]).replace(WORD_JOINER, "") for end in (len(prompt), token, token + num_tokens)
    )
    begins = whole.find(plain[:_HEAD])
    if begins < 0:
        return None
    start, end = len(before) - begins, min(len(behind) - begins, len(plain))
    passage = whole[max(start, 0) + begins : max(end, 0) + begins].strip()
    if not passage or start >= len(plain):
        return None
    start = _nearest(plain, passage, max(start, 0))
    end = min(start + len(passage), len(plain))
    part = document.block_at(kept[start])
    first, last = document.span(part)
    return Place(part, min(kept[start], last) - first, min(kept[end - 1] + 1, last) - first)


def _nearest(text: str, passage: str, guess: int) -> int:
    """Where the passage stands nearest to `guess`; the guess itself if it is spelled differently there."""
    found, at = [], text.find(passage, max(0, guess - _SLACK))
    while 0 <= at <= guess + _SLACK:
        found.append(at)
        at = text.find(passage, at + 1)
    return min(found, key=lambda place: abs(place - guess), default=min(guess, len(text) - 1))


def source_of(block: Block, paths: Sequence[Path]) -> tuple[Path, int] | None:
    """File and page index that a part was read from; None for a part that is no page of a PDF."""
    if block.anchor.kind != "page":
        return None
    if len(paths) == 1:
        return paths[0], block.anchor.index
    named = dict(zip(distinct([path.name for path in paths]), paths, strict=True))
    fitting = [name for name in named if block.anchor.label.startswith(f"{name} ")]
    return (named[max(fitting, key=len)], block.anchor.index) if fitting else None


def most_seen(seen: Counter[int], chunk_size: int, locate: Callable[[int], str]) -> dict[str, int]:
    """The parts of the document in which most was `seen`, most first, each with the chunk of the context in it that was
    seen most. `locate` names the part that holds a token of the context; "" outside of the document."""
    chunks: dict[str, list[int]] = {}
    for chunk_id in sorted(seen):  # so that of parts seen as often the earlier one comes first
        if part := locate(chunk_id * chunk_size):
            chunks.setdefault(part, []).append(chunk_id)
    most = standing_out(Counter({part: sum(seen[chunk] for chunk in own) for part, own in chunks.items()}))
    return {part: max(chunks[part], key=lambda chunk: seen[chunk]) for part in most}


def standing_out(seen: Counter[str]) -> list[str]:
    """The parts that were seen most, most often first; none that was seen much less than the first, as every part of a
    short document is looked at now and then."""
    most = seen.most_common(_MOST_PARTS)
    return [part for part, number in most if number >= _LEAST_SHARE * most[0][1]]
