"""The same question through transformers' own `generate`, timed like ours.

Job: an outside yardstick for plain decoding. Non-job: any way of decoding of this project.
"""

import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True, slots=True)
class PeerRun:
    """Token ids of the answer, and decode seconds from the first token to the last."""

    token_ids: tuple[int, ...]
    decode_s: float

    @property
    def num_timed_tokens(self) -> int:
        """Tokens made within `decode_s`: all but the first, which ends prefill."""
        return max(0, len(self.token_ids) - 1)


class _Stopwatch(BaseStreamer):
    """Notes when tokens arrive; the prompt comes first and is not counted."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt or the next token."""
        self.arrivals.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""


def transformers_generate(
    model: PreTrainedModel, prompt: tuple[int, ...], max_tokens: int, stop_ids: frozenset[int]
) -> PeerRun:
    """Greedy decoding with the model's usual cache (DynamicCache) and sdpa attention."""
    watch = _Stopwatch()
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        output: torch.Tensor = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, streamer=watch,
            eos_token_id=sorted(stop_ids), pad_token_id=next(iter(stop_ids), 0),
        )  # fmt: skip
    return PeerRun(tuple(output[0, len(prompt) :].tolist()), watch.arrivals[-1] - watch.arrivals[1])
