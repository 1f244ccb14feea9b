"""Products with weights in the processor's order: the same numbers, held once or twice, and modules that use them."""

import pytest
import torch
from torch import Tensor, nn

from spec_engine import onednn
from spec_engine.answer import Request
from spec_engine.bench.limit import pass_bytes, pass_operations
from spec_engine.config import load_preset
from spec_engine.events import Prefilled
from spec_engine.loading import load_engine
from spec_engine.model import fused as fused_module
from spec_engine.model import products
from spec_engine.model.fused import Fused, warm_up
from spec_engine.model.head_products import Joined, Summed, join_products
from spec_engine.model.memory import held_bytes
from spec_engine.model.products import Matrix, Part, packing_gain
from spec_engine.model.target import Taps, Target
from spec_engine.onednn import has_products
from spec_engine.sampling import SamplingParams
from spec_engine.stopping import StopRules
from spec_engine.tree import DraftTree
from tests.tiny_models import random_ids, tiny_model

HAS_PACKING = torch.backends.mkldnn.is_available()
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.skipif(not HAS_PACKING, reason="torch without oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("num_in", "num_out"), [(48, 80), (128, 256), (400, 500)])  # by both orders, or one alone
@torch.inference_mode()
def test_packed_products_are_the_same(dtype: torch.dtype, has_bias: bool, num_in: int, num_out: int) -> None:
    if not has_products(dtype):
        pytest.skip("this processor does not multiply such numbers")
    weight = random(num_in, num_out, dtype=dtype) / num_in**0.5
    bias = random(num_out, dtype=dtype) if has_bias else None
    matrix = Matrix(weight, bias).packed()
    for num_rows in (1, 2, 3, 4, 5, 16, 200):
        x, base = random(num_rows, num_in, dtype=dtype), random(num_rows, num_out, dtype=dtype)
        want = x.double() @ weight.double() + (0 if bias is None else bias.double())
        torch.testing.assert_close(matrix(x).double(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        torch.testing.assert_close(
            matrix.added_to(base, x).double(), base.double() + want, atol=2 * TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize(
    "is_packed", [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_PACKING, reason="no oneDNN"))]
)
@pytest.mark.parametrize("biases", [(False, False), (True, False), (True, True)])
@torch.inference_mode()
def test_joined_layers_give_what_they_gave(
    biases: tuple[bool, bool], is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "packing_gain", lambda dtype: 2.0 if is_packed else 1.0)
    monkeypatch.setattr(products, "_SMALL", 500)  # so that both ways of holding weights are met
    torch.manual_seed(0)
    owner = nn.Module()
    owner.first, owner.second = (nn.Linear(16, width, bias=bias) for width, bias in zip((24, 40), biases, strict=True))
    owner.pair = Joined(owner.first, owner.second)  # type: ignore[assignment]
    owner.alone = Summed(nn.Linear(16, 24), keeps_base=True)  # type: ignore[assignment]
    rows = [random(*shape, 16, dtype=torch.float32) for shape in ((1, 1), (1, 7), (2, 3))]
    before = [(owner.pair(x), owner.alone(x), owner.alone.added_to(x.repeat(1, 1, 2)[..., :24], x)) for x in rows]  # type: ignore[operator, union-attr]
    join_products(owner)
    for x, want in zip(rows, before, strict=True):
        found = owner.pair(x), owner.alone(x), owner.alone.added_to(x.repeat(1, 1, 2)[..., :24], x)  # type: ignore[operator, union-attr]
        for one, other in zip(found, want, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    held = held_bytes(owner)[0]
    assert held >= 4 * 16 * 88
    assert held < 4 * 16 * 88 * 2 + 1000  # only what is small is held twice


@pytest.mark.skipif(not HAS_PACKING, reason="torch without oneDNN")
@torch.inference_mode()
def test_a_part_stands_for_some_columns() -> None:
    weight = random(16, 30, dtype=torch.float32)
    x = random(2, 3, 16, dtype=torch.float32)
    part = Part(Matrix(weight, None).packed(), 10, 25)
    torch.testing.assert_close(part(x), (x @ weight)[..., 10:25])


@pytest.mark.skipif(not HAS_PACKING, reason="torch without oneDNN")
@pytest.mark.parametrize("name", ["llama", "qwen2", "smollm3", "mistral-sliding"])
@pytest.mark.parametrize("is_small", [False, True])
def test_a_packed_model_computes_the_same(name: str, is_small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own modules too, where they gave up their weights; and what a pass needs is counted as before."""
    monkeypatch.setattr(products, "packing_gain", lambda dtype: 2.0)
    monkeypatch.setattr(fused_module, "_SMALL_MODEL", 1 << 40 if is_small else 0)
    plain, packed = Target(tiny_model(name), 200, 64), Target(tiny_model(name), 200, 64, may_join=True)
    fast = packed._forward
    assert isinstance(fast, Fused)
    parts = [module for module in packed.model.modules() if isinstance(module, Part)]
    assert bool(parts) != is_small
    assert pass_bytes(packed, 50) == pass_bytes(plain, 50)
    assert pass_operations(packed, 50, 8) == pass_operations(plain, 50, 8)
    for target in (plain, packed):
        for _ in target.prefill(random_ids(60, 1)):
            pass
    for tree in (DraftTree.root(7), DraftTree.chain((7, 8, 9, 10, 11))):
        want = plain.verify(tree, Taps()).logits
        for forward in (fast, packed.runner):
            packed._forward = forward
            torch.testing.assert_close(packed.verify(tree, Taps()).logits, want, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not HAS_PACKING, reason="torch without oneDNN")
def test_a_large_model_holds_its_layers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "packing_gain", lambda dtype: 2.0)
    monkeypatch.setattr(fused_module, "_SMALL_MODEL", 0)
    monkeypatch.setattr(products, "_SMALL", 0)
    plain, packed = Target(tiny_model("llama"), 64, 32), Target(tiny_model("llama"), 64, 32, may_join=True)
    output = packed.model.get_output_embeddings().weight.nbytes
    (before,), (after,) = held_bytes(plain.weights), held_bytes(packed.weights)
    tables = 2 * packed.runner.shapes[0].key_size * 4 * 412  # rotary, as long as the first check needed
    assert after == pytest.approx(before + output + tables, rel=0.01)


@pytest.mark.skipif(not HAS_PACKING, reason="torch without oneDNN")
def test_each_form_of_product_is_made_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "packing_gain", lambda dtype: 2.0)
    target = Target(tiny_model("llama"), 64, 32, may_join=True)
    sizes: list[tuple[int, int, int]] = []
    call = Matrix.__call__
    monkeypatch.setattr(
        Matrix, "__call__", lambda self, x: sizes.append((len(x), self.num_in, self.num_out)) or call(self, x)
    )
    warm_up(target.weights[1], 3, 64)
    assert {rows for rows, _, _ in sizes} == {1, 2, 3, 4, 8, 16, 32, 64, 128}
    assert len(sizes) == len(set(sizes)) > 6
    sizes.clear()
    modules = Target(tiny_model("llama"), 64, 32).weights[1]  # transformers' own: there is nothing to be made
    warm_up(modules, 3, 64)
    assert sizes == []


def test_packing_is_for_processors_that_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packing_gain(torch.float16) == 1.0
    assert packing_gain(torch.float64) == 1.0
    products._measured.cache_clear()
    seconds = iter([1.0, 0.9] * 7)
    monkeypatch.setattr(products, "_seconds", lambda *_: next(seconds))
    assert packing_gain(torch.float32) == 1.0  # 1.1 times is within the noise
    products._measured.cache_clear()
    monkeypatch.setattr(products, "_seconds", lambda product, *_: 0.5 if isinstance(product, Matrix) else 1.0)
    assert packing_gain(torch.float32) == (2.0 if HAS_PACKING else 1.0)
    products._measured.cache_clear()

    monkeypatch.setattr(onednn, "has_products", lambda dtype: False)
    assert packing_gain(torch.float32) == 1.0
    products._measured.cache_clear()


@pytest.mark.skipif(not HAS_PACKING, reason="torch without oneDNN")
def test_prompts_of_all_lengths_need_few_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compiled and kept, so many rows are filled up; what is added is not seen."""
    forms: set[int] = set()
    real = onednn.product

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        forms.add(len(x))
        return real(x, weight, bias)

    monkeypatch.setattr(onednn, "product", noted)
    weight, bias = torch.randn(256, 520) / 16, torch.randn(520)  # held in one order alone
    matrix = Matrix(weight, bias, is_packed=True)
    for num_rows in range(2, 600):
        x = torch.randn(num_rows, 256)
        torch.testing.assert_close(matrix(x), x @ weight + bias, atol=1e-4, rtol=1e-4)
    assert forms >= set(range(2, 33))
    assert {rows for rows in forms if rows > 32} == {64, *range(128, 641, 64)}
    assert max(forms) < 700


@pytest.mark.slow
@pytest.mark.parametrize("name", ["builtin", "builtin-longspec", "builtin-eagle3"])
def test_the_first_draft_finds_its_products_ready(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of the target and of every kind of draft model: an answer of few tokens has no product of a new form."""
    monkeypatch.setattr(products, "packing_gain", lambda dtype: 2.0 if HAS_PACKING else 1.0)
    forms: set[tuple[int, int, int]] = set()
    call = Matrix.__call__

    def noted(self: Matrix, x: Tensor) -> Tensor:
        if self._packed is not None:
            forms.add((len(x), self.num_in, self.num_out))
        return call(self, x)

    monkeypatch.setattr(Matrix, "__call__", noted)
    preset = load_preset(name)
    engine = load_engine(preset, drafter=preset.draft.model_kind, device="cpu", adaptive=False)
    ready = set(forms)
    assert bool(ready) == HAS_PACKING
    for event in engine.generate(Request(tuple(range(100, 500)) * 2, SamplingParams(), StopRules(8))):
        if isinstance(event, Prefilled):
            forms.clear()  # those of the prompt, which is read in large parts
    assert forms
    assert forms <= ready
