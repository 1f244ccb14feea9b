"""Two runs of one prompt, compared."""

from collections.abc import Sequence

import pytest

from spec_engine.chat.compare import compare
from spec_engine.events import Finished
from spec_engine.metrics import MetricsRecorder, StepRecord

PROMPT = (7, 8)


def finished(token_ids: tuple[int, ...], decode_s: float) -> Finished:
    recorder = MetricsRecorder(100, 0)
    recorder.add(StepRecord(0, 0, len(token_ids), 0, 0.0, decode_s))
    return Finished("stop", token_ids, "", recorder.summary(decode_s))


def logits_after(token_ids: Sequence[int]) -> list[float]:
    """Logits that tell what was asked: the sum of the tokens, then the ids."""
    return [sum(token_ids) + 0.5 * token_id for token_id in range(10)]


def never(token_ids: Sequence[int]) -> list[float]:
    raise AssertionError("nothing differs, so nothing has to be computed")


def test_equal_answers_have_no_difference() -> None:
    result = compare(finished((1, 2, 3), 1.0), finished((1, 2, 3), 3.0), PROMPT, never)
    assert (result.difference, result.num_compared, result.is_whole) == (None, 3, True)
    assert (result.drafted_rate, result.plain_rate) == (pytest.approx(3.0), pytest.approx(1.0))


@pytest.mark.parametrize(("plain", "at"), [((9, 2, 3), 0), ((1, 2, 9), 2)])
def test_the_first_difference_is_found_with_its_logits(plain: tuple[int, ...], at: int) -> None:
    ours = (1, 2, 3)
    found = compare(finished(ours, 1.0), finished(plain, 1.0), PROMPT, logits_after).difference
    assert found is not None
    assert (found.index, found.drafted_id, found.plain_id) == (at, ours[at], 9)
    base = sum(PROMPT) + sum(plain[:at])
    assert (found.drafted_logit, found.plain_logit) == (base + 0.5 * ours[at], base + 4.5)
    assert found.gap == pytest.approx(4.5 - 0.5 * ours[at])


def test_a_shorter_plain_run_compares_its_own_length_only() -> None:
    result = compare(finished((1, 2, 3, 4), 1.0), finished((1, 2), 1.0), PROMPT, never)
    assert (result.num_compared, result.difference, result.is_whole) == (2, None, False)
