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
    assert [block.anchor.label for block in document.blocks][:2] == ["lines 1-200", "lines 201-400"]
    assert document.text.replace("\n\n", "\n") == text


def test_one_huge_line_is_one_block() -> None:
    document = read_plain(b"x" * (10 << 20), "a.txt", "a")
    assert [block.anchor.label for block in document.blocks] == ["line 1"]
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
