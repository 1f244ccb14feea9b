"""Every backend against the float64 reference, over a grid of shapes."""

import importlib.util
import math
import sys
import types

import pytest
import torch
from torch import Tensor

from spec_engine.attention import AttentionBackend, Scoring, TreeBias, base, by_head, pick, sdpa, tree_bias
from spec_engine.attention.by_head import attend_by_head
from spec_engine.attention.contest import RowClass, Verdict
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.attention.sdpa import CpuBackend, CudaBackend, MatmulBackend

CPU = torch.device("cpu")


class ByHeadBackend(CpuBackend):
    """Products head by head wherever they can be used, whatever would be faster."""

    name = "by-head"

    def __init__(self) -> None:
        super().__init__(Verdict(((RowClass("all", range(1, 1 << 30), 1), 9.0),)))


BACKENDS = [CpuBackend(), ByHeadBackend(), MatmulBackend()]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
SHAPES = [(4, 4, 16), (4, 2, 32), (8, 1, 24), (14, 2, 64)]  # Hq, Hk, D

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short contexts have several blocks of keys, and keys that are left over."""
    monkeypatch.setattr(by_head, "_LEAST_KEYS", 16)
    monkeypatch.setattr(by_head, "_LEAST_WORK", 1)
    monkeypatch.setattr(sdpa, "_SQUARE_ROWS", 4)


def make(shape: tuple[int, int, int], num_new: int, prefix_len: int, dtype: torch.dtype, value_size: int = 0):
    generator = torch.Generator().manual_seed(num_new * 1000 + prefix_len)
    num_heads, num_kv_heads, size = shape
    q = torch.randn(1, num_new, num_heads, size, generator=generator, dtype=torch.float64).transpose(1, 2)
    room = prefix_len + num_new + 9  # views of a larger buffer, as a cache gives them
    k = torch.randn(1, num_kv_heads, room, size, generator=generator, dtype=torch.float64)
    v = torch.randn(1, num_kv_heads, room, value_size or size, generator=generator, dtype=torch.float64)
    length = prefix_len + num_new
    return q.to(dtype), k.to(dtype)[:, :, :length], v.to(dtype)[:, :, :length]


def random_bias(num_new: int, num_edge: int, dtype: torch.dtype, *, with_dead: bool = False) -> TreeBias:
    generator = torch.Generator().manual_seed(num_new + num_edge)
    visible = torch.rand(num_new, num_edge + num_new, generator=generator) < 0.4
    visible[:, num_edge:] |= torch.eye(num_new, dtype=torch.bool)
    if with_dead:
        visible[num_new // 2] = False
    return tree_bias(visible, dtype, CPU)


def assert_same(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], tolerance: float) -> None:
    out, lse = got
    assert out.shape == want[0].shape
    assert lse.shape == want[1].shape
    assert (out.double() - want[0].double()).abs().max() <= tolerance
    finite = want[1].isfinite()
    assert torch.equal(lse.isfinite(), finite)
    assert (lse[~finite] == -math.inf).all()
    if finite.any():
        assert (lse[finite].double() - want[1][finite].double()).abs().max() <= 4 * tolerance


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hybrid_grid(backend: AttentionBackend, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    scoring = Scoring(shape[2] ** -0.5)
    for num_new in (1, 2, 7, 33):
        for prefix_len in (0, 1, 63, 1030):
            q, k, v = make(shape, num_new, prefix_len, dtype)
            for bias in (None, random_bias(num_new, 0, dtype), random_bias(num_new, min(5, prefix_len), dtype)):
                want = ReferenceBackend().hybrid(q.double(), k.double(), v.double(), prefix_len, bias, scoring)
                assert_same(backend.hybrid(q, k, v, prefix_len, bias, scoring), want, TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_causal_grid(backend: AttentionBackend, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for num_new, prefix_len in ((1, 0), (9, 0), (5, 40), (64, 1), (40, 1030)):
            q, k, v = make(shape, num_new, prefix_len, dtype)
            scoring = Scoring(0.3)
            want = ReferenceBackend().causal(q.double(), k.double(), v.double(), prefix_len, scoring)
            assert_same(backend.causal(q, k, v, prefix_len, scoring), want, TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_long_chunk_is_read_in_parts(backend: AttentionBackend, softcap: float | None) -> None:
    """No mask of as many columns as a chunk has rows, also where no flash operator helps."""
    q, k, v = make((4, 2, 8), 2100, 40, torch.float32)
    scoring = Scoring(0.3, softcap)
    want = ReferenceBackend().causal(q.double(), k.double(), v.double(), 40, scoring)
    assert_same(backend.causal(q, k, v, 40, scoring), want, TOLERANCE[torch.float32])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("has_sink", [False, True])
@pytest.mark.parametrize("value_size", [0, 20])
def test_softcap_sink_and_value_size(
    backend: AttentionBackend, softcap: float | None, has_sink: bool, value_size: int
) -> None:
    sink = torch.randn(8, dtype=torch.float64) if has_sink else None
    scoring = Scoring(0.5, softcap, sink)
    q, k, v = make((8, 2, 16), 6, 1100, torch.float64, value_size)
    bias = random_bias(6, 4, torch.float64)
    want = ReferenceBackend().hybrid(q, k, v, 1100, bias, scoring)
    assert_same(backend.hybrid(q, k, v, 1100, bias, scoring), want, 1e-12)
    assert_same(backend.causal(q, k, v, 1100, scoring), ReferenceBackend().causal(q, k, v, 1100, scoring), 1e-12)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("prefix_len", [0, 3, 50])
def test_fully_masked_row(backend: AttentionBackend, softcap: float | None, prefix_len: int) -> None:
    """Out is 0 and lse -inf where nothing is seen; with a prefix the row is that of the prefix."""
    num_edge = min(3, prefix_len)
    bias = random_bias(4, num_edge, torch.float32, with_dead=True)
    q, k, v = make((4, 2, 16), 4, prefix_len, torch.float32)
    scoring = Scoring(0.25, softcap)
    out, lse = backend.hybrid(q, k, v, prefix_len, bias, scoring)
    want = ReferenceBackend().hybrid(q.double(), k.double(), v.double(), prefix_len, bias, scoring)
    assert_same((out, lse), want, 2e-5)
    if prefix_len <= num_edge:
        assert (out[:, :, 2] == 0).all()
        assert (lse[:, :, 2] == -math.inf).all()


def test_long_float32_prefix_goes_through_blocks() -> None:
    shape = (8, 2, 16)
    q, k, v = make(shape, 16, 8200, torch.float32)
    bias = random_bias(16, 0, torch.float32)
    want = ReferenceBackend().hybrid(q.double(), k.double(), v.double(), 8200, bias, Scoring(0.25))
    assert_same(CpuBackend().hybrid(q, k, v, 8200, bias, Scoring(0.25)), want, 2e-5)


@pytest.mark.parametrize(("num_new", "num_keys"), [(1, 9000), (40, 9000), (700, 3000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_over_blocks_of_keys_and_rows(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, num_new: int, num_keys: int
) -> None:
    """Several blocks of keys, and of rows; logits so large that their rounding would show without the subtraction."""
    monkeypatch.setattr(by_head, "_LEAST_KEYS", 512)
    q, k, v = make((8, 2, 64), num_new, num_keys, dtype)
    blocks = by_head.whole_blocks(4 * num_new, num_keys, 64, dtype)
    num_keys = sum(blocks)
    assert len(set(blocks)) > 1
    k, v = k[:, :, :num_keys], v[:, :, :num_keys]
    want, want_lse = ReferenceBackend().hybrid(q.double(), k.double(), v.double(), num_keys, None, Scoring(0.5))
    folded = q.reshape(1, 2, -1, 64)
    out, lse = attend_by_head(folded, k, v, 0.5, blocks)
    assert_same((out, lse), (want.view(out.shape), want_lse.view(lse.shape)), 5e-2 if dtype == torch.bfloat16 else 2e-5)
    error = (out.double() - want.view(out.shape)).square().mean().sqrt() / want.square().mean().sqrt()
    logits = (folded @ k.transpose(-1, -2) * 0.5).bfloat16().float()  # rounded as they are
    plain = torch.softmax(logits, dim=-1).double() @ v.double()
    assert error < 0.7 * (plain - want.view(out.shape)).square().mean().sqrt() / want.square().mean().sqrt()


@pytest.mark.parametrize("num_new", [128, 129, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_a_long_chunk_go_in_steps(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, num_new: int
) -> None:
    monkeypatch.setattr(sdpa, "_SQUARE_ROWS", 128)
    q, k, v = make((4, 2, 32), num_new, 50, dtype)
    want = ReferenceBackend().causal(q.double(), k.double(), v.double(), 50, Scoring(0.2))
    assert_same(ByHeadBackend().causal(q, k, v, 50, Scoring(0.2)), want, 5e-2 if dtype == torch.bfloat16 else 2e-5)


def test_large_logits_do_not_overflow() -> None:
    q, k, v = make((4, 2, 16), 8, 1500, torch.float32)
    for backend in BACKENDS:
        want = ReferenceBackend().hybrid(q.double(), k.double(), v.double(), 1500, None, Scoring(40.0))
        out, lse = backend.hybrid(q, k, v, 1500, None, Scoring(40.0))
        assert (out.double() - want[0]).abs().max() < 1e-2
        assert ((lse - want[1]).abs() / want[1].abs()).max() < 1e-5


def test_pick_on_the_cpu_says_why() -> None:
    picked = pick(CPU, torch.float32)
    assert picked.backend.name == "torch-cpu-flash"
    assert "fold" in picked.reason


class Kernels(CpuBackend):
    """In the place of our Triton kernels; `error` is raised where it is one."""

    name = "kernels"
    error = ""

    def __init__(self, prefill: AttentionBackend) -> None:
        super().__init__()

    def hybrid(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, bias: TreeBias | None, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        if self.error:
            raise RuntimeError(self.error)
        return super().hybrid(q, k, v, prefix_len, bias, scoring)


@pytest.mark.parametrize("error", ["", "Failed to find C compiler. Please specify via CC.\nMore."])
def test_kernels_that_do_not_run_on_this_card_are_not_picked(monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    make = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device, **options: make(*shape, **options))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "triton" else None)
    module = types.ModuleType("spec_engine.attention.triton")
    module.TritonBackend = Kernels  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Kernels, "error", error)
    picked = pick(torch.device("cuda"), torch.bfloat16)
    assert picked.backend.name == ("torch-cuda-flash" if error else "kernels")
    assert picked.reason.startswith("torch's flash operator for CUDA, because" if error else "our Triton kernels")
    assert picked.reason.endswith("Triton's kernels of ours cannot be used: Failed to find C compiler. Please specify "
                                  "via CC.") == bool(error)  # fmt: skip


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_cuda_backends(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    backends = [CudaBackend(), MatmulBackend(), pick(device, dtype).backend]
    for shape in [(8, 2, 64), (14, 2, 64), (4, 4, 20), (32, 8, 128)]:
        for num_new, prefix_len in ((1, 0), (1, 700), (16, 0), (16, 3000), (60, 9000)):
            q, k, v = (x.to(device) for x in make(shape, num_new, prefix_len, dtype))
            scoring = Scoring(shape[2] ** -0.5)
            wide = (q.double(), k.double(), v.double(), prefix_len)
            for num_edge in (0, min(3, prefix_len)):
                bias = random_bias(num_new, num_edge, dtype)
                bias = TreeBias(bias.values.to(device), None)
                for backend in backends:
                    want = ReferenceBackend().hybrid(*wide, bias, scoring)
                    assert_same(backend.hybrid(q, k, v, prefix_len, bias, scoring), want, 3e-2)
            for backend in backends:
                want = ReferenceBackend().causal(*wide, scoring)
                assert_same(backend.causal(q, k, v, prefix_len, scoring), want, 3e-2)


@pytest.mark.parametrize(
    ("capability", "driver", "is_early"),
    [
        ((9, 0), 13_000, True),
        ((9, 0), 12_030, True),
        ((9, 0), 12_020, False),
        ((9, 0), 0, True),
        ((8, 9), 13_000, False),
    ],
)
def test_kernels_begin_early_where_card_and_driver_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], driver: int, is_early: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(base, "_driver_version", lambda: driver)
    assert base.starts_early(torch.device("cuda")) == is_early
    assert not base.starts_early(torch.device("cpu"))


def test_a_machine_without_the_driver_tells_no_version() -> None:
    assert base._driver_version() >= 0
