"""The contract between the engine and whatever proposes tokens.

Job: the `Drafter` and `DraftSession` protocols, and what a drafter may be built from.
Non-job: any drafting. ``tests/test_drafter_contract.py`` runs over every registered drafter.

A drafter owns memory that outlives an answer (a model, its cache); everything that belongs to one answer lives in the
session that `Drafter.begin` returns. The engine runs one answer at a time and calls, in this order::

    session = drafter.begin(sampling)
    n = session.reusable(prompt[:n])             # n prompt tokens are already in the target's cache
    for _ in session.reuse(prompt[:n]): ...
    session.observe(step)                        # for each prefilled chunk of prompt[n:-1]
    while answering:
        session.observe(step)                    # the step's committed tokens, always a straight line, also at the end
        session.focus(focus)                     # when retrieval chose a new view
        session.propose(bonus, max_nodes, …)     # a tree below the root `bonus`

A session may be dropped at any of these points, also half-way through `reuse`; the next one must work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from spec_engine.cache.store import TextMemory
from spec_engine.config import Preset
from spec_engine.model.target import Step, Taps, Target
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree


@dataclass(frozen=True, slots=True)
class DrafterContext:
    """What a drafter is built from: the preset, the target it drafts for, and the device to run on."""

    preset: Preset
    target: Target
    device: str = "cpu"
    special_ids: frozenset[int] = frozenset()  # tokens that are not text


class DraftSession(Protocol):
    """The drafter's side of one answer."""

    @property
    def taps(self) -> Taps:
        """What each target pass must record for this drafter."""

    def reusable(self, prefix: Sequence[int]) -> int:
        """How many tokens of `prefix` may be left out of what `observe` will bring; the target reads the rest again.

        All of them for a drafter that can read tokens by itself. One that needs the target's features of a token can
        only go on from those it has kept.
        """

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        """Take over `prefix`, prompt tokens that no later `observe` will bring.

        Own memory is cut to the longest prefix it shares with these tokens and the missing ones are read in chunks;
        yields the number of tokens held after each chunk, so the caller can stop in between.
        """

    def observe(self, step: Step) -> None:
        """Take committed tokens, each once and in order. Rejected drafts are never seen here. An answer's
        last step comes too, as it says how answers end; nothing is proposed after it."""

    def focus(self, focus: Focus) -> None:
        """Take the view of the context that retrieval chose; a drafter without a view of its own ignores it."""

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """A tree below `root`, the token that follows all observed ones, with at most `max_nodes` drafted nodes.

        A pass of a draft model is run only if it is expected to add `min_gain` accepted tokens; the first one of a tree
        whenever it may, but beside copies only if it is expected to add `first_gain`. At infinity none is run, which is
        how drafting rests: what costs nothing, copies for example, is proposed even then. The tree says how many passes
        it took (`num_passes`).

        Copies of which the first token is less likely than `least_chance` are not worth a row of the target's pass,
        whatever follows it, and need not be looked for.

        The drafted part may be empty. The root is not observed yet: it comes with the next step. Likelier nodes come
        first, and `log_q` is what the drafter believes: the engine runs a node as far as its chance is worth a row.
        """


class Drafter(Protocol):
    """Proposes tokens for one target; made once, used for many answers."""

    @property
    def name(self) -> str:
        """The kind, as in the registry."""

    @property
    def vocab_size(self) -> int:
        """Proposed token ids lie below this."""

    @property
    def memories(self) -> Sequence[TextMemory]:
        """What it holds of the text from one answer to the next and would have to compute again, in a fixed order."""

    def begin(self, sampling: SamplingParams) -> DraftSession:
        """A session for a new answer. An earlier session must not be used any more."""
