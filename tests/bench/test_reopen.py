"""A document that comes back from disk is there sooner, and says the same."""

import json
from pathlib import Path

import pytest

from spec_engine.bench.reopen import ReopenRow, measure_reopening, reopen_json, reopen_table
from spec_engine.bench.tasks import bundled_text, read_texts
from spec_engine.cache.store import PrefixStore
from spec_engine.config import load_preset
from spec_engine.loading import load_engine


@pytest.mark.parametrize("name", ["builtin", "builtin-eagle3", "builtin-longspec"])
def test_the_built_in_presets_are_back_much_sooner(name: str, tmp_path: Path) -> None:
    """The goal of 20 times is for the full context, which takes too long here; a fifth of it gives most of that."""
    engine, lines = load_engine(load_preset(name), device="cpu"), list[str]()
    store = PrefixStore(tmp_path, 1 << 30)
    (row,) = measure_reopening(engine, store, read_texts(bundled_text()), [3000], 1, lines.append)
    assert (row.num_texts, row.num_identical) == (1, 1)
    assert row.gain > 2  # 8 at 1,024 tokens and 20 at 4,096 with nothing else running
    assert lines[0].startswith("3000: first token after ")
    assert store.num_bytes == 0  # nothing of it stays


def test_the_table_has_the_gain() -> None:
    rows = [ReopenRow(1024, 2, 3.0, 0.1, 5.0, 2)]
    assert "| 1,024 tokens | 2 | 3.00 s | 0.10 s | 30 x | 5 MB | 2 of 2 |" in reopen_table(rows)
    assert json.loads(reopen_json(rows))[0]["read_s"] == 3.0
