"""Device work that is recorded once and replayed: CUDA graphs, and what they may take.

Job: `CudaCapture`, which records, and `Captures`, which says when something is worth recording, within which memory,
and why nothing more is; `wait`, for a device to finish.
Non-job: the work itself (`graphs`, `drafters.whole`).
"""

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

_MODE = threading.Lock()
_CAPTURED_AT = 3  # uses of a shape; a shape that is hardly used is not worth it

Work = Callable[[], tuple[Tensor, ...]]


class Capture(Protocol):
    """Something that records work and gives it back as a replay. `num_bytes`: what all records take."""

    num_bytes: int

    def __call__(self, work: Work) -> Work:
        """The replay: it leaves its results in the same tensors each time. Raises `RuntimeError` if that fails."""


class CudaCapture:
    """CUDA graphs that share one pool of memory, because only one of them runs at a time. `is_brief`: they will be
    dropped soon, as those that are only timed."""

    # Destroying a graph frees cuBLAS's workspace of the stream that it was captured on, and with it the memory that all
    # other graphs of that stream go on using (pytorch#193402); and torch hands out 32 streams of a priority in turn. So
    # no graph is destroyed before all, whether it is used or not, and brief ones keep to streams of another priority.

    def __init__(self, device: torch.device, *, is_brief: bool = False) -> None:
        self.num_bytes = 0
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1 if is_brief else 0)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def __call__(self, work: Work) -> Work:
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):
                    work()  # kernels are compiled and workspaces taken before the capture
                    with _no_waits():
                        work()
            finally:
                torch.cuda.current_stream().wait_stream(self._stream)  # it writes where the next pass reads
            graph, usual = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            self._graphs.append(graph)
            try:
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    before = torch.cuda.memory_reserved()  # what was cached was given back as the block began
                    results = work()
            finally:
                torch.cuda.set_stream(usual)  # which a capture that fails does not restore
            self.num_bytes += max(torch.cuda.memory_reserved() - before, 0)

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return results

        return replay


@contextmanager
def _no_waits() -> Iterator[None]:
    """Work that waits for the device raises `RuntimeError` in the block, as it would in a capture; but after a capture
    that failed, torch's allocator goes on as if it still ran. The mode is the whole process's, hence for a moment only,
    and for one thread at a time.
    """
    with _MODE:
        usual = torch.cuda.get_sync_debug_mode()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the mode is a prototype
                torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode(usual)


class Mirror:
    """A tensor on the device that captured work reads, and its image on the host: write to `host`, then `send`."""

    def __init__(self, host: Tensor, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self._host = host.pin_memory() if is_cuda else host
        self._was_read = torch.cuda.Event() if is_cuda else None
        self.on_device = host.to(device, copy=True)

    @property
    def host(self) -> Tensor:
        """The image, when its last copy has arrived."""
        if self._was_read is not None:
            self._was_read.synchronize()
        return self._host

    def send(self) -> None:
        """Copy it; the host does not wait."""
        self.on_device.copy_(self._host, non_blocking=True)
        if self._was_read is not None:
            self._was_read.record()


class Captures:
    """What `capture` recorded, within `num_bytes`; after the first failure, or when they are used up, nothing more."""

    def __init__(self, capture: Capture, num_bytes: int) -> None:
        self._capture = capture
        self._num_bytes = num_bytes
        self._uses: dict[Hashable, int] = {}
        self._num_kept = 0
        self._refused = ""

    @property
    def note(self) -> str:
        """What was captured, or why nothing is."""
        size = f"{self._num_kept} captured passes, {self._capture.num_bytes / 2**20:,.0f} MiB"
        return f"{size}; no more, because {self._refused}" if self._refused else size

    def is_due(self, key: Hashable) -> bool:
        """Count a use of a shape that was not captured; whether it is to be now."""
        self._uses[key] = self._uses.get(key, 0) + 1
        if self._uses[key] % _CAPTURED_AT or self._refused:
            return False
        if self._capture.num_bytes >= self._num_bytes:
            self._refused = f"they would take more than {self._num_bytes / 2**20:,.0f} MiB"
        return not self._refused

    def record(self, work: Work, is_right: Callable[[Work], bool]) -> Work | None:
        """The replay of `work`; None where it cannot be captured, or where `is_right` says that it does not give what
        the work gave, for which it may run the replay."""
        try:
            replay = self._capture(work)
            if is_right(replay):
                self._num_kept += 1
                return replay
            self._refused = "a captured pass gave other numbers than the same pass run plainly"
        except RuntimeError as error:
            self._refused = f"capturing failed: {str(error).splitlines()[0]}"
        return None


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked: what the clock says then is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
