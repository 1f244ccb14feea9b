"""Exactness on every model family that is promised: greedy text equals transformers' own `generate`, logits in float64.

`test_lossless.py` goes deep on a few shapes; here each family is run once with every kind of drafter, over prompts that
are longer than its windows, and over a second turn that reuses the first.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.config import DrafterKind
from spec_engine.engine import load_engine
from tests.fakes import pair_preset, perturbed, save_pair, tiny_lm
from tests.test_lossless import TREES, VIEW, ask, prompt_of

FAMILIES = (
    "llama-mha", "llama-yarn", "mistral-sliding", "mixtral", "gemma2", "gemma3", "phi3", "olmo3", "gpt_oss",
    "smollm3-sliding", "cohere2", "granite", "deepseek_v3",
)  # fmt: skip
NUM_NEW = 24


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, PreTrainedModel]]:
    """Target and draft of a family on disk, and a model that transformers alone has touched."""
    made: dict[str, tuple[Path, PreTrainedModel]] = {}

    def pair(name: str) -> tuple[Path, PreTrainedModel]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            target = tiny_lm(name)
            save_pair(folder, target, perturbed(target, 0.03))
            if name in ("gemma2", "gpt_oss"):  # older sdpa functions leave soft caps and sinks out
                target.set_attn_implementation("eager")
            made[name] = folder, target
        return made[name]

    return pair


def greedy(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None)
    return tuple(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("kind", ["none", "lookup", "lm", "blend"])
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_text_is_that_of_transformers(
    pairs: Callable[[str], tuple[Path, PreTrainedModel]], name: str, kind: DrafterKind
) -> None:
    folder, reference = pairs(name)
    has_retrieval = kind == "blend"
    preset = pair_preset(folder, kind, tree=TREES["opt"], retrieval=replace(VIEW, enabled=has_retrieval))
    engine = load_engine(preset, device="cpu", adaptive=False)
    num_accepted = 0
    for length in (1, 2, 260):
        prompt = prompt_of(length)
        token_ids, metrics, _ = ask(engine, prompt, num_new=NUM_NEW)
        assert token_ids == greedy(reference, prompt), f"differs after a prompt of {length}"
        num_accepted += metrics.num_accepted_draft_tokens
    prompt = (*prompt, *token_ids, *prompt_of(9, seed=4))
    token_ids, metrics, _ = ask(engine, prompt, num_new=NUM_NEW)
    assert token_ids == greedy(reference, prompt), "differs in the second turn"
    assert metrics.num_reused_tokens > 200
    if kind == "lm":
        assert num_accepted > NUM_NEW / 2, "hardly any block was accepted, so nothing was tested"
