"""Which part of a drafted tree is worth verifying, from what passes cost here and how right such drafts have been.

Job: `PassCosts`, which learns what a row adds to a pass and how far a drafter can be believed; it says where to cut a
tree.
Non-job: whether to draft at all, and how deep (controller.py, level_costs.py).

Drafting is paid for when the tree is there; what is left to decide is how many rows the target runs. Another node is
worth its row while the chance that it is confirmed, times what a token costs otherwise, exceeds what the row adds to
the pass. Where rows are nearly free the whole tree stays; on a CPU the unlikely part of it goes, and where the draft is
unsure of the first token already, the pass is a plain one: any rows at all cost something too. Fixed thresholds on the
draft's probability do the same with one number for every machine (llama.cpp's ``--draft-p-min``).

A drafter whose first tokens are right less often than it says is believed less; only these are counted, because behind
a wrong one no other can be right. One that says too little is not believed more: which of its nodes are likelier than
it says, nobody knows.

Costs are kept as multiples of a plain step, so they hold for other lengths of the context and for a machine that has
become slower, and as one line through all newest passes with rows: single sizes are too few to tell a row from noise.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

_NUM_PASSES = 48  # newest ones that the line goes through
_MOST = 8.0  # a pass that took more plain steps than this was held up
_PRIOR_PASSES = 2.0  # passes over a bare root at the price of a plain step, before any was measured
_MEMORY = 0.95  # weight of drafts that were run against the next one …
_KEPT = 4.0  # … and no more than so many when a new answer begins
_TRUST = 2.0  # drafts for which a drafter is believed
_PROBE_EVERY = 16  # drafts cut to nothing, after which one node is run anyhow


class PassCosts:
    """What rows cost and drafts are worth. All seconds that are given to it belong to the same machine."""

    def __init__(self) -> None:
        self._passes: deque[tuple[int, float]] = deque(maxlen=_NUM_PASSES)  # drafted nodes, plain steps that it took
        self._beliefs = {is_drawn: [0.0, 0.0] for is_drawn in (False, True)}
        self._belief = self._beliefs[False]  # first tokens that should have been right, and that were
        self._num_cut = 0  # drafts in a row that were cut to nothing
        self._line: _Line | None = None  # through the passes, until there is another

    def begin(self, *, is_drawn: bool = False, is_later: bool = True) -> None:
        """A new answer: how right drafts were in the last one of its kind counts less; see `LevelCosts.begin`."""
        self._belief = self._beliefs[is_drawn]
        if is_later:
            share = _KEPT / max(self._belief[0], _KEPT)
            self._belief[:] = (share * old for old in self._belief)

    def record(self, log_q: Sequence[float], num_run: int, num_accepted: int, seconds: float, plain_s: float) -> None:
        """A pass behind a draft with these path log-probabilities (the root's first), of which the first `num_run`
        nodes were run and `num_accepted` kept; it took `seconds` where a plain step takes `plain_s`."""
        self._passes.append((num_run, min(seconds / max(plain_s, 1e-9), _MOST)))
        self._line = None
        if num_run == 0:
            return
        new = chance(log_q[1]), num_accepted > 0
        self._belief[:] = (_MEMORY * old + found for old, found in zip(self._belief, new, strict=True))

    def num_worth(self, log_q: Sequence[float], token_s: float, plain_s: float) -> int:
        """How many of a tree's first nodes to run: `log_q` is best first, root included, and a token costs `token_s`
        seconds otherwise. All of them where the clock is too coarse to tell."""
        if len(log_q) == 1 or token_s <= 0:
            return len(log_q) - 1
        line = self._fitted()
        expected, confirmed = self._belief
        trust = min((confirmed + _TRUST) / (expected + _TRUST), 1.0)
        best, best_gain, gain = 0, 0.0, -line.first * plain_s
        worth, price = trust * token_s, line.row * plain_s
        for num_nodes in range(1, len(log_q)):
            gain += worth * chance(log_q[num_nodes]) - price
            if gain >= best_gain:
                best, best_gain = num_nodes, gain
        self._num_cut = 0 if best else self._num_cut + 1
        if self._num_cut > _PROBE_EVERY:
            self._num_cut, best = 0, 1
        return best

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


def chance(log_q: float) -> float:
    """A log-probability as a probability, whatever a drafter gave: above 1 is 1, and what is no number is 0."""
    return 0.0 if math.isnan(log_q) else math.exp(min(log_q, 0.0))
