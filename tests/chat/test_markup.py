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
    ],
)
def test_markup_is_escaped_and_code_is_not(text: str, expected: str) -> None:
    assert escaped([text]) == [expected]


def test_what_is_in_doubt_in_one_text_makes_nothing_code_in_another() -> None:
    assert escaped(["  ```\nopen", "```\n<b>\n```"]) == ["  ```\nopen", "```\n\\<b>\n```"]


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
