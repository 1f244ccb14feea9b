"""What fits a context, and the range a user chooses."""

import pytest

from spec_engine.documents import budget
from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.errors import DocumentError


def count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def document(*num_words: int, problems: tuple[Problem, ...] = ()) -> Document:
    blocks = [Block(Anchor("page", f"p. {i + 1}", i), " ".join(["word"] * n)) for i, n in enumerate(num_words)]
    return Document("Report", "report.pdf", tuple(blocks), problems)


def test_fitting_document() -> None:
    plan = budget.plan(document(10, 20, 30), count_words, context_length=100, reserved=40)
    assert (plan.num_tokens, plan.num_tokens_by_block, plan.num_over, plan.fits) == (60, (10, 20, 30), 0, True)
    assert plan.last_fitting_block == 2
    assert plan.explain() == "The document has 60 tokens and fits: 60 of the context's 100 are free for it."


def test_document_that_is_one_token_too_long() -> None:
    plan = budget.plan(document(10, 20, 31), count_words, context_length=100, reserved=40)
    assert (plan.fits, plan.num_over, plan.last_fitting_block) == (False, 1, 1)
    sentence = plan.explain()
    assert "61 tokens, 1 too many" in sentence
    assert "read from the start it would still fit up to p. 2 (2 of 3 parts)" in sentence
    assert sentence.count(".") == sentence.count("p. ") + 1


def test_nothing_fits() -> None:
    plan = budget.plan(document(50, 5), count_words, context_length=60, reserved=100)
    assert (plan.fits, plan.num_over, plan.last_fitting_block, plan.num_available) == (False, 95, None, 0)
    assert "not even its first part fits" in plan.explain()


class Letters:
    """Counts a token a letter, and notes what it was asked for."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> list[int]:
        self.seen += texts
        return [len(text) for text in texts]


def test_pieces_cover_the_whole_text() -> None:
    count, doc = Letters(), document(3, 4, 5)
    plan = budget.plan(doc, count, 1_000, 0)
    assert count.seen == [*(doc.text[start:end] for start, end in ((0, 16), (16, 37), (37, 61))), doc.text]
    assert sum(plan.num_tokens_by_block) == plan.num_tokens
    assert plan.is_exact


def test_a_text_that_is_much_too_long_is_never_tokenised_in_one_piece() -> None:
    count, doc = Letters(), document(100, 80_000, 100)
    plan = budget.plan(doc, count, 1_000, 0)
    assert "".join(count.seen) == doc.text
    assert max(map(len, count.seen)) < 70_000
    assert len(plan.num_tokens_by_block) == 3
    assert plan.num_tokens == sum(plan.num_tokens_by_block) == len(doc.text)
    assert (plan.is_exact, plan.fits) == (False, False)
    assert plan.explain().startswith(f"The document has about {len(doc.text):,} tokens, ")


def test_whether_it_fits_is_exact_also_where_the_blocks_say_otherwise() -> None:
    """Each block is a few tokens more alone than in the text, as a template may begin each with a mark."""
    doc = document(10, 20, 30)

    def count(texts: list[str]) -> list[int]:
        return [num + 7 for num in count_words(texts)]

    plan = budget.plan(doc, count, context_length=67, reserved=0)
    assert (sum(plan.num_tokens_by_block), plan.num_tokens, plan.fits, plan.is_exact) == (81, 67, True, True)
    assert not budget.plan(doc, count, context_length=66, reserved=0).fits


def test_what_was_counted_is_not_counted_again() -> None:
    count, doc = Letters(), document(30, 40, 50)
    known = budget.plan(doc, count, 1_000, 0).num_tokens_by_block
    count.seen.clear()
    part = budget.select(doc, 1, 2)
    plan = budget.plan(part, count, 1_000, 0, known[1:])
    assert (count.seen, plan.num_tokens, plan.fits) == ([], sum(known[1:]), True)
    assert not budget.plan(part, count, 300, 0, known[1:]).fits
    assert count.seen == []
    assert budget.plan(part, count, len(part.text), 0, known[1:]).fits  # this close to the limit it has to be exact
    assert count.seen == [part.text]


def test_empty_document() -> None:
    plan = budget.plan(document(), count_words, 10, 0)
    assert (plan.num_tokens, plan.fits, plan.last_fitting_block) == (0, True, None)


def test_select_says_what_it_leaves_out() -> None:
    problems = (Problem("p. 1", "p. 1 is odd"), Problem("p. 3", "p. 3 is odd"), Problem(None, "whole"))
    doc = document(1, 2, 3, 4, problems=problems)
    chosen = budget.select(doc, 1, 2)
    assert [block.anchor.label for block in chosen.blocks] == ["p. 2", "p. 3"]
    assert [problem.message for problem in chosen.problems] == [
        "p. 3 is odd",
        "whole",
        "Only p. 2 to p. 3 were chosen: 2 of 4 parts.",
    ]
    assert budget.select(doc, 3, 3).problems[-1].message == "Only p. 4 was chosen: 1 of 4 parts."
    assert budget.select(doc, 0, 3) is doc


def test_select_names_a_reversed_range() -> None:
    with pytest.raises(DocumentError, match="first part, 2, lies behind the last, 1"):
        budget.select(document(1, 2), 1, 0)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (0, 2), (2, 2)])
def test_select_refuses_ranges_outside(first: int, last: int) -> None:
    with pytest.raises(DocumentError, match="2 parts"):
        budget.select(document(1, 2), first, last)
    with pytest.raises(DocumentError, match="a single part"):
        budget.select(document(1), first, last)


def test_a_long_block_that_just_fits_is_not_refused() -> None:
    """It is counted in pieces, each of which is a token more than it would be within the text."""
    doc = document(700_000)

    def count(texts: list[str]) -> list[int]:
        return [len(text) // 4 + 2 for text in texts]

    exact = count([doc.text])[0]
    assert budget.plan(doc, count, exact, 0).fits
    assert not budget.plan(doc, count, exact - 1, 0).fits


def test_white_space_that_a_template_drops_is_not_free() -> None:
    blocks = tuple(Block(Anchor("line", f"line {n}", n), "word", " " * 3_000) for n in range(30))
    doc = Document("text", "text.txt", blocks)

    def count(texts: list[str]) -> list[int]:
        return [len(text.strip()) for text in texts]

    known = budget.plan(doc, count, 1_000, 0).num_tokens_by_block
    assert sum(known) < 1_000 < count([doc.text])[0]
    assert not budget.plan(doc, count, 1_000, 0, known).fits
