"""Which part of a drafted tree is worth verifying, from what passes cost here and how right such drafts have been.

Job: `PassCosts`, which learns what a row adds to a pass and how far a drafter can be believed; it says where to cut a
tree.
Non-job: whether to draft at all, and how deep (controller.py, level_costs.py).

Drafting is paid for when the tree is there; what is left to decide is how many rows the target runs. Another node is
worth its row while the chance that it is confirmed, times what a token costs otherwise, exceeds what the row adds to
the pass. Where rows are nearly free the whole tree stays; on a CPU the unlikely part of it goes, and where the draft is
unsure of the first token already, the pass is a plain one: any rows at all cost something too. Fixed thresholds on the
draft's probability do the same with one number for every machine (llama.cpp's ``--draft-p-min``).

A drafter whose first tokens are right less often than it says is believed less; these are counted by themselves,
because behind a wrong one no other can be right. So is, behind right ones, how many more tokens were right than should
have been: in text that only shares phrases with what was read, copies begin as often as they say and end far sooner.
One that says too little is not believed more: which of its nodes are likelier than it says, nobody knows.

Costs are kept as multiples of a plain step, so they hold for other lengths of the context and for a machine that has
become slower, and as one line through all newest passes with rows: single sizes are too few to tell a row from noise.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from spec_engine.tree import DraftTree

_NUM_PASSES = 48  # newest ones that the line goes through
_MOST = 8.0  # a pass that took more plain steps than this was held up
_PRIOR_PASSES = 2.0  # passes over a bare root at the price of a plain step, before any was measured
_TRUST = 2.0  # tokens for which a drafter is believed in the first one of a draft …
_MEMORY = 0.95  # … weight of those before against the next one's …
_KEPT = 4.0  # … and no more than so many when a new answer begins
_TRUST_DEEP, _MEMORY_DEEP, _KEPT_DEEP = 4.0, 0.9, 16.0  # the same for all tokens behind right first ones
_UNSURE = 0.01  # a first token is no less likely, where it was right
_GOES_ON = 0.95  # chance that a draft goes on behind a right token, at best
_DEEPEST = 31  # tokens of the longest draft that is reckoned with
_PROBE_EVERY = 16  # drafts cut to nothing, after which one node is run anyhow


class PassCosts:
    """What rows cost and drafts are worth. All seconds that are given to it belong to the same machine."""

    def __init__(self) -> None:
        self._passes: deque[tuple[int, float]] = deque(maxlen=_NUM_PASSES)  # drafted nodes, plain steps that it took
        self._beliefs = {is_drawn: _Belief() for is_drawn in (False, True)}
        self._belief = self._beliefs[False]
        self._num_cut = 0  # drafts in a row that were cut to nothing
        self._line: _Line | None = None  # through the passes, until there is another
        self._least: float | None = None  # what a sure first token would have to bring, until there is another pass

    def begin(self, *, is_drawn: bool = False, is_later: bool = True) -> None:
        """A new answer: how right drafts were in the last one of its kind counts less; see `LevelCosts.begin`."""
        self._belief, self._least = self._beliefs[is_drawn], None
        if is_later:
            self._belief.fade()

    def record(self, tree: DraftTree, num_run: int, num_accepted: int, seconds: float, plain_s: float) -> None:
        """A pass behind a draft of which the first `num_run` nodes were run and `num_accepted` kept; it took `seconds`
        where a plain step takes `plain_s`."""
        self._passes.append((num_run, min(seconds / max(plain_s, 1e-9), _MOST)))
        self._line = self._least = None
        if num_run:
            self._belief.learn(tree, num_run, num_accepted)

    def num_worth(self, tree: DraftTree, token_s: float, plain_s: float) -> int:
        """How many of a tree's first nodes to run: they are best first, and a token costs `token_s` seconds otherwise.
        All of them where the clock is too coarse to tell."""
        if len(tree) == 1 or token_s <= 0:
            return len(tree) - 1
        line = self._fitted()
        best, best_gain, gain = 0, 0.0, -line.first * plain_s
        price, first = line.row * plain_s, self._belief.first * token_s
        worth = (0.0, first, first * self._belief.deep)  # of a sure node at each depth
        for num_nodes in range(1, len(tree)):
            gain += worth[min(tree.depths[num_nodes], 2)] * chance(tree.log_q[num_nodes]) - price
            if gain >= best_gain:
                best, best_gain = num_nodes, gain
        self._num_cut = 0 if best else self._num_cut + 1
        if self._num_cut > _PROBE_EVERY:
            self._num_cut, best = 0, 1
        return best

    def least_chance(self, token_s: float, plain_s: float) -> float:
        """A draft of which the first token is less likely is not worth its rows, however long it may be; 0 while
        nothing is known, or where the clock is too coarse to tell. Other arguments as of `num_worth`."""
        if not self._passes or token_s <= 0:
            return 0.0
        if self._least is None:
            self._least = _least_gain(self._fitted(), self._belief.deep)
        return self._least * plain_s / (self._belief.first * token_s)

    def num_steps(self, num_run: int) -> float | None:
        """Plain steps that a pass over a root and so many nodes takes; None before two with nodes were measured."""
        if sum(num > 0 for num, _ in self._passes) < 2:
            return None
        line = self._fitted()
        return line.bare + line.first + line.row * num_run

    def _fitted(self) -> "_Line":
        """The line through all passes but the longest."""
        if self._line is None:
            self._line = _fit(sorted(self._passes, key=lambda one: one[1])[:-1])
        return self._line


class _Belief:
    """How far a drafter's chances are believed: of a draft's first token, and of those behind a right one."""

    def __init__(self) -> None:
        self._first = [0.0, 0.0]  # tokens that should have been right, and that were
        self._deep = [0.0, 0.0]

    @property
    def first(self) -> float:
        """What chances of first tokens are to be multiplied by."""
        return _trust(self._first, _TRUST)

    @property
    def deep(self) -> float:
        """The same of chances that a draft goes on behind a right first token."""
        return _trust(self._deep, _TRUST_DEEP)

    def fade(self) -> None:
        """A new answer: the last ones count for less."""
        for counts, kept in ((self._first, _KEPT), (self._deep, _KEPT_DEEP)):
            share = kept / max(counts[0], kept)
            counts[:] = (share * old for old in counts)

    def learn(self, tree: DraftTree, num_run: int, num_accepted: int) -> None:
        """What became of the first `num_run` nodes of a draft."""
        levels = [0.0, 0.0]  # chances of first tokens, and of those behind them
        for depth, log_q in zip(tree.depths[1 : num_run + 1], tree.log_q[1 : num_run + 1], strict=True):
            levels[depth > 1] += chance(log_q)
        _count(self._first, _MEMORY, min(levels[0], 1.0), num_accepted > 0)
        if num_accepted and levels[1] > 0:
            _count(self._deep, _MEMORY_DEEP, levels[1] / max(levels[0], _UNSURE), num_accepted - 1)


def _trust(counts: Sequence[float], prior: float) -> float:
    expected, confirmed = counts
    return min((confirmed + prior) / (expected + prior), 1.0)


def _count(counts: list[float], memory: float, expected: float, confirmed: int) -> None:
    counts[:] = memory * counts[0] + expected, memory * counts[1] + confirmed


class _Line(NamedTuple):
    """Plain steps that a pass over a root takes behind a draft, that any rows add to it, and that each of them adds."""

    bare: float
    first: float
    row: float


def _fit(passes: Sequence[tuple[int, float]]) -> _Line:
    """The line through all passes with rows, never falling, that begins no lower than bare passes."""
    bare = [took for num, took in passes if num == 0]
    bare_steps = (_PRIOR_PASSES + sum(bare)) / (_PRIOR_PASSES + len(bare))
    full = [(num, max(took - bare_steps, 0.0)) for num, took in passes if num]
    if not full:
        return _Line(bare_steps, 0.0, 0.0)
    nodes = sum(num for num, _ in full) / len(full)
    steps = sum(took for _, took in full) / len(full)
    spread = sum((num - nodes) ** 2 for num, _ in full) + _PRIOR_PASSES * nodes**2
    row = sum((num - nodes) * (took - steps) for num, took in full) + _PRIOR_PASSES * nodes * steps
    row = min(max(row / spread, 0.0), steps / nodes)
    return _Line(bare_steps, steps - row * nodes, row)


def _least_gain(line: _Line, deep: float) -> float:
    """Plain steps that a right first token must be worth, so that the best of all lengths of drafts pays its rows:
    behind it others may be right, `deep` for each that should be."""
    least, right, further = math.inf, 1.0, 1.0
    for num_nodes in range(1, _DEEPEST + 1):
        least = min(least, (line.first + line.row * num_nodes) / right)
        further *= _GOES_ON
        right += deep * further
    return least


def chance(log_q: float) -> float:
    """A log-probability as a probability, whatever a drafter gave: above 1 is 1, and what is no number is 0."""
    return 0.0 if math.isnan(log_q) else math.exp(min(log_q, 0.0))
