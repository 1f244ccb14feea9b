"""Attention with the optional flash-attn package (2.8 or newer, CUDA).

Job: `FlashBackend`: prefill in one kernel per chunk, prefix and square block together; the folded prefix part with the
kernel for few rows over a cache, also with soft caps, which torch's own operator lacks.
Non-job: the masked part, which is small and stays a matrix product; being required.
"""

import importlib.util

import torch
from torch import Tensor

from spec_engine.attention.base import Scoring
from spec_engine.attention.merge import add_sink
from spec_engine.attention.sdpa import CudaBackend
from spec_engine.errors import MissingDependency

_MAX_HEAD = 256


def is_installed() -> bool:
    """Whether the package is there; it may still fail to load."""
    return importlib.util.find_spec("flash_attn") is not None


class FlashBackend(CudaBackend):
    """flash-attn for what it can do, torch's kernels for the rest. Raises `MissingDependency` where it cannot load."""

    name = "flash-attn"

    def __init__(self) -> None:
        try:
            from flash_attn import flash_attn_func, flash_attn_with_kvcache
        except ImportError as error:
            raise MissingDependency(
                f"The package flash-attn cannot be used: {error}. Run here: pip install -e '.[flash]'"
            ) from error
        self._many_rows, self._few_rows = flash_attn_func, flash_attn_with_kvcache

    def causal(self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
        if not _fits(q, v):
            return super().causal(q, k, v, prefix_len, scoring)
        out, lse, _ = self._many_rows(  # its diagonal ends in the bottom right corner
            *_by_token(q, k, v), causal=True, return_attn_probs=True, **_options(scoring)
        )
        out, lse = out.transpose(1, 2), lse[:, :, : q.shape[2]]
        return (out, lse) if scoring.sink is None else add_sink(out, lse, scoring.sink)

    def _unmasked(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        if not _fits(q, v):
            return super()._unmasked(q, k, v, scoring)
        _, num_heads, num_new, size = q.shape
        folded = q.reshape(1, k.shape[1], -1, size)
        out, lse = self._few_rows(*_by_token(folded, k, v), return_softmax_lse=True, **_options(scoring))
        out, lse = out.transpose(1, 2), lse[:, :, : folded.shape[2]]
        return out.reshape(1, num_heads, num_new, size), lse.reshape(1, num_heads, num_new)


def _by_token(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As flash-attn wants them, [1, rows, heads, D]; it gives lse as [1, heads, rows]."""
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _options(scoring: Scoring) -> dict[str, float]:
    """How logits are made, in its words."""
    return {"softmax_scale": scoring.scale, "softcap": scoring.softcap or 0.0}


def _fits(q: Tensor, v: Tensor) -> bool:
    """Whether flash-attn has a kernel for these tensors."""
    is_half = q.dtype in (torch.float16, torch.bfloat16)
    return is_half and q.shape[3] == v.shape[3] <= _MAX_HEAD and q.shape[3] % 8 == 0
