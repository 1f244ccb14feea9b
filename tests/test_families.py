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

from spec_engine.config import CrossAttention, DrafterKind
from spec_engine.errors import UnsupportedModel
from spec_engine.loading import load_engine
from tests.fakes import HEADS, pair_preset, perturbed, save_pair, tiny_lm
from tests.heads import save_taught_head
from tests.test_lossless import TREES, VIEW, ask, prompt_of

FAMILIES = (
    "llama-mha", "llama-yarn", "mistral-sliding", "mixtral", "gemma2", "gemma3", "gemma4", "phi3", "olmo3", "gpt_oss",
    "smollm3-sliding", "cohere2", "granite", "deepseek_v3",
)  # fmt: skip
NUM_NEW = 24
WITH_MTP = (
    "llama-mha",
    "mistral-sliding",
    "gemma3",
    "gemma4",
    "olmo3",
    "deepseek_v3",
)  # windows or none
UNTAUGHT = {("gemma4", "longspec")}  # its last layer's keys are another's, which transformers' cache does not say
REFUSED: set[tuple[str, DrafterKind]] = {("deepseek_v3", kind) for kind in ("longspec", "mtp")}  # turned in parts


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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in FAMILIES
        for kind in HEADS
        if (name, kind) not in REFUSED | UNTAUGHT and (kind != "mtp" or name in WITH_MTP)
    ],
)
def test_greedy_text_with_a_draft_head(
    pairs: Callable[[str], tuple[Path, PreTrainedModel]], name: str, kind: DrafterKind
) -> None:
    """A head that was taught some of the target's texts, so that what it drafts is confirmed."""
    folder, reference = pairs(name)
    prompts = [prompt_of(length) for length in (1, 40)]
    texts = [(*prompt, *greedy(reference, prompt)) for prompt in prompts]
    save_taught_head(folder / HEADS[kind], kind, reference, texts, num_steps=60)
    num_accepted = 0
    for has_retrieval in (False, True):
        preset = pair_preset(folder, kind, tree=TREES["opt"], retrieval=replace(VIEW, enabled=has_retrieval))
        attention: CrossAttention = "focus" if has_retrieval else "whole"
        engine = load_engine(replace(preset, draft=replace(preset.draft, cross_attention=attention)), adaptive=False)
        for prompt in (*prompts, prompt_of(260)):
            token_ids, metrics, _ = ask(engine, prompt, num_new=NUM_NEW)
            assert token_ids == greedy(reference, prompt), f"differs after a prompt of {len(prompt)}"
            num_accepted += metrics.num_accepted_draft_tokens
        prompt = (*prompt, *token_ids, *prompt_of(9, seed=4))
        token_ids, metrics, _ = ask(engine, prompt, num_new=NUM_NEW)
        assert token_ids == greedy(reference, prompt), "differs in the second turn"
    assert num_accepted > NUM_NEW / 2, "hardly any draft was accepted, so nothing was tested"


@pytest.mark.parametrize(("name", "kind"), sorted(REFUSED))
def test_a_target_that_a_head_cannot_follow_is_refused(
    pairs: Callable[[str], tuple[Path, PreTrainedModel]], tmp_path: Path, name: str, kind: DrafterKind
) -> None:
    with pytest.raises(UnsupportedModel, match="no rotary embedding that a draft head could share"):
        save_taught_head(tmp_path, kind, pairs(name)[1], [(1, 2, 3)])


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
