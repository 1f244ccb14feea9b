"""Attention alone: backends against the reference and the clock."""

import json
from pathlib import Path

import pytest
import torch

from spec_engine.attention import AttentionBackend
from spec_engine.attention.sdpa import CpuBackend
from spec_engine.bench import kernels
from spec_engine.bench.kernels import Heads, heads_of, kernel_json, kernel_table, make_call, measure_kernels
from spec_engine.cli import main
from spec_engine.errors import RequestError

CPU = torch.device("cpu")


def test_models_with_the_same_heads_are_measured_once() -> None:
    found = heads_of(["Llama-3.1-8B-Instruct", "Qwen3-8B", "Llama-3.2-1B-Instruct", "EAGLE3-LLaMA3.1-Instruct-8B"])
    assert [(one.num_heads, one.num_kv_heads, one.size) for one in found] == [(32, 8, 128), (32, 8, 64)]
    assert found[0].names == ("Llama-3.1-8B-Instruct", "Qwen3-8B", "EAGLE3-LLaMA3.1-Instruct-8B")
    with pytest.raises(RequestError, match="no shape"):
        heads_of(["gpt-9"])


@pytest.mark.parametrize("num_rows", [1, 5])
def test_what_a_call_needs_is_as_counted_by_hand(num_rows: int) -> None:
    call = make_call(Heads(4, 2, 16), num_rows, 100, torch.float32, CPU)
    assert (call.q.shape, call.k.shape) == ((1, 4, num_rows, 16), (1, 2, 100, 16))
    assert call.num_bytes == 4 * (4 * num_rows * 16 + 2 * 2 * 100 * 16)
    assert call.num_operations == 2 * 4 * num_rows * 100 * (16 + 16)
    assert (call.bias is None) == (num_rows == 1)


class Broken(CpuBackend):
    """Wrong by a little."""

    name = "broken"

    def hybrid(self, *arguments, **options):
        out, lse = super().hybrid(*arguments, **options)
        return out * 1.1, lse


class Failing(CpuBackend):
    """Without memory for more than a few keys."""

    name = "failing"

    def hybrid(self, q, k, *arguments, **options):
        if k.shape[2] > 1200:
            raise RuntimeError("out of memory\nmore")
        return super().hybrid(q, k, *arguments, **options)


def test_a_backend_that_is_wrong_or_fails_is_told_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: dict[str, AttentionBackend] = {one.name: one for one in (CpuBackend(), Broken(), Failing())}
    monkeypatch.setattr(kernels, "runnable", lambda device, dtype: backends)
    told = list[str]()
    rows = measure_kernels([Heads(4, 2, 16)], (1, 8), (300, 1300), (torch.float32, CPU), told.append)
    names = [(row.backend, row.num_keys, row.num_rows) for row in rows]
    assert names == [
        ("torch-cpu-flash", 300, 1), ("failing", 300, 1), ("torch-cpu-flash", 300, 8), ("failing", 300, 8),
        ("torch-cpu-flash", 1300, 1), ("torch-cpu-flash", 1300, 8),
    ]  # fmt: skip
    assert any(line.startswith("WRONG: broken, 4/2 heads of 16") for line in told)
    assert any(line == "FAILED: failing, 4/2 heads of 16: out of memory" for line in told)
    assert all(row.error < 1e-5 and 0 < row.share < 1.5 for row in rows)
    assert kernel_table(rows).count("\n") == 7
    assert json.loads(kernel_json("here", rows))["kernels"][0]["backend"] == "torch-cpu-flash"


def test_the_command_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "kernels.json"
    command = ["bench", "--kernels", "--shape", "tiny", "--lengths", "64", "--rows", "1,4", "--out", str(out)]
    assert main([*command, "--dtype", "float32", "--sweep", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| 4/2 heads of 16 | 64 | 4 |" in printed
    table = json.loads(out.read_text("utf-8"))
    assert {row["backend"] for row in table["kernels"]} == {"torch-cpu-flash", "matmul"}
    assert table["tunings"] == []
    assert "| 16 of 32,000 | 16 |" in printed
    assert {row["way"] for row in table["likeliest"]} == {"torch"}
    assert main(["bench", "--rows", "1"]) == 2
    assert main(["bench", "--limit", "--sweep", "1"]) == 2
