"""The figures of an answer that was given before its conversation was opened, or in another branch.

Job: `recalled`, its figures as they were when it was made; `kept_speed` and `recalled_speed`, the speed of plain
decoding behind it.
Non-job: keeping answers (`answering`, `chat.store`), markup (`readouts`).
"""

from collections.abc import Mapping
from typing import Any, cast, get_args

from spec_engine.chat.figures import parts_of
from spec_engine.chat.store import StoredTurn
from spec_engine.events import Finished, FinishReason
from spec_engine.metrics import GenerationMetrics
from spec_engine.ui.live import LiveAnswer
from spec_engine.ui.speed import MeasuredSpeed


def recalled(turn: StoredTurn) -> LiveAnswer | None:
    """An answer as its figures were when it ended, of one of several parts those of the last; None where none were
    kept. Where the target looked, step by step, and who wrote which token are not among them."""
    metrics = _metrics_of(turn.details)
    if metrics is None or turn.reason not in get_args(FinishReason):
        return None
    is_more = len(parts_of(turn.details)) > 1
    answer = LiveAnswer(turn.answer if is_more else "")
    new = "" if is_more else turn.answer
    answer.apply([Finished(cast(FinishReason, turn.reason), turn.token_ids, new, metrics)])
    answer.num_prompt = answer.num_read = metrics.num_prompt_tokens
    answer.num_reused, answer.read_s = metrics.num_reused_tokens, metrics.prefill_s
    return answer


def kept_speed(plain: MeasuredSpeed) -> dict[str, object]:
    """What is kept of the speed of plain decoding behind an answer."""
    return {"plain_tokens_per_second": plain.tokens_per_second, "plain_num_tokens": plain.num_tokens}


def recalled_speed(turn: StoredTurn) -> MeasuredSpeed | None:
    """The speed of plain decoding behind a kept answer; None where it was not measured."""
    metrics, rate = _metrics_of(turn.details), turn.details.get("plain_tokens_per_second")
    number = turn.details.get("plain_num_tokens")
    if metrics is None or not isinstance(rate, int | float) or not isinstance(number, int) or rate <= 0:
        return None
    return MeasuredSpeed(float(rate), number, metrics.num_prompt_tokens)


def _metrics_of(details: Mapping[str, Any]) -> GenerationMetrics | None:
    metrics = details.get("metrics")
    return GenerationMetrics.from_dict(metrics) if isinstance(metrics, Mapping) else None
