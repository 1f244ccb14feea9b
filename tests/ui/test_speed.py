"""Two runs of one prompt, compared."""

import pytest

from spec_engine.events import Finished
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.ui.speed import MIN_BASELINE_TOKENS, baseline_of, compare


def finished(token_ids: tuple[int, ...], decode_s: float) -> Finished:
    recorder = MetricsRecorder(100, 0)
    recorder.add(StepRecord(0, 0, len(token_ids), 0, 0.0, decode_s))
    return Finished("stop", token_ids, "", recorder.summary(decode_s))


def test_equal_answers_have_no_first_difference() -> None:
    result = compare(finished((1, 2, 3), 1.0), finished((1, 2, 3), 3.0))
    assert (result.first_difference, result.num_compared, result.is_whole) == (None, 3, True)
    assert (result.drafted_rate, result.plain_rate) == (pytest.approx(3.0), pytest.approx(1.0))


@pytest.mark.parametrize(("plain", "at"), [((9, 2, 3), 0), ((1, 2, 9), 2)])
def test_the_first_difference_is_found(plain: tuple[int, ...], at: int) -> None:
    assert compare(finished((1, 2, 3), 1.0), finished(plain, 1.0)).first_difference == at


def test_a_shorter_plain_run_compares_its_own_length_only() -> None:
    result = compare(finished((1, 2, 3, 4), 1.0), finished((1, 2), 1.0))
    assert (result.num_compared, result.first_difference, result.is_whole) == (2, None, False)


def test_a_baseline_needs_enough_tokens() -> None:
    assert baseline_of(finished(tuple(range(MIN_BASELINE_TOKENS - 1)), 1.0)) is None
    baseline = baseline_of(finished(tuple(range(MIN_BASELINE_TOKENS)), 2.0))
    assert baseline is not None
    assert baseline.tokens_per_second == pytest.approx(MIN_BASELINE_TOKENS / 2)
