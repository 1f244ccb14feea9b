"""How much of a document fits a context, said before anything runs.

Job: count tokens by block, compare with the context, explain it in one sentence, cut out the range a user chose.
Non-job: choosing for the user, tokenising (the caller hands in a counter).

A text is tokenised block by block, as a tokenizer takes some hundred bytes a character for a text in one piece. The sum
over the blocks is not exact: at a border a token may be divided that would be one, a chat template may mark the
beginning of each text or drop the white space at its ends. That changes a few tokens a border, never more than
`BORDER_TOKENS` and one for each blank. So the sum alone decides only where it is farther than that from the limit; else
the text, which then is hardly longer than the context, is counted in one piece. Whether a document fits is exact in
both cases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from spec_engine.documents.anchors import Document, Problem
from spec_engine.documents.divide import cut_places
from spec_engine.errors import DocumentError

BORDER_TOKENS: Final = 8  # by which a count may change at a border between two blocks at most
_COUNTED_CHARS: Final = 1 << 16  # of a text that is tokenised in one piece
_CountTokens = Callable[[list[str]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of a document against a context. All counts are in tokens of the target's vocabulary.

    Attributes:
        num_tokens: tokens of the whole text, tokenised in one piece if `is_exact`, else the sum over the blocks.
        num_tokens_by_block: tokens of each block with what stands behind it, each tokenised by itself.
        context_length: tokens the model can attend to.
        reserved: tokens kept free for the chat template, the conversation and the answer.
        fits: whether the whole document leaves `reserved` tokens free.
        num_over: tokens too many, 0 when it fits.
        labels: the blocks' anchor labels, for `explain`.
        is_exact: whether `num_tokens` and `num_over` are; `fits` always is.
    """

    num_tokens: int
    num_tokens_by_block: tuple[int, ...]
    context_length: int
    reserved: int
    fits: bool
    num_over: int
    labels: tuple[str, ...] = ()
    is_exact: bool = True

    @property
    def num_available(self) -> int:
        """Tokens a document may take."""
        return max(0, self.context_length - self.reserved)

    @property
    def last_fitting_block(self) -> int | None:
        """Index of the last block that fits when reading starts at the first, or None when not even the first does."""
        if self.fits:
            return len(self.num_tokens_by_block) - 1 if self.num_tokens_by_block else None
        num_blocks = sum(total <= self.num_available for total in accumulate(self.num_tokens_by_block))
        return num_blocks - 1 if num_blocks else None

    def explain(self) -> str:
        """The budget in one sentence for a person."""
        size = f"The document has {'' if self.is_exact else 'about '}{self.num_tokens:,} tokens"
        room = f"{self.num_available:,} of the context's {self.context_length:,} are free for it"
        if self.fits:
            return f"{size} and fits: {room}."
        last = self.last_fitting_block
        if last is None:
            advice = "not even its first part fits, so use a model with a longer context or a shorter document"
        else:
            advice = (
                f"read from the start it would still fit up to {self.labels[last]} "
                f"({last + 1:,} of {len(self.labels):,} parts)"
            )
        return f"{size}, {self.num_over:,} too many: {room}, and {advice}."


def plan(
    document: Document,
    count_tokens: _CountTokens,
    context_length: int,
    reserved: int,
    known: Sequence[int] | None = None,
) -> Budget:
    """Measure a document against a context. Nothing is cut.

    A document that may fit is counted exactly; one whose blocks' tokens are `known` only where their sum leaves open
    whether it fits, as somebody waits for that.

    Args:
        count_tokens: number of tokens of each given text, without special tokens.
        context_length: tokens the model can attend to.
        reserved: tokens that must stay free.
        known: tokens of each block, from an earlier plan; None: they are counted.
    """
    by_block = _count_blocks(document, count_tokens) if known is None else tuple(known)
    num_tokens, slack = sum(by_block), _slack(document)
    may_fit = num_tokens - slack + reserved <= context_length
    is_exact = may_fit and (known is None or num_tokens + slack + reserved > context_length)
    if is_exact:
        num_tokens = count_tokens([document.text])[0]
    num_over = max(0, num_tokens + reserved - context_length)
    return Budget(
        num_tokens=num_tokens,
        num_tokens_by_block=by_block,
        context_length=context_length,
        reserved=reserved,
        fits=num_over == 0,
        num_over=num_over,
        labels=tuple(block.anchor.label for block in document.blocks),
        is_exact=is_exact,
    )


def _slack(document: Document) -> int:
    """Tokens by which the sum over the blocks may differ from the text in one piece: some at each border, those within
    long blocks too, and the white space there, which a template may drop."""
    num_pieces = sum(1 + 2 * len(block.text) // _COUNTED_CHARS for block in document.blocks)  # a cut leaves half
    return BORDER_TOKENS * num_pieces + len(document.text) - sum(len(block.text.strip()) for block in document.blocks)


def _count_blocks(document: Document, count_tokens: _CountTokens) -> tuple[int, ...]:
    """Tokens of each block with its separator; of one that is very long, the sum over its pieces."""
    starts = [document.span(index)[0] for index in range(len(document.blocks))]
    pieces: list[str] = []
    num_before = [0]  # pieces before each block
    for start, end in pairwise([*starts, len(document.text)]):
        block = document.text[start:end]
        pieces += (block[first:last] for first, last in pairwise([0, *cut_places(block, _COUNTED_CHARS), len(block)]))
        num_before.append(len(pieces))
    counts = count_tokens(pieces) if pieces else ()
    return tuple(sum(counts[first:last]) for first, last in pairwise(num_before))


def select(document: Document, first_block: int, last_block: int) -> Document:
    """The range of blocks that a user chose, both ends included, as a document that says what it leaves out.

    Raises:
        DocumentError: the range is empty or reaches outside the document.
    """
    num_blocks = len(document.blocks)
    if 0 <= last_block < first_block < num_blocks:
        raise DocumentError(
            f"The first part, {first_block + 1}, lies behind the last, {last_block + 1}. Choose a last part not "
            "before the first."
        )
    if num_blocks == 1 and not first_block == last_block == 0:
        raise DocumentError("The document has a single part, which is part 1. Leave the choice of parts out.")
    if not 0 <= first_block <= last_block < num_blocks:
        raise DocumentError(
            f"Parts {first_block + 1} to {last_block + 1} cannot be chosen: the document has {num_blocks} parts. "
            f"Choose a first part from 1 to {num_blocks} and a last part that is not before it."
        )
    if (first_block, last_block) == (0, num_blocks - 1):
        return document
    chosen = document.blocks[first_block : last_block + 1]
    dropped = {b.anchor.label for b in document.blocks} - {b.anchor.label for b in chosen}
    first, last = chosen[0].anchor.label, chosen[-1].anchor.label
    extent = f"{first} was" if len(chosen) == 1 else f"{first} to {last} were"
    note = Problem(None, f"Only {extent} chosen: {len(chosen):,} of {num_blocks:,} parts.")
    kept = tuple(problem for problem in document.problems if problem.anchor_label not in dropped)
    return Document(document.title, document.source_name, chosen, (*kept, note), document.is_locked)
