"""The document on the page: all of it, the part in use, and what both take of the context.

Job: one value that the workspace exchanges as a whole.
Non-job: opening files (`documents.read`), the conversation about it (`workspace`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from spec_engine.chat.prompt import count_document_tokens
from spec_engine.config import Preset
from spec_engine.documents.anchors import Document
from spec_engine.documents.budget import Budget, plan, select
from spec_engine.model.watch import LoadProgress, LoadWatch
from spec_engine.ui import text
from spec_engine.ui.engines import PageEngine

CountTokens = Callable[[list[str]], Sequence[int]]
RESERVE_FOR_CHAT: Final = 256  # tokens kept free for template, question and a short conversation
_COUNTED_AT_ONCE: Final = 32  # parts of a document whose tokens are counted between two looks at the wish to stop


@dataclass(frozen=True, slots=True)
class OpenedDocument:
    """A document that was read.

    Attributes:
        whole: as it was read.
        used: what the model reads: the whole, or the parts that the user chose.
        chosen: first and last part of that choice; None for the whole.
        whole_budget, budget: what they take of the context; None until a model is there to count tokens.
    """

    whole: Document
    used: Document
    chosen: tuple[int, int] | None = None
    whole_budget: Budget | None = None
    budget: Budget | None = None

    def narrowed(self, first: int, last: int) -> "OpenedDocument":
        """With parts `first` to `last` in use, not measured. Raises `DocumentError` for an impossible range."""
        used = select(self.whole, first, last)
        return replace(self, used=used, chosen=None if used is self.whole else (first, last), budget=None)

    def measured(self, count_tokens: CountTokens, context_length: int, reserved: int) -> "OpenedDocument":
        """With both budgets, counted as `documents.budget.plan` says."""
        whole_budget = plan(self.whole, count_tokens, context_length, reserved)
        return replace(self, whole_budget=whole_budget).part_measured(count_tokens)

    def part_measured(self, count_tokens: CountTokens) -> "OpenedDocument":
        """With the budget of the part in use, from the tokens that were counted for the whole; without one where none
        were."""
        whole = self.whole_budget
        if whole is None or self.chosen is None:
            return replace(self, budget=whole)
        first, last = self.chosen
        known = whole.num_tokens_by_block[first : last + 1]
        return replace(self, budget=plan(self.used, count_tokens, whole.context_length, whole.reserved, known))

    def unmeasured(self) -> "OpenedDocument":
        """Without budgets: the model they were counted for is gone."""
        return replace(self, whole_budget=None, budget=None)

    @property
    def extent(self) -> str:
        """What of the document is read: all of it, or which of its parts."""
        num_parts = len(self.whole.blocks)
        if self.chosen is None:
            return f"all of {self.whole.source_name}"
        first, last = (number + 1 for number in self.chosen)
        return f"parts {first} to {last} of {num_parts} of {self.whole.source_name}"

    @property
    def as_read(self) -> dict[str, object]:
        """What is kept with an answer of what was read for it."""
        return {"read": self.extent, "text_hash": self.used.sha256}

    def was_read_for(self, details: Mapping[str, object]) -> bool:
        """Whether an answer with these details is about what is read now; by its name alone where an earlier version
        kept no more, and yes where it kept nothing."""
        if text_hash := details.get("text_hash"):
            return text_hash == self.used.sha256
        return details.get("read") in (None, "", self.extent)

    def locate(self, token: int) -> str:
        """Label of the part that holds a token of the prompt, as exact as the parts' counts are; "" behind the last."""
        if self.budget is None:
            return ""
        end = 0
        for num_tokens, label in zip(self.budget.num_tokens_by_block, self.budget.labels, strict=True):
            end += num_tokens
            if token < end:
                return label
        return ""


def measured_for(
    opened: OpenedDocument, engine: PageEngine, preset: Preset, watch: LoadWatch | None = None
) -> OpenedDocument:
    """The document with its tokens counted for an engine."""
    reserved = min(preset.generation.max_tokens, engine.capacity // 4) + RESERVE_FOR_CHAT
    return opened.measured(_counter(engine, watch or LoadWatch()), engine.capacity, reserved)


def _counter(engine: PageEngine, watch: LoadWatch) -> Callable[[list[str]], list[int]]:
    """Counts the tokens of texts a few at a time."""

    def count(texts: list[str]) -> list[int]:
        counts: list[int] = []
        for start in range(0, len(texts), _COUNTED_AT_ONCE):
            watch.tell(LoadProgress(text.COUNTING_TOKENS, start / len(texts)))
            counts += count_document_tokens(engine.tokenizer, texts[start : start + _COUNTED_AT_ONCE])
        return counts

    return count
