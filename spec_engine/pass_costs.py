"""Which part of a drafted tree is worth verifying, from what passes cost here and how right such drafts have been.

Job: `PassCosts`, which learns seconds by number of nodes and the draft's calibration, and says where to cut a tree.
Non-job: whether to draft at all, and how much (controller.py).

Drafting is paid for when the tree is there; what is left to decide is how many rows the target runs. Another node is
worth its row while the chance that it is confirmed, times what a token costs otherwise, exceeds what the row adds to
the pass. On a GPU rows are nearly free and the whole tree stays; on a CPU the unlikely part of it goes, and where the
draft is unsure of the first token already, the pass is a plain one. Fixed thresholds on the draft's probability do the
same with one number for every machine (llama.cpp's ``--draft-p-min``).

How far a draft's probabilities can be believed is learned by the probability of its first token, because the tokens of
a path are not independent: a copy whose first token is right goes on being right, whatever it said.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

_NUM_COSTS = 15  # newest passes of a size whose median counts
_NUM_CLASSES = 10  # of the first token's probability
_MEMORY = 0.95  # weight of what was expected and confirmed against the next step's
_PRIOR = 1.0  # tokens for which …
_HOPE = 2.0  # … so many times what the draft expects is hoped for: what is never run teaches nothing
_FORGET = 0.98  # what is left of the record when a tree was not run at all: so such a one is tried again


class PassCosts:
    """Seconds of a pass behind a draft by drafted nodes, in classes of powers of two, and the draft's calibration."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[tuple[int, float]]] = {}  # bit length of the number of nodes -> newest passes
        self._expected = [0.0] * (_NUM_CLASSES + 1)  # tokens, by class of the first one's probability …
        self._confirmed = [0.0] * (_NUM_CLASSES + 1)  # … and how many there were
        self._last_class = 0

    def record(self, log_q: Sequence[float], num_accepted: int, seconds: float) -> None:
        """A pass behind the last draft: path log-probabilities of the nodes that it ran (the root's first), and what
        was kept."""
        num_nodes = len(log_q) - 1
        self._seconds.setdefault(num_nodes.bit_length(), deque(maxlen=_NUM_COSTS)).append((num_nodes, seconds))
        memory = _MEMORY if num_nodes else _FORGET
        kind = _class(log_q) if num_nodes else self._last_class
        self._expected[kind] = memory * self._expected[kind] + sum(math.exp(score) for score in log_q[1:])
        self._confirmed[kind] = memory * self._confirmed[kind] + num_accepted

    def num_worth(self, log_q: Sequence[float], token_s: float) -> int:
        """How many of a tree's first nodes to run: `log_q` is best first, root included, and a token costs `token_s`
        seconds otherwise."""
        if len(log_q) == 1:
            return 0
        points, kind = self._points(token_s), _class(log_q)
        calibration = (self._confirmed[kind] + _HOPE * _PRIOR) / (self._expected[kind] + _PRIOR)
        best, best_gain, chances = 0, -_between(points, 0), 0.0
        for num_nodes in range(1, len(log_q)):
            chances += math.exp(log_q[num_nodes])
            gain = calibration * chances * token_s - _between(points, num_nodes)
            if gain > best_gain:
                best, best_gain = num_nodes, gain
        self._last_class = kind
        return best

    def difference(self, few: int, many: int, bare_s: float) -> float:
        """Seconds that a pass over `many` nodes takes longer than one over `few`."""
        points = self._points(bare_s)
        return _between(points, many) - _between(points, few)

    def _points(self, bare_s: float) -> list[tuple[float, float]]:
        """Nodes and seconds where they are known, never falling; a bare root costs `bare_s` until it was measured."""
        points = [] if 0 in self._seconds else [(0.0, bare_s)]
        for _, passes in sorted(self._seconds.items()):
            nodes = statistics.fmean(num_nodes for num_nodes, _ in passes)
            seconds = statistics.median_low(seconds for _, seconds in passes)
            points.append((nodes, max(seconds, points[-1][1]) if points else seconds))
        return points


def _class(log_q: Sequence[float]) -> int:
    """By the probability of the likeliest first token."""
    return int(_NUM_CLASSES * math.exp(min(log_q[1], 0.0)))


def _between(points: Sequence[tuple[float, float]], num_nodes: int) -> float:
    """On the line between two points; behind the last one as at it, so that larger passes are tried."""
    for (low, low_s), (high, high_s) in pairwise(points):
        if num_nodes <= high:
            return low_s + (high_s - low_s) * (num_nodes - low) / (high - low)
    return points[-1][1]
