"""Paragraphs gathered into one block a heading section.

Job: collect headings and paragraphs in order, name the anchors, divide sections that are too long to be one place.
Non-job: recognising headings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from spec_engine.documents.anchors import Anchor, Block, normalise

MAX_SECTION_CHARS = 12_000
PART_CHARS = 6_000
MAX_LABEL_CHARS = 80
START_LABEL = "start"


@dataclass(slots=True)
class _Section:
    heading: str | None
    paragraphs: list[tuple[str, bool]] = field(default_factory=list)


class SectionBuilder:
    """Takes headings and paragraphs in document order and gives blocks."""

    def __init__(self) -> None:
        self._sections = [_Section(None)]

    @property
    def first_heading(self) -> str | None:
        """Text of the first heading, or None when there is none."""
        return next((section.heading for section in self._sections if section.heading), None)

    def start_section(self, heading: str) -> None:
        """Begin a section; a blank heading begins none."""
        if heading.strip():
            self._sections.append(_Section(" ".join(heading.split())))

    def add_paragraph(self, text: str, is_tight: bool = False) -> None:
        """Add a paragraph; between two tight ones (list items, table rows) stands no blank line."""
        self._sections[-1].paragraphs.append((text, is_tight))

    def blocks(self) -> tuple[Block, ...]:
        """The sections as blocks, the long ones in parts."""
        blocks: list[Block] = []
        has_headings = len(self._sections) > 1
        for index, section in enumerate(self._sections):
            heading = [section.heading] if section.heading else []
            texts = split_long("\n\n".join([*heading, *_joined(section.paragraphs)]))
            blocks.extend(section_blocks(section.heading, index, texts, has_headings))
        return tuple(blocks)


def section_blocks(heading: str | None, index: int, texts: list[str], has_headings: bool) -> Iterator[Block]:
    """Blocks of one section.

    Args:
        heading: None for what stands before the first heading.
        index: number of the section, counted from 0.
        texts: its parts.
        has_headings: whether the document has any.
    """
    for number, text in enumerate(texts, start=1):
        if heading is not None:
            label = heading_label(heading) + (f" ({number} of {len(texts)})" if len(texts) > 1 else "")
            yield Block(Anchor("heading", label, index), text)
        else:
            label = f"part {number}" if len(texts) > 1 or not has_headings else START_LABEL
            yield Block(Anchor("section", label, number - 1), text)


def heading_label(heading: str) -> str:
    """How a heading is shown as an anchor."""
    heading = " ".join(normalise(heading).split())
    return "§ " + (heading if len(heading) <= MAX_LABEL_CHARS else heading[: MAX_LABEL_CHARS - 1].rstrip() + "…")


def split_long(text: str) -> list[str]:
    """Divide a long text at blank lines into parts of about `PART_CHARS` characters; a paragraph is never cut."""
    if len(text) <= MAX_SECTION_CHARS:
        return [text]
    parts: list[list[str]] = [[]]
    size = 0
    for paragraph in text.split("\n\n"):
        if size >= PART_CHARS:
            parts.append([])
            size = 0
        parts[-1].append(paragraph)
        size += len(paragraph)
    return ["\n\n".join(part) for part in parts]


def _joined(paragraphs: list[tuple[str, bool]]) -> Iterator[str]:
    """Paragraphs, with runs of tight ones put together."""
    run: list[str] = []
    for text, is_tight in paragraphs:
        if run and not is_tight:
            yield "\n".join(run)
            run = []
        if is_tight:
            run.append(text)
        else:
            yield text
    if run:
        yield "\n".join(run)
