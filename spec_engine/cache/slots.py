"""A key/value cache whose memory is taken once.

Job: `SlotCache`: append new rows behind the committed ones, keep those of an accepted path, cut back, hand out views
without copying.
Non-job: attention, positions, knowing a model or its cache classes.

Layers of the same shape share one tensor [layers, 1, Hk, slots, D], so keeping a path or cutting moves all of them with
one operation, and the views of a pass are made with two. Rows of one head lie next to each other, which is the layout
that CPU kernels read fastest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer stores for a token, and where."""

    num_kv_heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values."""
        return self.num_kv_heads * (self.key_size + self.value_size) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Bank:
    """The memory of layers of one shape: keys and values [layers, 1, Hk, slots, D or Dv]; `layers` in that order."""

    layers: tuple[int, ...]
    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class _Rows:
    """One layer in a pass: where the new rows go, and all rows up to them. Each [1, Hk, rows, D or Dv]."""

    new_keys: Tensor
    new_values: Tensor
    keys: Tensor
    values: Tensor


def num_shared(left: Iterable[int], right: Iterable[int]) -> int:
    """How many leading tokens two texts have in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


class SlotCache:
    """`length` committed rows per layer, and behind them the rows of a pass that is not committed yet."""

    def __init__(self, shapes: Sequence[LayerShape], num_slots: int) -> None:
        self.shapes = tuple(shapes)
        self.num_slots = num_slots
        self._length = 0
        self._num_new = 0  # rows that `_rows` is laid out for; 0: none
        self._rows: list[_Rows] = []
        self.banks = _banks(self.shapes, num_slots)

    @property
    def length(self) -> int:
        """Committed rows."""
        return self._length

    @property
    def num_bytes(self) -> int:
        """Size of the memory."""
        return sum(shape.bytes_per_token for shape in self.shapes) * self.num_slots

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new rows [1, Hk, T, D] behind the committed ones; return all rows up to them, as views.

        The rows are not committed: `gather` or `advance` does that, anything else forgets them.
        """
        num_new = keys.shape[2]
        if num_new != self._num_new:
            self._lay_out(num_new)
        rows = self._rows[layer]
        rows.new_keys.copy_(keys)
        rows.new_values.copy_(values)
        return rows.keys, rows.values

    def put(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new rows [1, Hk, T, D] to the slots `places` [T], a tensor on their device; return the whole
        memory of the layer. Which rows are committed does not change."""
        every_key, every_value = self._memory(layer)
        every_key.index_copy_(2, places, keys)
        every_value.index_copy_(2, places, values)
        return every_key, every_value

    def advance(self, num_rows: int) -> None:
        """Commit the first `num_rows` new rows as they lie."""
        self._set_length(self._length + num_rows)

    def gather(self, path: Sequence[int]) -> None:
        """Commit the new rows `path` (ascending), moved next to each other behind the committed ones; drop the rest."""
        if list(path) != list(range(len(path))):
            for bank in self.banks:
                for store in (bank.keys, bank.values):
                    index = index_on(path, store.device) + self._length
                    store.narrow(3, self._length, len(path)).copy_(store.index_select(3, index))
        self._set_length(self._length + len(path))

    def truncate(self, length: int) -> None:
        """Forget all rows from `length` on, also those not committed."""
        assert 0 <= length <= self._length, f"cannot cut {self._length} rows to {length}"
        self._set_length(length)

    def restore(self, length: int) -> None:
        """Commit rows up to `length` again that a cut left where they were. Nothing may have overwritten them."""
        self._set_length(max(length, self._length))

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self._set_length(0)

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's committed keys and values, [1, Hk, length, D or Dv], without a copy."""
        keys, values = self._memory(layer)
        return keys.narrow(2, 0, self._length), values.narrow(2, 0, self._length)

    def rows(self, num_rows: int) -> dict[str, Tensor]:
        """The first `num_rows` rows of every layer as views [Hk, num_rows, D or Dv], committed or not, by name."""
        return {
            f"{kind}.{layer:03}": store[row, 0].narrow(1, 0, num_rows)
            for bank in self.banks
            for kind, store in (("keys", bank.keys), ("values", bank.values))
            for row, layer in enumerate(bank.layers)
        }

    def copy_rows(self, source: "SlotCache", start: int, num_rows: int) -> None:
        """Commit copies of `num_rows` rows of `source`, a cache of the same layers, from `start` on."""
        assert self._length + num_rows <= self.num_slots, "no room"
        for own, other in zip(self.banks, source.banks, strict=True):
            own.keys.narrow(3, self._length, num_rows).copy_(other.keys.narrow(3, start, num_rows))
            own.values.narrow(3, self._length, num_rows).copy_(other.values.narrow(3, start, num_rows))
        self._set_length(self._length + num_rows)

    def _memory(self, layer: int) -> tuple[Tensor, Tensor]:
        """All slots of a layer."""
        bank = next(bank for bank in self.banks if layer in bank.layers)
        row = bank.layers.index(layer)
        return bank.keys[row], bank.values[row]

    def _set_length(self, length: int) -> None:
        assert length <= self.num_slots, f"{length} rows do not fit {self.num_slots} slots"
        self._length = length
        self._num_new = 0

    def _lay_out(self, num_new: int) -> None:
        """Make the views of a pass over `num_new` rows."""
        end = self._length + num_new
        assert end <= self.num_slots, f"{end} rows do not fit {self.num_slots} slots"
        rows: dict[int, _Rows] = {}
        for bank in self.banks:
            new = zip(_split(bank.keys, self._length, num_new), _split(bank.values, self._length, num_new), strict=True)
            every = zip(_split(bank.keys, 0, end), _split(bank.values, 0, end), strict=True)
            for layer, (new_keys, new_values), (keys, values) in zip(bank.layers, new, every, strict=True):
                rows[layer] = _Rows(new_keys, new_values, keys, values)
        self._rows = [rows[layer] for layer in range(len(self.shapes))]
        self._num_new = num_new


def index_on(rows: Sequence[int], device: torch.device) -> Tensor:
    """Row numbers on the device, int64; the host does not wait until they are there."""
    return torch.tensor(rows, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def _split(store: Tensor, start: int, num_rows: int) -> tuple[Tensor, ...]:
    """Rows [start, start + num_rows) of every layer of a bank."""
    return store.narrow(3, start, num_rows).unbind(0)


@torch.inference_mode(False)  # tensors made inside inference mode could not be written outside it
def _banks(shapes: tuple[LayerShape, ...], num_slots: int) -> tuple[Bank, ...]:
    """Memory for all layers, one bank per distinct shape."""
    groups: dict[LayerShape, list[int]] = {}
    for layer, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(layer)
    banks = []
    for shape, layers in groups.items():
        size = (len(layers), 1, shape.num_kv_heads, num_slots)
        keys = torch.zeros(*size, shape.key_size, dtype=shape.dtype, device=shape.device)
        values = torch.zeros(*size, shape.value_size, dtype=shape.dtype, device=shape.device)
        banks.append(Bank(tuple(layers), keys, values))
    return tuple(banks)
