"""Products of some rows with a matrix that stays, in the form that the processor takes fastest.

Job: `Matrix`, one such product; `packing_gain`, whether this processor gains by weights in oneDNN's own order, measured
once a process; `Part`, a module that stands for some columns of a matrix whose weights are no longer there.
Non-job: which products a model has (`fused`, `head_products`), GPUs' memory order, quantised weights but for copies of
a draft's in 8 bits.

torch multiplies float32 on a CPU with MKL, which on AMD's processors does not use all that they have, and bfloat16 with
oneDNN, which brings the weights into its own order anew for every product. In that order from the beginning a product
takes half the time (EPYC with AVX512-BF16, one thread: bfloat16 1,024 x 4,096 with one row 104 µs for 246, float32 256
x 1,024 with 8 rows 32 for 59). A call costs 8 to 12 µs more, so few rows of a small matrix go the old way (float32, two
threads: 128 x 256 with 4 rows 8 µs for 15, 256 x 256 with 2 rows 9 for 15, with 8 rows 14 for 16). Of larger ones one
order is held alone, because where passes of one row and of several take turns, both together leave the processor's
cache (built-in target, 1,024 tokens: one row 2.41 ms instead of 2.64).

oneDNN compiles each form of product at its first use, which takes milliseconds, keeps half a megabyte of code for it
and forgets the oldest of 1,024. So rows beyond the usual numbers are filled up to few others, and all up to 128 are
made ready at load: a draft that had to read 50 tokens first took 9 ms where it takes 2. The price is that 65 rows take
as long as 128 (256 x 1,024, two threads: 0.15 ms, where 64 take 0.08).
"""

from collections.abc import Iterable, Sequence
from functools import cache
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spec_engine import onednn
from spec_engine.model.layout import gains_by_columns
from spec_engine.model.narrow import Narrow, narrowed

READY_ROWS, READY_LEVEL_ROWS = 32, 16  # of passes whose products are made ready when target and drafts are loaded
_FEW, _STEP = 128, 64  # more rows are filled up to a power of two, or where there are more than few to a multiple
_MARGIN = 1.2
_TRIALS = (
    (1024, 2048, 1),
    (256, 1024, 8),
)  # columns in, columns out, rows: what is measured, in half and full precision
_TURNS = 7
_SMALL = 1 << 17  # multiplications, at most, of a product that goes the old way: up to so many weights for one row


class Matrix:
    """``x @ weight + bias`` for `weight` [in, out]. With `is_packed` a copy of the weights is held in the processor's
    order, and of a small matrix both, as few rows are faster by the old one."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, is_packed: bool = False) -> None:
        self.num_in, self.num_out = weight.shape
        self.bias = bias
        self._weight = None if is_packed and weight.numel() > _SMALL else weight
        self._packed = onednn.packed(weight.t()) if is_packed else None
        most = _SMALL // max(weight.numel(), 1) if weight.dtype == torch.float32 else 1
        self._most_plain = most if self._weight is not None else -1  # rows, where it is packed
        self._num_exact = READY_ROWS  # more are filled up
        self.dtype = weight.dtype
        self._narrow: Narrow | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[T, out] of x [T, in]."""
        num_rows = len(x)
        if self._packed is not None and num_rows > self._most_plain:
            if num_rows <= self._num_exact:
                return onednn.product(x, self._packed, self.bias)
            missing = _filled(num_rows) - num_rows
            return onednn.product(F.pad(x, (0, 0, 0, missing)) if missing else x, self._packed, self.bias)[:num_rows]
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def added_to(self, base: Tensor, x: Tensor) -> Tensor:
        """``base + self(x)``, rounded once where that is possible."""
        if self._packed is not None and len(x) > self._most_plain:
            return base + self(x)
        return torch.addmm(base if self.bias is None else base + self.bias, x, self.weight)

    def add_to(self, base: Tensor, x: Tensor) -> Tensor:
        """The same written to `base`: on a GPU a result elsewhere takes one kernel more, which copies `base` first."""
        if self._packed is not None and len(x) > self._most_plain:
            return base.add_(self(x))
        return (base if self.bias is None else base.add_(self.bias)).addmm_(x, self.weight)

    def fill_up_beyond(self, num_rows: int) -> None:
        """Run up to so many rows as they are, and more of them filled up."""
        self._num_exact = num_rows

    def warm_up(self) -> None:
        """Have oneDNN compile its kernels for all numbers of rows up to `_FEW`, where it does the product: the first
        one with each number of rows takes some milliseconds."""
        if self._packed is None:
            return
        for rows in sorted({num if num <= self._num_exact else _filled(num) for num in range(1, _FEW + 1)}):
            self(torch.zeros(rows, self.num_in, dtype=self._packed.dtype))

    @property
    def weight(self) -> Tensor:
        """[in, out], of one that is not packed, or small; made anew, each time, of one that is held in 8 bits alone."""
        if self._weight is None:
            assert self._narrow is not None, "held in the processor's order alone"
            return self._narrow.widened(self.dtype)
        return self._weight

    @property
    def narrow(self) -> Narrow:
        """The same in 8 bits, rounded at the first use."""
        if self._narrow is None:
            self._narrow = narrowed(self.weight)
        return self._narrow

    @property
    def is_narrow(self) -> bool:
        """Whether weights in 8 bits are all that is held."""
        return self._weight is None and self._narrow is not None

    @property
    def has_narrow(self) -> bool:
        """Whether weights in 8 bits are held."""
        return self._narrow is not None

    def try_narrow(self) -> bool:
        """Round the weights, unless that was done; whether there was memory for it."""
        try:
            return self.narrow is not None
        except torch.OutOfMemoryError:
            return False

    def forget_narrow(self) -> None:
        """Hold no weights in 8 bits besides others."""
        self._narrow = self._narrow if self._weight is None else None

    def keep_narrow(self) -> bool:
        """Hold weights in 8 bits alone, and say so; where there is no memory to round them, as they are."""
        if self.try_narrow():
            self._weight = None
        return self.is_narrow

    def packed(self) -> "Matrix":
        """The same with packed weights."""
        assert self._weight is not None, "packed already"
        return Matrix(self._weight, self.bias, is_packed=True)


class Part(nn.Module):
    """Columns `start` up to `end` of a matrix, for a model whose own module had them. Slow: it computes all columns."""

    def __init__(self, matrix: Matrix, start: int, end: int) -> None:
        super().__init__()
        self.matrix = matrix
        self.start, self.end = start, end
        self.in_features, self.out_features = matrix.num_in, end - start

    def forward(self, x: Tensor) -> Tensor:
        """[..., out] of x [..., in]."""
        rows = self.matrix(x.reshape(-1, self.in_features))
        return rows[:, self.start : self.end].view(*x.shape[:-1], -1)


def warm_up_products(matrices: Iterable[Matrix], num_rows: int) -> None:
    """`Matrix.warm_up` of one matrix of each form; up to `num_rows` rows are run as they are by all of them."""
    forms: dict[tuple[int, int, bool], Matrix] = {}
    for matrix in matrices:
        matrix.fill_up_beyond(num_rows)
        forms[matrix.num_in, matrix.num_out, matrix.bias is None] = matrix
    for matrix in forms.values():
        matrix.warm_up()


def join_columns(layers: Sequence[nn.Linear]) -> Tensor:
    """The weights side by side as [in, all out], by columns where the first one is or gains by it; each layer keeps a
    view."""
    first = layers[0].weight
    by_columns = first.stride(0) == 1 or gains_by_columns(first)
    with torch.no_grad():
        rows = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else first.detach()
        joined = rows.t().contiguous() if by_columns else rows.t()
        for layer, part in zip(layers, joined.split([layer.out_features for layer in layers], 1), strict=True):
            layer.weight = nn.Parameter(part.t(), requires_grad=False)
    return joined


def _filled(num_rows: int) -> int:
    """So many rows are run for `num_rows`, where these are not run as they are."""
    return 1 << (num_rows - 1).bit_length() if num_rows <= _FEW else -(-num_rows // _STEP) * _STEP


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights on this device are held in the processor's own order."""
    return device.type == "cpu" and packing_gain(dtype) > 1


def packing_gain(dtype: torch.dtype) -> float:
    """How many times faster products with packed weights are here; 1 where that is less than `_MARGIN`, or where this
    build of torch has none."""
    return _measured(dtype, torch.get_num_threads())


@cache
def _measured(dtype: torch.dtype, num_threads: int) -> float:
    if not onednn.has_products(dtype):
        return 1.0
    num_in, num_out, num_rows = _TRIALS[dtype == torch.float32]
    generator = torch.Generator().manual_seed(0)
    weight, x = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((num_out, num_in), (num_rows, num_in))
    )
    with torch.inference_mode():
        matrix = Matrix(weight.t(), None, is_packed=True)
        is_right = torch.allclose(matrix(x).float(), F.linear(x, weight).float(), rtol=2e-2, atol=0.5)
        times = [(_seconds(F.linear, x, weight), _seconds(matrix, x)) for _ in range(_TURNS)]
    gain = min(old for old, _ in times) / min(new for _, new in times)
    return gain if is_right and gain >= _MARGIN else 1.0


def _seconds(product: object, *inputs: Tensor) -> float:
    began = perf_counter()
    for _ in range(20):
        product(*inputs)  # type: ignore[operator]
    return perf_counter() - began
