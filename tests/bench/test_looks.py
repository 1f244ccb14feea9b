"""Whether the places looked at are those that answers came from."""

import json

from spec_engine.bench.looks import LooksRow, looks_json, looks_table, measure_looks
from spec_engine.bench.tasks import bundled_text, read_texts
from spec_engine.config import load_preset
from spec_engine.loading import load_engine


def test_the_built_in_model_looks_where_it_quotes_from() -> None:
    """By chance it would be one answer in ten with three of 32 chunks."""
    engine = load_engine(load_preset("builtin"), device="cpu")
    lines: list[str] = []
    (row,) = measure_looks(engine, read_texts(bundled_text()), [1024], 5, lines.append)
    assert row.num_questions == 5
    assert row.num_first <= row.num_best
    assert row.num_best >= 4
    assert lines == [f"1024: {row.num_first} of 5 first, {row.num_best} among the first 3"]


def test_the_table_has_shares() -> None:
    rows = [LooksRow(1024, 4, 1, 3)]
    assert "| 1,024 tokens | 4 | 25% | 75% |" in looks_table(rows)
    assert json.loads(looks_json(rows)) == [{"length": 1024, "num_questions": 4, "num_first": 1, "num_best": 3}]
