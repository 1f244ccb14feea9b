"""Who does the products of few rows on a GPU: torch, or our streaming kernels, in 16 bits or, of drafts, in 8.

Job: `choose`, the contest, a pure function of the timer; the cuts that are tried; `settle`, which keeps of matrices
what its result needs.
Non-job: the products (`block_products`), the kernels (`streamed`).

Which is faster depends on the card, on cuBLAS's version and on the sizes, so no fixed rule is right. A kernel decides
how sums are rounded, so it must not change between two passes, and should not between two runs: ours have to win by
`_MARGIN`, and again, and the fastest of several turns counts. A kernel that gives other numbers than torch is never
taken.

In a draft matrices of 8 bits (`narrow`) take part: a draft is checked, so what rounding does to it may cost tokens and
never changes the text. Where few large numbers make their steps large, `_MOST_NOISE`, they are not taken.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from time import perf_counter
from typing import Final

import torch
from torch import Tensor

from spec_engine.attention import starts_early
from spec_engine.model.block_products import ChosenProducts, Cut, Form, Kind, TorchProducts
from spec_engine.model.capture import CudaCapture, Work
from spec_engine.model.norm import Norm
from spec_engine.model.products import Matrix

ONE_ROW: Final = (Cut(4, 1024, 4, 1), Cut(8, 512, 4, 3), Cut(16, 256, 4, 4))
FEW_ROWS: Final = (Cut(16, 256, 4, 4), Cut(32, 128, 4, 5), Cut(64, 64, 4, 6))
NARROW_ROW: Final = (Cut(8, 1024, 4, 1), Cut(8, 1024, 8, 3), Cut(16, 512, 8, 4))  # as many bytes on their way
NARROW_ROWS: Final = (Cut(16, 512, 4, 3), Cut(32, 256, 4, 4), Cut(64, 128, 4, 5))

Timer = Callable[[Work], float]
Cuts = Callable[[int, torch.device], Iterable[Cut]]

_MARGIN = 1.02
_TRIED_ROWS = (1, 16)
CACHED_BYTES: Final = 256 << 20  # that take turns, in 8 bits too: several times what a GPU's cache holds
_SHARE = 8  # copies that take turns have no more than one part of so many of the memory that is free
_MOST_TURNS = 64  # of a small matrix, which no cache forgets
_REMATCHES = 2  # so that the luckiest of several is not taken for the fastest
_TURNS, _REPLAYS = 4, 3
_LEAST_S = 5e-3  # of turns: a GPU that waited for a kernel to be compiled is slow at first
_TOLERANCE = 2e-2  # relative norm of the difference; half precision rounds to 2e-3
_MOST_NOISE = 4e-2  # of a matrix in 8 bits, which have 1e-2 where columns have no outliers


@dataclass(frozen=True, slots=True)
class Use:
    """Products that are done alike: matrices of one size, each with the norm before it, None where there is none.
    `keeps_base`: what they are added to is needed afterwards."""

    kind: Kind
    members: tuple[tuple[Matrix, Norm | None], ...]
    keeps_base: bool = False

    def form(self, num_rows: int) -> Form:
        """What is decided together."""
        matrix, _ = self.members[0]
        return self.kind, matrix.num_in, matrix.num_out, num_rows == 1


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
            num_narrow = sum(self.cuts[form].is_narrow for form in forms if form in self.cuts)
            rows = "1 row" if is_one else f"{_TRIED_ROWS[-1]} rows"
            figures = f", {min(won):.2f} to {max(won):.2f} times as fast" if won else ""
            narrow = f" ({num_narrow} in 8 bits)" if num_narrow else ""
            parts.append(f"{len(won)} of {len(forms)} forms with {rows}{narrow}{figures}")
        reasons = Counter(self.refused.values()).most_common()
        refused = f" Not tried or not right: {'; '.join(f'{n} times {why}' for why, n in reasons)}." if reasons else ""
        return f"Our products for {'; '.join(parts)}; cuBLAS for the others.{refused}"


def usual_cuts(num_rows: int, device: torch.device) -> tuple[Cut, ...]:
    """Those that are worth trying for so many rows; where kernels can begin early, each of them also so."""
    usual = ONE_ROW if num_rows == 1 else FEW_ROWS
    return usual + tuple(replace(cut, is_early=True) for cut in usual if starts_early(device))


def narrow_cuts(num_rows: int, device: torch.device) -> tuple[Cut, ...]:
    """The same for matrices of 8 bits."""
    narrow = tuple(replace(cut, is_narrow=True) for cut in (NARROW_ROW if num_rows == 1 else NARROW_ROWS))
    return narrow + tuple(replace(cut, is_early=True) for cut in narrow if starts_early(device))


def all_cuts(num_rows: int, device: torch.device) -> tuple[Cut, ...]:
    """Those for matrices of 16 bits, then those for 8."""
    return usual_cuts(num_rows, device) + narrow_cuts(num_rows, device)


def settle(uses: Sequence[Use], choice: Choice) -> list[Matrix]:
    """Round the matrices whose products are done in 8 bits, and forget the copies of the others. Those that are not
    needed in 16 bits for few rows any more, for `Matrix.keep_narrow`. Where memory is short a matrix stays as it is."""
    narrow = []
    for use in uses:
        cuts = [choice.cuts.get(use.form(num_rows)) for num_rows in _TRIED_ROWS]
        are_narrow = [cut is not None and cut.is_narrow for cut in cuts]
        for matrix, _ in use.members:
            if not any(are_narrow):
                matrix.forget_narrow()
            elif all(are_narrow):
                narrow.append(matrix)
            else:
                matrix.try_narrow()
    return narrow


def choose(uses: Sequence[Use], plain: TorchProducts, timer: Timer, cuts: Cuts = usual_cuts) -> Choice:
    """Let our kernels and torch do each of these uses in turn. `timer` gives the seconds of some work; `cuts` gives,
    for a number of rows and a device, those that are tried. The fastest of them has to win again, twice."""
    alike: dict[Form, Use] = {}
    for use in uses:  # those of one form are decided together
        known = alike.setdefault(use.form(1), replace(use, members=()))
        members, keeps_base = known.members + use.members, known.keeps_base or use.keeps_base
        alike[use.form(1)] = replace(known, members=members, keeps_base=keeps_base)
    won: dict[Form, Cut] = {}
    seconds: dict[Form, dict[Cut | None, float]] = {}
    num_bytes: dict[Form, int] = {}
    refused: dict[tuple[Form, Cut | None], str] = {}
    for use, num_rows in product(alike.values(), _TRIED_ROWS):
        form = use.form(num_rows)
        try:
            match = _Match(use, num_rows, plain, timer)
        except torch.OutOfMemoryError:  # torch's own products need less
            refused[form, None] = "no memory to try them"
            continue
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
        number = -(-CACHED_BYTES // weight.numel())
        self.use, self._form = use, use.form(num_rows)
        self._members = _in_turn(use.members, number)
        self.num_bytes = weight.nbytes * len(self._members)
        self.device = weight.device
        self._plain, self._timer = plain, timer
        self._x = torch.randn(num_rows, matrix.num_in, generator=torch.Generator().manual_seed(0)).to(weight)
        self._base = matrix(self._x).flip(1).contiguous()  # as large as what is added to it
        self._want = self._works(None)[0]().float()
        self._narrow_want: Tensor | None = None

    def tried(self, cut: Cut | None) -> float | str:
        """Seconds of this cut, or of torch; or why it could not be done, or is not right."""
        try:
            if cut is not None and self._is_biased_gate:
                return "our gates have no bias"
            if cut is not None and cut.is_narrow and self._is_noisy:
                return "8 bits lose too much"
            found, want = self._works(cut)[0]().float(), self._wanted(cut)
            if not bool((found - want).norm() <= _TOLERANCE * want.norm()):
                return "other numbers than torch gives"
            return self._timed(cut)
        except RuntimeError as error:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # raises where the device is lost, and nothing can go on
            return str(error).splitlines()[0]

    @property
    def _is_biased_gate(self) -> bool:
        return self.use.kind == "gated" and any(matrix.bias is not None for matrix, _ in self.use.members)

    @cached_property
    def _is_noisy(self) -> bool:
        """Whether 8 bits lose too much of any member, also of those that take no turn here."""
        noises, stays = [], [matrix for matrix, _ in self._members]
        for matrix in dict.fromkeys((*(matrix for matrix, _ in self.use.members), *stays)):
            noises.append(matrix.narrow.noise)
            if matrix not in stays:
                matrix.forget_narrow()  # until it is settled: not all of them besides the others
        return max(noises) > _MOST_NOISE

    def _wanted(self, cut: Cut | None) -> Tensor:
        """What torch gives for the first member, by the numbers that this cut reads."""
        if cut is None or not cut.is_narrow:
            return self._want
        if self._narrow_want is None:
            matrix, norm = self._members[0]
            rounded = Matrix(matrix.narrow.widened(matrix.dtype), matrix.bias)
            self._narrow_want = self._work(self._plain, rounded, norm)().float()
        return self._narrow_want

    def wins(self, cut: Cut) -> bool:
        """Whether it is faster than torch now, both measured anew."""
        return self._timed(None) > _MARGIN * self._timed(cut)

    def _timed(self, cut: Cut | None) -> float:
        works = self._works(cut)
        return self._timer(lambda: tuple(work() for work in works))

    def _works(self, cut: Cut | None) -> list[Callable[[], Tensor]]:
        """Each member's product."""
        products = self._plain if cut is None else ChosenProducts(self._plain, {self._form: cut})
        return [self._work(products, *member) for member in self._members]

    def _work(self, products: TorchProducts, matrix: Matrix, norm: Norm | None) -> Callable[[], Tensor]:
        """One product."""
        kind, x = self.use.kind, self._x
        if kind == "plain":
            return partial(products.plain, matrix, x)
        if kind == "added":
            return partial(products.added, matrix, x, self._base.clone(), keeps_base=self.use.keeps_base)
        if kind == "gated":
            return partial(products.gated, matrix, x, norm)
        assert norm is not None, "it begins with one"
        return partial(products.normed, matrix, x, norm)


def _in_turn(members: Sequence[tuple[Matrix, Norm | None]], number: int) -> list[tuple[Matrix, Norm | None]]:
    """`number` of the members; where there are fewer, on a GPU copies of the first besides, as far as there is room."""
    (matrix, norm), found = members[0], list(members[:number])
    weight, missing = matrix.weight, min(number, _MOST_TURNS) - len(found)
    if weight.device.type != "cuda" or missing <= 0:
        return found
    room = int(torch.cuda.mem_get_info(weight.device)[0]) // _SHARE
    copies = [Matrix(weight.t().clone().t(), matrix.bias) for _ in range(min(missing, room // weight.nbytes))]
    return [*found, *((copy, norm) for copy in copies)]


def gpu_timer(device: torch.device) -> Timer | None:
    """What times a contest on this device; None where there is none."""
    return cuda_timer(device) if device.type == "cuda" else None


def cuda_timer(device: torch.device) -> Timer:
    """Seconds of captured work on a GPU, the host's not among them: the fastest of some turns."""

    def seconds(work: Work) -> float:
        times = list[float]()
        with torch.cuda.device(device):
            replay = CudaCapture(device, is_brief=True)(work)
            end = perf_counter() + _LEAST_S
            while len(times) < _TURNS or perf_counter() < end:
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
