"""When a plain run says something about speed."""

import pytest

from spec_engine.events import Finished
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.ui.speed import MIN_BASELINE_TOKENS, speed_of


def finished(token_ids: tuple[int, ...], decode_s: float) -> Finished:
    recorder = MetricsRecorder(100, 0)
    recorder.add(StepRecord(0, 0, len(token_ids), 0, 0.0, decode_s))
    return Finished("stop", token_ids, "", recorder.summary(decode_s))


def test_a_baseline_needs_enough_tokens() -> None:
    assert speed_of(finished(tuple(range(MIN_BASELINE_TOKENS - 1)), 1.0)) is None
    baseline = speed_of(finished(tuple(range(MIN_BASELINE_TOKENS)), 2.0))
    assert baseline is not None
    assert baseline.tokens_per_second == pytest.approx(MIN_BASELINE_TOKENS / 2)


def test_short_runs_count_together() -> None:
    """Those that took no time that a clock could see say nothing."""
    both = speed_of(finished(tuple(range(6)), 1.0), finished(tuple(range(6)), 3.0), finished((), 0.0))
    assert both is not None
    assert both.num_tokens == 12
    assert both.tokens_per_second == pytest.approx(3.0)
    assert speed_of() is None
