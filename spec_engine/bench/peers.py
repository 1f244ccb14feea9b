"""The same question through transformers' own ways of decoding, timed like ours.

Job: outside yardsticks on the same weights: `generate`, its assisted generation with the preset's draft model, and its
prompt lookup. Non-job: any way of decoding of this project.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.generation.streamers import BaseStreamer

from spec_engine.model.hf_cache import cache_argument

PeerModel = PreTrainedModel
"""A model as transformers runs it."""

PLAIN_PEER = "transformers generate"
LOOKUP_PEER = "transformers prompt lookup"
ASSISTED_PEER = "transformers assisted"
_LOOKUP_TOKENS = 10  # as in transformers' documentation
_UNTIMED = 8  # first tokens with a static cache: the step is compiled, then captured


@dataclass(frozen=True, slots=True)
class PeerRun:
    """Token ids of the answer; how many came after the first ones, and in how many seconds."""

    token_ids: tuple[int, ...]
    num_timed_tokens: int
    decode_s: float


class _Stopwatch(BaseStreamer):
    """Notes when tokens arrive, and how many; the prompt comes first."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, int]] = []

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt or the next tokens."""
        self.arrivals.append((time.perf_counter(), value.numel()))

    def end(self) -> None:
        """Nothing is left to do."""


class Peers:
    """transformers on `model`, and on `draft` where there is one: greedy, the model's usual cache, sdpa attention."""

    def __init__(self, model: PreTrainedModel, draft: PreTrainedModel | None = None) -> None:
        self._model = model
        self._options: dict[str, dict[str, object]] = {
            PLAIN_PEER: {},
            LOOKUP_PEER: {"prompt_lookup_num_tokens": _LOOKUP_TOKENS},
        }
        if draft is not None:
            self._options[ASSISTED_PEER] = {"assistant_model": draft}

    @property
    def names(self) -> tuple[str, ...]:
        """What `run` takes."""
        return tuple(self._options)

    def run(self, name: str, prompt: tuple[int, ...], max_tokens: int, stop_ids: frozenset[int]) -> PeerRun:
        """One answer. The clock runs from the first new tokens to the last, so prefill is left out."""
        watch = _Stopwatch()
        ids = torch.tensor([prompt], device=self._model.device)
        with torch.inference_mode():
            output: torch.Tensor = self._model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, streamer=watch,
                eos_token_id=sorted(stop_ids), pad_token_id=next(iter(stop_ids), 0), **self._options[name],
            )  # fmt: skip
        (began, num_first), (ended, _) = watch.arrivals[1], watch.arrivals[-1]
        num_new = output.shape[1] - len(prompt)
        return PeerRun(tuple(output[0, len(prompt) :].tolist()), max(0, num_new - num_first), ended - began)


def continue_from(
    model: PreTrainedModel,
    rows: Mapping[str, torch.Tensor],
    token_id: int,
    num_tokens: int,
    *,
    is_static: bool = False,
) -> tuple[float, list[int]]:
    """Seconds a token of `generate` behind keys and values [Hk, n, D] under names like ``keys.003``, and the tokens
    that follow `token_id` there. Of a layer with a window there may be less rows, the last ones.

    With `is_static` the cache has a fixed size, and on a GPU transformers compiles the decoding step for it; the tokens
    that this takes are not timed. Layers with a window cannot be filled that way.
    """
    length, watch = max(one.shape[1] for one in rows.values()), _Stopwatch()
    num_untimed = _UNTIMED if is_static else 1
    num_new = num_tokens + num_untimed
    cache = StaticCache(config=model.config, max_cache_len=length + num_new + 1) if is_static else DynamicCache()
    for name in (name for name in rows if name.startswith("keys.")):
        pair = rows[name], rows[f"values.{name.removeprefix('keys.')}"]
        keys, values = (pad(one[None], (0, 0, length - one.shape[1], 0)) for one in pair)  # hidden by the window
        cache.update(keys, values, int(name.removeprefix("keys.")))
    ids = torch.full((1, length + 1), token_id, device=model.device)
    with torch.inference_mode(), _own_attention(model, "sdpa" if is_static else None):
        output: torch.Tensor = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new, do_sample=False, streamer=watch,
            eos_token_id=model.config.vocab_size, pad_token_id=0, **{cache_argument(model): cache},
        )  # fmt: skip
    (began, _), (ended, _) = watch.arrivals[num_untimed], watch.arrivals[-1]
    return (ended - began) / num_tokens, output[0, ids.shape[1] : ids.shape[1] + num_tokens].tolist()


@contextmanager
def _own_attention(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """`model` with this attention of transformers, if one is named, until the block is left."""
    before = model.config._attn_implementation
    if name is not None:
        model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
