"""Figures of answers that were written in several parts."""

from typing import Any

import pytest

from spec_engine.chat.export import footer
from spec_engine.chat.figures import figures_of, lengthened
from spec_engine.chat.store import StoredTurn
from spec_engine.metrics import MetricsRecorder, StepRecord


def details(num_steps: int, decode_s: float, plain: float | None, num_prompt: int, **more: object) -> dict[str, object]:
    """Of a part: every step brought four tokens of which three were drafted."""
    recorder = MetricsRecorder(num_prompt, num_prompt - 10)
    for _ in range(num_steps):
        recorder.add(StepRecord(5, 3, 4, 4, 0.1, 0.1))
    measured = {} if plain is None else {"plain_tokens_per_second": plain}
    return {"metrics": recorder.summary(decode_s).as_dict(), "temperature": 0.5, "seed": 3, **measured, **more}


def turn(num_tokens: int, known: dict[str, Any], reason: Any = "length") -> StoredTurn:
    return StoredTurn(1, None, "Why?", "So.", (7,) * num_tokens, (True,) * num_tokens, "m", "p", reason, known)


FIRST = turn(40, details(10, 2.0, 10.0, 1000, max_tokens=40, looked_at=["p. 1", "p. 2"], read="all of a.pdf"))


def test_the_whole_is_what_its_parts_took_together() -> None:
    second = turn(100, lengthened(FIRST, details(15, 6.0, 5.0, 1040, max_tokens=60, looked_at=["p. 2", "p. 9"])))
    figures = figures_of(second)
    assert figures is not None
    assert (figures.num_tokens, figures.num_prompt_tokens, figures.num_reused_tokens) == (100, 1000, 990)
    assert figures.tokens_per_second == pytest.approx(100 / 8.0)
    assert figures.gain == pytest.approx((40 / 10 + 60 / 5) / 8.0)
    assert (figures.mean_acceptance_length, figures.num_draft_tokens) == (4.0, 125)
    assert second.details["max_tokens"] == 100
    assert second.details["looked_at"] == ["p. 1", "p. 2", "p. 9"]
    assert footer(second).startswith("100 tokens · 12.5 tokens/s · 2.0 × plain decoding · 4.0 tokens a pass · reused")
    third = lengthened(second, details(1, 1.0, None, 1140))
    assert [part["metrics"]["num_generated_tokens"] for part in third["earlier"]] == [40, 60]  # type: ignore[attr-defined]
    figures = figures_of(turn(104, third))
    assert figures is not None
    assert figures.gain == pytest.approx((40 / 10 + 60 / 5) / 8.0)  # over the parts that are known
    assert figures.tokens_per_second == pytest.approx(104 / 9.0)


def test_parts_that_a_crash_broke_off_count_as_tokens_alone() -> None:
    broken = turn(7, {}, "interrupted")
    assert figures_of(broken) is None
    figures = figures_of(turn(47, lengthened(broken, details(10, 2.0, None, 1007))))
    assert figures is not None
    assert (figures.num_tokens, figures.tokens_per_second, figures.gain) == (47, 20.0, None)
    figures = figures_of(turn(52, dict(FIRST.details), "interrupted"))  # while it was gone on with
    assert figures is not None
    assert (figures.num_tokens, figures.tokens_per_second) == (52, 20.0)


def test_the_gain_is_that_of_the_race_where_there_was_one() -> None:
    """What was measured beside a page that was being drawn is not compared with runs that were not."""
    race = {"num_compared": 40, "difference": None, "drafted_rate": 90.0, "plain_rate": 30.0, "is_whole": True}
    figures = figures_of(turn(40, {**FIRST.details, "race": race}))
    assert figures is not None
    assert figures.gain == pytest.approx(3.0)
    assert figures.is_raced
    assert "20.0 tokens/s · 3.0 × plain decoding in the race ·" in footer(turn(40, {**FIRST.details, "race": race}))
    for none in (None, {}, {**race, "plain_rate": 0.0}):
        figures = figures_of(turn(40, {**FIRST.details, "race": none}))
        assert figures is not None
        assert figures.gain == pytest.approx(2.0)
        assert not figures.is_raced
