"""Where tokens of a prompt stand in the document.

Job: `find_place`, from tokens of a prompt to characters of a part; `source_of`, from a part to the page of its file.
Non-job: showing a place (`places`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spec_engine.chat.prompt import WORD_JOINER
from spec_engine.documents.anchors import Block, Document
from spec_engine.documents.together import distinct

_HEAD: Final = 60  # characters by which the document's beginning is found in a prompt
_SLACK: Final = 400  # characters around its estimated place where a passage is looked for


@dataclass(frozen=True, slots=True)
class Place:
    """Characters `start` to `end` of a part of a document; none for the part as such."""

    part: int
    start: int = 0
    end: int = 0


def find_place(
    document: Document, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], token: int, num_tokens: int
) -> Place | None:
    """Where tokens of a prompt stand in the document that it begins with; None for those outside of it."""
    before = decode(prompt[:token]).replace(WORD_JOINER, "")
    passage = decode(prompt[token : token + num_tokens]).replace(WORD_JOINER, "").strip()
    head = document.text[:_HEAD]
    begins = (before + passage).find(head) if len(before) < len(head) * 40 else before.find(head)
    if begins < 0 or not passage:
        return None
    guess = len(before) - begins
    start = document.text.find(passage, max(0, guess - _SLACK))
    if start < 0 or start > guess + _SLACK:
        start = guess  # the passage begins before the document or ends behind it, or is spelled differently
    start, end = max(0, start), min(len(document.text), max(0, start) + len(passage))
    if start >= end:
        return None
    part = document.block_at(start)
    first, last = document.span(part)
    return Place(part, min(start, last) - first, min(end, last) - first)


def source_of(block: Block, paths: Sequence[Path]) -> tuple[Path, int] | None:
    """File and page index that a part was read from; None for a part that is no page of a PDF."""
    if block.anchor.kind != "page":
        return None
    if len(paths) == 1:
        return paths[0], block.anchor.index
    named = dict(zip(distinct([path.name for path in paths]), paths, strict=True))
    fitting = [name for name in named if block.anchor.label.startswith(f"{name} ")]
    return (named[max(fitting, key=len)], block.anchor.index) if fitting else None
