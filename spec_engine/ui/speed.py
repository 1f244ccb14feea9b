"""Drafted against plain decoding: two runs of one prompt, compared.

Job: the values of a measured comparison and the speed-up that follows from them.
Non-job: running anything (`workspace`), showing it (`readouts`).
"""

from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from spec_engine.events import Finished

MIN_BASELINE_TOKENS: Final = 8  # fewer say nothing about a speed


@dataclass(frozen=True, slots=True)
class PlainBaseline:
    """A measured speed of plain decoding, and on what it was measured."""

    tokens_per_second: float
    num_tokens: int
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt answered twice: with drafting, and plainly.

    Attributes:
        num_compared: length of the shorter answer in tokens.
        first_difference: index of the first token in which they differ, None when all compared tokens agree.
        drafted_rate, plain_rate: decoding speeds in tokens per second.
        is_whole: whether the plain run covered the whole answer.
    """

    num_compared: int
    first_difference: int | None
    drafted_rate: float
    plain_rate: float
    is_whole: bool


def compare(drafted: Finished, plain: Finished) -> Comparison:
    """Compare two answers to the same prompt token by token."""
    pairs = list(zip(drafted.token_ids, plain.token_ids, strict=False))
    num_equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return Comparison(
        num_compared=len(pairs),
        first_difference=None if num_equal == len(pairs) else num_equal,
        drafted_rate=drafted.metrics.tokens_per_second,
        plain_rate=plain.metrics.tokens_per_second,
        is_whole=len(plain.token_ids) >= len(drafted.token_ids),
    )


def baseline_of(plain: Finished) -> PlainBaseline | None:
    """The baseline that a plain run gives, None when it was too short to tell."""
    metrics = plain.metrics
    if metrics.num_generated_tokens < MIN_BASELINE_TOKENS or metrics.tokens_per_second <= 0:
        return None
    return PlainBaseline(metrics.tokens_per_second, metrics.num_generated_tokens, metrics.num_prompt_tokens)
