"""A drafter beside an answer that is known already: what it would have proposed before each of the answer's tokens.

Job: lead target and drafter along prompt and answer, one plain step a token, and hand out the state before each.
Non-job: what is asked of the drafter there (needle.py, traces.py). Nothing here decides about a token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spec_engine.config import RetrievalConfig
from spec_engine.drafters.base import Drafter, DraftSession
from spec_engine.model.target import Target
from spec_engine.retrieval import Retriever
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt and its answer. `sampling` is how the answer was drawn."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    sampling: SamplingParams


def alongside(
    target: Target, drafter: Drafter, known: Known, retrieval: RetrievalConfig
) -> Iterator[tuple[DraftSession, int, Sequence[int]]]:
    """Before each token of the answer: the session, the root to propose from, and the tokens that come after it.

    A disabled `retrieval` gives the drafter no view.
    """
    session, retriever = drafter.begin(known.sampling), Retriever(retrieval)
    target.reset()
    for step in target.prefill(known.prompt[:-1], session.taps):
        session.observe(step)
    roots = (known.prompt[-1], *known.answer)
    for index in range(len(known.answer)):
        yield session, roots[index], known.answer[index:]
        outputs = target.verify(DraftTree.root(roots[index]), session.taps)
        step = target.commit(outputs, (0,), bonus=known.answer[index])
        session.observe(step)
        if focus := retriever.update(step):
            session.focus(focus)
