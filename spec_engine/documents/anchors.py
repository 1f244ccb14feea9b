"""Anchored text: what every reader produces and everything above consumes.

Job: the values `Anchor`, `Block`, `Problem` and `Document`, and the one normalisation of text.
Non-job: opening files (`read`), counting tokens (`budget`).

A document's text is its blocks, each with what stands between it and the next: one blank line, or less where a long
stretch of text was divided (`divide`). It is byte-stable: the same file gives the same text in every process, so a
prefix cache can be keyed by its hash.
"""

import hashlib
import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

AnchorKind = Literal["page", "heading", "line", "section", "slide"]

BLOCK_SEPARATOR = "\n\n"

_LINE_ENDINGS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# C0 and C1 controls except tab and newline, the byte order mark, lone surrogates and the BMP non-characters.
_FORBIDDEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_BLANK_START = re.compile(r"\A(?:[^\S\n]*\n)+")


def normalise(text: str) -> str:
    """The one spelling of a text: NFC, newlines as \\n, no control characters, no blank lines at either end.

    Idempotent. Tabs, indentation and blank lines inside the text are kept.
    """
    return without_blank_start(spelled(text)).rstrip()


def spelled(text: str) -> str:
    """`normalise` of letters and line ends alone: blank lines at either end stay. What it makes of two lines, it makes
    of each of them alone."""
    return unicodedata.normalize("NFC", _FORBIDDEN.sub("", _LINE_ENDINGS.sub("\n", text)))


def without_blank_start(text: str) -> str:
    """`text` without the blank lines that it begins with."""
    return _BLANK_START.sub("", text)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place in the source that a reader can look up.

    Attributes:
        kind: what the place is.
        label: how it is shown: "p. 12", "§ Scope", "lines 40-62", "line 3 (2 of 9)".
        index: where it is, counted from 0 in units of its kind: page index, first line, number of the section.
    """

    kind: AnchorKind
    label: str
    index: int


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of text under one anchor. The text is normalised on construction and kept out of `repr`.

    `separator` is what stands between it and the next block; white space, nothing within a word, or words
    that belong to no part.
    """

    anchor: Anchor
    text: str = field(repr=False)
    separator: str = field(default=BLOCK_SEPARATOR, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", normalise(self.text))


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a reader could not read, in plain words.

    Attributes:
        anchor_label: the place, or None when it concerns the whole file.
        message: a whole phrase that names the place itself: "p. 12 has no text (a scan?)".
    """

    anchor_label: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """Text with anchors.

    Attributes:
        title: what the document calls itself, or the file's name without its suffix.
        source_name: the file's name, without its folder.
        blocks: never blank; blank ones are dropped on construction.
        problems: what could not be read.
        is_locked: whether it took a password to read it, or a file of several. What is made of it stays off the disk.
        text: the blocks with their separators between them. Character offsets count from its start.
    """

    title: str
    source_name: str
    blocks: tuple[Block, ...]
    problems: tuple[Problem, ...] = ()
    is_locked: bool = False
    text: str = field(init=False, repr=False, compare=False)
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _sha256: list[str] = field(default_factory=list, init=False, repr=False, compare=False)  # once it was asked for

    def __post_init__(self) -> None:
        blocks = tuple(block for block in self.blocks if block.text)
        object.__setattr__(self, "title", " ".join(normalise(self.title).split()))
        object.__setattr__(self, "blocks", blocks)
        parts = [part for block in blocks for part in (block.text, block.separator)]
        object.__setattr__(self, "text", "".join(parts[:-1]))
        object.__setattr__(self, "_starts", tuple(accumulate(map(len, parts), initial=0))[:-1:2])

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the UTF-8 text; titles and problems do not enter."""
        if not self._sha256:
            self._sha256.append(hashlib.sha256(self.text.encode("utf-8")).hexdigest())
        return self._sha256[0]

    @property
    def mark(self) -> str:
        """A short name of the text, by which an address tells whether it is about this document."""
        return self.sha256[:8]

    def block_at(self, char_offset: int) -> int:
        """Index of the block that holds the character; a separator belongs to the block before it.

        Raises:
            IndexError: the offset is negative or beyond the text (the offset just past the end is allowed).
        """
        if not self.blocks or not 0 <= char_offset <= len(self.text):
            raise IndexError(f"offset {char_offset} lies outside a text of {len(self.text)} characters")
        return bisect_right(self._starts, char_offset) - 1

    def anchor_at(self, char_offset: int) -> Anchor:
        """Anchor of the block that holds the character. Raises IndexError as `block_at` does."""
        return self.blocks[self.block_at(char_offset)].anchor

    def span(self, block_index: int) -> tuple[int, int]:
        """Start and end of a block in `text`, end exclusive, without the separator. Raises IndexError."""
        if not 0 <= block_index < len(self.blocks):
            raise IndexError(f"block {block_index} does not exist; there are {len(self.blocks)}")
        start = self._starts[block_index]
        return start, start + len(self.blocks[block_index].text)
