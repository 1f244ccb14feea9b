"""The products of a decoder block together with what lies before and behind them.

Job: `TorchProducts`, operators one after the other; `ChosenProducts`, which takes our streaming kernels (`streamed`)
for the forms and numbers of rows in which they are to be used. `Cut`: how a kernel's work is shared out.
Non-job: the kernels, matrices (`products`), who is faster (`contest`), the order of a pass (`fused`, draft heads).
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spec_engine.model.norm import Norm
from spec_engine.model.products import Matrix

MOST_ROWS: Final = 16  # what the matrix units take at once; beyond, cuBLAS shares the work better


@dataclass(frozen=True, slots=True)
class Cut:
    """Columns of the result that a program makes, of `ins` rows of the weights at once; its warps, and blocks that are
    on their way; whether it begins while the kernel before it ends, and reads a copy of the weights in 8 bits."""

    outs: int
    ins: int
    num_warps: int
    stages: int
    is_early: bool = False
    is_narrow: bool = False


Kind = Literal["plain", "normed", "added", "gated"]
Form = tuple[Kind, int, int, bool]  # kind, columns in and out, whether it is one row

_MOST_NARROW_ROWS = 64  # by matrices of 8 bits, in parts; more are multiplied in 16


@dataclass(frozen=True, slots=True)
class Around:
    """What is done before and behind a product: the weights [in] and `eps` of a norm of its rows; the scales [out] of a
    matrix of 8 bits; rows [T, out] that are added; or, `is_gated`, SiLU of the first half of the results times the
    second half."""

    norm: Tensor | None = None
    eps: float = 0.0
    base: Tensor | None = None
    is_gated: bool = False
    scales: Tensor | None = None


class TorchProducts:
    """By torch's operators; `gate` [T, 2 I] -> [T, I] is the middle of the feed-forward part, if torch's own is not
    to be used."""

    def __init__(self, gate: Callable[[Tensor], Tensor] | None = None) -> None:
        self._gate = gate

    def plain(self, matrix: Matrix, x: Tensor) -> Tensor:
        """[T, out] of x [T, in]."""
        return matrix(x)

    def normed(self, matrix: Matrix, x: Tensor, norm: Norm) -> Tensor:
        """[T, out] of normalised x [T, in]."""
        return matrix(norm(x))

    def added(self, matrix: Matrix, x: Tensor, base: Tensor, *, keeps_base: bool = False) -> Tensor:
        """`base` [T, out] and what x [T, in] gives; `base` is used up, unless it is kept."""
        return matrix.added_to(base, x) if keeps_base else matrix.add_to(base, x)

    def gated(self, matrix: Matrix, x: Tensor, norm: Norm | None) -> Tensor:
        """[T, out / 2] of x, normalised where there is a norm: SiLU of the first half of the results times the second
        half."""
        both = matrix(x if norm is None else norm(x))
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

    def plain(self, matrix: Matrix, x: Tensor) -> Tensor:
        cut = self._cut("plain", matrix, x)
        return super().plain(matrix, x) if cut is None else self._product(matrix, x, Around(), cut)

    def normed(self, matrix: Matrix, x: Tensor, norm: Norm) -> Tensor:
        cut = self._cut("normed", matrix, x)
        if cut is None:
            return super().normed(matrix, x, norm)
        return self._product(matrix, x, Around(norm.weight, norm.eps), cut)

    def added(self, matrix: Matrix, x: Tensor, base: Tensor, *, keeps_base: bool = False) -> Tensor:
        cut = self._cut("added", matrix, x)
        if cut is None:
            return super().added(matrix, x, base, keeps_base=keeps_base)
        return self._product(matrix, x, Around(base=base), cut)

    def gated(self, matrix: Matrix, x: Tensor, norm: Norm | None) -> Tensor:
        cut = self._cut("gated", matrix, x)
        if cut is None:
            return super().gated(matrix, x, norm)
        around = Around(is_gated=True) if norm is None else Around(norm.weight, norm.eps, is_gated=True)
        return self._product(matrix, x, around, cut)

    def _cut(self, kind: Kind, matrix: Matrix, x: Tensor) -> Cut | None:
        cut = self._cuts.get((kind, matrix.num_in, matrix.num_out, len(x) == 1))
        if cut is not None and cut.is_narrow and not matrix.has_narrow:
            return None  # there was no memory to round it
        most = _MOST_NARROW_ROWS if matrix.is_narrow else MOST_ROWS
        return cut if len(x) <= most else None

    def _product(self, matrix: Matrix, x: Tensor, around: Around, cut: Cut) -> Tensor:
        weight = matrix.narrow.weight if cut.is_narrow else matrix.weight
        around = replace(around, scales=matrix.narrow.scales if cut.is_narrow else None)
        num_parts = -(-len(x) // MOST_ROWS)
        if num_parts == 1:
            return self._streamed.product(x, weight, matrix.bias, around, cut)  # type: ignore[no-any-return]
        bases = [None] * num_parts if around.base is None else around.base.chunk(num_parts)
        return torch.cat(
            [
                self._streamed.product(part, weight, matrix.bias, replace(around, base=base), cut)
                for part, base in zip(x.chunk(num_parts), bases, strict=True)
            ]
        )
