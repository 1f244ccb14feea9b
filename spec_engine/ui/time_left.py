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
        self._began: tuple[float, float] | None = None  # the share that was done first, and when
        self._share = 0.0  # that was done last

    def by_share(self, share: float, now: float) -> float | None:
        """The seconds to show at the time `now` of work of which a `share` is done; where that falls, another piece has
        begun. None while too little is done to tell."""
        if self._began is None or share < self._share:
            self._began, self._end = (share, now), None
        self._share = share
        done, took_s = share - self._began[0], now - self._began[1]
        is_known = done > 0 and took_s > _LEAST_S
        return self.told(took_s * (1 - share) / done, now) if is_known else None

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
