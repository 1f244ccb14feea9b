"""A cache that holds the newest rows alone.

Job: `WindowCache`: a ring of the last W rows of one layer, each with its position, and behind it room for the rows of a
draft tree. It takes the same memory whatever the length of the text.
Non-job: attention, and which row sees which position.

LongSpec's draft needs no more than this (arXiv 2502.17421, section 3.1): its own attention has a window, so a ring is
its whole memory. Rows of a ring do not lie in the order of the text; attention does not care, as keys are stored turned
to their positions, and masks go by `positions`.
"""

import torch
from torch import Tensor

from spec_engine.cache.slots import LayerShape

_NOWHERE = torch.iinfo(torch.int64).min  # position of an empty row: further back than any window reaches


class WindowCache:
    """The last `num_rows` rows of a layer, at consecutive positions, and `num_extra` rows of a tree behind them."""

    def __init__(self, shape: LayerShape, num_rows: int, num_extra: int) -> None:
        self.num_rows = num_rows
        self.num_extra = num_extra
        self.positions = torch.full((num_rows,), _NOWHERE)  # int64 on the CPU, by row; far negative where it is empty
        self._next = 0
        self._keys, self._values = _memory(shape, num_rows + num_extra)

    @property
    def next_position(self) -> int:
        """Where the next row stands."""
        return self._next

    @property
    def num_bytes(self) -> int:
        """Size of the memory."""
        return self._keys.nbytes + self._values.nbytes + self.positions.nbytes

    def restart(self, position: int) -> None:
        """Forget all rows; the next one stands at `position`."""
        self.positions.fill_(_NOWHERE)
        self._next = position

    @property
    def num_slots(self) -> int:
        """Rows of the whole memory: the ring's, then those of a tree."""
        return self.num_rows + self.num_extra

    def reserve(self, num_new: int) -> Tensor:
        """Slots int64 [num_new] for the rows of the next positions, at most a ring full, which somebody else writes by
        `memory`; the oldest rows are gone."""
        positions = torch.arange(self._next, self._next + num_new)
        slots = positions % self.num_rows
        self.positions[slots] = positions
        self._next += num_new
        return slots

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """Keys and values [1, Hk, num_slots, D or Dv] of the ring and of a tree behind it."""
        return self._keys, self._values

    def extend(self, keys: Tensor, values: Tensor) -> None:
        """Take the rows [1, Hk, T, D] of the next T positions; the oldest rows make room for them."""
        num_new = keys.shape[2]
        row = max(num_new - self.num_rows, 0)  # older ones would be overwritten at once
        while row < num_new:
            position = self._next + row
            slot = position % self.num_rows
            length = min(num_new - row, self.num_rows - slot)
            self._write(slot, keys.narrow(2, row, length), values.narrow(2, row, length))
            self.positions[slot : slot + length] = torch.arange(position, position + length)
            row += length
        self._next += num_new

    def put(self, first: int, keys: Tensor, values: Tensor) -> None:
        """Write rows [1, Hk, n, D] of a tree as its rows `first` and on. They are not part of the text."""
        assert first + keys.shape[2] <= self.num_extra, f"a tree of more than {self.num_extra} rows"
        self._write(self.num_rows + first, keys, values)

    def view(self, num_tree: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, Hk, W + num_tree, D or Dv]: the ring with its empty rows, then the tree; in place."""
        length = self.num_rows + num_tree
        return self._keys.narrow(2, 0, length), self._values.narrow(2, 0, length)

    def _write(self, slot: int, keys: Tensor, values: Tensor) -> None:
        self._keys.narrow(2, slot, keys.shape[2]).copy_(keys)
        self._values.narrow(2, slot, values.shape[2]).copy_(values)


@torch.inference_mode(False)  # tensors made inside inference mode could not be written outside it
def _memory(shape: LayerShape, num_rows: int) -> tuple[Tensor, Tensor]:
    """Zeros, because a masked row must still hold numbers."""
    keys = torch.zeros(1, shape.num_kv_heads, num_rows, shape.key_size, dtype=shape.dtype, device=shape.device)
    values = torch.zeros(1, shape.num_kv_heads, num_rows, shape.value_size, dtype=shape.dtype, device=shape.device)
    return keys, values
