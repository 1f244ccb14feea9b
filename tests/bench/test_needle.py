"""The needle stands in the text once, and only a view that holds it lets the draft know what it says."""

import json
import random
from dataclasses import replace

import pytest

from spec_engine.bench.needle import hide, make_needle, measure_needles, needle_json
from spec_engine.bench.report import needle_table
from spec_engine.bench.tasks import bundled_text, read_texts
from spec_engine.config import load_preset
from spec_engine.errors import RequestError
from spec_engine.loading import load_engine

REPORT = read_texts(bundled_text())[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_needle_is_hidden_once_and_asked_for(seed: int) -> None:
    dice = random.Random(seed)
    needle = make_needle(dice)
    text = hide(needle, REPORT, dice)
    assert needle.sentence not in REPORT
    assert text.count(needle.sentence) == 1
    assert text.replace(f"{needle.sentence} ", "") == REPORT
    asked = needle.question.split('"')[1]
    assert needle.sentence == f"{asked} is {needle.secret}."
    assert make_needle(random.Random(seed)) == needle


@pytest.mark.slow
def test_the_draft_knows_a_needle_that_is_in_view() -> None:
    engine = load_engine(load_preset("builtin"), drafter="none", device="cpu")
    rows = measure_needles(engine, [REPORT, REPORT], [3000], 2, lambda line: None)
    found = {row.view: row for row in rows}
    assert set(found) == {"full", "recent", "retrieval"}
    assert found["retrieval"].num_quoted > 0
    assert found["retrieval"].num_tokens > 5
    assert found["retrieval"].accuracy > 0.6 > found["recent"].accuracy
    assert "| retrieval | " in needle_table(rows)
    assert json.loads(needle_json(rows))[0]["length"] == 3000


def test_a_preset_without_a_draft_language_model_is_refused() -> None:
    preset = load_preset("builtin")
    for draft in (replace(preset.draft, model=None), replace(preset.draft, kind="longspec")):
        engine = load_engine(replace(preset, draft=draft), drafter="none", device="cpu")
        with pytest.raises(RequestError, match="draft language model"):
            measure_needles(engine, [REPORT], [1000], 1, lambda line: None)
