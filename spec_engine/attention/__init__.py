"""Hybrid tree attention: (q, k, v, prefix length, tree bias) -> (out, log-sum-exp). Knows no model.

Job: the alphabet of shapes that the whole package uses, and `pick`, which backend runs where and why.
Non-job: the kernels, one file each.

    T   new tokens, or nodes of a tree        V   vocabulary
    S   prefix length, P where it is clipped   L   layers
    Hq  query heads    Hk  key/value heads     G   query heads per key head, Hq / Hk
    D   head size of queries and keys          Dv  head size of values
    E   oldest keys of a window, which only some rows see
    N   keys behind the prefix: those of the new tokens, and of earlier levels where a draft tree grows
"""

import importlib
import importlib.util
from dataclasses import dataclass

import torch

from spec_engine.attention import flash
from spec_engine.attention.base import AttentionBackend, BoundedAttention, Bounds, Scoring, TreeBias, tree_bias
from spec_engine.attention.contest import measured
from spec_engine.attention.flash import FlashBackend
from spec_engine.attention.sdpa import CpuBackend, CudaBackend, MatmulBackend
from spec_engine.errors import MissingDependency

__all__ = ["AttentionBackend", "BoundedAttention", "Bounds", "Pick", "Scoring", "TreeBias", "pick", "tree_bias"]

_HALF = (torch.float16, torch.bfloat16)
_FIRST_FLASH_CAPABILITY = 8  # Ampere


@dataclass(frozen=True, slots=True)
class Pick:
    """A backend, and in a sentence why it was picked."""

    backend: AttentionBackend
    reason: str


def pick(device: torch.device, dtype: torch.dtype) -> Pick:
    """The fastest backend that works for a model of this dtype on this device."""
    if device.type == "cpu":
        return _pick_for_cpu(dtype)
    if device.type != "cuda":
        return Pick(MatmulBackend(), f"blocked matrix products, the only way on a device of type '{device.type}'")
    if dtype not in _HALF:
        return Pick(MatmulBackend(), f"blocked matrix products, because CUDA's flash kernels cannot do {dtype}")
    if torch.cuda.get_device_capability(device)[0] < _FIRST_FLASH_CAPABILITY:
        return Pick(MatmulBackend(), "blocked matrix products, because this GPU is older than flash kernels")
    prefill = _pick_flash()
    if importlib.util.find_spec("triton") is None:
        return Pick(prefill.backend, f"{prefill.reason}; Triton, whose kernels of ours check a tree faster, is absent")
    kernels = importlib.import_module("spec_engine.attention.triton")  # cannot be imported without Triton
    backend: AttentionBackend = kernels.TritonBackend(prefill.backend)
    return Pick(backend, f"our Triton kernels for trees; for prefill {prefill.reason}")


def _pick_for_cpu(dtype: torch.dtype) -> Pick:
    """For many rows the faster kernel differs by processor, so it is measured."""
    reason = "torch's flash operator for the CPU, with the group fold"
    verdict = measured(dtype)
    if not verdict.gains:
        return Pick(CpuBackend(), reason)
    return Pick(CpuBackend(verdict), f"{reason}; for {str(dtype).removeprefix('torch.')} {verdict.describe()}")


def _pick_flash() -> Pick:
    """flash-attn, or torch's own operator."""
    if not flash.is_installed():
        return Pick(CudaBackend(), "torch's flash operator for CUDA, because flash-attn, which is faster, is absent")
    try:
        return Pick(FlashBackend(), "flash-attn, which is installed")
    except MissingDependency as error:
        return Pick(CudaBackend(), f"torch's flash operator for CUDA, because: {error}")
