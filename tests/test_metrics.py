"""The figures of an answer, by hand."""

import json
import random

import pytest

from spec_engine.metrics import MetricsRecorder, StepRecord


def step(drafted: int, accepted: int, depth: int, note: str = "") -> StepRecord:
    return StepRecord(drafted, accepted, accepted + 1, depth, 0.1, 0.3, 0.05, note)


def test_summary_by_hand() -> None:
    recorder = MetricsRecorder(num_prompt_tokens=110, num_reused_tokens=10)
    recorder.prefilled(2.0)
    recorder.first_token(2.5)
    for record in (step(0, 0, 0), step(8, 3, 4), step(8, 0, 4), step(2, 2, 2, "off")):
        recorder.add(record)
    summary = recorder.summary(decode_s=3.0)
    assert summary.num_generated_tokens == 9
    assert summary.tokens_per_second == pytest.approx(3.0)
    assert summary.prefill_tokens_per_second == pytest.approx(50.0)
    assert summary.time_to_first_token_s == 2.5
    assert (summary.num_spec_steps, summary.num_draft_tokens, summary.num_accepted_draft_tokens) == (4, 18, 5)
    assert summary.mean_acceptance_length == pytest.approx(9 / 4)
    assert summary.draft_acceptance_rate == pytest.approx(5 / 18)
    assert summary.acceptance_histogram == (2, 0, 1, 1)
    assert summary.acceptance_by_position == pytest.approx((2 / 3, 2 / 3, 1 / 2, 0.0))
    assert (summary.draft_s, summary.verify_s, summary.other_s) == pytest.approx((0.4, 1.2, 0.2))
    assert (summary.num_plain_steps, summary.drafting_note) == (1, "off")


def test_an_answer_without_steps_has_no_rates() -> None:
    summary = MetricsRecorder(5, 0).summary(0.0)
    assert summary.mean_acceptance_length == 0.0
    assert summary.acceptance_histogram == ()
    assert summary.tokens_per_second == 0.0


def test_plain_decoding_has_acceptance_length_one() -> None:
    recorder = MetricsRecorder(5, 0)
    for _ in range(7):
        recorder.add(step(0, 0, 0))
    assert recorder.summary(1.0).mean_acceptance_length == 1.0


def test_as_dict_is_json() -> None:
    recorder = MetricsRecorder(5, 0)
    recorder.add(step(4, 2, 3))
    values = json.loads(json.dumps(recorder.summary(1.0).as_dict()))
    assert values["acceptance_histogram"] == [0, 0, 1]
    assert values["mean_acceptance_length"] == 3.0


def test_running_sums_are_those_over_all_steps() -> None:
    rng = random.Random(5)
    recorder, steps = MetricsRecorder(50, 0), []
    for number in range(300):
        depth = rng.choice((0, 0, 1, 3, 8, 31))
        kept = rng.randint(0, depth)
        steps.append(step(depth + rng.randint(0, 9) if depth else 0, kept, depth, "off" if number == 200 else ""))
        recorder.add(steps[-1])
        deepest = max(one.draft_depth for one in steps)
        summary = recorder.summary(1.0)
        assert summary.acceptance_by_position == pytest.approx(
            [
                sum(one.num_accepted_draft_tokens > position for one in steps)
                / sum(one.draft_depth > position for one in steps)
                for position in range(deepest)
            ]
        )
        assert sum(summary.acceptance_histogram) == summary.num_spec_steps == len(steps)
        assert summary.verify_s == pytest.approx(sum(one.verify_s for one in steps))
    assert summary.drafting_note == "off"
