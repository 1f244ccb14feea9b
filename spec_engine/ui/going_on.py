"""Answers that are not whole and may be gone on with.

Job: which ones those are and what stands in the way (`is_cut`, `obstacle`); `Cut`, such an answer as it was, while more
of it is written.
Non-job: writing more (`workspace`, `answering`), markup (`render`).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from spec_engine.chat.store import StoredTurn
from spec_engine.ui import text
from spec_engine.ui.live import Stretch

_CUT: Final = ("length", "cancelled", "failed", "interrupted")
_BLOCK: Final = re.compile(r"\n(?:[ \t]*\n)+|\n(?=[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t])")  # what ends before one begins


@dataclass(frozen=True, slots=True)
class Cut:
    """An answer as it was before it was gone on with, and who wrote which part of it, where that is known."""

    turn: StoredTurn
    stretches: tuple[Stretch, ...] = ()

    @property
    def kept(self) -> str:
        """What of its text stays in the conversation while more is written: all paragraphs and items of lists but the
        last, in which new text goes on."""
        end = max((found.end() for found in _BLOCK.finditer(self.turn.answer)), default=0)
        return self.turn.answer[:end]


def is_cut(turn: StoredTurn, stop_token_ids: Collection[int]) -> bool:
    """Whether an answer was ended by something else than the model; one that was broken off behind its stop token is
    whole."""
    return turn.reason in _CUT and not (turn.token_ids and turn.token_ids[-1] in stop_token_ids)


def obstacle(turn: StoredTurn, model: str, capacity: int) -> str:
    """Why a cut answer cannot be gone on with by a model with room for `capacity` tokens; "" where nothing is known to
    stand in the way."""
    if turn.model != model or not turn.token_ids:
        return text.OTHER_MODEL_WROTE
    metrics = turn.details.get("metrics")
    if not isinstance(metrics, Mapping) or turn.reason == "interrupted":
        return ""
    num_tokens = int(metrics["num_prompt_tokens"]) + int(metrics["num_generated_tokens"])
    return text.REACHED_CONTEXT if num_tokens >= capacity else ""
