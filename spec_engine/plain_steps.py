"""What a plain step takes: the one figure that everything else is compared with.

Job: `PlainSteps`, plain decoding as measured in this answer, bounded by what other answers and passes tell.
Non-job: what drafts and their passes take (pass_costs.py), choosing (controller.py).

After a prefill, and after a draft, the machine's caches are cold and a plain step takes up to twice as long as it does
later. So a few plain steps say too much, and what longer contexts took before is a bound, as is what passes over drafts
take.
"""

import math
import statistics
from collections import deque

_NUM_COSTS = 7  # newest measurements whose median is a cost: stalls of the machine do not count
_SHORTEST = 1e-9  # seconds; a coarse clock may say 0
_FADING = 1.25  # an old bound loosens by this with each answer
_SETTLED = 8  # plain steps of an answer after which the machine has come to rest
_ONE_IN = 4


class PlainSteps:
    """Plain decoding in one answer after the other. `seconds` of a step are None until one was measured."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._steps: deque[float] = deque(maxlen=_NUM_COSTS)
        self._passes: deque[float] = deque(maxlen=_NUM_COSTS)  # over drafts
        self._told: deque[float] = deque(maxlen=_NUM_COSTS)  # what a plain step takes, by such passes
        self._known: dict[int, float] = {}  # settled seconds by tokens of the context, in classes of powers of two
        self._bound = math.inf
        self._num_tokens = self._num_steps = 0

    def begin(self, num_tokens: int, *, is_later: bool = True) -> None:
        """A new answer behind so many tokens. `is_later`: there was another one since the last call."""
        if is_later:
            self._known = {size: _FADING * seconds for size, seconds in self._known.items()}
        if self._is_settled and self.seconds is not None:
            self._known[self._num_tokens.bit_length()] = self.seconds
        self._bound = min((s for size, s in self._known.items() if size >= num_tokens.bit_length()), default=math.inf)
        self._num_tokens, self._num_steps = num_tokens, 0
        self._steps.clear()
        self._passes.clear()
        self._told.clear()
        self.seconds = None

    def add_step(self, seconds: float) -> None:
        """A plain step. Once the machine has come to rest, one in a few says enough: this is done beside every step."""
        self._num_steps += 1
        if self._num_steps > _SETTLED and self._num_steps % _ONE_IN:
            return
        self._steps.append(max(seconds, _SHORTEST))
        self._sum_up()

    def add_pass(self, seconds: float, num_steps: float | None) -> None:
        """A pass over a draft, which usually takes so many plain steps: where passes take longer than what is known of
        other answers allows, the machine has slowed down. None: what is usual is not known."""
        self._passes.append(max(seconds, _SHORTEST))
        if num_steps is not None:
            self._told.append(seconds / max(num_steps, 1.0))
        self._sum_up()

    @property
    def _is_settled(self) -> bool:
        return self._num_steps >= _SETTLED

    def _sum_up(self) -> None:
        if self._steps:
            passes = statistics.median_low(self._passes) if self._passes else math.inf
            bound = math.inf if self._is_settled else self._bound
            if len(self._told) > 1:
                bound = max(bound, statistics.median_low(self._told))
            self.seconds = min(statistics.median_low(self._steps), passes, bound)
