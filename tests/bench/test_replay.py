"""Replayed acceptance: the draws, the trees, the echoing target, and whole answers of small sizes."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.bench import shaped
from spec_engine.bench.replay import Profile, arranged, parse_means
from spec_engine.bench.shaped import ReplayPlan, at_full_depth, measure_replay
from spec_engine.bench.shapes import CONFIGS, echoing, random_model, shape_config
from spec_engine.cli import main
from spec_engine.config import ModelRef, Preset, RetrievalConfig, TreeConfig, load_preset, preset_names
from spec_engine.drafters import eagle_memory, lm_memory
from spec_engine.drafters.eagle_files import stored_config
from spec_engine.drafters.longspec_head import head_config
from spec_engine.drafters.mtp_head import mtp_config
from spec_engine.errors import RequestError
from spec_engine.model import runner
from spec_engine.model import target as target_module
from spec_engine.model.capture import Captures
from spec_engine.model.checkpoint import Checkpoint
from spec_engine.model.graphs import Graphed
from spec_engine.model.target import NO_TAPS, Step, Taps, Target
from spec_engine.tree import DraftTree
from spec_engine.verify import accept
from tests.traced import Traced

CPU = torch.device("cpu")


def unsaved(rows: object, graphs: str) -> None:
    """Nowhere."""


HEADS = {"lm": "small/draft", "eagle3": "small/eagle"}
SMALL = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 4096, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "small/target": SMALL,
        "small/draft": {**SMALL, "num_hidden_layers": 2, "tie_word_embeddings": True},
        "small/eagle": {**SMALL, "num_hidden_layers": 1, "draft_vocab_size": 512},
        "small/longspec": {**SMALL, "num_hidden_layers": 1},
        "small/gemma4": shape_config("rehearsal/tiny-gemma4"),
        "small/mtp": shape_config("rehearsal/tiny-gemma4-assistant"),
    }
    for name, config in sizes.items():
        monkeypatch.setitem(CONFIGS, name, config)  # type: ignore[arg-type]


def small_preset(kind: str, has_retrieval: bool = False) -> Preset:
    draft = load_preset("builtin").draft
    fields = {
        "kind": kind,
        "model": ModelRef(HEADS.get(kind, f"small/{kind}")),
        "tree": TreeConfig(policy="opt", num_nodes=12, max_depth=6, top_k=4),
        "retrieval": RetrievalConfig(enabled=has_retrieval, chunk_size=8, top_k=4, num_recent=16),
    }
    draft = type(draft)(**fields)  # type: ignore[arg-type]
    target = "small/gemma4" if kind == "mtp" else "small/target"
    return Preset("small", "Small", "", ModelRef(target), 512, draft=draft)


@pytest.mark.parametrize(("mean", "depth"), [(1.0, 4), (1.5, 1), (2.0, 1), (3.8, 6), (3.8, 10), (7.0, 6)])
def test_draws_come_to_the_mean(mean: float, depth: int) -> None:
    """Over short answers, whatever their length."""
    draws = [Profile(mean).draw(depth, step) for step in range(90)]
    assert max(draws) <= depth
    for number in (30, 55, 90):
        assert sum(draws[:number]) / number + 1 == pytest.approx(mean, rel=0.05)


def test_means_that_no_tree_reaches_are_refused() -> None:
    with pytest.raises(RequestError, match="at most 7 tokens a step, not 8"):
        Profile(8).chance(6)
    for mean in (0.5, math.nan, math.inf):
        with pytest.raises(RequestError, match=rf"at least 1 token, not {mean}"):
            Profile(mean)


def test_means_are_read_from_a_list() -> None:
    assert parse_means("3.8", 3) == [3.8, 3.8, 3.8]
    assert parse_means("5.03,3.80", 2) == [5.03, 3.8]
    for wrong in ("", "a", "1,2,3"):
        with pytest.raises(RequestError, match="is no list of means"):
            parse_means(wrong, 2)


@pytest.mark.parametrize("num_right", range(5))
@pytest.mark.parametrize("num_nodes", [4, 5, 23])
@pytest.mark.parametrize("root", [3, 400])
def test_as_much_of_a_tree_is_right_as_was_drawn(root: int, num_nodes: int, num_right: int) -> None:
    tree = arranged(root, num_nodes, (4, num_right), 0.8)
    assert len(tree) == num_nodes + 1
    assert tree.depth == 4
    assert accept(tree, [root] * len(tree)).num_drafted == num_right


@pytest.mark.parametrize("shape", ["small/target", "small/draft", "small/gemma4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_echoing_model_repeats_its_newest_token(shape: str, dtype: torch.dtype) -> None:
    """Along every path of a tree, and behind any text."""
    target = Target(echoing(random_model(shape, 512, dtype, CPU)), 256, 64)
    source = random.Random(0)
    for _ in target.prefill(source.choices(range(4096), k=200)):
        pass
    token_ids = source.choices(range(4096), k=12)
    tree = DraftTree(
        token_ids, [-1, *(node // 2 for node in range(11))], [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3], [0.0] * 12
    )
    assert target.verify(tree, Taps()).logits.argmax(dim=-1).tolist() == token_ids


@pytest.mark.parametrize("kind", ["lm", "eagle3", "longspec", "mtp"])
def test_an_answer_is_drafted_at_the_mean_that_was_given(kind: str) -> None:
    plan, told = ReplayPlan((40, 90), (1.8, 3.0), 120, CPU, torch.float32), list[str]()
    saved = list[list[int]]()
    rows, graphs = measure_replay(
        small_preset(kind, has_retrieval=kind in ("lm", "eagle3")),
        plan,
        told.append,
        lambda rows, graphs: saved.append([row.length for row in rows]),
    )
    assert [row.length for row in rows] == [40, 90]
    for row, mean in zip(rows, plan.means, strict=True):
        assert row.mean == pytest.approx(mean, rel=0.1)
        assert row.num_same == row.num_tokens == 120
        assert min(row.plain_token_s, row.draft_s, row.verify_s) > 0
    assert rows[1].mean > rows[0].mean
    assert len(told) == 2
    assert saved == [[40], [40, 90]]
    assert graphs.startswith("No CUDA graphs")


@pytest.mark.parametrize("kind", ["lm", "eagle3", "longspec", "mtp"])
def test_a_prompt_is_read_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is answered, drafted and plainly."""
    read, prefill = [], Target.prefill

    def counted(self: Target, token_ids: Sequence[int], taps: Taps = NO_TAPS) -> Iterator[Step]:
        read.append(len(token_ids))
        return prefill(self, token_ids, taps)

    monkeypatch.setattr(Target, "prefill", counted)
    measure_replay(small_preset(kind), ReplayPlan((200,), (2.0,), 10, CPU, torch.float32), print, unsaved)
    assert sum(read) < 220


@pytest.mark.parametrize("kind", ["lm", "eagle3"])
def test_nothing_is_captured_while_answers_are_timed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what an answer runs once, like its first pass, and so has been used often enough only in the third."""
    for module in (runner, eagle_memory):
        monkeypatch.setattr(module, "pick", lambda device, dtype: Pick(ReferenceBackend(), "for tests"))
    for module in (target_module, lm_memory):
        traced = lambda runner, plain, num_bytes: Graphed(runner, plain, Captures(Traced(), 1 << 30))  # noqa: E731
        monkeypatch.setattr(module, "graphed", traced)
    plan = ReplayPlan((40, 60), (2.0, 2.0), 12, CPU, torch.float32, is_fixed=True)
    rows, graphs = measure_replay(small_preset(kind), plan, print, unsaved)
    assert [row.num_captured for row in rows] == [0, 0]
    assert graphs.count("captured passes") == (2 if kind == "lm" else 1)
    monkeypatch.setattr(shaped, "_UNTIMED", (1, 1))
    rows, _ = measure_replay(small_preset(kind), plan, print, unsaved)
    assert rows[0].num_captured > 0, "counted"


def test_levels_do_not_end_where_random_weights_are_unsure() -> None:
    tree = TreeConfig(policy="opt", num_nodes=50, max_depth=10)
    assert at_full_depth(tree) == TreeConfig(policy="eagle", num_nodes=50, max_depth=10)
    chain = TreeConfig(policy="chain")
    assert at_full_depth(chain) is chain


def test_a_preset_without_a_draft_model_is_refused() -> None:
    plan = ReplayPlan((40,), (1.8,), 20, CPU, torch.float32)
    with pytest.raises(RequestError, match="has no draft model whose cost could be measured"):
        measure_replay(load_preset("any-lookup"), plan, print, unsaved)


def test_the_command_says_that_acceptance_is_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = tmp_path / "small.toml"
    preset.write_text(
        'title = "s"\ndescription = "s"\ncontext_length = 512\ntarget = { id = "small/target" }\n'
        '[draft]\nkind = "longspec"\nmodel = { id = "small/longspec" }\n'
        'tree = { policy = "beam", num_nodes = 12, beam_widths = [2, 4, 4] }\nretrieval = { enabled = false }\n',
        "utf-8",
    )
    out = tmp_path / "replay.json"
    command = ["bench", "--preset", str(preset), "--replay", "2.5", "--lengths", "32,64", "--max-tokens", "40"]
    assert main([*command, "--dtype", "float32", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Random weights, acceptance replayed from the means given" in printed
    assert "| 64 | 2.50 |" in printed
    table = json.loads(out.read_text("utf-8"))
    assert table["acceptance"] == "replayed"
    assert [row["given_mean"] for row in table["rows"]] == [2.5, 2.5]
    assert main([*command, "--replay", "9"]) == 2
    assert "brings at most 4 tokens a step" in capsys.readouterr().err


@pytest.mark.parametrize("name", preset_names())
def test_shipped_presets_have_sizes_that_fit_each_other(name: str) -> None:
    """So that the commands of the GPU queue do not fail on a GPU first."""
    preset = load_preset(name)
    draft = preset.draft
    kind = draft.blend.model_kind if draft.kind == "blend" else draft.kind
    if name.startswith("builtin") or draft.model is None:
        return
    target, sizes = shape_config(preset.target.id), dict(shape_config(draft.model.id))
    if kind == "lm":
        assert sizes["model_type"] in ("llama", "qwen3")
    elif kind == "eagle3":
        config = stored_config(Checkpoint(draft.model.id, sizes, {}), is_eagle3=True, weights=None)
        assert (config.hidden_size, config.feature_size) == (target["hidden_size"], 3 * target["hidden_size"])  # type: ignore[operator]
        assert config.num_columns == 32000
    elif kind == "mtp":
        multi = mtp_config(Checkpoint(draft.model.id, sizes, {}))
        assert multi.state_size == target["hidden_size"]
        assert multi.num_heads % int(str(target["num_key_value_heads"])) == 0
    else:
        config_of_head = head_config(Checkpoint(draft.model.id, sizes, {}))
        assert config_of_head.hidden_size == target["hidden_size"]
        assert config_of_head.num_kv_heads == target["num_key_value_heads"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("graph_memory", [0, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["lm", "eagle3", "longspec", "mtp"])
def test_answers_are_drafted_on_the_card(kind: str, dtype: torch.dtype, graph_memory: int) -> None:
    """The whole loop, with captured passes and without them: the same tokens as plain decoding."""
    plan = ReplayPlan((90, 300), (1.8, 3.0), 100, torch.device("cuda"), dtype, is_fixed=True)
    preset = replace(small_preset(kind, has_retrieval=kind in ("lm", "eagle3")), graph_memory=graph_memory)
    rows, graphs = measure_replay(preset, plan, print, unsaved)
    for row, mean in zip(rows, plan.means, strict=True):
        assert row.num_captured == 0
        assert row.mean == pytest.approx(mean, rel=0.1)
        assert row.num_same == row.num_tokens == 100
    assert ("captured passes" in graphs) == bool(graph_memory)
    assert ("Whole drafts: " in graphs) == bool(graph_memory and kind != "lm")
    assert "because" not in graphs
