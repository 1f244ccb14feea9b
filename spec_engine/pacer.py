"""How many prompt tokens to read in one pass.

Job: `PrefillPacer`, which sizes prefill chunks so that a request can be cancelled quickly on any machine.
Non-job: reading clocks, running passes.
"""


class PrefillPacer:
    """Sizes of prefill chunks that take at most about `target_s` each, so that cancelling never waits much longer.

    Sizes are powers of two times `smallest`, so few shapes occur.
    """

    def __init__(self, largest: int, target_s: float = 0.15, first: int = 32, smallest: int = 8) -> None:
        self._largest = largest
        self._target_s = target_s
        self._smallest = smallest
        self._size = first

    @property
    def largest(self) -> int:
        """Tokens of a chunk at most."""
        return self._largest

    @property
    def size(self) -> int:
        """Tokens of the next chunk."""
        return min(self._size, self._largest)

    def record(self, num_tokens: int, seconds: float) -> None:
        """Learn from a chunk: shrink the size when it took too long, double it when two would have fitted.

        A rest of less than half the size is mostly the cost of a pass and tells nothing about larger chunks.
        """
        if 2 * num_tokens < self.size and seconds <= self._target_s:
            return
        fitting = num_tokens * self._target_s / max(seconds, 1e-9)
        if num_tokens >= self.size and 2 * self._size <= fitting:
            self._size = min(2 * self._size, self._largest)
        while self._size > max(fitting, self._smallest):
            self._size //= 2
