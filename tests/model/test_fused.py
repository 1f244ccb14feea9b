"""The fast forward gives the logits of transformers' forward, or steps aside."""

import pytest
import torch

from spec_engine.cache.slots import SlotCache
from spec_engine.model.fused import Fused, fused
from spec_engine.model.hf_attention import Pass
from spec_engine.model.layout import lay_out_for_small_passes
from spec_engine.model.runner import Runner
from spec_engine.model.target import Taps, Target
from spec_engine.tree import DraftTree
from tests.tiny_models import tiny_model

ORDINARY = ("llama", "llama-mha", "llama-linear", "llama-llama3", "llama-yarn", "qwen2", "qwen3", "mistral", "smollm3")
PROMPT = [(7 * number) % 250 + 1 for number in range(90)]


def run(runner: Runner, forward: Fused | Runner) -> list[torch.Tensor]:
    """Logits of a prefill, of its last row alone, of single tokens and of a tree level."""
    slots = SlotCache(runner.shapes, 128)
    cache = runner.bind(slots)
    logits = [forward.run(cache, Pass(runner.backend, 0, is_causal=True), PROMPT, torch.arange(90))]
    logits.append(forward.run(cache, Pass(runner.backend, 0, is_causal=True), PROMPT, torch.arange(90), last=1))
    slots.advance(90)
    for token in (5, 9):
        logits.append(forward.run(cache, Pass(runner.backend, slots.length), [token], torch.tensor([slots.length])))
        slots.advance(1)
    visible = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    offsets = torch.tensor([0, 1, 1])
    tree = Pass(runner.backend, slots.length, visible=visible, offsets=offsets)
    logits.append(forward.run(cache, tree, [3, 4, 5], offsets + slots.length))
    return logits


@pytest.mark.parametrize("name", [*ORDINARY, "mistral-sliding"])
@pytest.mark.parametrize("by_columns", [False, True])
def test_same_logits_as_transformers(name: str, by_columns: bool) -> None:
    model = tiny_model(name)
    if by_columns:
        lay_out_for_small_passes(model)
    runner = Runner(model)
    want = run(runner, runner)
    fast = fused(runner)
    assert isinstance(fast, Fused)
    for after in (fast, runner):  # the model's own modules hold views of the joined weights and still work
        for ours, theirs in zip(run(runner, after), want, strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_joined_weights_are_not_held_twice() -> None:
    model = tiny_model("llama")
    num_bytes = sum(p.untyped_storage().nbytes() for p in {p.data_ptr(): p for p in model.parameters()}.values())
    assert isinstance(fused(Runner(model)), Fused)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(storages.values()) == num_bytes


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "phi3", "cohere2", "gpt2"])
def test_other_architectures_keep_their_own_forward(name: str) -> None:
    runner = Runner(tiny_model(name))
    assert fused(runner) is runner


def test_a_model_that_only_looks_ordinary_keeps_its_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    block = type(model.model.layers[0].mlp)
    monkeypatch.setattr(block, "forward", lambda self, x: 2 * self.down_proj(self.act_fn(self.gate_proj(x))))
    runner = Runner(model)
    assert fused(runner) is runner


@pytest.mark.parametrize("name", [*ORDINARY, "mistral-sliding"])
def test_a_target_records_what_drafters_ask_for(name: str) -> None:
    """Hidden states at both ends and in between, and where the last token looks, as through transformers' modules."""
    found = []
    for may_join in (False, True):
        target = Target(tiny_model(name), 128, 32, may_join=may_join)
        last = int(target.model.config.num_hidden_layers)
        taps = Taps(attention_row=True, features=(0, last - 1, last))
        steps = list(target.prefill(PROMPT, taps))
        tree = DraftTree.chain((5, 9, 3))
        steps.append(target.commit(target.verify(tree, taps), (0, 1, 2)))
        found.append(steps)
    for plain, fast in zip(*found, strict=True):
        assert plain.features is not None
        assert fast.features is not None
        torch.testing.assert_close(fast.features, plain.features, atol=1e-4, rtol=1e-4)
    plain_row, row = found[0][-1].attention_row, found[1][-1].attention_row
    assert plain_row is not None
    torch.testing.assert_close(row, plain_row, atol=1e-5, rtol=1e-3)


def test_weights_of_a_model_that_is_somebody_elses_stay_where_they_are() -> None:
    model = tiny_model("llama")
    before = [parameter.data_ptr() for parameter in model.parameters()]
    Target(model, 64, 32)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    Target(model, 64, 32, may_join=True)
    assert [parameter.data_ptr() for parameter in model.parameters()] != before
