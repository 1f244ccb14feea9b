"""Presets: what is read, what is refused, and that every shipped file is right."""

from pathlib import Path

import pytest

from spec_engine.config import (
    DraftConfig,
    RetrievalConfig,
    load_preset,
    preset_dict,
    preset_folder,
    preset_names,
    resolve_model,
)
from spec_engine.errors import PresetError

MINIMAL = 'title = "T"\ndescription = "D"\ncontext_length = 4096\n[target]\nid = "a/b"\n'


def write(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_and_says_when_to_use_it(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.title
    first, second = (preset_folder() / f"{name}.toml").read_text("utf-8").splitlines()[:2]
    assert first.startswith("# When: ")
    assert second.startswith("# Measured: ")


def test_the_builtin_preset_comes_first_and_lies_beside_its_file() -> None:
    assert preset_names()[0] == "builtin"
    preset = load_preset("builtin")
    assert Path(resolve_model(preset, preset.target)).is_dir()
    assert preset.draft.model is not None
    assert Path(resolve_model(preset, preset.draft.model)).is_dir()


def test_the_pairings_that_were_asked_for_are_there() -> None:
    presets = {name: load_preset(name) for name in preset_names()}
    vicuna = presets["vicuna-7b-16k"]
    assert vicuna.target.id == "lmsys/vicuna-7b-v1.5-16k"
    assert vicuna.draft.model is not None
    assert vicuna.draft.model.id == "double7/vicuna-68m"
    assert any(preset.target.quantization == "4bit" and 0 < preset.memory.total <= 12 for preset in presets.values())
    assert any(preset.draft.kind == "lookup" for preset in presets.values())


def test_defaults_fill_what_a_file_leaves_out(tmp_path: Path) -> None:
    preset = load_preset(write(tmp_path, MINIMAL))
    assert preset.draft.kind == "none"
    assert preset.draft.tree.num_nodes == 50
    assert preset.folder == tmp_path
    assert preset_dict(preset)["context_length"] == 4096


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("contxt = 3\n", ["contxt", "context_length"]),
        ("context_length = 'long'\n", ["context_length", "int"]),
        ("reliable_length = 4097\n", ["reliable_length", "between 0 and 4,096"]),
        ("context_length = 99_999_999\n", ["context_length", "between 1 and 10,000,000"]),
        ("context_length = 0\n", ["context_length", "between 1 and"]),
        ("context_length = true\n", ["context_length", "int"]),
        ("name = 'x'\n", ["name", "Remove"]),
    ],
)
def test_a_wrong_top_level_line_is_refused_with_the_reason(tmp_path: Path, extra: str, words: list[str]) -> None:
    key = extra.split(" ")[0]
    lines = [line for line in MINIMAL.splitlines(keepends=True) if not line.startswith(f"{key} ")]
    with pytest.raises(PresetError) as caught:
        load_preset(write(tmp_path, extra + "".join(lines)))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ("[draft.retrieval]\nlookahead = 1.5\n", ["draft.retrieval.lookahead", "between 0 and 1"]),
        ("[draft.tree]\nbeam_widths = []\n", ["beam_widths", "at least 1"]),
        ("[draft.tree]\nnum_nodes = 256\n", ["draft.tree.num_nodes", "between 1 and 255"]),
        ("[draft.tree]\npolicy = 'eagle'\ntop_k = 0\n", ["draft.tree.top_k", "between 1 and 64"]),
        ("[draft.lookup]\nmin_match = 9\nmax_match = 8\n", ["draft.lookup.min_match", "between 1 and 8"]),
        ("[draft.retrieval]\nnum_sink = -5\n", ["draft.retrieval.num_sink", "at least 0"]),
        ("[draft.retrieval]\ntop_k = 0\n", ["draft.retrieval.top_k", "at least 1"]),
        ("[generation]\ntemperature = -1\n", ["generation.temperature", "at least 0"]),
        ("[generation]\ntop_p = 0\n", ["top_p", "above 0"]),
        ("[draft]\nkind = 'lokup'\n", ["'lokup'", "Did you mean 'lookup'"]),
        ("[draft]\nkind = 'lm'\n", ["draft.model"]),
        ("[draft]\nkind = 'longspec'\n", ["'longspec'", "draft.model"]),
        ("[draft]\ncross_attention = 'focus'\nretrieval = { enabled = false }\n", ["draft.retrieval.enabled"]),
        ("[draft.tree]\nnum_node = 3\n", ["num_node", "num_nodes"]),
        ("[draft.tree]\nbeam_widths = 4\n", ["list"]),
        ("[draft]\ntree = 3\n", ["table"]),
        ("[generation]\ntemperature = 'hot'\n", ["temperature", "float"]),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(tmp_path: Path, tail: str, words: list[str]) -> None:
    with pytest.raises(PresetError) as caught:
        load_preset(write(tmp_path, MINIMAL + tail))
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(PresetError, match="Did you mean 'builtin'"):
        load_preset("buildin")


def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="does not exist"):
        load_preset(str(tmp_path / "absent.toml"))
    with pytest.raises(PresetError, match="cannot be read"):
        load_preset(write(tmp_path, "a = = b"))
    with pytest.raises(PresetError, match="'title' is missing"):
        load_preset(write(tmp_path, "context_length = 3\n"))


@pytest.mark.parametrize(
    ("draft", "retrieves"),
    [
        (DraftConfig("lookup"), False),
        (DraftConfig("lm"), True),
        (DraftConfig("eagle3", retrieval=RetrievalConfig(enabled=False)), False),
        (DraftConfig("longspec"), False),
        (DraftConfig("longspec", cross_attention="focus"), True),
        (DraftConfig("blend"), True),
    ],
)
def test_a_view_is_chosen_only_for_a_model_that_looks_at_one(draft: DraftConfig, retrieves: bool) -> None:
    assert draft.retrieves == retrieves
