"""Memory by part before anything is loaded, and what would fit instead."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from spec_engine import needs
from spec_engine.bench.shapes import CONFIGS
from spec_engine.config import MemoryFigures, ModelRef, Preset, load_preset, preset_names
from spec_engine.loading import load_engine
from spec_engine.needs import PresetNeed, alternatives, is_downloaded, need_of

GB = 10**9
SIZED = [name for name in preset_names() if not name.startswith("builtin")]


@pytest.fixture(autouse=True)
def nothing_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("name", SIZED)
def test_stated_figures_are_those_of_the_published_configurations(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("needs", "model.memory", "drafters.eagle_files"):
        monkeypatch.setattr(f"spec_engine.{module}.pick_device", lambda name="auto": torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    preset = load_preset(name)
    stated = need_of(preset)
    for ref in (preset.target, *((preset.draft.model,) if preset.draft.model else ())):
        (tmp_path / ref.id).mkdir(parents=True)
        (tmp_path / ref.id / "config.json").write_text(json.dumps(CONFIGS[ref.id]), encoding="utf-8")
    computed = need_of(replace(preset, folder=tmp_path))
    assert stated is not None
    assert computed is not None
    for (part, one), (_, other) in zip(stated.parts, computed.parts, strict=True):
        assert abs(one - other) <= 0.06 * GB, part
    assert abs(stated.windows - computed.windows) <= 0.06 * GB
    assert stated.total == pytest.approx(computed.total, rel=0.02)


def test_what_is_needed_is_what_is_taken() -> None:
    preset = load_preset("builtin-retrieval")
    need = need_of(preset, "cpu")
    assert need is not None
    engine = load_engine(preset, device="cpu")
    use = engine.memory
    copied = engine.target.model.get_input_embeddings().weight.nbytes  # small tied output layers get a copy
    assert use.weights == pytest.approx(need.weights + copied, rel=0.02)  # tables of angles take the rest
    assert use.cache == pytest.approx(need.cache, rel=0.01)
    assert use.draft == pytest.approx(need.draft, rel=0.05)
    assert use.total == use.weights + use.cache + use.draft
    engine.close()


def test_the_cpu_computes_in_float32() -> None:
    preset = load_preset("any-lookup")
    on_cpu = need_of(preset, "cpu")
    assert on_cpu is not None
    assert on_cpu.weights == round(2 * preset.memory.weights * GB)
    fixed = need_of(replace(preset, target=replace(preset.target, dtype="bfloat16")), "cpu")
    assert fixed is not None
    assert fixed.weights == round(preset.memory.weights * GB)


def test_nothing_known_is_said_as_nothing() -> None:
    preset = Preset("own", "Own", "", ModelRef("somebody/model"), 4096)
    assert need_of(preset, "cpu") is None
    assert not is_downloaded(preset)
    assert is_downloaded(load_preset("builtin"))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Preset:
    monkeypatch.setattr(needs, "find_spec", lambda name: object())
    return replace(load_preset("qwen3-8b"), memory=MemoryFigures(16.0, 2.0, 3.0, 0.5))


NEED = PresetNeed(16 * GB, 2 * GB, 3 * GB, GB // 2, 16384)


@pytest.mark.parametrize(
    ("free", "titles"),
    [
        (20, ["without the draft model", "4-bit weights", "4,096 tokens"]),
        (19, ["without the draft model", "4-bit weights"]),
        (12, ["4-bit weights"]),
        (8, ["without the draft model, 4-bit weights, 9,216 tokens"]),
        (5, []),
    ],
)
def test_what_would_fit_instead(large: Preset, free: int, titles: list[str]) -> None:
    found = alternatives(large, NEED, free * GB + GB // 10)
    assert [preset.title.removeprefix(f"{large.title}, ") for preset in found] == titles
    assert all(preset.name == large.name for preset in found)


def test_what_windows_take_stays_however_short_the_context(large: Preset) -> None:
    need = replace(NEED, draft=0, windows=GB)
    found = alternatives(replace(large, draft=replace(large.draft, kind="lookup", model=None)), need, 18 * GB)
    assert found[-1].context_length == 8192  # half of the other GB


def test_each_alternative_is_what_its_title_says(large: Preset) -> None:
    draftless, quantised, shorter = alternatives(large, NEED, 20 * GB + GB // 10)
    assert (draftless.draft.kind, draftless.draft.model) == ("lookup", None)
    assert quantised.target.quantization == "4bit"
    assert shorter.context_length == 4096
    assert shorter.draft == large.draft


def test_without_bitsandbytes_no_4_bit(large: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    assert alternatives(large, NEED, 12 * GB) == []


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in SIZED])
def test_nothing_of_the_process_is_changed_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks while a model is loaded, which would get another dtype than its own."""

    def change(dtype: torch.dtype) -> None:
        raise AssertionError(f"the default was made {dtype}")

    monkeypatch.setattr(torch, "set_default_dtype", change)
    assert need_of(load_preset(name)) is not None
