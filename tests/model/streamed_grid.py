"""Run by test_streamed: the kernels of `model.streamed` against float64, and whole passes that go through them.

Arguments: a dtype and a device, or ``passes``; on a card also ``chain`` and ``card``. Prints "ok".
"""

import sys
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import silu

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.model import fused as fused_module
from spec_engine.model import products as products_module
from spec_engine.model import runner as runner_module
from spec_engine.model.block_products import Around, ChosenProducts, Cut, usual_cuts
from spec_engine.model.capture import CudaCapture, Work
from spec_engine.model.fused import Fused
from spec_engine.model.streamed import product as streamed
from spec_engine.model.target import Taps, Target
from spec_engine.tree import DraftTree
from tests.tiny_models import random_ids, tiny_model

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
EPS = 1e-5
SECONDS = cycle((2.0, 1.0, 1.5, 1.5, 2.0, 1.0, 2.0, 1.0))  # torch, three cuts of ours, and the best twice again
FASTER = iter(range(10**6, 0, -1))  # what is tried later is faster: the last cut, an early one on Hopper
SMALL = Cut(16, 64, 4, 2), Cut(32, 32, 2, 3)  # so that several blocks are read


def near(found: Tensor, want: Tensor) -> None:
    assert found.shape == want.shape
    assert torch.isfinite(found).all()
    limit = TOLERANCE[found.dtype] * float(want.norm())
    assert float((found.double() - want).norm()) <= limit, (found.shape, float((found.double() - want).norm()) / limit)


def check_kernels(dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    sizes = [(256, 128), (200, 72), (96, 33), (1024, 48)]
    if device != "cpu":
        sizes += [(4096, 6144), (14336, 4096)]
    for (num_in, num_out), num_rows in product(sizes, (1, 2, 5, 16)):
        x = 3 * random(num_rows, num_in + 8)[:, :-8]  # rows may lie apart
        matrix, bias, norm, base = (
            random(num_out, num_in) / 8,
            random(num_out),
            random(num_in),
            random(num_rows, num_out),
        )
        wide = x.double()
        normed = wide * (wide.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * norm.double()
        true = matrix.double().t()
        gates, ups = matrix[: num_out // 2].double().t(), matrix[num_out // 2 : num_out // 2 * 2].double().t()
        both = matrix[: num_out // 2 * 2].t()
        for cut in (*SMALL, *usual_cuts(num_rows, x.device)):  # on Hopper early ones too
            near(streamed(x, matrix.t(), None, Around(), cut), wide @ true)
            near(streamed(x, matrix.t(), bias, Around(norm, EPS), cut), normed @ true + bias.double())
            near(streamed(x, matrix.t(), None, Around(base=base), cut), wide @ true + base.double())
            near(streamed(x, both, None, Around(norm, EPS, is_gated=True), cut), silu(normed @ gates) * (normed @ ups))


def check_passes() -> None:
    """Passes of ordinary models through our kernels give what transformers' forward gives."""
    streamed(torch.ones(1, 64), torch.ones(32, 64).t(), None, Around(), SMALL[0])  # what cannot run is not chosen below
    runner_module.pick = lambda device, dtype: Pick(ReferenceBackend(), "for tests")  # type: ignore[assignment]
    fused_module.packs = lambda device, dtype: False  # type: ignore[assignment]  # as on a GPU
    products_module.gains_by_columns = lambda weight: False  # type: ignore[assignment]
    for name in ("llama", "qwen2", "qwen3"):
        plain, target = Target(tiny_model(name), 200, 64), Target(tiny_model(name), 200, 64, may_join=True)
        forward = target.weights[1]
        assert isinstance(forward, Fused)
        forward.choose_products(lambda work: next(SECONDS))
        assert isinstance(forward._products, ChosenProducts)
        assert len(forward._products._cuts) == 10, "five forms, with one row and with more"
        assert "5 of 5 forms with 1 row, 2.00 to 2.00 times as fast" in target.passes_note
        for one in (plain, target):
            for _ in one.prefill(random_ids(60, 1)):
                pass
        last = int(plain.model.config.num_hidden_layers)
        taps = Taps(attention_row=True, features=(0, last))
        for tree in (DraftTree.root(3), DraftTree((3, 4, 5, 6), (-1, 0, 0, 1), (0, 1, 1, 2), (0.0, -1.0, -1.0, -2.0))):
            found, want = (one.verify(tree, taps) for one in (target, plain))
            near(found.logits, want.logits.double())
            kept, true = target.commit(found, (0,)), plain.commit(want, (0,))
            assert kept.features is not None
            assert true.features is not None
            near(kept.features, true.features.double())


@torch.inference_mode()
def check_chain() -> None:
    """Products that need one another, captured and replayed often: kernels that begin early give the same bits as those
    that wait for their turn."""
    device, generator = torch.device("cuda"), torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

    hidden, inner, layers = 2048, 5120, 6
    shapes = {"mix": (hidden, hidden), "out": (hidden, hidden), "both": (2 * inner, hidden), "down": (hidden, inner)}
    weights = [{name: random(*shape) / shape[1] ** 0.5 for name, shape in shapes.items()} for _ in range(layers)]
    norm = torch.ones(hidden, dtype=torch.bfloat16, device=device)

    def run(x: Tensor, cut: Cut) -> Tensor:
        for layer in weights:
            mixed = streamed(x, layer["mix"].t(), None, Around(norm, EPS), cut)
            x = streamed(mixed, layer["out"].t(), None, Around(base=x), cut)
            inside = streamed(x, layer["both"].t(), None, Around(norm, EPS, is_gated=True), cut)
            x = streamed(inside, layer["down"].t(), None, Around(base=x), cut)
        return x

    def work(x: Tensor, cut: Cut) -> Work:
        return lambda: (run(x, cut),)

    for num_rows in (1, 5, 16):
        x = random(num_rows, hidden)
        for cut in usual_cuts(num_rows, device):
            if not cut.is_early:
                continue
            want = run(x, replace(cut, is_early=False)).clone()
            replay = CudaCapture(device, is_brief=True)(work(x, cut))
            for _ in range(200):
                (found,) = replay()
                assert torch.equal(found, want), (num_rows, cut)


def check_passes_on_the_card() -> None:
    """Captured passes through our products, behind the real attention, give what transformers' modules give."""
    for name in ("llama", "qwen2", "qwen3"):
        plain, target = (
            Target(tiny_model(name, dtype=torch.bfloat16).cuda(), 200, 64, 1 << 28, may_join=joins)
            for joins in (False, True)
        )
        forward = target.weights[1]
        assert isinstance(forward, Fused)
        forward.choose_products(lambda work: float(next(FASTER)))
        assert isinstance(forward._products, ChosenProducts)
        for one in (plain, target):
            for _ in one.prefill(random_ids(60, 1)):
                pass
        tree = DraftTree((3, 4, 5, 6), (-1, 0, 0, 1), (0, 1, 1, 2), (0.0, -1.0, -1.0, -2.0))
        for size in (DraftTree.root(3), tree) * 6:  # a pass is captured at its third use
            found, want = (one.verify(size, Taps()).logits.float() for one in (target, plain))
            assert float((found - want).norm()) <= 5e-2 * float(want.norm())


if __name__ == "__main__":
    if sys.argv[1] == "passes":
        check_passes()
    elif sys.argv[1] == "chain":
        check_chain()
    elif sys.argv[1] == "card":
        check_passes_on_the_card()
    else:
        check_kernels(getattr(torch, sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cpu")
    print("ok")
