"""Prompts read, looks, transformers' modules, and all of them as the parts of ``bench --limit``."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spec_engine.bench import passes
from spec_engine.bench.limit import pass_operations
from spec_engine.bench.passes import LimitPlan, measure_parts, parse_parts
from spec_engine.bench.reading import (
    ReadingRow,
    RetrievalRow,
    measure_modules,
    measure_reading,
    measure_retrieval,
)
from spec_engine.cli import main
from spec_engine.errors import RequestError
from spec_engine.model.target import Target
from tests.tiny_models import tiny_model


def tiny_target() -> Target:
    return Target(tiny_model("llama"), 700, 64)


def test_operations_of_a_text_are_those_of_its_chunks() -> None:
    target, told = tiny_target(), list[str]()
    (row,) = measure_reading(target, (150,), told.append)
    chunks = [(0, 64), (64, 64), (128, 22)]
    assert row.num_operations == sum(pass_operations(target, *chunk, is_chunk=True) for chunk in chunks)
    assert row.seconds > 0
    assert row.share > 0
    assert target.length == 0


def test_a_look_in_every_fourth_step() -> None:
    assert RetrievalRow(1024, 0.01, 0.002).share == pytest.approx(0.05)
    target, told = tiny_target(), list[str]()
    rows = list(measure_retrieval(target, (200, 600), told.append))
    assert [row.length for row in rows] == [200, 600]
    assert all(row.step_s > 0 and row.look_s > 0 for row in rows)
    assert target.length == 0


def test_modules_are_measured_where_passes_do_without_them() -> None:
    joined = Target(tiny_model("llama"), 300, 64, may_join=True)
    assert dict(measure_modules(joined, (100,), 0, lambda line: None))[100] > 0
    assert not list(measure_modules(tiny_target(), (100,), 0, lambda line: None))


def test_a_part_that_fails_costs_its_own_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("CUDA out of memory\nlong story")

    monkeypatch.setattr(passes, "measure_retrieval", fail)
    saved, told = list[str](), list[str]()
    plan = LimitPlan((100,), (1, 8), ("passes", "retrieval", "reading", "generate"), 0)
    target = tiny_target()
    report = measure_parts(target, target.model, plan, "here.", told.append, saved.append)
    assert report.failed == {"retrieval": "CUDA out of memory"}
    assert "NOT MEASURED: retrieval: CUDA out of memory" in report.table()
    tables = [json.loads(one) for one in saved]
    assert [len(tables[-1][name]) for name in ("passes", "retrieval", "reading", "plain")] == [2, 0, 1, 1]
    assert tables[-1]["failed"] == report.failed


@pytest.mark.parametrize("part", ["passes", "retrieval", "reading", "generate"])
def test_rows_are_saved_as_they_come(part: str) -> None:
    """What is there when time runs out in the middle of a part was measured."""
    saved = list[str]()
    target = tiny_target()
    measure_parts(
        target, target.model, LimitPlan((100, 200), (1,), (part,), 0), "here.", lambda line: None, saved.append
    )
    name = "plain" if part == "generate" else part
    assert [len(json.loads(one)[name]) for one in saved] == [1, 2, 2]


def test_rows_before_a_failure_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(target: Target, *others: object) -> Iterator[ReadingRow]:
        yield ReadingRow(100, 1.0, 10, 20.0)
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(passes, "measure_reading", reading)
    target = tiny_target()
    plan = LimitPlan((100, 200), (1,), ("reading",), 0)
    report = measure_parts(target, target.model, plan, "here.", lambda line: None, lambda made: None)
    assert [row.length for row in report.reading] == [100]
    assert report.failed == {"reading": "CUDA out of memory"}


def test_the_command_takes_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "limit.json"
    command = ["bench", "--limit", "--shape", "tiny", "--lengths", "128", "--rows", "1,300", "--out", str(out)]
    assert main([*command, "--parts", "reading,modules"]) == 0
    table = json.loads(out.read_text("utf-8"))
    assert (table["passes"], table["plain"]) == ([], [])
    assert [row["length"] for row in table["reading"]] == [128]
    assert "| 128 tokens |" in capsys.readouterr().out
    assert main([*command, "--parts", "passes,lunch"]) == 2
    assert "There is no part 'lunch'. Valid: passes," in capsys.readouterr().err
    with pytest.raises(RequestError):
        parse_parts("")


def test_131072_tokens_of_an_8b_model_fit_a_card_of_80_gb() -> None:
    """By hand: 8.03 G weights of 2 bytes; 32 layers of 8 heads, 2 x 128 numbers of 2 bytes, for each token; a chunk of
    8,192 tokens; float32 logits of one row. The look at all keys of the last layer needs as much as 32 rows of them."""
    from transformers import AutoConfig

    from spec_engine.bench.shapes import shape_config
    from spec_engine.model.memory import memory_need

    values = dict(shape_config("Llama-3.1-8B-Instruct"))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    need = memory_need(config, torch.bfloat16, 131_072, prefill_chunk=8192)
    assert need.weights == 2 * 8_030_261_248
    assert need.cache == 131_072 * 32 * 8 * 2 * 128 * 2
    assert need.activations == 8192 * (4 * 4096 + 3 * 14336) * 4 + 2 * 128_256 * 4
    look = 32 * 131_072 * 4
    assert need.total + look < 36e9 < 80e9
