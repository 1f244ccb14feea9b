"""The products of a decoder block together with what lies before and behind them, and who does them fastest on a GPU.

Job: `TorchProducts`, operators one after the other; `ChosenProducts`, which takes our streaming kernels (`streamed`)
for the forms and numbers of rows in which they won; `choose`, the contest, a pure function of the timer. `Cut`: how a
kernel's work is shared out, and those that are tried.
Non-job: the kernels, matrices (`products`), the order of a pass (`fused`).

Which is faster depends on the card, on cuBLAS's version and on the sizes, so no fixed rule is right. A kernel decides
how sums are rounded, so it must not change between two passes, and should not between two runs: ours have to win by
`_MARGIN` and the fastest of several turns counts. A kernel that gives other numbers than torch is never taken.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spec_engine.model.capture import CudaCapture, Work
from spec_engine.model.products import Matrix

MOST_ROWS: Final = 16  # what the matrix units take at once; beyond, cuBLAS shares the work better


@dataclass(frozen=True, slots=True)
class Cut:
    """Columns of the result that a program makes, of `ins` rows of the weights at once; its warps, and blocks that are
    on their way; whether it begins while the kernel before it ends."""

    outs: int
    ins: int
    num_warps: int
    stages: int
    is_early: bool = False


ONE_ROW: Final = (Cut(4, 1024, 4, 1), Cut(8, 512, 4, 3), Cut(16, 256, 4, 4))
FEW_ROWS: Final = (Cut(16, 256, 4, 4), Cut(32, 128, 4, 5), Cut(64, 64, 4, 6))

Kind = Literal["normed", "added", "gated"]
Form = tuple[Kind, int, int, bool]  # kind, columns in and out, whether it is one row
Timer = Callable[[Work], float]
Cuts = Callable[[int, torch.device], Iterable[Cut]]

_MARGIN = 1.02
_TRIED_ROWS = (1, 16)
_MOST_MEMBERS = 8  # matrices of a form that take turns: together more than a GPU's cache holds
_TURNS = 5
_TOLERANCE = 2e-2  # relative norm of the difference; half precision rounds to 2e-3


@dataclass(frozen=True, slots=True)
class Around:
    """What is done before and behind a product: the weights [in] and `eps` of a norm of its rows; rows [T, out] that
    are added; or, `is_gated`, SiLU of the first half of the results times the second half."""

    norm: Tensor | None = None
    eps: float = 0.0
    base: Tensor | None = None
    is_gated: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """Products that are done alike: matrices of one size, each with the norm before it, None where there is none."""

    kind: Kind
    members: tuple[tuple[Matrix, Tensor | None], ...]

    def form(self, num_rows: int) -> Form:
        """What is decided together."""
        matrix, _ = self.members[0]
        return self.kind, matrix.num_in, matrix.num_out, num_rows == 1


class TorchProducts:
    """By torch's operators; `gate` [T, 2 I] -> [T, I] is the middle of the feed-forward part, if torch's own is not
    to be used. `eps` belongs to all norms."""

    def __init__(self, eps: float, gate: Callable[[Tensor], Tensor] | None = None) -> None:
        self.eps = eps
        self._gate = gate

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [..., H] by its root mean square, times the weights."""
        return torch.rms_norm(x, weight.shape, weight, self.eps)

    def normed(self, matrix: Matrix, x: Tensor, norm: Tensor) -> Tensor:
        """[T, out] of normalised x [T, in]."""
        return matrix(self.norm(x, norm))

    def added(self, matrix: Matrix, x: Tensor, base: Tensor) -> Tensor:
        """`base` [T, out] and what x [T, in] gives."""
        return matrix.added_to(base, x)

    def gated(self, matrix: Matrix, x: Tensor, norm: Tensor) -> Tensor:
        """[T, out / 2] of normalised x: SiLU of the first half of the results times the second half."""
        both = matrix(self.norm(x, norm))
        if self._gate is not None:
            return self._gate(both)
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up


class ChosenProducts(TorchProducts):
    """By our kernels for the forms in `cuts`, as torch does for all others."""

    def __init__(self, plain: TorchProducts, cuts: Mapping[Form, Cut]) -> None:
        super().__init__(plain.eps, plain._gate)
        self._cuts = dict(cuts)
        self._streamed = importlib.import_module("spec_engine.model.streamed")  # cannot be imported without Triton

    def normed(self, matrix: Matrix, x: Tensor, norm: Tensor) -> Tensor:
        cut = self._cut("normed", matrix, x)
        if cut is None:
            return super().normed(matrix, x, norm)
        return self._product(matrix, x, Around(norm, self.eps), cut)

    def added(self, matrix: Matrix, x: Tensor, base: Tensor) -> Tensor:
        cut = self._cut("added", matrix, x)
        if cut is None:
            return super().added(matrix, x, base)
        return self._product(matrix, x, Around(base=base), cut)

    def gated(self, matrix: Matrix, x: Tensor, norm: Tensor) -> Tensor:
        cut = self._cut("gated", matrix, x)
        if cut is None:
            return super().gated(matrix, x, norm)
        return self._product(matrix, x, Around(norm, self.eps, is_gated=True), cut)

    def _cut(self, kind: Kind, matrix: Matrix, x: Tensor) -> Cut | None:
        if len(x) > MOST_ROWS:
            return None
        return self._cuts.get((kind, matrix.num_in, matrix.num_out, len(x) == 1))

    def _product(self, matrix: Matrix, x: Tensor, around: object, cut: Cut) -> Tensor:
        found: Tensor = self._streamed.product(x, matrix.weight, matrix.bias, around, cut)
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """What the contest found: the cut of our kernels for each form in which they won, and the seconds of all that were
    tried and right, torch's under None. `num_bytes` of the matrices that were read in them."""

    cuts: Mapping[Form, Cut]
    seconds: Mapping[Form, Mapping[Cut | None, float]]
    num_bytes: Mapping[Form, int]

    def gain(self, form: Form) -> float:
        """How many times as fast as torch the cut that won is; 1 where none did."""
        return self.seconds[form][None] / self.seconds[form][self.cuts[form]] if form in self.cuts else 1.0

    def describe(self) -> str:
        """For people: what was measured."""
        parts = []
        for is_one in (True, False):
            forms = [form for form in self.seconds if form[3] == is_one]
            won = [self.gain(form) for form in forms if form in self.cuts]
            rows = "1 row" if is_one else f"{_TRIED_ROWS[-1]} rows"
            figures = f", {min(won):.2f} to {max(won):.2f} times as fast" if won else ""
            parts.append(f"{len(won)} of {len(forms)} forms with {rows}{figures}")
        return f"Our products for {'; '.join(parts)}; cuBLAS for the others."


def usual_cuts(num_rows: int, device: torch.device) -> tuple[Cut, ...]:
    """Those that are worth trying for so many rows; where kernels can begin early, each of them also so."""
    usual = ONE_ROW if num_rows == 1 else FEW_ROWS
    can_be_early = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return usual + tuple(replace(cut, is_early=True) for cut in usual if can_be_early)


def choose(uses: Sequence[Use], plain: TorchProducts, timer: Timer, cuts: Cuts = usual_cuts) -> Choice:
    """Let our kernels and torch do each of these uses in turn. `timer` gives the seconds of some work; `cuts` gives,
    for a number of rows and a device, those that are tried."""
    won: dict[Form, Cut] = {}
    times: dict[Form, dict[Cut | None, float]] = {}
    num_bytes: dict[Form, int] = {}
    for use, num_rows in product(uses, _TRIED_ROWS):
        form, inputs = use.form(num_rows), _inputs(use, num_rows)
        want, usual_s = _tried(plain, use, inputs, timer)
        if want is None:
            continue
        times[form] = {None: usual_s}
        num_bytes[form] = sum(matrix.weight.nbytes for matrix, _ in use.members[:_MOST_MEMBERS])
        for cut in cuts(num_rows, inputs[0].device):
            found, seconds = _tried(ChosenProducts(plain, {form: cut}), use, inputs, timer)
            if found is not None and bool((found - want).norm() <= _TOLERANCE * want.norm()):
                times[form][cut] = seconds
        best = min(times[form], key=times[form].__getitem__)
        if best is not None and usual_s > _MARGIN * times[form][best]:
            won[form] = best
    return Choice(won, times, num_bytes)


def _inputs(use: Use, num_rows: int) -> tuple[Tensor, Tensor]:
    """Rows for a use, and rows that its results may be added to."""
    matrix, _ = use.members[0]
    weight = matrix.weight
    generator = torch.Generator().manual_seed(0)
    x, base = (torch.randn(num_rows, n, generator=generator).to(weight) for n in (matrix.num_in, matrix.num_out))
    return x, base


def _tried(
    products: TorchProducts, use: Use, inputs: tuple[Tensor, Tensor], timer: Timer
) -> tuple[Tensor | None, float]:
    """What the first member gives, in float32, and the seconds of some members one after the other; None where that
    cannot be done here."""
    works = [_work(products, use.kind, *member, *inputs) for member in use.members[:_MOST_MEMBERS]]
    try:
        result = works[0]().float()
        return result, timer(lambda: tuple(work() for work in works))
    except RuntimeError:  # too large for this card, or refused by its driver
        return None, 0.0


def _work(
    products: TorchProducts, kind: Kind, matrix: Matrix, norm: Tensor | None, x: Tensor, base: Tensor
) -> Callable[[], Tensor]:
    """One product."""
    if kind == "added":
        return partial(products.added, matrix, x, base)
    assert norm is not None, "all others begin with a norm"
    return partial(products.normed if kind == "normed" else products.gated, matrix, x, norm)


def cuda_timer(device: torch.device) -> Timer:
    """Seconds of captured work on a GPU, the host's not among them: the fastest of some turns."""
    capture = CudaCapture(device)

    def seconds(work: Work) -> float:
        replay = capture(work)
        replay()
        times = []
        for _ in range(_TURNS):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            replay()
            ended.record()
            ended.synchronize()
            times.append(float(began.elapsed_time(ended)) / 1000)
        return min(times)

    return seconds
