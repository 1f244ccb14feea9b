"""The LongSpec head against the layer written down once more, plainly; its files, and heads that do not fit."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from spec_engine.config import ModelRef
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.longspec import build, longspec_need, target_rotary
from spec_engine.drafters.longspec_head import LongSpecHead, make_head, save_head
from spec_engine.errors import ModelError, ModelNotFound, RequestError, UnsupportedModel
from spec_engine.model.checkpoint import Checkpoint, load_checkpoint
from spec_engine.model.target import Target
from spec_engine.sampling import SamplingParams
from tests.fakes import pair_preset, save_pair, tiny_lm
from tests.heads import delayed, longspec_head, longspec_reference, longspec_whole_rows, teach
from tests.tiny_models import random_ids, tiny_model


@pytest.mark.parametrize("name", ["llama", "llama-mha", "llama-llama3", "llama-yarn", "qwen2", "qwen3", "smollm3"])
@torch.no_grad()
def test_the_forward_is_the_layer_of_the_paper(name: str) -> None:
    """Also where the target scales its rotary embedding, and where its last layer has none (SmolLM3)."""
    model = tiny_model(name)
    assert (target_rotary(Target(model, 64, 64)).cross is None) == (name == "smollm3")
    for window, length, offset in ((8, 40, 1), (512, 40, 4), (8, 300, 2), (3, 3, 5)):
        head, ids = longspec_head(model, window), random_ids(length)
        want = longspec_reference(head, model, ids, delayed(length, offset), name != "smollm3")
        got = longspec_whole_rows(head, model, ids, offset)
        assert (got - want).abs().max() <= 1e-3 * want.abs().max()


def test_it_can_be_trained() -> None:
    """Every weight gets a gradient, also through the blocks of a long row; a taught head knows what comes next."""
    model = tiny_model("llama")
    head, ids = longspec_head(model, window=8), random_ids(300)
    longspec_whole_rows(head, model, ids, 2).logsumexp(-1).sum().backward()
    norms = {name: float(weight.grad.norm()) for name, weight in head.named_parameters() if weight.grad is not None}
    assert norms.keys() == dict(head.named_parameters()).keys()
    assert min(norms.values()) > 1e-3
    teach(head, model, [ids[:40]], num_steps=60)
    wanted = model(torch.tensor([ids[:40]]), use_cache=False).logits[0].argmax(-1)
    assert (longspec_whole_rows(head, model, ids[:40], 1).argmax(-1) == wanted).float().mean() > 0.8


def published(head: LongSpecHead, folder: Path, config: dict[str, object], *, prefix: str = "", ending: str) -> None:
    """A folder as the published ones are: float32, and a k_proj and a v_proj without use in cross_attn."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {f"{prefix}{name}": tensor.float() for name, tensor in head.state_dict().items()}
    for name in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"):
        tensors[f"{prefix}cross_attn.{name}"] = tensors[f"{prefix}self_attn.{name}"] + 1
    tensors[f"{prefix}self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    if ending == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")


def llama_like(head: LongSpecHead, **changes: object) -> dict[str, object]:
    """What the config.json of a published head says."""
    config = head.config
    return {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "num_hidden_layers": 32,
        "rms_norm_eps": config.eps,
        "sliding_window": 40,  # the target's, not the head's
        "rope_theta": 123.0,  # the target's counts
        **changes,
    }


def context(folder: Path, model: PreTrainedModel, ref: ModelRef | None = None) -> DrafterContext:
    preset = pair_preset(folder, "longspec")
    draft = replace(preset.draft, model=ref or ModelRef("head"))
    return DrafterContext(replace(preset, draft=draft), Target(model, 256, 64))


@pytest.mark.parametrize(
    ("shape", "prefix", "ending"),
    [("llama", "", "safetensors"), ("llama-mha", "draft_model.", "safetensors"), ("qwen2", "", "bin")],
)
def test_published_files_are_read(tmp_path: Path, shape: str, prefix: str, ending: str) -> None:
    model = tiny_lm(shape)
    head = longspec_head(model)
    fields = llama_like(head)
    if shape == "llama-mha":
        del fields["num_key_value_heads"]
    published(head, tmp_path / "head", fields, prefix=prefix, ending=ending)
    drafter = build(context(tmp_path, model))
    own = drafter._memory._head
    assert own.config == head.config
    config = head.config
    embeds = torch.randn(1, 9, config.hidden_size)
    rows = torch.randn(2, 1, config.num_kv_heads, 9, config.head_size)
    with torch.no_grad():
        want, found = (one(embeds, torch.arange(9), *rows) for one in (head, own))
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)
    assert (drafter.name, drafter.vocab_size) == ("longspec", 260)


def test_the_targets_dtype_counts(tmp_path: Path) -> None:
    head = longspec_head(tiny_lm())
    save_head(head, tmp_path / "head")
    drafter = build(context(tmp_path, tiny_model("llama", dtype=torch.bfloat16)))
    assert {weight.dtype for weight in drafter._memory._head.parameters()} == {torch.bfloat16}
    session = drafter.begin(SamplingParams())
    assert len(session.propose(9, 12)) > 1


def test_a_saved_head_is_read_again(tmp_path: Path) -> None:
    head = longspec_head(tiny_lm("qwen3"), window=24)
    save_head(head, tmp_path / "head")
    assert "cross_attn.k_proj.weight" not in load_file(tmp_path / "head" / "model.safetensors")
    checkpoint = load_checkpoint(pair_preset(tmp_path), ModelRef("head"))
    again = make_head(checkpoint, head.rotary, torch.device("cpu"), torch.float32)
    assert again.config == head.config
    assert all(weight.requires_grad for weight in again.parameters())  # training goes on from a file


MISFITS = [
    ({"hidden_size": 96}, r"hidden size of 96, and .* one of 64"),
    ({"num_kv_heads": 4}, r"key/value heads of 4, and .* one of 2"),
    ({"head_size": 8}, r"head size for keys of 8, and .* one of 16"),
    ({"num_heads": 5}, r"5 query heads, which 2 key/value heads"),
]


@pytest.mark.parametrize(("changes", "message"), MISFITS, ids=lambda value: str(value)[:20])
def test_a_head_of_another_target_is_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    save_head(longspec_head(tiny_lm(), **changes), tmp_path / "head")
    with pytest.raises(ModelError, match=message):
        build(context(tmp_path, tiny_lm()))


def spoiled(tensors: dict[str, Tensor], config: dict[str, object]) -> Iterator[tuple[Checkpoint, str]]:
    """Checkpoints that are no LongSpec head, and what is said."""
    without = {name: tensor for name, tensor in tensors.items() if name != "self_attn.q_proj.bias"}
    yield Checkpoint("h", config, without), "no LongSpec head: it lacks self_attn.q_proj.bias"
    yield Checkpoint("h", config, {**tensors, "fc.weight": torch.zeros(1)}), "it also holds fc.weight"
    yield Checkpoint("h", {**config, "intermediate_size": 99}, tensors), r"shape \(128, 64\), by its .* \(99, 64\)"
    yield Checkpoint("h", {**config, "hidden_size": "64"}, tensors), "'hidden_size' as a whole number above 0, not '64'"
    yield Checkpoint("h", {**config, "hidden_act": "gelu"}, tensors), "the activation 'gelu'"
    yield Checkpoint("h", {**config, "self_attention_window": 0}, tensors), "'self_attention_window' as a whole"


def test_other_files_are_refused() -> None:
    head = longspec_head(tiny_lm())
    for checkpoint, message in spoiled(dict(head.state_dict()), llama_like(head)):
        with pytest.raises(ModelError, match=message):
            make_head(checkpoint, head.rotary, torch.device("cpu"), torch.float32)


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    head = longspec_head(tiny_lm())
    published(head, tmp_path / "head", llama_like(head), ending="bin")
    (tmp_path / "head" / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="damaged"):
        build(context(tmp_path, tiny_lm()))
    (tmp_path / "head" / "pytorch_model.bin").unlink()
    with pytest.raises(ModelNotFound, match="holds no weights"):
        build(context(tmp_path, tiny_lm()))
    with pytest.raises(ModelError, match="cannot be quantised"):
        build(context(tmp_path, tiny_lm(), ModelRef("head", quantization="4bit")))
    nameless = context(tmp_path, tiny_lm())
    draft = replace(nameless.preset.draft, model=None)
    with pytest.raises(RequestError, match="names no draft head"):
        build(replace(nameless, preset=replace(nameless.preset, draft=draft)))


def test_a_target_without_rotary_embedding_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no rotary embedding that a draft head could share"):
        target_rotary(Target(tiny_model("gpt2"), 64, 64))


def test_its_memory_is_counted(tmp_path: Path) -> None:
    model = tiny_lm("qwen2")
    save_pair(tmp_path, model, model)
    head = longspec_head(model)
    save_head(head, tmp_path / "longspec")
    need = longspec_need(pair_preset(tmp_path, "longspec"), "cpu")
    held = 4 * sum(weight.numel() for name, weight in head.named_parameters() if weight.dim() == 2)
    assert need.weights == held
