"""Recorded features against the hidden states that transformers returns."""

import pytest
import torch
from torch import Tensor

from spec_engine.errors import UnsupportedModel
from spec_engine.model.features import FeatureRecorder
from spec_engine.model.target import Taps, Target
from tests.model.test_target import filled, random_tree, relative, untouched_model
from tests.tiny_models import random_ids, tiny_model

NAMES = ("llama", "qwen3", "smollm3", "gemma2", "gpt2", "gpt_oss")


def hidden_states(name: str, token_ids: tuple[int, ...], layers: tuple[int, ...]) -> Tensor:
    """[tokens, layers * H] by transformers alone."""
    with torch.inference_mode():
        states = untouched_model(name)(torch.tensor([token_ids]), output_hidden_states=True).hidden_states
    return torch.cat([states[layer][0] for layer in layers], dim=-1)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_prefill_and_of_an_accepted_path(name: str) -> None:
    model = tiny_model(name)
    layers = (2, 0, model.config.num_hidden_layers)
    target = Target(model, 128, 16)
    prompt = random_ids(40, seed=3)
    steps = list(target.prefill(prompt, Taps(features=layers)))
    assert [len(step.token_ids) for step in steps] == [16, 16, 8]
    read = torch.cat([step.features for step in steps if step.features is not None])
    assert relative(read, hidden_states(name, prompt, layers)) < 3e-5

    tree = random_tree(12, seed=4, root=9)
    path = tree.path(len(tree) - 1)
    step = target.commit(target.verify(tree, Taps(features=layers)), path)
    assert step.features is not None
    want = hidden_states(name, (*prompt, *step.token_ids), layers)[len(prompt) :]
    assert relative(step.features, want) < 3e-5


def test_nothing_is_recorded_unless_asked_for() -> None:
    target = Target(tiny_model("llama"), 64, 16)
    assert all(step.features is None for step in target.prefill(random_ids(20)))
    outputs = target.verify(random_tree(3, 0, root=5), Taps())
    assert outputs.features is None
    model = target.model
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_hooks_go_with_the_next_pass_that_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(tiny_model("llama"), 64, 16)
    with monkeypatch.context() as broken:
        broken.setattr(target.model.model.norm, "forward", lambda states: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(target.prefill(random_ids(20), Taps(features=(0, 3))))
    assert any(layer._forward_pre_hooks for layer in target.model.model.layers)
    target.model(torch.tensor([random_ids(4)]))  # somebody else's pass records nothing, and nothing fails
    target.reset()
    steps = list(target.prefill(random_ids(20)))
    assert all(step.features is None for step in steps)
    assert not any(layer._forward_pre_hooks for layer in target.model.model.layers)
    assert not target.model.model._forward_hooks


def test_a_model_without_a_stack_of_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(model.config, "num_hidden_layers", 7)
    with pytest.raises(UnsupportedModel, match="layers"):
        FeatureRecorder(model)


def test_last_rows_are_the_committed_ones_of_the_last_full_layer() -> None:
    target = filled(Target(tiny_model("smollm3-sliding"), 64, 16), random_ids(20))
    keys, values = target.last_rows()
    assert keys.shape[2] == values.shape[2] == 20
    layer = target.model.config.layer_types.index("full_attention", 2)
    assert keys.data_ptr() == target._slots.view(layer)[0].data_ptr()
