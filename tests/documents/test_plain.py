"""Plain text, source code and Markdown."""

import time

import pytest

from spec_engine.documents.plain import read_markdown, read_plain
from spec_engine.errors import UnreadableDocument


def test_line_anchors_and_kept_indentation() -> None:
    code = "\n\n    def f():\r\n        return 1\r\n\r\n\r\n    x = f()  \n"
    document = read_plain(code.encode(), "a.py", "a")
    (block,) = document.blocks
    assert (block.anchor.kind, block.anchor.label, block.anchor.index) == ("line", "lines 3-7", 2)
    assert document.text == "    def f():\n        return 1\n\n\n    x = f()"
    assert document.title == "a"


def test_blocks_end_at_paragraph_borders() -> None:
    text = "\n\n".join("\n".join(f"line {i} of {n}" for i in range(7)) for n in range(40))
    document = read_plain(text.encode(), "a.txt", "a")
    assert document.text == text
    assert len(document.blocks) == 7
    lines = text.split("\n")
    for block in document.blocks:
        first, last = map(int, block.anchor.label.removeprefix("lines ").split("-"))
        assert "\n".join(lines[first - 1 : last]) == block.text
        assert block.text.startswith("line 0")
        assert block.text.count("\n") < 60


def test_text_without_paragraphs_is_divided_too() -> None:
    text = "\n".join(f"row {i},1,2" for i in range(1_000))
    document = read_plain(text.encode(), "a.csv", "a")
    labels = [block.anchor.label for block in document.blocks]
    assert labels[:3] == ["lines 1-175", "lines 176-200", "lines 201-366"]
    assert document.text.replace("\n\n", "\n") == text


def test_long_lines_are_divided_at_ends_of_sentences() -> None:
    sentences = [f"Sentence {number} of a long report says what was done." for number in range(400)]
    lines = ["Title", *(" ".join(sentences[start : start + 100]) for start in range(0, 400, 100)), "The end."]
    text = "\n".join(lines)
    document = read_plain(text.encode(), "report.txt", "report")
    assert document.text.split() == text.split()
    assert all(len(block.text) <= 2_000 for block in document.blocks)
    labels = [block.anchor.label for block in document.blocks]
    assert labels[:5] == ["line 1", "line 2 (1 of 3)", "line 2 (2 of 3)", "line 2 (3 of 3)", "line 3 (1 of 3)"]
    assert labels[-1] == "line 6"
    for index, block in enumerate(document.blocks):
        assert block.text in lines[block.anchor.index]
        assert block.text.startswith(("Sentence", "The end", "Title"))
        assert document.text[slice(*document.span(index))] == block.text


@pytest.mark.parametrize(
    "text",
    [
        "x" * 9_000,
        "One sentence.  " * 900 + "Last",
        "word\t" * 3_000 + "w",
        "“Why?” " * 2_000 + "So.",
        "文章。" * 3_000,
    ],
    ids=["letters", "sentences", "words", "quotes", "no blanks"],
)
def test_one_line_in_parts_is_the_same_text(text: str) -> None:
    document = read_plain(text.encode(), "a.txt", "a")
    assert document.text == text
    num_parts = len(document.blocks)
    assert num_parts >= len(text) // 2_000
    assert [block.anchor.label for block in document.blocks] == [
        f"line 1 ({number} of {num_parts})" for number in range(1, num_parts + 1)
    ]


def test_parts_are_counted_from_where_lines_begin_after_odd_letters() -> None:
    """What is removed or replaced in a line, a byte order mark or a form feed, moves no line number."""
    long = "A sentence of seven words stands here. " * 120
    document = read_plain(f"\ufefffirst\x0cstill first\r\n\r\n{long}\r\nlast é\u0301".encode(), "a.txt", "a")
    assert document.text == f"first\nstill first\n\n{long}\nlast é\u0301"
    labels = [block.anchor.label for block in document.blocks]
    assert (labels[0], labels[1], labels[-1]) == ("line 1", "line 3 (1 of 3)", "line 4")


def test_a_huge_line_is_divided_too_and_in_parts_that_can_be_listed() -> None:
    document = read_plain(b"x" * (10 << 20), "a.txt", "a")
    assert 1_000 < len(document.blocks) < 5_000
    assert len(document.text) == 10 << 20


def test_blank_file() -> None:
    with pytest.raises(UnreadableDocument, match="nothing but blank space"):
        read_plain(b" \n\t\r\n ", "a.txt", "a")


MARKDOWN = """---
title: no heading
---
Lead text.

# Scope of *this* [work](http://x) #

Text   with  spaces.

```sh
# no heading
```

Long heading
============

a | b
--- | ---

- item
---

## `code` and more
Last.
"""


def test_markdown_sections_keep_their_text() -> None:
    document = read_markdown(MARKDOWN.encode(), "a.md", "a")
    assert [block.anchor.label for block in document.blocks] == [
        "start",
        "§ Scope of this work",
        "§ Long heading",
        "§ code and more",
    ]
    assert document.title == "Scope of this work"
    assert document.text == MARKDOWN.strip()


def test_markdown_without_headings_has_line_anchors() -> None:
    document = read_markdown(b"Just text.\n\n* item\n", "a.md", "a")
    assert document.blocks[0].anchor.label == "lines 1-3"


@pytest.mark.parametrize("line", ["[" * 100_000, "x" + " " * 100_000 + "y", "x" + " #" * 50_000 + " y", "*" * 100_000])
def test_absurd_headings_take_no_time(line: str) -> None:
    start = time.perf_counter()
    assert read_markdown(f"# {line}\n\ntext".encode(), "a.md", "a").text.endswith("text")
    assert time.perf_counter() - start < 2


def test_long_markdown_section_comes_in_parts() -> None:
    text = "# Scope\n\n" + "\n\n".join("word " * 99 + str(i) for i in range(60))
    document = read_markdown(text.encode(), "a.md", "a")
    assert document.blocks[0].anchor.label == f"§ Scope (1 of {len(document.blocks)})"
    assert len(document.blocks) > 2
    assert document.text == text
