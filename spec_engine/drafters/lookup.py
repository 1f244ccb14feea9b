"""Drafting by copying: what followed the last tokens where they occurred before, in the prompt or in the answer.

Job: `LookupDrafter`: trees of continuations, each with an estimated probability, from a suffix automaton.
Non-job: models, nothing here runs one; the automaton (suffix_automaton.py).

Prompt lookup decoding (github apoorvumang/prompt-lookup-decoding) copies a fixed number of tokens behind the newest
match of a fixed length; SuffixDecoding (arXiv 2411.04975, section 3) weighs continuations by how often they were seen,
and copies more behind longer matches. Here a node is as likely as the copies behind a match of its length have been
right so far in this answer, times the share of its token among the continuations of that match. Both of the others are
settings of this: one branch and no least probability is prompt lookup.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spec_engine.cache.slots import num_shared
from spec_engine.cache.store import TextMemory
from spec_engine.config import LookupConfig
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.suffix_automaton import Match, SuffixAutomaton
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree

_READ_CHUNK = 4096  # tokens indexed between two chances to stop, some 50 milliseconds
_LOOK_BACK = 128  # tokens of the answer whose copies tell how good copies are
_GUESS_WEIGHT = 4.0  # copies that a guess counts as


class CopyRecord:
    """How often copies of the last `_LOOK_BACK` tokens were right, by the length of the match they followed.

    `foretold` is the automaton's, from `start`, where the answer begins, on: how often a document repeats itself says
    nothing about how often an answer quotes it. What was seen seldom is guessed: the longer the match the better.
    """

    def __init__(self, foretold: Sequence[int], start: int, max_length: int) -> None:
        self._tried = [_GUESS_WEIGHT] * (max_length + 1)
        self._right = [_GUESS_WEIGHT * (length + 1.0) / (length + 1.6) for length in range(max_length + 1)]
        for signed in foretold[max(len(foretold) - _LOOK_BACK, start) :]:
            length = min(abs(signed), max_length)
            self._tried[length] += 1.0
            self._right[length] += signed > 0

    def probability(self, length: int) -> float:
        """That the token behind the newest match of `length` tokens is right."""
        length = min(length, len(self._tried) - 1)
        return self._right[length] / self._tried[length]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a copy goes on: in the automaton's `state`, or, where that is the only occurrence, at token `position`."""

    state: int
    position: int
    match_length: int


class CopyTree:
    """A tree in the making: the likeliest copies first, so that each parent comes before its children."""

    def __init__(self, index: SuffixAutomaton, config: LookupConfig, start: int, root: int) -> None:
        self._index, self._config = index, config
        self._record = CopyRecord(index.foretold, start, config.max_match)
        self._token_ids, self._parents, self._depths, self._log_q = [root], [-1], [0], [0.0]
        self._waiting: list[tuple[float, int, int, int, _Place]] = []
        self._num_offered = 0

    def grow(self, match: Match, num_nodes: int) -> DraftTree:
        """The `num_nodes` likeliest nodes behind `match`, fewer where they get too unlikely."""
        least = self._config.min_probability
        limit = -math.log(least) if least > 0 else math.inf
        self._offer(0, _Place(match.state, match.end + 1, match.length))
        while self._waiting and len(self._token_ids) <= num_nodes:
            loss, _, parent, token_id, place = heapq.heappop(self._waiting)
            if loss > limit:
                break
            self._token_ids.append(token_id)
            self._parents.append(parent)
            self._depths.append(self._depths[parent] + 1)
            self._log_q.append(-loss)
            self._offer(len(self._token_ids) - 1, place)
        return DraftTree(tuple(self._token_ids), tuple(self._parents), tuple(self._depths), tuple(self._log_q))

    def _offer(self, parent: int, place: _Place) -> None:
        """Put on the list what may follow `parent`."""
        chance, length = self._record.probability(place.match_length), place.match_length + 1
        options, total = self._index.continuations(place.state, self._config.num_branches) if place.state else ([], 0)
        if not options:  # the only occurrence, or one that reaches the end of the text and goes on in itself
            tokens, position = self._index.tokens, place.position
            token_id = tokens[position] if position < len(tokens) else self._own(parent, position - len(tokens))
            self._wait(parent, chance, token_id, _Place(0, position + 1, length))
            return
        for token_id, state, count in options:
            after = _Place(state if count > 1 else 0, self._index.end(state) + 1, length)
            self._wait(parent, chance * count / total, token_id, after)

    def _wait(self, parent: int, chance: float, token_id: int, after: _Place) -> None:
        self._num_offered += 1
        loss = -self._log_q[parent] - math.log(chance)
        heapq.heappush(self._waiting, (loss, self._num_offered, parent, token_id, after))

    def _own(self, node: int, distance: int) -> int:
        """The token `distance` behind the root on the way to `node`."""
        while self._depths[node] > distance:
            node = self._parents[node]
        return self._token_ids[node]


class LookupSession:
    """One answer's view of the shared index."""

    def __init__(self, index: SuffixAutomaton, config: LookupConfig) -> None:
        self._index = index
        self._config = config
        self._start = 0  # where the answer begins

    @property
    def taps(self) -> Taps:
        return Taps()

    def reusable(self, prefix: Sequence[int]) -> int:
        return len(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        held = self._index.tokens
        self._index.truncate(num_shared(held, prefix))
        for start in range(len(self._index.tokens), len(prefix), _READ_CHUNK):
            self._index.append(prefix[start : start + _READ_CHUNK])
            yield len(self._index.tokens)
        self._start = len(prefix)

    def observe(self, step: Step) -> None:
        self._index.append(step.token_ids)
        if step.is_prompt:
            self._start = len(self._index.tokens)

    def focus(self, focus: Focus) -> None:
        """Copies come from everywhere."""

    def propose(self, root: int, max_nodes: int, min_gain: float = 0.0) -> DraftTree:
        """What followed the longest match of the text and `root`; a bare root where there is none."""
        match = self._index.match(root, self._config.max_match)
        if match is None or match.length < self._config.min_match or max_nodes < 1:
            return DraftTree.root(root)
        return CopyTree(self._index, self._config, self._start, root).grow(
            match, min(max_nodes, self._config.num_draft)
        )


class LookupDrafter:
    """Copies from prompt and answer; keeps its index between the turns of a conversation."""

    name = "lookup"
    memories: tuple[TextMemory, ...] = ()  # an index of the text is made faster than it is read

    def __init__(self, config: LookupConfig, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._config = config
        self._index = SuffixAutomaton()

    def begin(self, sampling: SamplingParams) -> LookupSession:
        return LookupSession(self._index, self._config)


def build(context: DrafterContext) -> LookupDrafter:
    """The drafter for ``draft.kind = "lookup"``."""
    return LookupDrafter(context.preset.draft.lookup, context.target.vocab_size)
