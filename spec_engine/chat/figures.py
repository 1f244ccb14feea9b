"""The figures of a kept answer, which may have been written in several parts.

Job: `lengthened`, what is kept beside an answer that was gone on with; `figures_of`, what is known of the whole of it.
Non-job: taking figures (`metrics`), spelling them out (`export`, the page).

What is kept are the figures of each part as they were measured: those of the last one where those of an answer of one
part are, the others in order under ``earlier``. What is said of the whole is computed from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from spec_engine.chat.store import StoredTurn

_SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
_OF_A_PART: Final = ("metrics", "plain_tokens_per_second", *_SAMPLING)


@dataclass(frozen=True, slots=True)
class Figures:
    """A whole answer.

    Attributes:
        num_tokens: with a closing stop token.
        tokens_per_second: the tokens that were measured by the time that decoding them took.
        gain: against plain decoding, in the race over it; without one over the parts behind which that was measured;
            None where it was behind none.
        is_raced: whether that is the race's, whose runs are others than the one that `tokens_per_second` is of.
        num_draft_tokens, mean_acceptance_length: as in `GenerationMetrics`, over all steps.
        num_prompt_tokens, num_reused_tokens: of the first part that was measured.
    """

    num_tokens: int
    tokens_per_second: float
    gain: float | None
    is_raced: bool
    num_draft_tokens: int
    mean_acceptance_length: float
    num_prompt_tokens: int
    num_reused_tokens: int


def figures_of(turn: StoredTurn) -> Figures | None:
    """What is known of an answer; None where nothing was measured. Of parts that a crash broke off only the number of
    tokens is known."""
    known = [part for part in parts_of(turn.details) if isinstance(part.get("metrics"), Mapping)]
    if not known:
        return None
    metrics: list[Mapping[str, Any]] = [part["metrics"] for part in known]
    num_tokens = sum(each["num_generated_tokens"] for each in metrics)
    num_steps = sum(each["num_spec_steps"] for each in metrics)
    raced = _raced(turn.details)
    depth = sum(each["num_spec_steps"] * each["mean_acceptance_length"] for each in metrics)
    return Figures(
        num_tokens=max(num_tokens, len(turn.token_ids)),
        tokens_per_second=_rate(metrics),
        gain=raced or _gain(known),
        is_raced=raced is not None,
        num_draft_tokens=sum(each["num_draft_tokens"] for each in metrics),
        mean_acceptance_length=_ratio(depth, num_steps),
        num_prompt_tokens=metrics[0]["num_prompt_tokens"],
        num_reused_tokens=metrics[0]["num_reused_tokens"],
    )


def parts_of(details: Mapping[str, object]) -> list[Mapping[str, Any]]:
    """What was kept of each part of an answer, the first one first."""
    earlier = details.get("earlier")
    return [*(earlier if isinstance(earlier, Sequence) else ()), details]


def lengthened(before: StoredTurn, details: Mapping[str, object]) -> dict[str, object]:
    """The details of an answer that was gone on with, from those of what was added. Its limit is what the whole might
    have had; the parts of the document that were looked at are those of all its parts."""
    kept = {key: before.details[key] for key in _OF_A_PART if key in before.details}
    *earlier, _ = parts_of(before.details)
    merged: dict[str, object] = {**details, "earlier": [*earlier, kept]}
    limit = details.get("max_tokens")
    if isinstance(limit, int):
        merged["max_tokens"] = len(before.token_ids) + limit
    lists = [table.get("looked_at") for table in (before.details, details)]
    if places := list(dict.fromkeys(place for each in lists if isinstance(each, list) for place in each)):
        merged["looked_at"] = places
    return merged


def _rate(metrics: Sequence[Mapping[str, Any]]) -> float:
    """The speed of all parts together whose speed is known."""
    timed = [each for each in metrics if each["tokens_per_second"] > 0]
    num_tokens = sum(each["num_generated_tokens"] for each in timed)
    return _ratio(num_tokens, sum(_seconds(each, each["tokens_per_second"]) for each in timed))


def _raced(details: Mapping[str, object]) -> float | None:
    """The gain of the race over an answer; None where there is none."""
    race = details.get("race")
    rates = [race.get(name) for name in ("drafted_rate", "plain_rate")] if isinstance(race, Mapping) else []
    known = [rate for rate in rates if isinstance(rate, int | float) and rate > 0]
    return known[0] / known[1] if len(known) == 2 else None


def _gain(parts: Sequence[Mapping[str, Any]]) -> float | None:
    """How much longer plain decoding would have taken for those parts whose plain speed is known."""
    plain_s = drafted_s = 0.0
    for part in parts:
        metrics, plain = part["metrics"], part.get("plain_tokens_per_second")
        if isinstance(plain, int | float) and plain > 0 and metrics["tokens_per_second"] > 0:
            plain_s += _seconds(metrics, plain)
            drafted_s += _seconds(metrics, metrics["tokens_per_second"])
    return plain_s / drafted_s if drafted_s > 0 else None


def _seconds(metrics: Mapping[str, Any], tokens_per_second: float) -> float:
    """What the tokens of a part take at a speed; nothing at an unknown one."""
    return _ratio(metrics["num_generated_tokens"], tokens_per_second)


def _ratio(number: float, by: float) -> float:
    return number / by if by > 0 else 0.0
