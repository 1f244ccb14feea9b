"""Cross-model retrieval: which chunks of the context the drafter should see.

Job: turn the target's attention row of the last committed token into a `Focus`, the chunks with the largest mean
attention plus the first and the last tokens (SpecExtend, arXiv 2505.20776, section 3.2), and say so only when the view
changed.
Non-job: recording the row, gathering keys, anything that knows a model.

The published method ranks with a half-precision running sum, rebuilds the view in every step and can lose the newest
tokens. Here a chunk's score is a plain mean in float32, the chunks that hold the first `num_sink` and the last
`num_recent` tokens are always part of the view, and a chunk in view gives way only to one that scores better by the
margin `hysteresis`, because each change makes the drafter gather its keys again. With `lookahead` a chunk counts for at
least that share of the chunk before it: a text that is quoted is read onwards, over the end of the chunk.

Rows on a GPU take their time: the host would wait for one in every step, only to see that the view stays. So their
scores travel while the next step runs, and a view is one step late there (`_Travelling`).
"""

from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from spec_engine.config import RetrievalConfig

_NUM_NOTABLE: Final = 8  # chunks that one look is said to have gone to, at most
_NOTABLE: Final = 3.0  # times the mean attention of a chunk


@dataclass(frozen=True, slots=True)
class Focus:
    """A view of the context: whole chunks in text order. Tokens that are committed later follow after it."""

    chunk_ids: tuple[int, ...]  # ascending; chunk i covers tokens i * chunk_size and on
    token_indices: Tensor  # int64 [n] on the CPU, ascending, all below the number of tokens at the time
    chunk_size: int


class ScoredStep(Protocol):
    """What retrieval reads of a committed step."""

    @property
    def num_done(self) -> int:
        """Tokens in the target's cache."""

    @property
    def attention_row(self) -> Tensor | None:
        """[num_done] mean over heads of the last committed token's attention, or None where it was not recorded."""


class Retriever:
    """Chooses the view of one answer; make a new one for each."""

    def __init__(self, config: RetrievalConfig) -> None:
        self._config = config
        self._num_updates = 0
        self._chosen: frozenset[int] = frozenset()  # chunks in view by their score
        self._num_tokens = 0  # context length when the view was last given out; 0: never
        self._is_whole = False  # the view was everything
        self._travelling = _Travelling()

    @property
    def config(self) -> RetrievalConfig:
        """How views are chosen."""
        return self._config

    @property
    def is_due(self) -> bool:
        """Whether the next step's attention row will be looked at; it need not be computed otherwise."""
        return self._config.enabled and self._num_updates % self._config.every == 0

    def update(self, step: ScoredStep) -> Focus | None:
        """The new view after a step, or None when it is unchanged, not due, or no row was recorded. A view that is due
        stays so until there is a row.

        While everything fits, the first view covers all tokens and stays: later tokens follow after it. Otherwise a
        view is given when its scored chunks changed, and at the latest after `num_recent` further tokens, so that what
        the drafter sees stays bounded.
        """
        if not self._config.enabled or (self.is_due and step.attention_row is None):
            self._travelling.exchange(None)  # of a step long ago, when drafting goes on
            return None
        row = step.attention_row if self.is_due else None
        self._num_updates += 1
        num_tokens = step.num_done
        forced = self._forced(num_tokens)
        num_chunks = -(-num_tokens // self._config.chunk_size)
        if num_chunks - len(forced) <= self._config.top_k:
            if self._is_whole or row is None:
                return None
            return self._give(frozenset(range(num_chunks)), frozenset(), num_tokens, is_whole=True)
        means = self._travelling.exchange(None if row is None else chunk_means(row, self._config.chunk_size))
        if means is None:
            return None
        chosen = self._choose(means, forced, num_chunks)
        grown = num_tokens - self._num_tokens
        is_stale = grown >= max(self._config.num_recent, self._config.chunk_size)
        if chosen == self._chosen and not self._is_whole and not is_stale:
            return None
        return self._give(chosen | forced, chosen, num_tokens, is_whole=False)

    def _forced(self, num_tokens: int) -> frozenset[int]:
        """Chunks that hold one of the first `num_sink` or the last `num_recent` tokens."""
        size = self._config.chunk_size
        sink = range(-(-min(self._config.num_sink, num_tokens) // size))
        first_recent = max(num_tokens - self._config.num_recent, 0) // size
        recent = range(first_recent, -(-num_tokens // size)) if self._config.num_recent else range(0)
        return frozenset(sink) | frozenset(recent)

    def _choose(self, means: Tensor, forced: frozenset[int], num_chunks: int) -> frozenset[int]:
        """The `top_k` of `num_chunks` with the largest mean besides the forced ones; the advantage is with the view."""
        outside = sorted(forced)
        scores = torch.nn.functional.pad(means, (0, num_chunks - len(means)))  # late scores lack the newest chunks
        scores[outside] = 0.0
        scores[1:] = torch.maximum(scores[1:], self._config.lookahead * scores[:-1])
        scores[sorted(self._chosen)] *= 1 + self._config.hysteresis
        scores[outside] = -1.0
        return frozenset(scores.topk(self._config.top_k).indices.tolist())

    def _give(self, chunk_ids: frozenset[int], chosen: frozenset[int], num_tokens: int, *, is_whole: bool) -> Focus:
        """Remember the view and spell it out."""
        self._chosen, self._num_tokens, self._is_whole = chosen, num_tokens, is_whole
        size = self._config.chunk_size
        ordered = tuple(sorted(chunk_ids))
        starts = torch.tensor(ordered, dtype=torch.int64)[:, None] * size
        indices = (starts + torch.arange(size)).flatten()
        return Focus(ordered, indices[indices < num_tokens], size)


class _Travelling:
    """Scores on their way from a GPU, which arrive with the next call. Others do not travel."""

    def __init__(self) -> None:
        self._sent: tuple[Tensor, torch.cuda.Event] | None = None

    def exchange(self, means: Tensor | None) -> Tensor | None:
        """Send these to the host, if there are any, and take what was sent last."""
        before, self._sent = self._sent, None
        if means is not None and means.device.type != "cuda":
            return means
        if means is not None:
            self._sent = means.to("cpu", non_blocking=True), torch.cuda.Event()
            self._sent[1].record()
        if before is None:
            return None
        before[1].synchronize()
        return before[0]


def most_attended(row: Tensor, config: RetrievalConfig) -> tuple[int, ...]:
    """The chunks that an attention row [num_tokens] looks at, ascending: those of the `_NUM_NOTABLE` best with at least
    `_NOTABLE` times the mean. Chunks of the sink and the newest two, which draw most of any row, are left out.
    """
    size = config.chunk_size
    means = chunk_means(row, size).cpu()
    first = -(-config.num_sink // size)
    inside = means[first : max(len(means) - 2, first)]
    if len(inside) == 0:
        return ()
    best = inside.topk(min(_NUM_NOTABLE, len(inside)))
    notable = best.indices[best.values >= _NOTABLE * inside.mean()]
    return tuple(sorted((notable + first).tolist()))


def chunk_means(row: Tensor, chunk_size: int) -> Tensor:
    """Mean of the attention row [num_tokens] over each chunk, float32 [chunks]; the last may be partial."""
    num_tokens = row.shape[0]
    num_chunks = -(-num_tokens // chunk_size)
    padded = torch.nn.functional.pad(row.float(), (0, num_chunks * chunk_size - num_tokens))
    means = padded.view(num_chunks, chunk_size).mean(dim=1)
    means[-1] *= chunk_size / (num_tokens - (num_chunks - 1) * chunk_size)
    return means
