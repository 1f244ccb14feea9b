"""What this machine can do at best: bytes read and operations done in a second.

Job: two measured rates, which limit every pass of a model. Non-job: what a pass needs of them (`limit`).
"""

import time
from collections.abc import Callable
from functools import cache

import torch

from spec_engine import onednn
from spec_engine.model.capture import wait

_MIN_S = 0.15  # of repetitions, of which the fastest counts
_LEAST_BYTES, _MOST_BYTES = 1 << 20, 1 << 30
_CUDA_BYTES = 1 << 32  # a GPU's cache is passed over, and a read takes far longer than its start
_SIZE, _CUDA_SIZE = 1536, 8192  # rows and columns of matrices


def bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes a second that are read from a buffer of about `num_bytes`; small ones may lie in a processor's cache. On a
    GPU it is always a large one: what is read there, a model's weights, is not read again soon.

    The best of a sum, a maximum and a product with a vector: which of them keeps a memory busy differs by machine.
    """
    size = _CUDA_BYTES if device.type == "cuda" else max(_LEAST_BYTES, min(num_bytes, _MOST_BYTES))
    return _bandwidth(device, 1 << (size - 1).bit_length())


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second, multiplications and additions, in a product of large square matrices; on a CPU that of
    oneDNN, where it is faster than torch's own."""
    size = _CUDA_SIZE if device.type == "cuda" else _SIZE
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = fastest(lambda: left @ right, device)
    if device.type == "cpu" and onednn.has_products(dtype):
        packed = onednn.packed(right)
        seconds = min(seconds, fastest(lambda: onednn.product(left, packed), device))
    return 2 * size**3 / seconds


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
    began = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < _MIN_S:
        times.append(timed(work, device))
    return min(times)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one repetition; on a GPU by its own clock, so what the host does before and after does not count."""
    wait(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            work()
            ended.record()
            ended.synchronize()
        return float(began.elapsed_time(ended)) / 1000
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
