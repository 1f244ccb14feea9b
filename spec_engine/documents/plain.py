"""Plain text, source code and Markdown as blocks.

Job: blocks of a sane number of lines that end at paragraph borders, with line anchors; Markdown by its headings, its
text kept as it is. Non-job: decoding (`encoding`), rendering Markdown.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.encoding import decode
from spec_engine.documents.sections import section_blocks, split_long
from spec_engine.errors import UnreadableDocument

_TARGET_LINES, _TARGET_CHARS = 40, 6_000
_MAX_LINES, _MAX_CHARS = 200, 12_000
_MAX_HEADING_CHARS = 500

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_NO_SETEXT = re.compile(r"\s*$|\s{4}|\s*(?:[-*+>|#]|\d+[.)]\s)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKUP = re.compile(r"[*_`~]{1,3}(?=\S)|(?<=\S)[*_`~]{1,3}")


def read_plain(data: bytes, name: str, stem: str) -> Document:
    """Read plain text or source code.

    Raises:
        UnreadableDocument: binary data, or nothing but blanks.
    """
    decoded = decode(data, name)
    return _document(tuple(_line_blocks(_lines(decoded.text))), name, stem, decoded.problems)


def read_markdown(data: bytes, name: str, stem: str) -> Document:
    """Read Markdown: one block a heading section, or line blocks when it has no headings. Raises as `read_plain`."""
    decoded = decode(data, name)
    lines = _lines(decoded.text)
    headings = list(_headings(lines))
    if not headings:
        return _document(tuple(_line_blocks(lines)), name, stem, decoded.problems)
    borders = [(0, None), *headings, (len(lines), None)]
    blocks: list[Block] = []
    for index, ((start, heading), (end, _)) in enumerate(pairwise(borders)):
        blocks.extend(section_blocks(heading, index, split_long("\n".join(lines[start:end])), has_headings=True))
    return _document(tuple(blocks), name, headings[0][1], decoded.problems)


def _document(blocks: tuple[Block, ...], name: str, title: str, problems: tuple[Problem, ...]) -> Document:
    document = Document(title, name, blocks, problems)
    if not document.blocks:
        raise UnreadableDocument(f"{name} holds nothing but blank space. Check that it is the right file.")
    return document


def _lines(text: str) -> list[str]:
    """Lines as editors count them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _line_blocks(lines: Sequence[str]) -> Iterator[Block]:
    """Runs of lines of about the target size, closed at a blank line, or anywhere once they are far too long."""
    start: int | None = None
    end = num_chars = 0
    for i, line in enumerate(lines):
        is_blank = not line.strip()
        num_lines = 0 if start is None else i - start
        is_enough = num_lines >= _TARGET_LINES or num_chars >= _TARGET_CHARS
        if start is not None and ((is_blank and is_enough) or num_lines >= _MAX_LINES or num_chars >= _MAX_CHARS):
            yield _line_block(lines, start, end)
            start = None
        if not is_blank:
            if start is None:
                start, num_chars = i, 0
            end = i + 1
            num_chars += len(line)
    if start is not None:
        yield _line_block(lines, start, end)


def _line_block(lines: Sequence[str], start: int, end: int) -> Block:
    label = f"line {start + 1}" if end == start + 1 else f"lines {start + 1}-{end}"
    return Block(Anchor("line", label, start), "\n".join(lines[start:end]))


def _headings(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Line index and text of every heading (CommonMark 0.31, 4.2 and 4.3), outside of code and front matter."""
    fence: str | None = None
    first = _end_of_front_matter(lines)
    for i in range(first, len(lines)):
        line = lines[i][:_MAX_HEADING_CHARS]
        mark = _FENCE.match(line)
        if fence is not None:
            if mark and mark.group(1).startswith(fence) and line.strip() == mark.group(1):
                fence = None
        elif mark:
            fence = mark.group(1)
        elif heading := _HEADING.match(line):
            if heading.group(2):
                yield i, _without_markup(heading.group(2))
        elif i > first and _UNDERLINE.match(line) and _is_lone_text(lines, i - 1, first):
            yield i - 1, _without_markup(lines[i - 1][:_MAX_HEADING_CHARS])


def _is_lone_text(lines: Sequence[str], index: int, first: int) -> bool:
    """Whether a line is a paragraph of its own, which an underline turns into a heading."""
    return not _NO_SETEXT.match(lines[index]) and (index == first or not lines[index - 1].strip())


def _end_of_front_matter(lines: Sequence[str]) -> int:
    """Index of the first line after a YAML header."""
    if lines and lines[0].strip() == "---":
        for i, line in enumerate(lines[1:200], start=1):
            if line.strip() in ("---", "..."):
                return i + 1
    return 0


def _without_markup(heading: str) -> str:
    return _MARKUP.sub("", _LINK.sub(r"\1", heading)).strip()
