"""How far a training run is, by tokens or by time.

Job: `Pace`: where a run stands in its stages, so that one with a time limit passes through all of them, learning rate
and all, in the time that it has.
Non-job: stages, learning rates (loop.py).
"""

import time
from collections.abc import Callable


class Pace:
    """A run over `num_tokens` tokens that ends after `limit_s` seconds at the latest; 0: it takes the time it takes."""

    def __init__(self, num_tokens: int, limit_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._num_tokens = num_tokens
        self._limit_s = limit_s
        self._now = now
        self._began = now()
        self._num_begun = -1  # tokens that were done when this run began

    def position(self, num_done: int) -> int:
        """Tokens of the stages that count as done: those that were, or the share of the time that has passed."""
        if not self._limit_s:
            return num_done
        if self._num_begun < 0:
            self._num_begun = num_done
        share = (self._now() - self._began) / self._limit_s
        left = self._num_tokens - self._num_begun
        return max(num_done, self._num_begun + int(min(share, 1.0) * left))
