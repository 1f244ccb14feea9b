"""How long something will take yet, calmly.

Job: `TimeLeft`, an exponential average of estimates.
Non-job: estimating (`live`, `model.watch`), how it is spelled (`text`).

What is averaged is the moment of the end, not the time until it: so the time that is shown runs down by itself, and
only what an estimate has changed about the end comes in bit by bit.
"""

from math import exp
from typing import Final

_LEAST_S: Final = 1.0
_MOST_S: Final = 15.0


class TimeLeft:
    """The time left of one piece of work, of which estimates come in now and then."""

    def __init__(self) -> None:
        self._end: float | None = None  # when it is expected
        self._asked_at = 0.0

    def told(self, estimate: float | None, now: float) -> float | None:
        """The seconds to show at the time `now` that are left by an `estimate` made then; None where that is unknown.

        Estimates are averaged over an eighth of the time that is left, a second at least."""
        if estimate is None:
            return None
        over_s = min(max(estimate / 8, _LEAST_S), _MOST_S)
        share = 1.0 if self._end is None else 1 - exp(-max(0.0, now - self._asked_at) / over_s)
        before = now + estimate if self._end is None else self._end
        self._end, self._asked_at = before + share * (now + estimate - before), now
        return max(0.0, self._end - now)
