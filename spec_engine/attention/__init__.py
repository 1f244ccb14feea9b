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
from spec_engine.attention.base import (
    AttentionBackend,
    BoundedAttention,
    Bounds,
    Scoring,
    TreeBias,
    starts_early,
    tree_bias,
)
from spec_engine.attention.contest import measured
from spec_engine.attention.flash import FlashBackend
from spec_engine.attention.sdpa import CpuBackend, CudaBackend, MatmulBackend
from spec_engine.errors import MissingDependency

__all__ = [
    "AttentionBackend",
    "BoundedAttention",
    "Bounds",
    "Pick",
    "Scoring",
    "TreeBias",
    "pick",
    "starts_early",
    "tree_bias",
]

_HALF = (torch.float16, torch.bfloat16)
_FIRST_FLASH_CAPABILITY = 8  # Ampere
_TRIED = (32, 8, 128, 64)  # heads, key heads, their size, keys: those of many models, so that it is compiled only once


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
    if failure := _failure(backend, dtype, device):
        return Pick(prefill.backend, f"{prefill.reason}; Triton's kernels of ours cannot be used: {failure}")
    return Pick(backend, f"our Triton kernels for trees; for prefill {prefill.reason}")


def _failure(backend: AttentionBackend, dtype: torch.dtype, device: torch.device) -> str:
    """Why a small call does not work, which may be the first that compiles anything here; "" where it does."""
    num_heads, num_kv_heads, size, num_keys = _TRIED
    q = torch.zeros(1, num_heads, 1, size, dtype=dtype, device=device)
    k = torch.zeros(1, num_kv_heads, num_keys, size, dtype=dtype, device=device)
    try:
        backend.hybrid(q, k, k, num_keys, None, Scoring(1.0))
    except RuntimeError as error:  # of Triton, of the C compiler that it calls, of CUDA
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


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
