"""The likeliest tokens alone: what is timed and told."""

import pytest
import torch
from torch import Tensor

from spec_engine.bench import likeliest
from spec_engine.bench.likeliest import LikeliestRow, likeliest_table, measure_likeliest
from spec_engine.model.likeliest import by_torch


def failing(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    if num == 50:
        raise RuntimeError("out of resource\nmore")
    return by_torch(logits, num)


def test_all_ways_are_timed_and_what_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeliest, "_ways", lambda device: {"torch": by_torch, "ours": failing})
    monkeypatch.setattr(likeliest, "_COLUMNS", (100,))
    told = list[str]()
    rows = measure_likeliest((torch.float32, torch.device("cpu")), told.append)
    assert [(row.way, row.num) for row in rows] == [
        ("torch", 50), ("torch", 10), ("ours", 10), ("torch", 16), ("ours", 16)
    ]  # fmt: skip
    assert told == ["FAILED: ours, 50 of 100 columns: out of resource"]
    assert all(row.seconds > 0 for row in rows)


def test_a_call_is_a_line() -> None:
    rows = [LikeliestRow("torch", 16, 32000, 16, 4e-5), LikeliestRow("ours", 16, 32000, 16, 6.5e-6)]
    assert likeliest_table(rows).splitlines()[-1] == "| 16 of 32,000 | 16 | 40.0 µs | 6.5 µs |"
