"""The flash-attn backend against the reference, with stand-ins for flash-attn's two functions.

The package needs CUDA to be built. The stand-ins keep its documented conventions: [1, rows, heads, D] in and out, lse
as [1, heads, rows], a diagonal that ends in the bottom right corner, half precision and head sizes of multiples of 8.
"""

import sys
import types

import pytest
import torch
from torch import Tensor

from spec_engine.attention import Scoring, pick
from spec_engine.attention.flash import FlashBackend
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.errors import MissingDependency
from tests.attention.test_contract import SHAPES, assert_same, make, random_bias

TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 5e-2}


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float, causal: bool) -> tuple[Tensor, Tensor]:
    assert q.dtype in TOLERANCE
    assert q.shape[3] % 8 == 0
    assert q.shape[3] <= 256
    assert q.shape[2] % k.shape[2] == 0
    assert all(x.stride(3) == 1 for x in (q, k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scoring = Scoring(scale, softcap or None)
    if causal:
        out, lse = ReferenceBackend().causal(q, k, v, k.shape[2] - q.shape[2], scoring)
    else:
        out, lse = ReferenceBackend().hybrid(q, k, v, k.shape[2], None, scoring)
    return out.transpose(1, 2), lse


def many_rows(q, k, v, softmax_scale, causal, softcap, return_attn_probs):
    assert causal
    assert return_attn_probs
    return *attention(q, k, v, softmax_scale, softcap, causal=True), None


def few_rows(q, k_cache, v_cache, softmax_scale, softcap, return_softmax_lse):
    assert return_softmax_lse
    return attention(q, k_cache, v_cache, softmax_scale, softcap, causal=False)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FlashBackend:
    module = types.ModuleType("flash_attn")
    module.flash_attn_func, module.flash_attn_with_kvcache = many_rows, few_rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return FlashBackend()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hybrid_and_causal_equal_the_reference(
    backend: FlashBackend, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    for num_new, prefix_len in ((1, 1), (1, 300), (7, 63), (33, 300)):
        q, k, v = make(shape, num_new, prefix_len, dtype)
        wide = q.double(), k.double(), v.double()
        for softcap, has_sink in ((None, False), (5.0, False), (None, True)):
            sink = torch.randn(shape[0], generator=torch.Generator().manual_seed(1)) if has_sink else None
            scoring = Scoring(shape[2] ** -0.5, softcap, sink)
            for bias in (None, random_bias(num_new, 0, dtype), random_bias(num_new, min(5, prefix_len), dtype)):
                want = ReferenceBackend().hybrid(*wide, prefix_len, bias, scoring)
                assert_same(backend.hybrid(q, k, v, prefix_len, bias, scoring), want, TOLERANCE[dtype])
            want = ReferenceBackend().causal(*wide, prefix_len, scoring)
            assert_same(backend.causal(q, k, v, prefix_len, scoring), want, TOLERANCE[dtype])


def test_what_flash_attn_cannot_do_goes_the_other_way(backend: FlashBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd head sizes, values of another size, float32: the stand-ins would fail on them."""
    for shape, dtype, value_size in (
        ((4, 2, 20), torch.float16, 0),
        ((4, 2, 16), torch.float16, 24),
        ((4, 2, 16), torch.float32, 0),
    ):
        q, k, v = make(shape, 5, 40, dtype, value_size)
        bias, scoring = random_bias(5, 0, dtype), Scoring(0.25, 3.0)  # a soft cap keeps torch's CUDA operator out too
        wide = q.double(), k.double(), v.double()
        assert_same(
            backend.hybrid(q, k, v, 40, bias, scoring), ReferenceBackend().hybrid(*wide, 40, bias, scoring), 5e-3
        )
        assert_same(backend.causal(q, k, v, 40, scoring), ReferenceBackend().causal(*wide, 40, scoring), 5e-3)


def test_a_package_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(MissingDependency, match="flash-attn cannot be used"):
        FlashBackend()
    assert pick(torch.device("cpu"), torch.float32).reason.startswith("torch's flash operator for the CPU")
