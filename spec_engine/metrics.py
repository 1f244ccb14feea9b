"""What an answer cost and what drafting brought: pure arithmetic over per-step records.

Job: collect one `StepRecord` per target pass and sum them up as `GenerationMetrics`, with vLLM's field names
(``mean_acceptance_length``, ``draft_acceptance_rate``, ``acceptance_histogram``).
Non-job: reading clocks, printing, anything that needs torch.

Definitions. A *step* is one target pass over a draft tree. *Accepted* counts the drafted tokens that the target
confirmed and that were kept; the token which the target adds itself (the bonus) is not among them.
``mean_acceptance_length`` = 1 + accepted / steps, so it includes the bonus token and is 1.0 for plain decoding.
``tokens_per_second`` covers decoding alone; prefill is reported apart.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One target pass: counts, and the seconds of its parts."""

    num_draft_tokens: int  # nodes below the root that the target ran; what was drafted and cut before is not among them
    num_accepted_draft_tokens: int  # of these, kept
    num_new_tokens: int  # tokens added to the answer: accepted + bonus, after the stop rules cut
    draft_depth: int  # deepest proposed level; 0 for a bare root
    draft_s: float  # proposing and observing
    verify_s: float  # target pass, acceptance and commit
    other_s: float = 0.0  # retrieval and bookkeeping
    drafting_note: str = ""  # why nothing was drafted although a drafter is there; empty while drafting is on
    drafter_failure: str = ""  # what broke in the drafter, from then on
    sample_s: float = 0.0  # of `verify_s`: choosing tokens; on a GPU the wait for the pass lies here


@dataclass(frozen=True, slots=True)
class GenerationMetrics:
    """Figures of one answer. Seconds are wall-clock; rates are tokens per second."""

    num_prompt_tokens: int
    num_reused_tokens: int
    num_generated_tokens: int
    prefill_s: float
    decode_s: float
    draft_s: float
    verify_s: float
    other_s: float
    sample_s: float
    time_to_first_token_s: float
    tokens_per_second: float
    prefill_tokens_per_second: float
    num_spec_steps: int
    num_draft_tokens: int
    num_accepted_draft_tokens: int
    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: tuple[int, ...]  # [k] = steps in which exactly k drafted tokens were kept
    acceptance_by_position: tuple[float, ...]  # [k] = share of steps drafting to depth > k that kept more than k
    num_plain_steps: int  # steps over a bare root, drafts that were cut to nothing among them
    drafting_note: str  # the last reason why drafting was off, if it ever was
    drafter_failure: str  # what broke in the drafter, if anything did: the rest was decoded plainly

    def as_dict(self) -> dict[str, int | float | str | list[int] | list[float]]:
        """Plain values for JSON; tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GenerationMetrics | None":
        """What `as_dict` wrote; None where another version wrote other figures."""
        if values.keys() != {each.name for each in fields(cls)}:
            return None
        figures: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**figures)


class MetricsRecorder:
    """Sums up the records of one answer as they come: a summary takes the same time behind any number of steps, for a
    page asks for one many times a second. Clock readings are given, never taken here."""

    def __init__(self, num_prompt_tokens: int, num_reused_tokens: int) -> None:
        self._num_prompt = num_prompt_tokens
        self._num_reused = num_reused_tokens
        self._num_steps = self._num_plain = self._num_tokens = self._num_drafted = self._num_accepted = 0
        self._draft_s = self._verify_s = self._other_s = self._sample_s = 0.0
        self._by_accepted: list[int] = []  # steps by number of accepted drafted tokens
        self._by_depth: list[int] = []  # steps by depth of their draft
        self._note = self._failure = ""
        self._prefill_s = 0.0
        self._first_token_s = 0.0

    def prefilled(self, seconds: float) -> None:
        """Set the seconds from the start of the request to the end of prefill (target and draft)."""
        self._prefill_s = seconds

    def first_token(self, seconds: float) -> None:
        """Set the seconds from the start of the request to the first token of the answer."""
        self._first_token_s = seconds

    def add(self, step: StepRecord) -> None:
        """Count one step."""
        self._num_steps += 1
        self._num_plain += step.num_draft_tokens == 0
        self._num_tokens += step.num_new_tokens
        self._num_drafted += step.num_draft_tokens
        self._num_accepted += step.num_accepted_draft_tokens
        self._draft_s += step.draft_s
        self._verify_s += step.verify_s
        self._other_s += step.other_s
        self._sample_s += step.sample_s
        _count(self._by_accepted, step.num_accepted_draft_tokens)
        _count(self._by_depth, step.draft_depth)
        self._note = step.drafting_note or self._note
        self._failure = self._failure or step.drafter_failure

    def summary(self, decode_s: float) -> GenerationMetrics:
        """Sum up; `decode_s` are the seconds from the end of prefill to the last token."""
        num_prefilled = self._num_prompt - self._num_reused
        return GenerationMetrics(
            num_prompt_tokens=self._num_prompt,
            num_reused_tokens=self._num_reused,
            num_generated_tokens=self._num_tokens,
            prefill_s=self._prefill_s,
            decode_s=decode_s,
            draft_s=self._draft_s,
            verify_s=self._verify_s,
            other_s=self._other_s,
            sample_s=self._sample_s,
            time_to_first_token_s=self._first_token_s,
            tokens_per_second=self._num_tokens / decode_s if decode_s > 0 else 0.0,
            prefill_tokens_per_second=num_prefilled / self._prefill_s if self._prefill_s > 0 else 0.0,
            num_spec_steps=self._num_steps,
            num_draft_tokens=self._num_drafted,
            num_accepted_draft_tokens=self._num_accepted,
            mean_acceptance_length=1 + self._num_accepted / self._num_steps if self._num_steps else 0.0,
            draft_acceptance_rate=self._num_accepted / self._num_drafted if self._num_drafted else 0.0,
            acceptance_histogram=tuple(self._by_accepted),
            acceptance_by_position=self._by_position(),
            num_plain_steps=self._num_plain,
            drafting_note=self._note,
            drafter_failure=self._failure,
        )

    def _by_position(self) -> tuple[float, ...]:
        """For each drafted depth, the share of the steps that drafted so deep and kept the token there. No step keeps
        more than its draft is deep, so what a position kept are the steps that kept more."""
        num_drafted, num_kept = self._num_steps, self._num_steps
        shares = []
        for position, ending in enumerate(self._by_depth[:-1]):
            num_drafted -= ending
            num_kept -= self._by_accepted[position] if position < len(self._by_accepted) else 0
            shares.append(num_kept / num_drafted)
        return tuple(shares)


def _count(counts: list[int], number: int) -> None:
    """One more of a number, in a list that is as long as the largest needs."""
    counts.extend([0] * (number + 1 - len(counts)))
    counts[number] += 1


def describe(metrics: GenerationMetrics) -> str:
    """The figures that matter most, in one line; a drafter's failure after them."""
    failure = f". {metrics.drafter_failure}" if metrics.drafter_failure else ""
    return (
        f"{metrics.num_generated_tokens} tokens, {metrics.tokens_per_second:.1f} tokens/s, mean acceptance length "
        f"{metrics.mean_acceptance_length:.2f}; prompt {metrics.num_prompt_tokens:,} tokens "
        f"({metrics.num_reused_tokens:,} reused), first token after {metrics.time_to_first_token_s:.2f} s"
        f"{failure}"
    )
