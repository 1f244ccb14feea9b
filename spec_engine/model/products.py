"""Products of some rows with a matrix that stays, in the form that the processor takes fastest.

Job: `Matrix`, one such product; `packing_gain`, whether this processor gains by weights in oneDNN's own order, measured
once a process; `Part`, a module that stands for some columns of a matrix whose weights are no longer there.
Non-job: which products a model has (`fused`), GPUs' memory order, quantised weights.

torch multiplies float32 on a CPU with MKL, which on AMD's processors does not use all that they have, and bfloat16 with
oneDNN, which brings the weights into its own order anew for every product. In that order from the beginning a product
takes half the time (EPYC with AVX512-BF16, one thread: bfloat16 1,024 x 4,096 with one row 104 µs for 246, float32 256
x 1,024 with 8 rows 32 for 59). A call costs 8 µs more, so small matrices are kept in both orders, and a row or two go
the old way.
"""

from functools import cache
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MARGIN = 1.2
_TRIALS = (
    (1024, 2048, 1),
    (256, 1024, 8),
)  # columns in, columns out, rows: what is measured, in half and full precision
_TURNS = 7
_SMALL = 1_000_000  # weights of a matrix: up to so many …
_FEW_ROWS = 2  # … one row is faster in the old order


class Matrix:
    """``x @ weight + bias`` for `weight` [in, out]. With `is_packed` the weights are held in the processor's order,
    with `is_plain` as they are; at least one of them."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, is_plain: bool = True, is_packed: bool = False) -> None:
        self.num_in, self.num_out = weight.shape
        self.bias = bias
        self._weight = weight if is_plain else None
        self._packed = _packed(weight) if is_packed else None
        least = _FEW_ROWS if weight.numel() <= _SMALL else 1
        self._least_packed = (least if is_plain else 1) if is_packed else 1 << 62

    def __call__(self, x: Tensor) -> Tensor:
        """[T, out] of x [T, in]."""
        if self._packed is not None and len(x) >= self._least_packed:
            product: Tensor = _PACKED(x, self._packed, self.bias, "none", [], "")
            return product
        assert self._weight is not None, "one of both is held"
        return torch.mm(x, self._weight) if self.bias is None else torch.addmm(self.bias, x, self._weight)

    def added_to(self, base: Tensor, x: Tensor) -> Tensor:
        """``base + self(x)``, rounded once where that is possible."""
        if self._packed is not None and len(x) >= self._least_packed:
            return base + self(x)
        assert self._weight is not None, "one of both is held"
        return torch.addmm(base if self.bias is None else base + self.bias, x, self._weight)

    def packed(self, *, is_plain: bool) -> "Matrix":
        """The same with packed weights, `is_plain` says whether also as they are."""
        assert self._weight is not None, "packed already"
        return Matrix(self._weight, self.bias, is_plain=is_plain, is_packed=True)


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


_PACKED = torch.ops.mkldnn._linear_pointwise


def _packed(weight: Tensor) -> Tensor:
    """`weight` [in, out] in oneDNN's order."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), 8)
    return packed


def packing_gain(dtype: torch.dtype) -> float:
    """How many times faster products with packed weights are here; 1 where that is less than `_MARGIN`, or where this
    build of torch has none."""
    return _measured(dtype, torch.get_num_threads())


@cache
def _measured(dtype: torch.dtype, num_threads: int) -> float:
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return 1.0
    num_in, num_out, num_rows = _TRIALS[dtype == torch.float32]
    generator = torch.Generator().manual_seed(0)
    weight, x = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((num_out, num_in), (num_rows, num_in))
    )
    with torch.inference_mode():
        try:
            matrix = Matrix(weight.t(), None, is_plain=False, is_packed=True)
            is_right = torch.allclose(matrix(x).float(), F.linear(x, weight).float(), rtol=2e-2, atol=0.5)
        except (RuntimeError, NotImplementedError):  # another processor, or another torch
            return 1.0
        times = [(_seconds(F.linear, x, weight), _seconds(matrix, x)) for _ in range(_TURNS)]
    gain = min(old for old, _ in times) / min(new for _, new in times)
    return gain if is_right and gain >= _MARGIN else 1.0


def _seconds(product: object, *inputs: Tensor) -> float:
    began = perf_counter()
    for _ in range(20):
        product(*inputs)  # type: ignore[operator]
    return perf_counter() - began
