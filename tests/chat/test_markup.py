"""What a text becomes in a Markdown file."""

import random
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from spec_engine.chat.markup import escaped


def tokens(markdown: str) -> list[object]:
    """All tokens that a reader of CommonMark with tables finds."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def kinds(markdown: str) -> set[str]:
    return {token.type for token in tokens(markdown)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b>x</b> & 1 < 2", r"a \<b>x\</b> & 1 < 2"),
        ("&lt; ![x](y)", r"\&lt; \![x](y)"),
        (r"\<b> \\<b>", r"\<b> \\\<b>"),
        ("`<b>` and <b>", r"`<b>` and \<b>"),
        ("a ` <b>", r"a ` \<b>"),
        ("```html\n<b>\n```\n<i>", "```html\n<b>\n```\n\\<i>"),
        ("~~~\n<b>\n~~~\n<i>", "~~~\n<b>\n~~~\n\\<i>"),
        ("```\n<b>", "```\n<b>\n```"),  # or the fence would end at the next one of the file
        ("- ```\n  x\n\n  ```\n<i>", "- ```\n  x\n\n  ```\n\\<i>"),
        ("1. a\n   ```\n   <b>\n\n     x\n   ```\n<i>", "1. a\n   ```\n   <b>\n\n     x\n   ```\n\\<i>"),
        ("1. a\n   ```\n <b>\n   ```\n<i>", "1. a\n   ```\n \\<b>\n   ```\n\\<i>"),  # in doubt: ends with the list
        ("   ```\n   <b>\n    ```\n   <i>\n   ```", "   ```\n   \\<b>\n    ```\n   \\<i>\n   ```"),
        ("10. a\n    ```\n    <b>\n    ```\n<i>", "10. a\n    ```\n    \\<b>\n    ```\n\\<i>"),
    ],
)
def test_markup_is_escaped_and_code_is_not(text: str, expected: str) -> None:
    assert escaped([text]) == [expected]


def test_what_is_in_doubt_in_one_text_makes_nothing_code_in_another() -> None:
    assert escaped(["  ```\nopen", "```\n<b>\n```"]) == ["  ```\nopen", "```\n\\<b>\n```"]


@pytest.mark.parametrize("indented", ["1. a\n   ```\n   b\n   ```", "- a\n  - b\n    ~~~ c\n    d\n    ~~~\n\nend"])
def test_an_indented_fence_puts_no_clean_one_in_doubt(indented: str) -> None:
    assert escaped([indented, "```\n<b>\n```\n`<i>`"]) == [indented, "```\n<b>\n```\n`<i>`"]
    assert escaped([f"```\n<b>\n```\n{indented}"]) == [f"```\n<b>\n```\n{indented}"]


def test_a_fence_that_a_tab_may_end_within_a_quotation_is_in_doubt() -> None:
    assert escaped(["```\n\t```\n<b>\n```"]) == ["```\n\t```\n\\<b>\n```"]


def test_no_text_with_indented_fences_becomes_html() -> None:
    rng = random.Random(4)
    lines = ["```", "```", "~~~", "````", "``` x", "`", "a ` b", "<b>", "<script>", "`<i>`", "<!-- x", "", "", "|a|b|"]
    starts = ["", "", " ", "  ", "   ", "    ", "     ", "- ", "1. ", "10. ", "  - ", "\t", "> "]
    for _ in range(5000):
        blanks = rng.choice(starts[1:7])  # so that many lines are indented alike
        texts = [
            "\n".join(rng.choice((blanks, rng.choice(starts))) + rng.choice(lines) for _ in range(rng.randint(1, 8)))
            for _ in range(2)
        ]
        question, *others = escaped(texts)
        quoted = question.replace("\n", "\n> ")
        markdown = "\n\n".join((f"> {quoted}", *others))
        assert not kinds(markdown) & {"html_block", "html_inline", "image"}, texts


def test_no_text_becomes_html() -> None:
    rng = random.Random(3)
    pieces = ["```", "```", "~~~", "`", "``", "\n", "\n", "\n\n", "- ", "> ", "    ", "  ", "|", "\\", "a", " ", "\r"]
    pieces += ["<b>", "</b>", "<img src=x>", "<!-- x -->", "<script>", "<?x?>", "![x](y)", "<http://x.y>"]
    for _ in range(6000):
        texts = ["".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(3)]
        question, *others = escaped(texts)
        quoted = question.replace("\n", "\n> ")
        markdown = "\n\n".join((f"> {quoted}", *others))
        assert not kinds(markdown) & {"html_block", "html_inline", "image"}, texts


def test_every_sign_is_still_there() -> None:
    """Read as it stands, a file has the text with some backslashes more."""
    text = "Is a<b && c>d? <i>Yes</i>."
    (shown,) = escaped([text])
    assert shown.replace("\\", "") == text
    assert all(not (one == "\\" == other) for one, other in pairwise(shown))
