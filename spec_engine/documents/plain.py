"""Plain text, source code and Markdown as blocks.

Job: blocks of a sane number of lines that end at paragraph borders, with line anchors; Markdown by its headings, its
text kept as it is. Non-job: decoding (`encoding`), rendering Markdown, cutting a long line (`divide`).

Blocks are made in two steps. Runs of lines say what the document's text is: between two of them stands one blank line.
The long ones are then divided without any change of the text, so that a part is no more than a reader takes in at once:
at blank lines and line ends, and a line that is too long itself at ends of sentences.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from spec_engine.documents.anchors import Anchor, Block, Document, Problem, spelled
from spec_engine.documents.divide import cut_at, cut_places
from spec_engine.documents.encoding import decode
from spec_engine.documents.sections import section_blocks, split_long
from spec_engine.errors import UnreadableDocument

_TARGET_LINES, _TARGET_CHARS = 40, 6_000
_MAX_LINES, _MAX_CHARS = 200, 12_000
_PART_CHARS = 2_000  # of a part at most …
_MANY_PARTS = 2_000  # … unless the document has more such parts than this, of which nobody could choose one
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
    """Blocks of runs of lines, the long ones in parts."""
    most = max(_PART_CHARS, sum(map(len, lines)) // _MANY_PARTS)
    for start, end in _runs(lines):
        yield from _parts(lines, start, end, most)


def _runs(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Runs of lines of about the target size, closed at a blank line, or anywhere once they are far too long."""
    start: int | None = None
    end = num_chars = 0
    for i, line in enumerate(lines):
        is_blank = not line.strip()
        num_lines = 0 if start is None else i - start
        is_enough = num_lines >= _TARGET_LINES or num_chars >= _TARGET_CHARS
        if start is not None and ((is_blank and is_enough) or num_lines >= _MAX_LINES or num_chars >= _MAX_CHARS):
            yield start, end
            start = None
        if not is_blank:
            if start is None:
                start, num_chars = i, 0
            end = i + 1
            num_chars += len(line)
    if start is not None:
        yield start, end


def _parts(lines: Sequence[str], start: int, end: int, most: int) -> Iterator[Block]:
    """A run of lines as blocks of at most `most` characters. Each is whole lines, or a numbered piece of one line."""
    run = [spelled(line) for line in lines[start:end]]
    ends = list(accumulate(len(line) + 1 for line in run))
    text = "\n".join(run)
    pieces = cut_at(text, _cuts(run, ends, most) if len(text) > most else ())
    places = [
        (start + bisect_right(ends, piece.start), start + bisect_right(ends, piece.start + len(piece.text) - 1) + 1)
        for piece in pieces
    ]
    num_pieces, num_before = Counter(places), Counter[tuple[int, int]]()
    for (first, behind), piece in zip(places, pieces, strict=True):
        num_before[first, behind] += 1
        number, num_all = num_before[first, behind], num_pieces[first, behind]
        label = f"line {first + 1}" if behind == first + 1 else f"lines {first + 1}-{behind}"
        label += f" ({number} of {num_all})" if num_all > 1 else ""
        yield Block(Anchor("line", label, first), piece.text, piece.separator)


def _cuts(run: Sequence[str], ends: Sequence[int], most: int) -> Iterator[int]:
    """Where a run of lines, whose ends these are, is divided."""
    begin = 0
    for line, end in zip(run, ends, strict=True):
        start = end - len(line) - 1
        if len(line) > most:
            yield start
            yield from (start + place for place in cut_places(line, most))
            yield end - 1
            begin = end
        elif end - begin > most or (not line.strip() and start - begin >= most // 2):
            yield start
            begin = start


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
