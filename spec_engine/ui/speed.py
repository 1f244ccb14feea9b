"""The speed of plain decoding, to which drafting is compared.

Job: what a plain run says about it. Non-job: running one (`workspace`), comparing texts (`chat.compare`), showing it
(`readouts`).
"""

from dataclasses import dataclass
from typing import Final

from spec_engine.events import Finished

MIN_BASELINE_TOKENS: Final = 8  # fewer say nothing about a speed


@dataclass(frozen=True, slots=True)
class PlainBaseline:
    """A measured speed of plain decoding, and on what it was measured."""

    tokens_per_second: float
    num_tokens: int
    num_prompt_tokens: int


def baseline_of(plain: Finished) -> PlainBaseline | None:
    """The baseline that a plain run gives, None when it was too short to tell."""
    metrics = plain.metrics
    if metrics.num_generated_tokens < MIN_BASELINE_TOKENS or metrics.tokens_per_second <= 0:
        return None
    return PlainBaseline(metrics.tokens_per_second, metrics.num_generated_tokens, metrics.num_prompt_tokens)
