"""A drafter that failed is done without: the answer goes on by plain decoding.

Job: `GuardedSession`, a session around a drafter's own that ends with the first error and proposes nothing after it.
Non-job: the target's errors, which end the answer; trying again before the next answer.
"""

from collections.abc import Iterator, Sequence

from spec_engine.drafters.base import Drafter, DraftSession
from spec_engine.drafters.none import NoSession
from spec_engine.errors import SpecEngineError
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree

FAILURES = (SpecEngineError, RuntimeError, ValueError, IndexError)  # torch runs out of memory by RuntimeError


class GuardedSession:
    """One answer's session of `drafter`, and `NoSession` from its first failure on. Nothing of it changes the text.

    `failure` tells what happened, in a sentence for the user; "" while the drafter works.
    """

    def __init__(self, drafter: Drafter, sampling: SamplingParams) -> None:
        self.failure = ""
        self._session: DraftSession = NoSession()
        try:
            self._session = drafter.begin(sampling)
        except FAILURES as error:
            self._give_up(error)

    @property
    def taps(self) -> Taps:
        return self._session.taps

    def reusable(self, prefix: Sequence[int]) -> int:
        try:
            return self._session.reusable(prefix)
        except FAILURES as error:
            self._give_up(error)
            return len(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        try:
            yield from self._session.reuse(prefix)
        except FAILURES as error:
            self._give_up(error)

    def observe(self, step: Step) -> None:
        try:
            self._session.observe(step)
        except FAILURES as error:
            self._give_up(error)

    def focus(self, focus: Focus) -> None:
        try:
            self._session.focus(focus)
        except FAILURES as error:
            self._give_up(error)

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        try:
            return self._session.propose(root, max_nodes, min_gain, first_gain, least_chance)
        except FAILURES as error:
            self._give_up(error)
            return DraftTree.root(root)

    def _give_up(self, error: Exception) -> None:
        """Drop the session with what it holds for this answer."""
        self._session = NoSession()
        reason = str(error).partition("\n")[0] or type(error).__name__
        self.failure = f"Drafting failed and is off for the rest of this answer: {reason}"
