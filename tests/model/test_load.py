"""Loading from folders, and what is said when something is missing."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model

from spec_engine.config import DrafterKind, ModelRef, Preset, Quantization
from spec_engine.engine import Request, StopRules
from spec_engine.errors import (
    MissingDependency,
    ModelError,
    ModelNotFound,
    UnsupportedModel,
    VocabularyMismatch,
)
from spec_engine.events import Finished
from spec_engine.loading import load_engine
from spec_engine.model import load, memory
from spec_engine.model.load import (
    ALL_GPUS,
    check_vocabulary,
    load_config,
    load_target,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from spec_engine.model.memory import (
    allocating,
    check_memory,
    free_bytes,
    free_on,
    memory_need,
    model_need,
)
from spec_engine.model.products import packs
from spec_engine.model.target import Taps, Target
from spec_engine.model.tokenizer import Tokenizer
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.fakes import END_ID, byte_tokenizer, pair_preset, save_pair, tiny_lm
from tests.tiny_models import tiny_config, tiny_model

CPU = torch.device("cpu")
BF16 = ModelRef("target", dtype="bfloat16")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    folder = tmp_path_factory.mktemp("models")
    save_pair(folder, tiny_lm("smollm3").to(torch.bfloat16), tiny_lm())
    return pair_preset(folder)


def test_folder_beside_the_preset(preset: Preset) -> None:
    model = load_target(preset, ModelRef("target"), device="cpu")
    assert model.dtype == torch.float32  # auto on the CPU
    assert not model.training
    assert load_config(preset, ModelRef("target")).num_hidden_layers == 4


def test_bfloat16_keeps_rotary_frequencies(preset: Preset) -> None:
    model = load_target(preset, BF16, device="cpu")
    assert model.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_dtype_auto() -> None:
    cuda = torch.device("cuda")
    assert pick_dtype("auto", CPU, torch.bfloat16) == torch.float32
    assert pick_dtype("auto", cuda, torch.float16) == torch.float16
    assert pick_dtype("auto", cuda, None) == torch.float32
    assert pick_dtype("bfloat16", CPU, torch.float32) == torch.bfloat16


def test_device_names() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device().type in ("cpu", "cuda")
    with pytest.raises(ModelError, match="'gpu' is no device"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA GPU"):
            pick_device("cuda")


def test_stop_ids_come_from_the_generation_settings(preset: Preset) -> None:
    folder = preset.folder / "target"
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}), encoding="utf-8")
    assert load_tokenizer(preset, ModelRef("target")).stop_token_ids == {7, 9, END_ID}
    (folder / "generation_config.json").unlink()
    assert load_tokenizer(preset, ModelRef("target")).stop_token_ids == {END_ID}  # from config.json


def test_a_missing_folder_is_named(preset: Preset) -> None:
    with pytest.raises(ModelNotFound, match=r"/nowhere/model does not exist"):
        load_target(preset, ModelRef("/nowhere/model"), device="cpu")


def test_an_incomplete_folder_is_named(preset: Preset) -> None:
    (preset.folder / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"config\.json is missing"):
        load_target(preset, ModelRef("empty"), device="cpu")


def test_an_unknown_architecture_is_named(preset: Preset) -> None:
    folder = preset.folder / "strange"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="'strange'"):
        load_target(preset, ModelRef("strange"), device="cpu")


def test_damaged_weights_are_named(preset: Preset) -> None:
    folder = preset.folder / "damaged"
    tiny_model("llama").save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="damaged"):
        load_target(preset, ModelRef("damaged"), device="cpu")


def test_a_name_that_cannot_be_on_the_hub(preset: Preset) -> None:
    with pytest.raises(ModelNotFound, match="no such folder"):
        load_tokenizer(preset, ModelRef("a/b/c/d"))


def test_quantised_models_name_the_extra(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install -e '.\[quant\]'"):
        load_target(preset, ModelRef("target", quantization="4bit"), device="cpu")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("kind", "tolerance"), [("4bit", 2e-2), ("8bit", 0.2)])
def test_quantised_models_verify_trees(preset: Preset, kind: Quantization, tolerance: float) -> None:
    """LLM.int8 rounds activations, and a pass over other rows rounds them differently."""
    model = load_target(preset, ModelRef("target", quantization=kind), device="cpu")
    target = Target(model, 64, 16)
    ids = tuple(range(40))
    for _ in target.prefill(ids[:30]):
        pass
    outputs = target.verify(DraftTree.chain(ids[30:]), Taps())
    with torch.inference_mode():
        want = model(torch.tensor([ids])).logits[0, 30:]
    assert (outputs.logits - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("drafter", ["lookup", "lm", "blend"])
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_quantised_targets_give_the_text_of_plain_decoding(
    preset: Preset, kind: Quantization, drafter: DrafterKind
) -> None:
    """Up to near ties: kernels for one row and for several round differently."""
    quantised = replace(preset, target=replace(preset.target, quantization=kind))
    engine = load_engine(quantised, drafter=drafter, device="cpu", adaptive=False)
    plain = engine.with_drafter("none")
    for seed in range(3):
        prompt = tuple(torch.randint(0, 250, (40,), generator=torch.Generator().manual_seed(seed)).tolist()) * 2
        request = Request(prompt, SamplingParams(), StopRules(24))
        drafted, expected = (
            next(event for event in one.generate(request) if isinstance(event, Finished)) for one in (engine, plain)
        )
        difference = first_difference(drafted.token_ids, expected.token_ids)
        if difference is not None:
            logits = plain.logits_after((*prompt, *expected.token_ids[:difference]))
            gap = abs(logits[drafted.token_ids[difference]] - logits[expected.token_ids[difference]])
            print(f"{kind}, {drafter}, seed {seed}: token {difference} differs, its logits by {gap:.4f}")
            assert gap < (0.02 if kind == "4bit" else 0.2) * max(abs(logit) for logit in logits)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    return next((index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), None)


def test_vocabularies() -> None:
    target = Tokenizer(byte_tokenizer())
    longer = byte_tokenizer()
    longer.add_tokens(["more", "and more"])
    check_vocabulary(target, Tokenizer(longer))
    check_vocabulary(Tokenizer(longer), target)
    other = byte_tokenizer()
    text = other.backend_tokenizer.to_str().replace("<|user|>", "<|human|>")
    backend = type(other.backend_tokenizer).from_str(text)
    with pytest.raises(VocabularyMismatch, match=r"260 tokens.*260 tokens.*'<\|user\|>'.*'<\|human\|>'"):
        check_vocabulary(target, Tokenizer(type(other)(tokenizer_object=backend)))


@pytest.mark.parametrize("name", ["llama", "qwen3", "smollm3", "gemma2", "gemma3", "gemma4", "cohere2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_tokens", [1000, 8000])
def test_memory_is_what_the_model_takes(name: str, dtype: torch.dtype, num_tokens: int) -> None:
    need = memory_need(tiny_config(name), dtype, num_tokens)
    model = tiny_model(name, dtype=dtype)
    assert need.weights == sum(parameter.nbytes for parameter in model.parameters())
    target = Target(model, num_tokens, 64)
    assert target.cache_bytes - need.cache == 256 * need.cache_per_token  # the target keeps room for a tree
    assert (need.windows > 0) == (num_tokens == 8000 and name in ("gemma2", "gemma4", "cohere2"))
    assert need.total == need.weights + need.cache + need.activations
    assert "GiB" in str(need)


def test_quantised_weights_are_smaller() -> None:
    kinds: tuple[Quantization, ...] = ("none", "8bit", "4bit")
    needs = [memory_need(tiny_config("llama"), torch.bfloat16, 10, quantization=kind) for kind in kinds]
    assert needs[0].weights > needs[1].weights > needs[2].weights
    assert needs[0].cache_per_token == 2 * 3 * 2 * 16 * 2


def test_a_draft_holds_all_rows_also_behind_a_window(tmp_path: Path) -> None:
    save_pair(tmp_path, tiny_lm("gemma2"), tiny_lm("gemma2", seed=3))
    preset = pair_preset(tmp_path, context_length=8000)
    assert preset.draft.model is not None
    target, draft = (model_need(preset, ref, "cpu") for ref in (preset.target, preset.draft.model))
    assert target.windows > 0
    assert draft.windows == 0
    assert draft.cache > 1.8 * target.cache


def test_chunks_are_shorter_where_layers_with_a_window_take_memory_by_the_chunk(
    monkeypatch: pytest.MonkeyPatch, preset: Preset
) -> None:
    monkeypatch.setattr(memory, "pick_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(memory, "free_on", lambda device: 1 << 40)
    need = memory_need(tiny_config("gemma2"), torch.bfloat16, 8000)
    for one, chunk in ((need, 2048), (replace(need, windows=0), 8192)):
        monkeypatch.setattr(memory, "model_need", lambda *args, one=one: one)
        assert memory.pick_chunk(replace(preset, prefill_chunk=0), "cuda") == chunk


def test_what_cannot_fit_is_refused_before_it_is_loaded(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(preset, preset.target)
    need = model_need(preset, preset.target, "cpu")
    is_packed = packs(torch.device("cpu"), torch.float32)
    assert need.weights == memory_need(config, torch.float32, preset.context_length, is_packed=is_packed).weights
    monkeypatch.setattr(memory, "free_bytes", lambda device: need.weights + need.cache)
    needs = [("target", need)]
    check_memory(preset, needs, "cpu")
    monkeypatch.setattr(memory, "free_bytes", lambda device: need.weights + need.cache - 1)
    with pytest.raises(ModelError, match=r"GiB are free.*context_length"):
        load_engine(preset, drafter="none", device="cpu")
    with pytest.raises(ModelError, match="needs at least"):
        check_memory(preset, needs * 2, "cpu")


def test_the_free_memory_of_this_machine_is_known() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 10**8 < free < 10**14


LAYERS = ("embed_tokens", "rotary_emb", "layers.0", "layers.1", "layers.2", "layers.3", "norm")
SPREAD = {**{f"model.{layer}": "cpu" for layer in LAYERS}, "lm_head": "cpu"}


def test_a_model_whose_layers_were_spread_drafts_and_answers_the_same(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate's hooks move what every layer takes and gives. They must leave our pass and our cache alone."""
    request = Request(tuple(range(20, 60)), SamplingParams(), StopRules(40))
    (*_, want) = load_engine(preset, device="cpu", adaptive=False).generate(request)
    monkeypatch.setattr(load, "_places", lambda device: SPREAD if device == "cpu" else None)
    engine = load_engine(preset, device="cpu", adaptive=False)
    model = engine.target.model
    dispatch_model(model, SPREAD, main_device="cpu", force_hooks=True)
    assert hasattr(model.get_submodule("model.layers.1"), "_hf_hook")
    (*_, found) = engine.generate(request)
    assert isinstance(want, Finished)
    assert isinstance(found, Finished)
    assert found.token_ids == want.token_ids
    assert found.metrics.num_draft_tokens == want.metrics.num_draft_tokens > 0


def test_all_gpus_are_one_device_with_the_memory_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA GPU here"):
            pick_device(ALL_GPUS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 + torch.device("cuda", device).index, 100))
    assert pick_device(ALL_GPUS) == torch.device("cuda:0")
    assert free_on(ALL_GPUS) == 10 + 11 + 12
    assert load._places(ALL_GPUS) == "balanced"
    assert load._places("cuda") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="several GPUs needs the package accelerate"):
        load._places(ALL_GPUS)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load._places(ALL_GPUS) is None


def test_running_out_of_memory_is_said_in_words() -> None:
    with pytest.raises(ModelError, match="does not suffice for 'x'"), allocating("x"):
        torch.empty(2**55, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="another"), allocating("x"):
        raise RuntimeError("another")


def test_a_path_object_of_the_folder_is_enough(tmp_path: Path, preset: Preset) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "m")
    assert load_target(preset, ModelRef(str(tmp_path / "m")), device="cpu").config.model_type == "llama"
