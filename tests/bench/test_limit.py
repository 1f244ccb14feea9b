"""The limit of a pass, counted by hand for small models, and measured."""

import json
from pathlib import Path

import pytest
import torch

from spec_engine.bench import against
from spec_engine.bench.against import AgainstRow, against_table, limit_json, measure_against
from spec_engine.bench.limit import (
    LimitRow,
    fill,
    limit_table,
    measure_limits,
    pass_bytes,
    pass_operations,
)
from spec_engine.bench.machine import bandwidth, fastest, matrix_rate
from spec_engine.bench.peers import continue_from
from spec_engine.bench.shapes import CONFIGS, random_model
from spec_engine.cli import main
from spec_engine.errors import RequestError
from spec_engine.model.target import Target
from tests.tiny_models import tiny_model

CPU = torch.device("cpu")


def test_bytes_and_operations_of_a_llama_are_as_counted_by_hand() -> None:
    model = tiny_model("llama")
    target, config = Target(model, 64, 16), model.config
    hidden, inner, heads, kv = 64, 128, 4, 2
    assert (config.hidden_size, config.intermediate_size) == (hidden, inner)
    assert (config.num_attention_heads, config.num_key_value_heads) == (heads, kv)
    size, layers, vocab = config.head_dim, config.num_hidden_layers, config.vocab_size
    layer = hidden * size * (2 * heads + 2 * kv) + 3 * hidden * inner
    matrices = layers * layer + vocab * hidden
    norms = hidden * (2 * layers + 1)
    assert pass_bytes(target, 50) == 4 * (matrices + norms) + 50 * layers * kv * 2 * size * 4
    assert pass_operations(target, 50, 3) == 2 * 3 * (matrices + layers * heads * 2 * size * 50)


def test_a_window_bounds_what_is_read() -> None:
    target = Target(tiny_model("mistral-sliding"), 128, 16)
    window = next(window for window in target.runner.layer_windows if window)
    assert pass_bytes(target, window) == pass_bytes(target, 128)
    assert pass_operations(target, window, 1) == pass_operations(target, 128, 1)


def test_shared_embeddings_are_read_once_as_the_output() -> None:
    shared = tiny_model("llama", tie_word_embeddings=True)
    apart = tiny_model("llama", tie_word_embeddings=False)
    assert pass_bytes(Target(shared, 64, 16), 10) == pass_bytes(Target(apart, 64, 16), 10)


def test_passes_are_measured_and_the_text_is_forgotten() -> None:
    target, told = Target(tiny_model("llama"), 256, 16), list[str]()
    rows = list(measure_limits(target, (64, 200), (1, 4), told.append))
    assert [(row.length, row.num_rows) for row in rows] == [(64, 1), (64, 4), (200, 1), (200, 4)]
    assert all(0 < row.share < 1.5 and row.pass_s > 0 for row in rows)
    assert target.length == 0
    assert len(told) == 4


def test_what_is_filled_can_be_read_on() -> None:
    target = Target(tiny_model("llama"), 64, 16)
    fill(target, 40)
    assert target.length == 40
    (step,) = target.prefill([5, 6])
    assert step.num_done == 42


def test_the_slower_of_memory_and_arithmetic_is_the_limit() -> None:
    row = LimitRow(1024, 8, 0.01, 1_000_000, 4_000_000, 1e9, 1e9)
    assert (row.limit_s, row.is_bound_by_memory, row.share) == (0.004, False, pytest.approx(0.4))
    assert "| 1,024 tokens | 10.00 ms, 40 % (compute) |" in limit_table([row])
    plain = AgainstRow(1024, 4, 0.01, 0.03, 4)
    assert "| 1,024 tokens | 10.0 ms a token | 30.0 ms a token | 3.0 x | 4 of 4 | not run |  |" in against_table(
        [plain]
    )
    compiled = AgainstRow(1024, 4, 0.01, 0.03, 4, 0.015)
    assert "3.0 x | 4 of 4 | 15.0 ms a token | 1.5 x |" in against_table([compiled])
    table = json.loads(limit_json("here", [row], [plain]))
    assert (table["where"], table["passes"][0]["share"], table["plain"][0]["ratio"]) == ("here", 0.4, 3.0)


@pytest.mark.parametrize(
    ("name", "length"), [("llama", 100), ("mistral-sliding", 100), ("gemma3", 100), ("gemma2", 3000)]
)
def test_both_ways_continue_the_same_context_with_the_same_tokens(name: str, length: int) -> None:
    """Also behind layers that hold their newest rows alone."""
    target, told = Target(tiny_model(name), length + 100, 16), list[str]()
    (row,) = measure_against(target, target.model, ((length,), (length,)), 12, told.append)
    assert (row.num_tokens, row.num_same) == (12, 12)
    assert row.ours_s > 0
    assert row.theirs_s > 0
    assert target.length == 0


def test_a_static_cache_continues_the_same_context_with_the_same_tokens() -> None:
    target = Target(tiny_model("llama"), 256, 16)
    fill(target, 100)
    rows = target.rows(target.token_ids)
    assert rows is not None
    _, want = continue_from(target.model, rows, 1, 12)
    seconds, found = continue_from(target.model, rows, 1, 12, is_static=True)
    assert found == want
    assert seconds > 0
    assert target.model.config._attn_implementation == "spec_engine"


def test_a_compiler_that_fails_costs_its_column_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> tuple[float, list[int]]:
        raise RuntimeError("no C compiler\nlong story")

    target, told = Target(tiny_model("llama"), 256, 16), list[str]()
    monkeypatch.setattr(Target, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(against, "continue_from", fail)
    assert against._compiled_seconds(target, target.model, {}, 4, told.append) is None
    assert told == ["transformers' compiled step was not measured: no C compiler"]


def test_the_machine_is_measured() -> None:
    assert bandwidth(CPU, 1 << 20) > 1e8
    assert matrix_rate(CPU, torch.float32) > 1e8
    assert fastest(lambda: None, CPU) < 0.1


def test_a_shape_has_its_published_size_and_the_same_weights_every_time() -> None:
    first, second = (random_model("vicuna-68m", 512, torch.float32, CPU) for _ in range(2))
    assert sum(parameter.numel() for parameter in first.parameters()) == 68_030_208
    assert torch.equal(first.get_input_embeddings().weight, second.get_input_embeddings().weight)
    with pytest.raises(RequestError, match=r"There is no shape 'gpt-9'\. Valid: .*Qwen3-0.6B"):
        random_model("gpt-9", 512, torch.float32, CPU)
    assert "meta-llama/Llama-3.1-8B-Instruct" in CONFIGS


def test_the_command_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "limit.json"
    assert main(["bench", "--limit", "--shape", "vicuna-68m", "--lengths", "256", "--out", str(out)]) == 0
    assert "| 256 tokens | " in capsys.readouterr().out
    assert [row["num_rows"] for row in json.loads(out.read_text())["passes"]] == [1, 8, 16, 32, 64, 512]
    assert main(["bench", "--shape", "vicuna-68m"]) == 2
    assert "--shape is not read where answers are timed" in capsys.readouterr().err
