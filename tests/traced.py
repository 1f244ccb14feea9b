"""Captures without a GPU.

A CUDA graph repeats the kernels of one pass with the numbers that lie in device memory. A trace of torch operators does
the same on any device: whatever was a Python number at the capture stays as it was. So it shows what would go wrong.
"""

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from spec_engine.model.capture import Work


class Traced:
    """Captures as traces of torch operators; `num_replays` counts."""

    def __init__(self, num_bytes_each: int = 0, error: str = "") -> None:
        self.num_bytes = self.num_captures = self.num_replays = 0
        self._num_bytes_each = num_bytes_each
        self._error = error

    def __call__(self, work: Work) -> Work:
        if self._error:
            raise RuntimeError(self._error)
        self.num_captures += 1
        self.num_bytes += self._num_bytes_each
        trace = make_fx(lambda: work())()  # a bound method's self would count as an argument
        results: tuple[Tensor, ...] = tuple(result.clone() for result in trace())

        def replay() -> tuple[Tensor, ...]:
            self.num_replays += 1
            for there, here in zip(results, trace(), strict=True):
                there.copy_(here)  # a graph leaves its results in the same memory each time
            return results

        return replay
