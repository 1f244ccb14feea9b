"""Drafted against plain decoding: two answers to one prompt, compared.

Job: where the token ids first differ and by how little the target preferred one over the other, and both speeds.
Non-job: running the answers (session.py), showing the outcome (cli.py, ui).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from spec_engine.events import Finished

LogitsAfter = Callable[[Sequence[int]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token in which two answers part: its index, both ids, and the target's logits of both there."""

    index: int
    drafted_id: int
    plain_id: int
    drafted_logit: float
    plain_logit: float

    @property
    def gap(self) -> float:
        """How far the logits lie apart; next to nothing where rounding decided."""
        return abs(self.plain_logit - self.drafted_logit)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt answered twice: with drafting, and plainly.

    Attributes:
        num_compared: length of the shorter answer in tokens.
        difference: None when all compared tokens agree.
        drafted_rate, plain_rate: decoding speeds in tokens per second.
        is_whole: whether the plain run covered the whole answer.
    """

    num_compared: int
    difference: Difference | None
    drafted_rate: float
    plain_rate: float
    is_whole: bool


def compare(drafted: Finished, plain: Finished, prompt: Sequence[int], logits_after: LogitsAfter) -> Comparison:
    """Compare two answers to `prompt` token by token.

    `logits_after` gives the target's logits [V] behind some tokens; it is asked only where the answers differ.
    """
    pairs = list(zip(drafted.token_ids, plain.token_ids, strict=False))
    num_equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    difference = None
    if num_equal < len(pairs):
        ours, theirs = pairs[num_equal]
        logits = logits_after((*prompt, *plain.token_ids[:num_equal]))
        difference = Difference(num_equal, ours, theirs, float(logits[ours]), float(logits[theirs]))
    return Comparison(
        num_compared=len(pairs),
        difference=difference,
        drafted_rate=drafted.metrics.tokens_per_second,
        plain_rate=plain.metrics.tokens_per_second,
        is_whole=len(plain.token_ids) >= len(drafted.token_ids),
    )
