"""The drafter that proposes nothing, so that plain decoding is the same loop as speculation.

Job: the baseline every speed-up is measured against.
Non-job: anything else.
"""

from collections.abc import Iterator, Sequence

from spec_engine.cache.store import TextMemory
from spec_engine.drafters.base import DrafterContext
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree


class NoSession:
    """A session without state."""

    @property
    def taps(self) -> Taps:
        return Taps()

    def reusable(self, prefix: Sequence[int]) -> int:
        return len(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        return iter(())

    def observe(self, step: Step) -> None:
        """Nothing to learn."""

    def focus(self, focus: Focus) -> None:
        """No view to change."""

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        return DraftTree.root(root)


class NoDrafter:
    """Proposes nothing."""

    name = "none"
    memories: tuple[TextMemory, ...] = ()  # nothing is held

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def begin(self, sampling: SamplingParams) -> NoSession:
        return NoSession()


def build(context: DrafterContext) -> NoDrafter:
    """The drafter for ``draft.kind = "none"``."""
    return NoDrafter(context.target.vocab_size)
