"""The newest rows of layers that see no further than a window.

Job: `SlidingRows`: which rows of the text lie in the memory of such layers, making room for new ones, and the way back
to a shorter text. `num_sliding_slots`: how much memory that is.
Non-job: writing rows (`cache.slots`), who sees what (`model.hf_attention`).

The row of token i lies in slot i - `first`. When the memory is full the newest rows move to its beginning, so rows
always lie next to each other, in order, which is what kernels and captured passes read; a ring would break them in two.
A move costs a copy of a few thousand rows in a thousand tokens.

Questions about a document are asked one after the other, and each cuts the text back: to where the question before it
began, in a new chat to where the document ends. That may be further than a move leaves. So lengths at which texts part
are remembered, and when a move is about to drop the rows before one of them, they are put aside in main memory.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

LEAST_SLACK: Final = 2048  # rows besides those of the window; what was written by the token can be cut by half as many
_BEFORE: Final = 2  # rows that are seen besides the window's: a draft head looks from a token behind the text
_MARGIN: Final = 14  # further rows that are kept, so that a text can be cut a little shorter than where texts parted
_LEAST_WAY: Final = 64  # rows move in parts as long as their way
_MOST_PLACES: Final = 4
_LEAST_PLACE: Final = 512  # a shorter text is read again as fast


def num_sliding_slots(windows: Sequence[int | None], num_slots: int, slack: int) -> int:
    """Rows in the memory of layers with a window, beside layers without one that have `num_slots`; as many where every
    layer has one, or none, or where nothing would be saved."""
    sizes = [window for window in windows if window is not None]
    if not sizes or len(sizes) == len(windows):
        return num_slots
    return min(num_slots, _reach(max(sizes)) + slack + 1)


class SlidingRows:
    """Rows of `stores`, tensors [layers, 1, Hk, slots, D], whose layers see `window` rows at most. Passes write `slack`
    rows at most, behind the `_reach(window)` rows that always stay. The last slot is never a text's: captured passes
    write rows there that are none."""

    def __init__(self, stores: Sequence[Tensor], window: int, slack: int) -> None:
        self.first = 0  # the token whose row lies in the first slot
        self._num_slots = stores[0].shape[3] - 1
        self._stores = tuple(stores)
        self._window = window
        self._slack = slack
        self._places: list[int] = []  # lengths at which texts parted, in the order in which they did
        self._aside: dict[int, list[Tensor]] = {}  # the rows before some of them
        self._lasting = 0

    def make_room(self, length: int, num_new: int) -> bool:
        """Rows will be written behind `length` tokens, `num_new` at most; whether rows moved for it."""
        for place in [place for place in self._aside if place > length]:
            del self._aside[place]
        num_held = length - self.first
        if num_held + num_new <= self._num_slots:
            return False
        assert num_new <= self._slack, f"{num_new} new rows, {self._slack} is the most"
        num_kept = min(self._num_slots - max(num_new, self._slack // 2), num_held - _LEAST_WAY)
        num_kept = max(num_kept, min(num_held, _reach(self._window)))
        self._put_aside(length, length - num_kept)
        self._move(num_held - num_kept, num_kept)
        self.first = length - num_kept
        return True

    def reachable(self, length: int) -> int:
        """The longest text of at most `length` of the tokens whose rows were written that can be gone on from."""
        if self.first <= self._first_seen(length) or self._rows_for(length):
            return length
        return max((place for place in self._aside if place <= length), default=0)

    def cut(self, length: int) -> bool:
        """Go back to a length that is `reachable`; whether the rows behind it are lost."""
        if self.first <= self._first_seen(length):
            return False
        if length == 0:
            self.jump(0)
            return True
        found = self._rows_for(length)
        assert found is not None, f"no way back to {length} tokens"
        self.first, rows = found
        for store, kept in zip(self._stores, rows, strict=True):
            store.narrow(3, 0, kept.shape[3]).copy_(kept)
        return True

    def remember(self, length: int, *, is_lasting: bool = False) -> None:
        """Texts parted here or will. Of such lengths the lasting one, else the shortest, which often is where a
        document ends, and the newest are remembered. The text may have to be read up to there first."""
        near = next((place for place in self._places if 0 <= place - length <= _MARGIN), None)
        if is_lasting:
            self._lasting = near or length
        if near is not None:
            return
        for place in [] if is_lasting else [place for place in self._places if place > length]:  # of what parted
            self._forget(place)
        if length < _LEAST_PLACE:
            return
        self._places.append(length)
        if len(self._places) > _MOST_PLACES:
            stays = self._lasting if self._lasting in self._places else min(self._places)
            self._forget(next(place for place in self._places if place != stays))

    def jump(self, length: int) -> None:
        """Forget everything; rows of a text of `length` tokens will be written from elsewhere."""
        for place in list(self._places):
            self._forget(place)
        self.first = self.first_kept(length)

    def first_kept(self, length: int) -> int:
        """The first token of `length` whose row is worth keeping."""
        return max(0, length - _reach(self._window))

    def _first_seen(self, length: int) -> int:
        """The first token that what follows `length` tokens may see."""
        return max(0, length - self._window - _BEFORE)

    def _rows_for(self, length: int) -> tuple[int, list[Tensor]] | None:
        """The first token and the rows of what was put aside and serves `length` tokens."""
        found = ((place, rows) for place, rows in self._aside.items() if length <= place)
        starts = ((place - rows[0].shape[3], rows) for place, rows in found)
        return next((one for one in starts if one[0] <= self._first_seen(length)), None)

    def _put_aside(self, length: int, new_first: int) -> None:
        """Save the rows before remembered lengths of a text of `length` tokens that would be dropped if the memory
        began at `new_first`."""
        for place in [place for place in self._places if place <= length]:
            start = max(self.first, self.first_kept(place))
            if place not in self._aside and start <= self._first_seen(place) and start < new_first:
                where, num_rows = start - self.first, place - start
                self._aside[place] = [store.narrow(3, where, num_rows).to("cpu", copy=True) for store in self._stores]

    def _forget(self, place: int) -> None:
        self._places.remove(place)
        self._aside.pop(place, None)

    @torch.inference_mode()
    def _move(self, start: int, num_rows: int) -> None:
        """Rows from slot `start` on to the beginning, in parts that do not lie over their own target."""
        for done in range(0, num_rows, max(start, 1)):
            length = min(start, num_rows - done)
            for store in self._stores:
                store.narrow(3, done, length).copy_(store.narrow(3, start + done, length))


def _reach(window: int) -> int:
    """Rows that always stay."""
    return window + _BEFORE + _MARGIN
