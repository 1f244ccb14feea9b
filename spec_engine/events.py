"""What happened while an answer was made, as values in the past tense.

Job: the one stream that the page, the command line and the bench read. Order within an answer:
``PromptReady, Prefilled*, (TokensAccepted ContextAttended? ContextFocused?)*, Finished``.
Non-job: behaviour; an event holds facts and nothing that can change.
"""

from dataclasses import dataclass
from typing import Literal

from spec_engine.metrics import GenerationMetrics, StepRecord

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class PromptReady:
    """The prompt was compared with the cache: so many tokens in all, so many of them already computed, and of these so
    many restored from disk.

    `written_text`, where the prompt ends with the beginning of the answer, is its text as far as no later token can
    change it: the texts to come follow it.
    """

    num_prompt_tokens: int
    num_reused_tokens: int
    num_restored_tokens: int = 0
    written_text: str = ""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A chunk of the prompt was read. `num_done` counts reused tokens too; seconds since the request began."""

    num_done: int
    num_prompt_tokens: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class TokensAccepted:
    """One step's tokens, after the stop rules cut.

    `text` is what became certain with this step (a token may complete a character begun earlier); the texts of all
    events joined are the answer. `is_drafted[i]` tells whether `token_ids[i]` was proposed by the drafter or added by
    the target itself. `text_by_token[i]` is the part of `text` that token i brought; joined they equal `text`.
    """

    token_ids: tuple[int, ...]
    is_drafted: tuple[bool, ...]
    text: str
    text_by_token: tuple[str, ...]
    record: StepRecord
    elapsed_s: float  # since the request began


@dataclass(frozen=True, slots=True)
class ContextFocused:
    """Retrieval gave the drafter a new view: these chunks of the context, `num_tokens` in all."""

    chunk_ids: tuple[int, ...]
    chunk_size: int
    num_tokens: int
    num_context_tokens: int


@dataclass(frozen=True, slots=True)
class ContextAttended:
    """The target attended to these chunks of the context far more than to the rest; none when its look was flat.

    The first and the newest tokens, which always draw attention, are not counted.
    """

    chunk_ids: tuple[int, ...]
    chunk_size: int
    num_context_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete. `token_ids` and `text` are all that this request wrote, `text` without stop token and
    without a character that the length cut."""

    reason: FinishReason
    token_ids: tuple[int, ...]
    text: str
    metrics: GenerationMetrics


Event = PromptReady | Prefilled | TokensAccepted | ContextFocused | ContextAttended | Finished
