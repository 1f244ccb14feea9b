"""What this machine can do at best: bytes read and operations done in a second.

Job: two measured rates, which limit every pass of a model. Non-job: what a pass needs of them (`limit`).
"""

import time
from collections.abc import Callable
from functools import cache

import torch

_MIN_S = 0.15  # of repetitions, of which the fastest counts
_LEAST_BYTES, _MOST_BYTES = 1 << 20, 1 << 30


def bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes a second that are read from a buffer of about `num_bytes`; small ones may lie in a processor's cache.

    The best of a sum, a maximum and a product with a vector: which of them keeps a memory busy differs by machine.
    """
    size = max(_LEAST_BYTES, min(num_bytes, _MOST_BYTES))
    return _bandwidth(device, 1 << (size - 1).bit_length())


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second, multiplications and additions, in a product of large square matrices."""
    size = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / fastest(lambda: left @ right, device)


@cache
def _bandwidth(device: torch.device, num_bytes: int) -> float:
    columns = 4096
    buffer = torch.ones(num_bytes // 4 // columns, columns, device=device)
    vector = torch.ones(columns, device=device)
    return num_bytes / min(fastest(read, device) for read in (buffer.sum, buffer.amax, lambda: buffer @ vector))


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some repetitions; the first ones warm up."""
    work()
    times: list[float] = []
    while len(times) < 5 or sum(times) < _MIN_S:
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
