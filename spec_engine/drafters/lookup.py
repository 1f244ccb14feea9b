"""Drafting by copying: what followed the last tokens where they occurred before, in the prompt or in the answer.

Job: `LookupDrafter`: trees of continuations, each with an estimated probability, from a suffix automaton.
Non-job: models, nothing here runs one; the automaton (suffix_automaton.py).

Prompt lookup decoding (github apoorvumang/prompt-lookup-decoding) copies a fixed number of tokens behind the newest
match of a fixed length; SuffixDecoding (arXiv 2411.04975, section 3) weighs continuations by how often they were seen,
and copies more behind longer matches. Here a node is as likely as such copies have been right in this model's answers
(copy_belief.py), times the share of its own among the continuations of that match. Both of the others are settings of
this: one branch and no least probability is prompt lookup.
"""

import heapq
import math
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from spec_engine.cache.slots import num_shared
from spec_engine.cache.store import TextMemory
from spec_engine.config import LookupConfig
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.copy_belief import CopyBelief, Weights, chance_of
from spec_engine.drafters.suffix_automaton import Match, SuffixAutomaton
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree

_NUM_TELLING = 64  # last tokens of a prompt that tell, with its length, whether it is the one before
_ASK_EVERY = 8  # of the matches that are thought too unlikely one is followed, so that the belief can be found wrong
_READ_CHUNK = 4096  # tokens indexed between two chances to stop, some 50 milliseconds


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
    share: float  # what its chance was reckoned from …
    weights: Weights


class CopyTree:
    """A tree in the making: the likeliest copies first, so that each parent comes before its children."""

    def __init__(self, index: SuffixAutomaton, config: LookupConfig, belief: CopyBelief, root: int) -> None:
        self._index, self._config, self._belief = index, config, belief
        self._token_ids, self._parents, self._depths, self._log_q = [root], [-1], [0], [0.0]
        self._waiting: list[_Copy] = []
        self._offered: list[_Copy] = []  # all that ever waited

    @property
    def root(self) -> int:
        """The token that it grows from."""
        return self._token_ids[0]

    def grow(self, match: Match, num_nodes: int) -> DraftTree:
        """The `num_nodes` likeliest nodes behind `match`, fewer where they get too unlikely."""
        least = self._config.min_probability
        limit = -math.log(least) if least > 0 else math.inf
        self._offer(0, match.state, match.end + 1, match.length)
        while self._waiting and len(self._token_ids) <= num_nodes:
            loss, _, parent, token_id, state, position, length, _, _ = heapq.heappop(self._waiting)
            if loss > limit:
                break
            self._token_ids.append(token_id)
            self._parents.append(parent)
            self._depths.append(self._depths[parent] + 1)
            self._log_q.append(-loss)
            self._offer(len(self._token_ids) - 1, state, position, length)
        return DraftTree(tuple(self._token_ids), tuple(self._parents), tuple(self._depths), tuple(self._log_q))

    def learn(self, following: Sequence[int]) -> None:
        """Tell the belief which tokens came behind the root, as far as the tree goes."""
        below: dict[int, list[_Copy]] = {}
        for copy in self._offered:
            below.setdefault(copy.parent, []).append(copy)
        spelled = zip(self._parents, self._token_ids, strict=True)
        nodes = {parent_and_token: node for node, parent_and_token in enumerate(spelled)}
        node = 0
        for token_id in following:
            for copy in below.get(node, ()):
                self._belief.learn(copy.weights, copy.share, was_right=copy.token_id == token_id)
            if (node, token_id) not in nodes:
                break
            node = nodes[node, token_id]

    def _offer(self, parent: int, state: int, position: int, length: int) -> None:
        """Put on the list what may follow `parent`, whose copy goes on there, behind a match of `length` tokens."""
        options, total = self._index.continuations(state, self._config.num_branches) if state else ([], 0)
        for token_id, after, count in options:
            goes_on = after if count > 1 else 0
            self._wait(parent, count / total, token_id, goes_on, self._index.end(after), length)
        if not options:  # the only occurrence, or one that reaches the end of the text and goes on in itself
            tokens = self._index.tokens
            token_id = tokens[position] if position < len(tokens) else self._own(parent, position - len(tokens))
            self._wait(parent, 1.0, token_id, 0, position, length)

    def _wait(self, parent: int, share: float, token_id: int, state: int, position: int, length: int) -> None:
        """Put a token on the list that was found at `position`."""
        weights = self._belief.weights(length, self._token_ids[parent], token_id)
        loss = -self._log_q[parent] - math.log(chance_of(weights, share))
        copy = _Copy(loss, len(self._offered), parent, token_id, state, position + 1, length + 1, share, weights)
        self._offered.append(copy)
        heapq.heappush(self._waiting, copy)

    def _own(self, node: int, distance: int) -> int:
        """The token `distance` behind the root on the way to `node`."""
        while self._depths[node] > distance:
            node = self._parents[node]
        return self._token_ids[node]


class LookupSession:
    """One answer's view of the shared index."""

    def __init__(
        self, index: SuffixAutomaton, config: LookupConfig, belief: CopyBelief, sampling: SamplingParams
    ) -> None:
        self._index = index
        self._config = config
        self._belief = belief
        self._sampling = sampling
        self._has_begun = False
        self._num_passed_over = 0  # matches that promised too little
        self._newest: CopyTree | None = None  # what was proposed since the last step

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
        self._index.append(step.token_ids)
        tree, self._newest = self._newest, None
        if tree is not None and step.bonus is not None and step.token_ids[0] == tree.root:
            tree.learn((*step.token_ids[1:], step.bonus))

    def focus(self, focus: Focus) -> None:
        """Copies come from everywhere."""

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """What followed the longest match of the text and `root`; a bare root where there is none, or one that is not
        worth following: to grow a tree takes ten times as long as to find the match."""
        self._newest = None
        if not self._has_begun:
            self._has_begun = True
            tokens = self._index.tokens
            answer = self._sampling, len(tokens), tuple(tokens[-_NUM_TELLING:]), root
            self._belief.begin(answer, is_drawn=self._sampling.temperature > 0)
        match = self._index.match(root, self._config.max_match)
        if match is None or match.length < self._config.min_match or max_nodes < 1:
            return DraftTree.root(root)
        if self._belief.at_most(match.length, root) < least_chance:
            self._num_passed_over += 1
            if self._num_passed_over % _ASK_EVERY:
                return DraftTree.root(root)
        num_nodes = min(max_nodes, self._config.num_draft)
        self._newest = CopyTree(self._index, self._config, self._belief, root)
        return self._newest.grow(match, num_nodes)


class LookupDrafter:
    """Copies from prompt and answer; keeps its index between the turns of a conversation, and what it learned of how
    this model copies."""

    name = "lookup"
    memories: tuple[TextMemory, ...] = ()  # an index of the text is made faster than it is read

    def __init__(self, config: LookupConfig, vocab_size: int, special_ids: Set[int] = frozenset()) -> None:
        self.vocab_size = vocab_size
        self._config = config
        self._index = SuffixAutomaton()
        self._belief = CopyBelief(config.max_match, special_ids)

    def begin(self, sampling: SamplingParams) -> LookupSession:
        return LookupSession(self._index, self._config, self._belief, sampling)


def build(context: DrafterContext) -> LookupDrafter:
    """The drafter for ``draft.kind = "lookup"``."""
    return LookupDrafter(context.preset.draft.lookup, context.target.vocab_size, context.special_ids)
