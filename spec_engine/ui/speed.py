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


def baseline_of(*plain: Finished) -> PlainBaseline | None:
    """The baseline that plain runs behind one prompt give together, None when they were too short to tell."""
    runs = [run.metrics for run in plain if run.metrics.tokens_per_second > 0]
    num_tokens = sum(run.num_generated_tokens for run in runs)
    if num_tokens < MIN_BASELINE_TOKENS:
        return None
    seconds = sum(run.num_generated_tokens / run.tokens_per_second for run in runs)
    return PlainBaseline(num_tokens / seconds, num_tokens, runs[0].num_prompt_tokens)
