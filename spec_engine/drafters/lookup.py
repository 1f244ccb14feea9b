"""Drafting by copying: what followed the last tokens where they occurred before, in the prompt or in the answer.

Job: `LookupDrafter`: trees of continuations, each with an estimated probability, from a suffix automaton.
Non-job: models, nothing here runs one; the automaton (suffix_automaton.py).

Prompt lookup decoding (github apoorvumang/prompt-lookup-decoding) copies a fixed number of tokens behind the newest
match of a fixed length; SuffixDecoding (arXiv 2411.04975, section 3) weighs continuations by how often they were seen,
and copies more behind longer matches. Here a node is as likely as the copies behind a match of its length have been
right so far in this answer, as far as copies go on behind its last token in this model's answers, times the share of
its own among the continuations of that match. Both of the others are settings of this: one branch and no least
probability is prompt lookup.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
_HABIT_WEIGHT = 0.5  # the same for a token that copies may break off behind …
_HABIT_MEMORY = 0.995  # … and the weight of what was seen behind it before, against the next time
_SUREST = 0.9995


class CopyHabits:
    """Behind which tokens copies break off, learned over all answers: an answer leaves its source at the end of a
    sentence or a line rather than within one. Against what the lengths of the matches promised."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}  # right copies behind a token: promised, and found

    def add(self, token_id: int, promised: float, *, was_right: bool) -> None:
        """A copy behind this token was taken to be right with the chance `promised`."""
        before, found = self._seen.get(token_id, (0.0, 0.0))
        self._seen[token_id] = _HABIT_MEMORY * before + promised, _HABIT_MEMORY * found + was_right

    def factor(self, token_id: int) -> float:
        """How much likelier than promised a copy behind this token is right; 1 where nothing is known."""
        promised, found = self._seen.get(token_id, (0.0, 0.0))
        return (found + _HABIT_WEIGHT) / (promised + _HABIT_WEIGHT)


class CopyRecord:
    """How often copies of the last `_LOOK_BACK` tokens of an answer were right, by the length of the match they
    followed, and by the token, as far as `habits` tell.

    How often a document repeats itself says nothing about how often an answer quotes it, so only its own tokens count.
    What was seen seldom is guessed: the longer the match the better.
    """

    def __init__(self, max_length: int, habits: CopyHabits) -> None:
        self._habits = habits
        self._recent: deque[int] = deque(maxlen=_LOOK_BACK)
        self._tried = [_GUESS_WEIGHT] * (max_length + 1)
        self._right = [_GUESS_WEIGHT * (length + 1.0) / (length + 1.6) for length in range(max_length + 1)]

    def add(self, before: int, foretold: int) -> None:
        """The next token of the answer, behind the token `before`; `foretold` as in the automaton."""
        if foretold:
            self._habits.add(before, self._by_length(abs(foretold)), was_right=foretold > 0)
        if len(self._recent) == _LOOK_BACK:
            self._count(self._recent[0], -1.0)
        self._recent.append(foretold)
        self._count(foretold, 1.0)

    def probability(self, length: int, before: int) -> float:
        """That the token behind the newest match of `length` tokens, of which `before` is the last, is right."""
        return min(self._by_length(length) * self._habits.factor(before), _SUREST)

    def _count(self, foretold: int, weight: float) -> None:
        length = min(abs(foretold), len(self._tried) - 1)
        self._tried[length] += weight
        self._right[length] += weight * (foretold > 0)

    def _by_length(self, length: int) -> float:
        length = min(length, len(self._tried) - 1)
        return self._right[length] / self._tried[length]


class _Copy(NamedTuple):
    """A node that waits to be taken, the likeliest first. It goes on in the automaton's `state`, or, where that is 0,
    at token `position`, of the only occurrence."""

    loss: float  # minus the log-probability of its path
    number: int  # among equals the older one is first
    parent: int
    token_id: int
    state: int
    position: int
    match_length: int


class CopyTree:
    """A tree in the making: the likeliest copies first, so that each parent comes before its children."""

    def __init__(self, index: SuffixAutomaton, config: LookupConfig, record: CopyRecord, root: int) -> None:
        self._index, self._config, self._record = index, config, record
        self._token_ids, self._parents, self._depths, self._log_q = [root], [-1], [0], [0.0]
        self._waiting: list[_Copy] = []
        self._num_offered = 0

    def grow(self, match: Match, num_nodes: int) -> DraftTree:
        """The `num_nodes` likeliest nodes behind `match`, fewer where they get too unlikely."""
        least = self._config.min_probability
        limit = -math.log(least) if least > 0 else math.inf
        self._offer(0, match.state, match.end + 1, match.length)
        while self._waiting and len(self._token_ids) <= num_nodes:
            loss, _, parent, token_id, state, position, length = heapq.heappop(self._waiting)
            if loss > limit:
                break
            self._token_ids.append(token_id)
            self._parents.append(parent)
            self._depths.append(self._depths[parent] + 1)
            self._log_q.append(-loss)
            self._offer(len(self._token_ids) - 1, state, position, length)
        return DraftTree(tuple(self._token_ids), tuple(self._parents), tuple(self._depths), tuple(self._log_q))

    def _offer(self, parent: int, state: int, position: int, length: int) -> None:
        """Put on the list what may follow `parent`, whose copy goes on there, behind a match of `length` tokens."""
        chance = self._record.probability(length, self._token_ids[parent])
        options, total = self._index.continuations(state, self._config.num_branches) if state else ([], 0)
        for token_id, after, count in options:
            self._wait(
                parent, chance * count / total, token_id, after if count > 1 else 0, self._index.end(after), length
            )
        if not options:  # the only occurrence, or one that reaches the end of the text and goes on in itself
            tokens = self._index.tokens
            token_id = tokens[position] if position < len(tokens) else self._own(parent, position - len(tokens))
            self._wait(parent, chance, token_id, 0, position, length)

    def _wait(self, parent: int, chance: float, token_id: int, state: int, position: int, length: int) -> None:
        """Put a token on the list that was found at `position`."""
        self._num_offered += 1
        loss = -self._log_q[parent] - math.log(chance)
        copy = _Copy(loss, self._num_offered, parent, token_id, state, position + 1, length + 1)
        heapq.heappush(self._waiting, copy)

    def _own(self, node: int, distance: int) -> int:
        """The token `distance` behind the root on the way to `node`."""
        while self._depths[node] > distance:
            node = self._parents[node]
        return self._token_ids[node]


class LookupSession:
    """One answer's view of the shared index."""

    def __init__(self, index: SuffixAutomaton, config: LookupConfig, habits: CopyHabits) -> None:
        self._index = index
        self._config = config
        self._record = CopyRecord(config.max_match, habits)

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

    def observe(self, step: Step) -> None:
        tokens, start = self._index.tokens, len(self._index.tokens)
        self._index.append(step.token_ids)
        if not step.is_prompt:
            for position in range(max(start, 1), len(tokens)):
                self._record.add(tokens[position - 1], self._index.foretold[position])

    def focus(self, focus: Focus) -> None:
        """Copies come from everywhere."""

    def propose(self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0) -> DraftTree:
        """What followed the longest match of the text and `root`; a bare root where there is none."""
        match = self._index.match(root, self._config.max_match)
        if match is None or match.length < self._config.min_match or max_nodes < 1:
            return DraftTree.root(root)
        num_nodes = min(max_nodes, self._config.num_draft)
        return CopyTree(self._index, self._config, self._record, root).grow(match, num_nodes)


class LookupDrafter:
    """Copies from prompt and answer; keeps its index between the turns of a conversation, and what it learned of how
    this model copies."""

    name = "lookup"
    memories: tuple[TextMemory, ...] = ()  # an index of the text is made faster than it is read

    def __init__(self, config: LookupConfig, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._config = config
        self._index = SuffixAutomaton()
        self._habits = CopyHabits()

    def begin(self, sampling: SamplingParams) -> LookupSession:
        return LookupSession(self._index, self._config, self._habits)


def build(context: DrafterContext) -> LookupDrafter:
    """The drafter for ``draft.kind = "lookup"``."""
    return LookupDrafter(context.preset.draft.lookup, context.target.vocab_size)
