"""Norms in the operators that a device takes fastest, against float64 and torch's own."""

import pytest
import torch
from torch import Tensor, nn

from spec_engine.model.norm import Norm, swap_norms


def exact(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 256), (33, 64), (2, 5, 32), (0, 8)])
def test_a_norm_is_as_right_as_torchs(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    weight = torch.rand(shape[-1], generator=torch.Generator().manual_seed(1)).to(dtype)
    got, torchs = Norm(weight, 1e-6)(x), torch.rms_norm(x, weight.shape, weight, 1e-6)
    assert got.dtype == dtype
    want = exact(x, weight, 1e-6)
    error, usual = ((one.double() - want).abs().sum() for one in (got, torchs))
    assert error <= 2 * usual + 1e-12


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 1e15])
def test_tiny_and_huge_rows(size: float) -> None:
    """eps keeps rows of zeros zeros, and rows of tiny numbers tiny."""
    x = size * torch.ones(2, 16)
    want = exact(x, torch.ones(16), 1e-6).float()
    torch.testing.assert_close(Norm(torch.ones(16), 1e-6)(x), want, rtol=1e-5, atol=1e-30)


def test_modules_are_swapped_for_good() -> None:
    head = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8, eps=1e-5)).requires_grad_(False)
    head[1].weight.uniform_(0.5, 2.0)
    x = torch.randn(3, 8)
    before = head(x)
    swap_norms(head)
    assert isinstance(head[1].forward, Norm)
    torch.testing.assert_close(head(x), before)
