"""What a step costs and brings, for each budget that the controller chooses from.

Job: `Arm`, one budget with its measured seconds and tokens, and `PlainSteps`, plain decoding as one of them.
Non-job: choosing (controller.py), what a pass over a cut tree costs (pass_costs.py).
"""

import math
import statistics
from collections import deque

_NUM_COSTS = 7  # newest measurements whose median is a cost: stalls of the machine do not count
SHORTEST = 1e-9  # seconds; a coarse clock may say 0
_MEMORY = 0.9  # weight of a step's tokens against the next one's
_PRIOR = 0.5  # tokens that an expectation counts for
_MUCH_CHEAPER = 0.45  # cold caches alone make up for less
_FADING = 1.25  # an old bound of plain decoding's cost loosens by this with each answer
_SETTLED = 8  # plain steps of an answer after which the machine has come to rest


class Arm:
    """One budget: what a step with it costs, and how many more tokens it brings than the budget below.

    The latter is kept as a share of what the budget below brings beyond the one below that. So a step in which already
    the first token was wrong says nothing about how large a tree should be.
    """

    def __init__(self, num_nodes: int, growth: float = 0.0) -> None:
        self.num_nodes = num_nodes
        self.growth = growth  # nodes that it adds against those that the budget below adds
        self.costs: deque[float] = deque(maxlen=_NUM_COSTS)  # seconds per step, oldest first
        self.seconds: float | None = None  # their median; of two measurements the lower
        self.plain_s = 0.0  # what plain decoding took when it was measured last
        self.failures: deque[float] = deque(maxlen=_NUM_COSTS)  # of those in which nothing was confirmed
        self.last_step = 0  # when it was last tried
        self.tokens = 1.0  # of a step, by all that is known
        self._more = self._base = 0.0  # tokens of this budget, and of the one below, that it was compared with

    def share(self, expected: float) -> float:
        """Further tokens against those of the budget below, as a part of `growth`; `expected` until there is more to
        go by."""
        return (self._more / self.growth + _PRIOR * expected) / (self._base + _PRIOR)

    def add_cost(self, seconds: float, plain_s: float) -> None:
        """What a step over the whole draft takes, while a plain one takes `plain_s`."""
        self.plain_s = plain_s
        self.costs.append(max(seconds, SHORTEST))
        self.seconds = statistics.median_low(self.costs)

    def fit(self, plain_s: float) -> None:
        """Where plain decoding has become much cheaper, behind a shorter context or on a machine that is free again,
        what was measured before is taken for as much cheaper."""
        if self.costs and plain_s < _MUCH_CHEAPER * self.plain_s:
            factor, self.plain_s = plain_s / self.plain_s, plain_s
            self.costs = deque((factor * seconds for seconds in self.costs), _NUM_COSTS)
            self.failures = deque((factor * seconds for seconds in self.failures), _NUM_COSTS)
            self.seconds = statistics.median_low(self.costs)

    def keep_costs(self, num: int) -> None:
        """Forget all but the newest `num` costs, so that the next ones count more."""
        if len(self.costs) > num:
            for kept in (self.costs, self.failures):
                while len(kept) > num:
                    kept.popleft()
            self.seconds = statistics.median_low(self.costs)

    def add(self, more: float, base: float) -> None:
        """A step: `more` tokens through this budget, `base` through the one below."""
        self._more, self._base = _MEMORY * self._more + more, _MEMORY * self._base + base

    def fade(self) -> None:
        """Remember half."""
        self._more, self._base = self._more / 2, self._base / 2


class PlainSteps(Arm):
    """Plain decoding, in this answer.

    After a prefill, and after a draft, the machine's caches are cold and a plain step takes up to twice as long as it
    does later. So a few plain steps say too much, and what longer contexts took before is a bound, as is what passes
    over drafts take.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self._known: dict[int, float] = {}  # settled seconds by tokens of the context, in classes of powers of two
        self._bound = math.inf
        self._passes: deque[float] = deque(maxlen=_NUM_COSTS)  # over drafts
        self._num_tokens = self._num_steps = 0

    @property
    def _is_settled(self) -> bool:
        return self._num_steps >= _SETTLED

    def begin(self, num_tokens: int) -> None:
        """A new answer behind so many tokens."""
        self._known = {size: _FADING * seconds for size, seconds in self._known.items()}
        if self._is_settled and self.seconds is not None:
            self._known[self._num_tokens.bit_length()] = self.seconds
        self._bound = min((s for size, s in self._known.items() if size >= num_tokens.bit_length()), default=math.inf)
        self._num_tokens, self._num_steps = num_tokens, 0
        self.costs.clear()
        self._passes.clear()
        self.seconds = None

    def add_step(self, seconds: float) -> None:
        """A plain step."""
        self.costs.append(max(seconds, SHORTEST))
        self._num_steps += 1
        self._sum_up()

    def add_pass(self, seconds: float) -> None:
        """A pass over a draft."""
        self._passes.append(max(seconds, SHORTEST))
        self._sum_up()

    def _sum_up(self) -> None:
        if self.costs:
            passes = statistics.median_low(self._passes) if self._passes else math.inf
            bound = math.inf if self._is_settled else self._bound
            self.seconds = min(statistics.median_low(self.costs), passes, bound)
