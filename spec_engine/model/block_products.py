"""The products of a decoder block together with what lies before and behind them, and who does them fastest on a GPU.

Job: `TorchProducts`, operators one after the other; `ChosenProducts`, which takes our streaming kernels (`streamed`)
for the forms and numbers of rows in which they won; `choose`, the contest, a pure function of the timer. `Cut`: how a
kernel's work is shared out, and those that are tried.
Non-job: the kernels, matrices (`products`), the order of a pass (`fused`).

Which is faster depends on the card, on cuBLAS's version and on the sizes, so no fixed rule is right. A kernel decides
how sums are rounded, so it must not change between two passes, and should not between two runs: ours have to win by
`_MARGIN`, and again, and the fastest of several turns counts. A kernel that gives other numbers than torch is never
taken.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spec_engine.attention import starts_early
from spec_engine.model.capture import CudaCapture, Work
from spec_engine.model.norm import Norm
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
_CACHED_BYTES = 256 << 20  # matrices of a form that take turns: together more than a GPU's cache holds, if there are
_REMATCHES = 2  # so that the luckiest of several is not taken for the fastest
_TURNS, _REPLAYS = 4, 3
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
    members: tuple[tuple[Matrix, Norm | None], ...]

    def form(self, num_rows: int) -> Form:
        """What is decided together."""
        matrix, _ = self.members[0]
        return self.kind, matrix.num_in, matrix.num_out, num_rows == 1


class TorchProducts:
    """By torch's operators; `gate` [T, 2 I] -> [T, I] is the middle of the feed-forward part, if torch's own is not
    to be used."""

    def __init__(self, gate: Callable[[Tensor], Tensor] | None = None) -> None:
        self._gate = gate

    def normed(self, matrix: Matrix, x: Tensor, norm: Norm) -> Tensor:
        """[T, out] of normalised x [T, in]."""
        return matrix(norm(x))

    def added(self, matrix: Matrix, x: Tensor, base: Tensor) -> Tensor:
        """`base` [T, out] and what x [T, in] gives; `base` is used up."""
        return matrix.add_to(base, x)

    def gated(self, matrix: Matrix, x: Tensor, norm: Norm) -> Tensor:
        """[T, out / 2] of normalised x: SiLU of the first half of the results times the second half."""
        both = matrix(norm(x))
        if self._gate is not None:
            return self._gate(both)
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up


class ChosenProducts(TorchProducts):
    """By our kernels for the forms in `cuts`, as torch does for all others."""

    def __init__(self, plain: TorchProducts, cuts: Mapping[Form, Cut]) -> None:
        super().__init__(plain._gate)
        self._cuts = dict(cuts)
        self._streamed = importlib.import_module("spec_engine.model.streamed")  # cannot be imported without Triton

    def normed(self, matrix: Matrix, x: Tensor, norm: Norm) -> Tensor:
        cut = self._cut("normed", matrix, x)
        if cut is None:
            return super().normed(matrix, x, norm)
        return self._product(matrix, x, Around(norm.weight, norm.eps), cut)

    def added(self, matrix: Matrix, x: Tensor, base: Tensor) -> Tensor:
        cut = self._cut("added", matrix, x)
        if cut is None:
            return super().added(matrix, x, base)
        return self._product(matrix, x, Around(base=base), cut)

    def gated(self, matrix: Matrix, x: Tensor, norm: Norm) -> Tensor:
        cut = self._cut("gated", matrix, x)
        if cut is None:
            return super().gated(matrix, x, norm)
        return self._product(matrix, x, Around(norm.weight, norm.eps, is_gated=True), cut)

    def _cut(self, kind: Kind, matrix: Matrix, x: Tensor) -> Cut | None:
        if len(x) > MOST_ROWS:
            return None
        return self._cuts.get((kind, matrix.num_in, matrix.num_out, len(x) == 1))

    def _product(self, matrix: Matrix, x: Tensor, around: Around, cut: Cut) -> Tensor:
        found: Tensor = self._streamed.product(x, matrix.weight, matrix.bias, around, cut)
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """What the contest found: the cut of our kernels for each form in which they won, and the seconds of all that were
    tried and right, torch's under None. `num_bytes` of the matrices that were read in them. `refused`: why the others,
    torch's products among them, could not be done or were not right."""

    cuts: Mapping[Form, Cut]
    seconds: Mapping[Form, Mapping[Cut | None, float]]
    num_bytes: Mapping[Form, int]
    refused: Mapping[tuple[Form, Cut | None], str]

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
        reasons = Counter(self.refused.values()).most_common()
        refused = f" Not tried or not right: {'; '.join(f'{n} times {why}' for why, n in reasons)}." if reasons else ""
        return f"Our products for {'; '.join(parts)}; cuBLAS for the others.{refused}"


def usual_cuts(num_rows: int, device: torch.device) -> tuple[Cut, ...]:
    """Those that are worth trying for so many rows; where kernels can begin early, each of them also so."""
    usual = ONE_ROW if num_rows == 1 else FEW_ROWS
    return usual + tuple(replace(cut, is_early=True) for cut in usual if starts_early(device))


def choose(uses: Sequence[Use], plain: TorchProducts, timer: Timer, cuts: Cuts = usual_cuts) -> Choice:
    """Let our kernels and torch do each of these uses in turn. `timer` gives the seconds of some work; `cuts` gives,
    for a number of rows and a device, those that are tried. The fastest of them has to win again, twice."""
    alike: dict[tuple[Kind, int, int], list[tuple[Matrix, Norm | None]]] = {}
    for use in uses:  # those of one form are decided together
        alike.setdefault(use.form(1)[:3], []).extend(use.members)
    won: dict[Form, Cut] = {}
    seconds: dict[Form, dict[Cut | None, float]] = {}
    num_bytes: dict[Form, int] = {}
    refused: dict[tuple[Form, Cut | None], str] = {}
    for ((kind, *_), members), num_rows in product(alike.items(), _TRIED_ROWS):
        match = _Match(Use(kind, tuple(members)), num_rows, plain, timer)
        form = match.use.form(num_rows)
        times: dict[Cut | None, float] = {}
        for cut in (None, *cuts(num_rows, match.device)):
            took = match.tried(cut)
            if isinstance(took, str):
                refused[form, cut] = took
            else:
                times[cut] = took
        if None in times:
            seconds[form], num_bytes[form] = times, match.num_bytes
            best = min(times, key=times.__getitem__)
            if best is not None and all(match.wins(best) for _ in range(_REMATCHES)):
                won[form] = best
    return Choice(won, seconds, num_bytes, refused)


class _Match:
    """One form with so many rows: what is done, and what it takes."""

    def __init__(self, use: Use, num_rows: int, plain: TorchProducts, timer: Timer) -> None:
        matrix, _ = use.members[0]
        weight = matrix.weight
        number = -(-_CACHED_BYTES // weight.nbytes)
        self.use, self._form = use, use.form(num_rows)
        self._members = use.members[:number]
        self.num_bytes = weight.nbytes * len(self._members)
        self.device = weight.device
        self._plain, self._timer = plain, timer
        self._x = torch.randn(num_rows, matrix.num_in, generator=torch.Generator().manual_seed(0)).to(weight)
        self._base = matrix(self._x).flip(1).contiguous()  # as large as what is added to it
        self._want = self._works(None)[0]().float()

    def tried(self, cut: Cut | None) -> float | str:
        """Seconds of this cut, or of torch; or why it could not be done, or is not right."""
        try:
            found = self._works(cut)[0]().float()
            if not bool((found - self._want).norm() <= _TOLERANCE * self._want.norm()):
                return "other numbers than torch gives"
            return self._timed(cut)
        except RuntimeError as error:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # raises where the device is lost, and nothing can go on
            return str(error).splitlines()[0]

    def wins(self, cut: Cut) -> bool:
        """Whether it is faster than torch now, both measured anew."""
        return self._timed(None) > _MARGIN * self._timed(cut)

    def _timed(self, cut: Cut | None) -> float:
        works = self._works(cut)
        return self._timer(lambda: tuple(work() for work in works))

    def _works(self, cut: Cut | None) -> list[Callable[[], Tensor]]:
        """Each member's product."""
        products = self._plain if cut is None else ChosenProducts(self._plain, {self._form: cut})
        return [_work(products, self.use.kind, *member, self._x, self._base.clone()) for member in self._members]


def _work(
    products: TorchProducts, kind: Kind, matrix: Matrix, norm: Norm | None, x: Tensor, base: Tensor
) -> Callable[[], Tensor]:
    """One product."""
    if kind == "added":
        return partial(products.added, matrix, x, base)
    assert norm is not None, "all others begin with a norm"
    return partial(products.normed if kind == "normed" else products.gated, matrix, x, norm)


def cuda_timer(device: torch.device) -> Timer:
    """Seconds of captured work on a GPU, the host's not among them: the fastest of some turns."""

    def seconds(work: Work) -> float:
        times = []
        with torch.cuda.device(device):
            replay = CudaCapture(device, is_brief=True)(work)
            for _ in range(_TURNS):
                began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                replay()  # keeps the device busy while the host goes ahead
                began.record()
                for _ in range(_REPLAYS):
                    replay()
                ended.record()
                ended.synchronize()
                times.append(float(began.elapsed_time(ended)) / 1000 / _REPLAYS)
        return min(times)

    return seconds
