"""The contract of an attention backend.

Job: `AttentionBackend`, and the values that a call takes: `Scoring` (how logits are made), `TreeBias` (who sees whom in
the small masked part) and `Bounds` (where the parts lie, on the device); `BoundedAttention` takes the last.
`starts_early`: what kernels of a card can do.
Non-job: any kernel.

Shapes are named in the alphabet of ``spec_engine/attention/__init__.py``.
"""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor

_CAPTURES_EARLY: Final = 12_030  # CUDA version of a driver, see `_driver_version`


@dataclass(frozen=True, slots=True)
class Scoring:
    """How logits are made: ``scale * q.k``, then ``softcap * tanh(. / softcap)`` where a model has a soft cap.

    `sink` [Hq] is an extra logit per head that takes part in the softmax and brings no value.
    """

    scale: float
    softcap: float | None = None
    sink: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TreeBias:
    """Who sees whom in the masked part; make it with `tree_bias`.

    `values` [T, E + N] are 0 where a row sees a key and -inf elsewhere. `dead` [T] marks rows that see none of these
    keys; None when there is no such row.
    """

    values: Tensor
    dead: Tensor | None


def tree_bias(visible: Tensor, dtype: torch.dtype, device: torch.device) -> TreeBias:
    """The bias for a bool mask `visible` [T, E + N] that lies on the CPU."""
    values = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf)
    seen = visible.any(dim=1)
    dead = None if bool(seen.all()) else ~seen
    return TreeBias(values.to(device), None if dead is None else dead.to(device))


def starts_early(device: torch.device) -> bool:
    """Whether a kernel on this device can begin while the one before it ends (NVIDIA's programmatic dependent launch,
    from compute capability 9 on), also within a captured graph, which takes a driver of CUDA 12.3."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    if not is_nvidia or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    return not 0 < _driver_version() < _CAPTURES_EARLY


@cache
def _driver_version() -> int:
    """1,000 times the major CUDA version of the driver and 10 times the minor one, 0 where nobody tells. torch works
    with drivers that are older than the CUDA it was built for."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    return version.value


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which keys a call sees, as numbers on the device, so that a captured call can be replayed at another length.

    `values` int [3] is (first, start, end). The keys from `start` up to `end` are seen by every row. The E = `num_edge`
    keys from `first` on and the N from `end` on are under the bias, which hides what is not there or counted twice.
    """

    values: Tensor
    num_edge: int


class AttentionBackend(Protocol):
    """Attention with its log-sum-exp. Query heads share key heads: Hq is a multiple of Hk.

    Every method returns ``out`` [1, Hq, T, Dv] in the query's dtype and ``lse`` [1, Hq, T] in float32 (float64 for
    float64 queries). A row that sees no key has out 0 and lse -inf, or that of the sink.
    """

    @property
    def name(self) -> str:
        """Short name for reports."""

    def hybrid(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, bias: TreeBias | None, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        """Hybrid tree attention: an unmasked prefix part and a small masked part, merged by log-sum-exp.

        q [1, Hq, T, D]; k [1, Hk, P + N, D] and v [1, Hk, P + N, Dv] with P = `prefix_len`: P prefix keys, then N newer
        ones. `bias` has E + N columns: the first E for the E oldest prefix keys, which only some rows see because a
        window ends there, the last N for the newer keys. The prefix keys from E on are seen by every row. Without a
        bias every row sees every key. There is at least one key.
        """

    def causal(self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """Chunked prefill: each row sees the whole prefix and the T newer keys up to its own; shapes as in `hybrid`."""


@runtime_checkable
class BoundedAttention(AttentionBackend, Protocol):
    """A backend that can be captured: it reads on the device which keys a call sees."""

    def bounded(
        self, q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, bias: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        """`AttentionBackend.hybrid` over whole memories k [1, Hk, slots, D] and v: what is seen say `bounds` and `bias`
        [T, E + N], 0 or -inf. Nothing waits for the device."""

    def can_bound(self, dtype: torch.dtype, size: int, value_size: int) -> bool:
        """Whether `bounded` works for tensors of this type with these head sizes."""
