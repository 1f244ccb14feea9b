"""How our Triton kernels are best cut for this card: one field of their `Tuning` after the other.

Job: try values around the default, keep what makes calls faster, name the best. Every kernel that differs is compiled
anew, which takes seconds, so there is a time limit, and the fields that matter most come first.
Non-job: comparing backends (`kernels`), changing the default: a person does that, with the figures.
"""

import importlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch

from spec_engine.attention.sdpa import MatmulBackend
from spec_engine.bench.kernels import Call, Heads, error_of, make_calls, seconds_of

_NUM_ROWS: Final = (1, 16, 64)
_FIELDS: Final[dict[str, tuple[int, ...]]] = {  # the most important first; pairs: for short rows of keys
    "programs_per_sm": (1, 3, 4),
    "most_rows": (128, 32),
    "is_early": (False,),
    "stages": (2, 4),
    "keys": (128, 32),
    "slice": (64, 128, 16),
    "merged": (8, 2),
}
_LEAST_GAIN: Final = 0.99  # of the time; what gains less is noise
_MOST_ERROR: Final = 2e-2


@dataclass(frozen=True, slots=True)
class Tried:
    """A tuning, its milliseconds by number of rows, and its time as a share of the default's."""

    tuning: Any  # attention.triton's, which cannot be imported everywhere
    milliseconds: dict[int, float]
    ratio: float

    def values(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self.tuning), "milliseconds": self.milliseconds, "ratio": round(self.ratio, 3)}


@torch.inference_mode()
def sweep(
    heads: Heads, num_keys: int, where: tuple[torch.dtype, torch.device], limit_s: float, tell: Callable[[str], None]
) -> list[Tried]:
    """The default first, then what was tried until the time was up; the best has the least ratio."""
    kernels = importlib.import_module("spec_engine.attention.triton")
    began = time.monotonic()
    calls = {number: make_calls(heads, number, num_keys, *where) for number in _NUM_ROWS}
    best = default = Tried(kernels.Tuning(), _times(kernels, kernels.Tuning(), calls), 1.0)
    found = [default]
    for name, values in _FIELDS.items():
        start = best.tuning
        for value in values:
            if time.monotonic() - began > limit_s:
                tell(f"the time was up before {name} {value} was tried")
                return found
            pair = getattr(start, name)
            tuning = replace(start, **{name: (value, pair[1]) if isinstance(pair, tuple) else value})
            try:
                error = error_of(kernels.TritonBackend(MatmulBackend(), tuning), heads, *where)
                times = _times(kernels, tuning, calls)
            except kernels.CannotLaunch as reason:
                tell(f"{name} {value}: {reason}")
                continue
            if error > _MOST_ERROR:
                tell(f"WRONG: {name} {value}: the difference to the reference is {error:.1e} of its norm")
                continue
            tried = Tried(tuning, times, _ratio(times, default.milliseconds))
            found.append(tried)
            tell(f"{name} {value}: {tried.ratio:.3f} of the default's time")
            if tried.ratio < _LEAST_GAIN * best.ratio:
                best = tried
    return found


def _times(kernels: Any, tuning: object, calls: dict[int, list[Call]]) -> dict[int, float]:
    """Milliseconds of a call by number of rows."""
    backend = kernels.TritonBackend(MatmulBackend(), tuning)
    return {number: 1000 * seconds_of(backend, same) for number, same in calls.items()}


def _ratio(times: dict[int, float], default: dict[int, float]) -> float:
    """Geometric mean over the numbers of rows."""
    return math.exp(sum(math.log(times[number] / default[number]) for number in times) / len(times))


def sweep_line(found: Sequence[Tried]) -> str:
    """The best tuning in a sentence."""
    best = min(found, key=lambda tried: tried.ratio)
    times = ", ".join(f"{number} rows {best.milliseconds[number]:.3f} ms" for number in best.milliseconds)
    return f"Best of {len(found)} tunings: {best.tuning}, {best.ratio:.3f} of the default's time ({times})."
