"""A key/value cache whose memory is taken once.

Job: `SlotCache`: append new rows behind the committed ones, keep those of an accepted path, cut back, hand out views
without copying.
Non-job: attention, positions, knowing a model or its cache classes.

Layers of the same shape share one tensor [layers, 1, Hk, slots, D], so keeping a path or cutting moves all of them with
one operation, and the views of a pass are made with two. Rows of one head lie next to each other, which is the layout
that CPU kernels read fastest. Layers with a window may have a memory of their own size, which holds the newest rows
(`cache.sliding`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from spec_engine.cache.sliding import SlidingRows, num_sliding_slots


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
    """The memory of layers of one shape: keys and values [layers, 1, Hk, slots, D or Dv]; `layers` in that order.
    `slides`: it holds the newest rows alone."""

    layers: tuple[int, ...]
    keys: Tensor
    values: Tensor
    slides: bool = False


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
    """`length` committed rows per layer, and behind them the rows of a pass that is not committed yet.

    Where some layers have `windows`, by layer, and others none, those with one hold the rows that their window can see,
    and `slack` rows besides; passes write so many at most, and `reserve` comes before each.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], num_slots: int, windows: Sequence[int | None] = (), slack: int = 0
    ) -> None:
        self.shapes = tuple(shapes)
        self.num_slots = num_slots
        self.num_sliding_slots = num_sliding_slots(windows, num_slots, slack)
        self._length = 0
        self._num_new = 0  # rows that `_rows` is laid out for; 0: none
        self._rows: list[_Rows] = []
        may_slide = self.num_sliding_slots < num_slots
        widths = tuple(windows) if may_slide else (None,) * len(self.shapes)
        sizes = [num_slots if width is None else self.num_sliding_slots for width in widths]
        self.banks = _banks(self.shapes, sizes, [width is not None for width in widths])
        stores = [store for bank in self.banks if bank.slides for store in (bank.keys, bank.values)]
        window = max((width for width in widths if width is not None), default=0)
        self._sliding = SlidingRows(stores, window, slack) if may_slide else None
        self._sliding_layers = {layer for bank in self.banks if bank.slides for layer in bank.layers}

    @property
    def length(self) -> int:
        """Committed rows."""
        return self._length

    @property
    def num_bytes(self) -> int:
        """Size of the memory."""
        return sum(bank.keys.nbytes + bank.values.nbytes for bank in self.banks)

    @property
    def first_sliding(self) -> int:
        """The token whose row is the first one of layers that hold the newest rows alone; 0 where none does."""
        return 0 if self._sliding is None else self._sliding.first

    def first(self, layer: int) -> int:
        """The token whose row is the first one of a layer's memory."""
        return self.first_sliding if layer in self._sliding_layers else 0

    def slides(self, layer: int) -> bool:
        """Whether a layer holds the newest rows alone."""
        return layer in self._sliding_layers

    def reserve(self, num_new: int) -> bool:
        """Make room for a pass over `num_new` rows. Whether rows moved: those that a cut left are gone then."""
        if self._sliding is None or not self._sliding.make_room(self._length, num_new):
            return False
        self._num_new = 0
        return True

    def reachable(self, length: int) -> int:
        """The longest text of at most `length` of the tokens whose rows were written that can be gone on from."""
        return length if self._sliding is None else self._sliding.reachable(length)

    def remember(self, length: int, *, is_lasting: bool = False) -> None:
        """Texts part at this length: it should stay `reachable`, rather than all others if it is lasting."""
        if self._sliding is not None:
            self._sliding.remember(length, is_lasting=is_lasting)

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
        every_key, every_value = self.memory(layer)
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
                    start = self._length - self._first_of(bank)
                    index = on_device(path, store.device) + start
                    store.narrow(3, start, len(path)).copy_(store.index_select(3, index))
        self._set_length(self._length + len(path))

    def truncate(self, length: int) -> bool:
        """Forget all rows from `length` on, which is `reachable`, also those not committed. Whether they are lost, and
        `restore` cannot bring them back."""
        assert 0 <= length <= self._length, f"cannot cut {self._length} rows to {length}"
        self._set_length(length)
        return self._sliding is not None and self._sliding.cut(length)

    def restore(self, length: int) -> None:
        """Commit rows up to `length` again that a cut left where they were. Nothing may have overwritten them."""
        self._set_length(max(length, self._length))

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self._set_length(0)
        if self._sliding is not None:
            self._sliding.jump(0)

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's committed keys and values, [1, Hk, length, D or Dv], without a copy; of one that holds them all."""
        assert layer not in self._sliding_layers, "its older rows are gone"
        keys, values = self.memory(layer)
        return keys.narrow(2, 0, self._length), values.narrow(2, 0, self._length)

    def rows(self, num_rows: int) -> dict[str, Tensor] | None:
        """The first `num_rows` rows of every layer as views [Hk, num_rows, D or Dv], committed or not, by name. Of
        layers that hold the newest rows alone the last of them, as many as are worth keeping; None where these were
        dropped."""
        first_kept = 0 if self._sliding is None else self._sliding.first_kept(num_rows)
        if first_kept < self.first_sliding:
            return None
        starts = {False: 0, True: first_kept}
        return {
            f"{kind}.{layer:03}": store[row, 0].narrow(1, start - self._first_of(bank), num_rows - start)
            for bank in self.banks
            for start in (starts[bank.slides],)
            for kind, store in (("keys", bank.keys), ("values", bank.values))
            for row, layer in enumerate(bank.layers)
        }

    def room(self, num_rows: int) -> dict[str, Tensor]:
        """Forget everything; the places that `rows` will show, to be written to."""
        self._set_length(0)
        if self._sliding is not None:
            self._sliding.jump(num_rows)
        places = self.rows(num_rows)
        assert places is not None, "their first is where the memory begins"
        return places

    def copy_rows(self, source: "SlotCache", start: int, num_rows: int) -> None:
        """Commit copies of `num_rows` rows of `source`, a cache of the same layers, from `start` on; both hold all."""
        assert not self._sliding_layers, "not all rows are there"
        assert not source._sliding_layers, "not all rows are there"
        assert self._length + num_rows <= self.num_slots, "no room"
        for own, other in zip(self.banks, source.banks, strict=True):
            own.keys.narrow(3, self._length, num_rows).copy_(other.keys.narrow(3, start, num_rows))
            own.values.narrow(3, self._length, num_rows).copy_(other.values.narrow(3, start, num_rows))
        self._set_length(self._length + num_rows)

    def memory(self, layer: int) -> tuple[Tensor, Tensor]:
        """All slots of a layer, keys and values [1, Hk, slots, D or Dv], in use or not."""
        bank = next(bank for bank in self.banks if layer in bank.layers)
        row = bank.layers.index(layer)
        return bank.keys[row], bank.values[row]

    def _first_of(self, bank: Bank) -> int:
        """The token whose row is the first one of a bank."""
        return self.first_sliding if bank.slides else 0

    def _set_length(self, length: int) -> None:
        assert length <= self.num_slots, f"{length} rows do not fit {self.num_slots} slots"
        self._length = length
        self._num_new = 0

    def _lay_out(self, num_new: int) -> None:
        """Make the views of a pass over `num_new` rows."""
        rows: dict[int, _Rows] = {}
        for bank in self.banks:
            start, num_slots = self._length - self._first_of(bank), bank.keys.shape[3]
            end = start + num_new
            assert end <= num_slots, f"{end} rows do not fit {num_slots} slots"
            new = zip(_split(bank.keys, start, num_new), _split(bank.values, start, num_new), strict=True)
            every = zip(_split(bank.keys, 0, end), _split(bank.values, 0, end), strict=True)
            for layer, (new_keys, new_values), (keys, values) in zip(bank.layers, new, every, strict=True):
                rows[layer] = _Rows(new_keys, new_values, keys, values)
        self._rows = [rows[layer] for layer in range(len(self.shapes))]
        self._num_new = num_new


def on_device(rows: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """Row numbers that lie on the host, int64, on the device; the host does not wait until they are there."""
    index = rows if isinstance(rows, Tensor) else torch.tensor(rows, dtype=torch.int64)
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index


def _split(store: Tensor, start: int, num_rows: int) -> tuple[Tensor, ...]:
    """Rows [start, start + num_rows) of every layer of a bank."""
    return store.narrow(3, start, num_rows).unbind(0)


@torch.inference_mode(False)  # tensors made inside inference mode could not be written outside it
def _banks(shapes: tuple[LayerShape, ...], sizes: Sequence[int], slides: Sequence[bool]) -> tuple[Bank, ...]:
    """Memory for all layers, of so many slots by layer, one bank per distinct shape."""
    groups: dict[tuple[LayerShape, int, bool], list[int]] = {}
    for layer, key in enumerate(zip(shapes, sizes, slides, strict=True)):
        groups.setdefault(key, []).append(layer)
    banks = []
    for (shape, num_slots, is_sliding), layers in groups.items():
        size = (len(layers), 1, shape.num_kv_heads, num_slots)
        keys = torch.zeros(*size, shape.key_size, dtype=shape.dtype, device=shape.device)
        values = torch.zeros(*size, shape.value_size, dtype=shape.dtype, device=shape.device)
        banks.append(Bank(tuple(layers), keys, values, is_sliding))
    return tuple(banks)
