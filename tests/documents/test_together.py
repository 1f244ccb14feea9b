"""Several documents read as one."""

import pytest

from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.together import join
from spec_engine.errors import RequestError


def document(name: str, *texts: str) -> Document:
    blocks = tuple(Block(Anchor("page", f"p. {n}", n - 1), text) for n, text in enumerate(texts, 1))
    return Document(name.title(), name, blocks, (Problem("p. 9", "p. 9 has no text"),))


def test_every_place_names_its_file() -> None:
    both = join([document("a.pdf", "One.", "Two."), document("b.pdf", "Three.")])
    assert [block.anchor.label for block in both.blocks] == ["a.pdf p. 1", "a.pdf p. 2", "b.pdf p. 1"]
    assert both.text == "# a.pdf\n\nOne.\n\nTwo.\n\n# b.pdf\n\nThree."
    assert both.source_name == "a.pdf, b.pdf"
    assert [problem.message for problem in both.problems] == ["a.pdf: p. 9 has no text", "b.pdf: p. 9 has no text"]


def test_files_of_one_name_are_told_apart() -> None:
    both = join([document("a.pdf", "One."), document("a.pdf", "Two.")])
    assert [block.anchor.label for block in both.blocks] == ["a.pdf p. 1", "a.pdf (2) p. 1"]


def test_a_single_one_stays_as_it_is_and_none_is_an_error() -> None:
    alone = document("a.pdf", "One.")
    assert join([alone]) is alone
    with pytest.raises(RequestError, match="at least one"):
        join([])
