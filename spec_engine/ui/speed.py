"""Measured speeds, foremost that of plain decoding, to which drafting is compared.

Job: what runs say about a speed. Non-job: running them (`workspace`, `racing`), comparing texts (`chat.compare`),
showing it (`readouts`).
"""

from dataclasses import dataclass
from typing import Final

from spec_engine.events import Finished

MIN_BASELINE_TOKENS: Final = 8  # fewer say nothing about a speed
TIMED_S: Final = 0.5  # of decoding: what was measured in less is an accident


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """A measured speed of decoding, and on how many tokens behind how long a prompt it was measured."""

    tokens_per_second: float
    num_tokens: int
    num_prompt_tokens: int


def speed_of(*finished: Finished) -> MeasuredSpeed | None:
    """The speed that runs behind one prompt give together, None when they were too short to tell."""
    runs = [run.metrics for run in finished if run.metrics.tokens_per_second > 0]
    num_tokens = sum(run.num_generated_tokens for run in runs)
    if num_tokens < MIN_BASELINE_TOKENS:
        return None
    seconds = sum(run.num_generated_tokens / run.tokens_per_second for run in runs)
    return MeasuredSpeed(num_tokens / seconds, num_tokens, runs[0].num_prompt_tokens)
