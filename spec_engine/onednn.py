"""Products of two matrices by oneDNN, which torch itself asks in half precision alone: in float32 it asks MKL, which on
AMD's processors does not use all that they have.

Job: `product`, `packed`, and `has_products`, whether this build of torch can do either. Non-job: saying where that is
faster (attention/contest.py, model/products.py).
"""

import torch
from torch import Tensor

_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_REORDER = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_FEW = 8  # rows that packed weights are laid out for


def has_products() -> bool:
    """Whether there is oneDNN; torch for Apple's processors comes without it."""
    return _LINEAR is not None and _REORDER is not None and torch.backends.mkldnn.is_available()


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
