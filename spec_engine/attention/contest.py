"""Which kernel is the faster one on this processor: torch's flash operator or products head by head.

Job: `measured`, which times both once a process for a dtype, and the rule, `judge`, a pure function of the timer.
Non-job: the kernels.

No fixed rule is right. On an EPYC with AVX512-BF16 products are 1.1 to 2.7 times faster over 16,000 keys in bfloat16
and in float32, where the operator multiplies with MKL; in float16, for which it has no instructions, they take many
times as long. A kernel decides how sums are rounded, so it must not change while a program runs, and should not between
two runs: products have to win by `_MARGIN`, the fastest of several turns counts, and the result is kept. On a machine
that is busy otherwise several threads wait for one another in every product; then no turn is fast and the flash
operator stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter

import torch

from spec_engine import onednn
from spec_engine.attention.by_head import DTYPES, attend_by_head, whole_blocks

_MARGIN = 1.2
_TURNS = (3, 5)  # at least, at most; the first warms up
_BUDGET_S = 0.1  # for the turns of a class; no turn begins later
_HOPELESS = 0.3  # a processor without instructions for the dtype: no other class is tried
_TRIAL = (4, 8192, 128)  # key heads, keys and columns of the measurement: more than a core's cache holds


@dataclass(frozen=True, slots=True)
class RowClass:
    """Numbers of folded rows, G * T, that are decided together, by a measurement of `trial_rows` of them."""

    name: str
    rows: range
    trial_rows: int


CLASSES = (
    RowClass("some", range(9, 25), 16),
    RowClass("more", range(25, 65), 32),
    RowClass("many", range(65, 1 << 30), 128),
)  # fewer rows stay with the flash operator; some do in float32, where both are within the noise


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many times faster products are than the flash operator, by class of rows."""

    gains: tuple[tuple[RowClass, float], ...] = ()

    @property
    def won(self) -> tuple[RowClass, ...]:
        """The classes in which products are to be used."""
        return tuple(row_class for row_class, gain in self.gains if gain >= _MARGIN)

    def prefers_products(self, num_rows: int) -> bool:
        """Whether `num_rows` folded rows go to products, where there are keys enough."""
        return any(num_rows in row_class.rows for row_class in self.won)

    def describe(self) -> str:
        """For people: what was measured."""
        won = [f"{gain:.1f} times ({row_class.name} rows)" for row_class, gain in self.gains if gain >= _MARGIN]
        if won:
            return f"matrix products head by head where they are faster here: {', '.join(won)}"
        seen = [f"{gain:.1f} ({row_class.name} rows)" for row_class, gain in self.gains]
        return f"too, because matrix products head by head were not {_MARGIN} times faster here: {', '.join(seen)}"


Contestants = Callable[[RowClass], tuple[Callable[[], object], Callable[[], object]]]


def judge(contestants: Contestants, timer: Callable[[], float], classes: Sequence[RowClass] = CLASSES) -> Verdict:
    """Time (flash operator, products) of each class in turns; the fastest of some turns counts."""
    gains: list[tuple[RowClass, float]] = []
    for each in classes:
        gains.append((each, _gain(*contestants(each), timer)))
        if gains[-1][1] < _HOPELESS:
            break
    return Verdict(tuple(gains))


def _gain(flash: Callable[[], object], products: Callable[[], object], timer: Callable[[], float]) -> float:
    """How many times faster `products` is, at most 1 if there was no time for enough turns."""
    end = timer() + _BUDGET_S
    turns: list[tuple[float, float]] = []
    while len(turns) < _TURNS[1] and timer() < end:
        turns.append((_seconds(flash, timer), _seconds(products, timer)))
    gain = min(slow for slow, _ in turns) / min(fast for _, fast in turns)
    return gain if len(turns) >= _TURNS[0] else min(gain, 1.0)


def _seconds(work: Callable[[], object], timer: Callable[[], float]) -> float:
    began = timer()
    work()
    return timer() - began


def measured(dtype: torch.dtype) -> Verdict:
    """The verdict for a dtype with the present number of threads; the first call takes up to 0.3 s."""
    return _measured(dtype, torch.get_num_threads())


@cache
def _measured(dtype: torch.dtype, num_threads: int) -> Verdict:
    if dtype not in DTYPES or (dtype == torch.float32 and not onednn.has_products(dtype)):
        return Verdict()  # in half precision torch multiplies with what it has
    with torch.inference_mode():
        return judge(partial(_on_random_data, dtype), perf_counter, CLASSES[dtype == torch.float32 :])


def _on_random_data(dtype: torch.dtype, row_class: RowClass) -> tuple[Callable[[], object], Callable[[], object]]:
    """The flash operator and the products over the class's trial."""
    num_heads, num_keys, size = _TRIAL
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, num_heads, row_class.trial_rows, size, generator=generator).to(dtype)
    few = torch.randn(2, num_heads, 256, size, generator=generator).to(dtype)
    k, v = (x[None].repeat(1, 1, num_keys // 256, 1) for x in few)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    blocks = whole_blocks(row_class.trial_rows, num_keys, size, dtype)
    products = partial(attend_by_head, q, k, v, size**-0.5, blocks)
    return partial(flash, q, k, v, 0.0, False, attn_mask=None, scale=size**-0.5), products
