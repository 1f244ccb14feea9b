"""Rotations are found by trying the model out, and turning keys by them equals having run at the other position."""

import pytest
import torch

from spec_engine.cache.working import rotate_keys
from spec_engine.errors import UnsupportedModel
from spec_engine.model.rope import find_rotations
from spec_engine.model.runner import Runner
from tests.tiny_models import tiny_model

EXPECTED = {  # rotated layers, interleaved
    "llama": ((0, 1, 2), False),
    "llama-linear": ((0, 1, 2), False),
    "llama-llama3": ((0, 1, 2), False),
    "llama-yarn": ((0, 1, 2), False),
    "qwen3": ((0, 1, 2), False),
    "smollm3": ((0, 2), False),
    "smollm3-sliding": ((0, 2), False),
    "glm4": ((0, 1, 2), True),  # half of the head rotates
    "cohere2": ((0, 1, 2), True),  # the full layer has no rotary embedding
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_and_pairing(name: str, dtype: torch.dtype) -> None:
    (rotation,) = find_rotations(Runner(tiny_model(name, dtype=dtype)))
    assert (rotation.layers, rotation.is_interleaved) == EXPECTED[name]


@pytest.mark.parametrize("name", [*EXPECTED, "gemma3"])
def test_turned_keys_equal_those_of_the_other_position(name: str) -> None:
    runner = Runner(tiny_model(name))
    here, there = runner.probe_keys(3000, token_id=77), runner.probe_keys(41, token_id=77)
    turned = dict(here)
    for rotation in find_rotations(runner):
        for layer in rotation.layers:
            turned[layer] = rotate_keys(here[layer], torch.tensor([41 - 3000]), rotation)
    for layer, want in there.items():
        assert (turned[layer] - want).abs().max() <= 1e-3 * want.abs().max()


def test_gemma3_has_two_sets_of_frequencies() -> None:
    rotations = find_rotations(Runner(tiny_model("gemma3", num_hidden_layers=6)))
    assert sorted(rotation.layers for rotation in rotations) == [(0, 1, 2, 3, 4), (5,)]


def test_learned_positions_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="cannot be re-indexed"):
        find_rotations(Runner(tiny_model("gpt2")))
