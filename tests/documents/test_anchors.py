"""Text of a document: normalisation, offsets, hash."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec_engine.documents.anchors import Anchor, Block, Document, Problem, normalise


def block(text: str, index: int = 0) -> Block:
    return Block(Anchor("page", f"p. {index + 1}", index), text)


@given(st.text())
def test_normalise_is_idempotent_and_clean(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in once)
    once.encode("utf-8")


def test_normalise_keeps_indentation_and_inner_blank_lines() -> None:
    assert normalise("\r\n \r\n\tif x:\r\n\r\n\t\ty\u2028z\x00\x07\ufeff  \r\n\n") == "\tif x:\n\n\t\ty\nz"
    assert normalise("Cafe\u0301") == "Café"


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=20), max_size=8))
def test_every_offset_leads_to_its_block(texts: list[str]) -> None:
    document = Document("t", "t.txt", tuple(block(text, i) for i, text in enumerate(texts)))
    assert document.text == "\n\n".join(b.text for b in document.blocks)
    assert all(b.text.strip() for b in document.blocks)
    for i, b in enumerate(document.blocks):
        start, end = document.span(i)
        assert document.text[start:end] == b.text
        for offset in (start, end - 1, end):
            assert document.block_at(offset) == i
            assert document.anchor_at(offset) is b.anchor


def test_offsets_outside_are_refused() -> None:
    document = Document("t", "t.txt", (block("abc"),))
    assert document.anchor_at(3).label == "p. 1"
    for offset in (-1, 4):
        with pytest.raises(IndexError):
            document.anchor_at(offset)
    with pytest.raises(IndexError):
        Document("t", "t.txt", ()).anchor_at(0)
    with pytest.raises(IndexError):
        document.span(-1)


def test_hash_depends_on_text_alone() -> None:
    one = Document("a", "a.txt", (block("x"), block("y")), (Problem(None, "p"),))
    two = Document("b", "b.txt", (block("x\r\n\r\ny"),))
    assert one.sha256 == two.sha256 != Document("a", "a.txt", (block("x\ny"),)).sha256


def test_text_stays_out_of_repr() -> None:
    document = Document("Title", "a.txt", (block("secret words"),))
    assert "secret" not in repr(document)


def test_title_is_one_clean_line() -> None:
    assert Document(" A\x00\n long  title ", "a.txt", ()).title == "A long title"
