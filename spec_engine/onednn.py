"""Products of two matrices by oneDNN, which torch itself asks in half precision alone: in float32 it asks MKL, which on
AMD's processors does not use all that they have.

Job: `product`, `packed`, and `has_products`, whether this build of torch can do either. Non-job: saying where that is
faster (attention/contest.py, model/products.py).
"""

from functools import cache

import torch
from torch import Tensor

_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_REORDER = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_FEW = 8  # rows that packed weights are laid out for


@cache
def has_products(dtype: torch.dtype) -> bool:
    """Whether there is oneDNN, and it multiplies this dtype on this processor: torch for Apple's comes without it, and
    without AVX512 there is no bfloat16. Tried once."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    ones = torch.ones(2, 2, dtype=dtype)
    try:
        found = product(ones, packed(ones)), product(ones, ones)
    except (RuntimeError, NotImplementedError):  # another processor, or another torch
        return False
    return all(bool((each == 2).all()) for each in found)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, [T, out] of x [T, in] and `weight` [out, in], any strides, or as `packed` gave it.

    float32 and bfloat16; without gradients. Weights that are not packed are copied in pieces by each call.

    Raises:
        RuntimeError: `has_products` is False, or this processor cannot do the dtype.
    """
    if _LINEAR is None:
        raise RuntimeError("this build of torch has no oneDNN")
    result: Tensor = _LINEAR(x, weight, bias, "none", [], "")
    return result


def packed(weight: Tensor) -> Tensor:
    """A copy of `weight` [out, in] in oneDNN's own order; see `product`."""
    if _REORDER is None:
        raise RuntimeError("this build of torch has no oneDNN")
    result: Tensor = _REORDER(weight.contiguous(), _FEW)
    return result
