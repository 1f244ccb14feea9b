"""How much of a document fits a context, said before anything runs.

Job: count tokens by block, compare with the context, explain it in one sentence, cut out the range a user chose.
Non-job: choosing for the user, tokenising (the caller hands in a counter).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from spec_engine.documents.anchors import Document, Problem
from spec_engine.errors import DocumentError


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of a document against a context. All counts are in tokens of the target's vocabulary.

    Attributes:
        num_tokens: tokens of the whole text, tokenised in one piece.
        num_tokens_by_block: tokens of each block with the blank line behind it, each tokenised by itself; their sum may
            differ from `num_tokens` by the merges across borders.
        context_length: tokens the model can attend to.
        reserved: tokens kept free for the chat template, the conversation and the answer.
        fits: whether the whole document leaves `reserved` tokens free.
        num_over: tokens too many, 0 when it fits.
        labels: the blocks' anchor labels, for `explain`.
    """

    num_tokens: int
    num_tokens_by_block: tuple[int, ...]
    context_length: int
    reserved: int
    fits: bool
    num_over: int
    labels: tuple[str, ...] = ()

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
        size = f"The document has {self.num_tokens:,} tokens"
        room = f"{self.num_available:,} of the context's {self.context_length:,} are free for it"
        if self.fits:
            return f"{size} and fits: {room}."
        last = self.last_fitting_block
        if last is None:
            advice = "not even its first part fits, so use a model with a longer context or a shorter document"
        else:
            advice = (
                f"{self.labels[last]} is the last part that would still fit when reading from the start "
                f"({last + 1} of {len(self.labels)} parts)"
            )
        return f"{size}, {self.num_over:,} too many: {room}, and {advice}."


def plan(
    document: Document, count_tokens: Callable[[list[str]], Sequence[int]], context_length: int, reserved: int
) -> Budget:
    """Measure a document against a context. Nothing is cut.

    Args:
        count_tokens: number of tokens of each given text, without special tokens; called once with the whole text first
            and then one entry for each block.
        context_length: tokens the model can attend to.
        reserved: tokens that must stay free.
    """
    ends = [document.span(i)[0] for i in range(1, len(document.blocks))] + [len(document.text)]
    pieces = [document.text[document.span(i)[0] : end] for i, end in enumerate(ends[: len(document.blocks)])]
    num_tokens, *by_block = count_tokens([document.text, *pieces])
    num_over = max(0, num_tokens + reserved - context_length)
    return Budget(
        num_tokens=num_tokens,
        num_tokens_by_block=tuple(by_block),
        context_length=context_length,
        reserved=reserved,
        fits=num_over == 0,
        num_over=num_over,
        labels=tuple(block.anchor.label for block in document.blocks),
    )


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
    note = Problem(None, f"Only {extent} chosen: {len(chosen)} of {num_blocks} parts.")
    kept = tuple(problem for problem in document.problems if problem.anchor_label not in dropped)
    return Document(document.title, document.source_name, chosen, (*kept, note))
