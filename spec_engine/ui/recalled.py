"""The figures of an answer that was given before its conversation was opened, or in another branch.

Job: `recalled`, its figures as they were when it was made; `kept_speed`, `recalled_speed` and `recalled_race`, the
speed of plain decoding behind it, and its race.
Non-job: keeping answers (`answering`, `chat.store`), markup (`readouts`).
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, cast, get_args

from spec_engine.chat.compare import Comparison
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


def kept_speed(plain: MeasuredSpeed, race: Comparison | None = None) -> dict[str, object]:
    """What is kept of the speed of plain decoding behind an answer, and of a race: None for one whose texts
    did not agree, in place of an earlier one."""
    kept: dict[str, object] = {f"plain_{name}": value for name, value in asdict(plain).items()}
    if race is not None:
        kept["race"] = asdict(race) if race.difference is None else None
    return kept


def recalled_speed(turn: StoredTurn) -> MeasuredSpeed | None:
    """The speed of plain decoding behind a kept answer; None where it was not measured."""
    metrics, rate = _metrics_of(turn.details), turn.details.get("plain_tokens_per_second")
    number = turn.details.get("plain_num_tokens")
    if metrics is None or not isinstance(rate, int | float) or not isinstance(number, int) or rate <= 0:
        return None
    behind = turn.details.get("plain_num_prompt_tokens")  # not kept at first
    return MeasuredSpeed(float(rate), number, behind if isinstance(behind, int) else metrics.num_prompt_tokens)


def recalled_race(turn: StoredTurn) -> Comparison | None:
    """The last race over a kept answer; None where there was none, its texts did not agree, or another version wrote
    other figures."""
    race = turn.details.get("race")
    if not isinstance(race, Mapping) or race.keys() != {each.name for each in fields(Comparison)}:
        return None
    return Comparison(**race)


def _metrics_of(details: Mapping[str, Any]) -> GenerationMetrics | None:
    metrics = details.get("metrics")
    return GenerationMetrics.from_dict(metrics) if isinstance(metrics, Mapping) else None
