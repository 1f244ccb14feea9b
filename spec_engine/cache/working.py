"""The memory of a draft model: everything it has read, and the part of it that it looks at.

Job: `WholeCache` (the draft sees all it has) and `FocusedCache` (a full cache, and a view of it: chosen tokens moved
next to each other, their keys re-positioned to 0 … n - 1).
Non-job: choosing the tokens (`retrieval`), running the model.

A rotary embedding is a group: a key rotated to position a becomes the key at position b by a rotation of b - a
(RoFormer, arXiv 2104.09864, section 3.2). So no copy of unrotated keys is needed, any scaling of the frequencies works,
and layers without rotation are left alone. Views are always made from the full cache, never from an older view, so
rounding does not add up. SpecExtend (arXiv 2505.20776, section 3.2) re-indexes its retrieved chunks to the same effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spec_engine.cache.slots import Bank, LayerShape, SlotCache, on_device


@dataclass(frozen=True, slots=True)
class Rotation:
    """How the keys of some layers depend on the position: the first ``2 * len(inv_freq)`` of D entries rotate.

    `inv_freq` [R / 2] in radians per position. The pairs that rotate together are (i, i + R / 2), or (2 i, 2 i + 1)
    when interleaved.
    """

    layers: tuple[int, ...]
    inv_freq: Tensor
    is_interleaved: bool


def rotate_keys(keys: Tensor, shifts: Tensor, rotation: Rotation) -> Tensor:
    """`keys` [..., n, D] moved by `shifts` [n] positions each. Angles in float64, products in float32 or better."""
    angles = on_device(shifts, rotation.inv_freq.device).double()[:, None] * rotation.inv_freq.double()
    dtype = torch.promote_types(keys.dtype, torch.float32)
    cos, sin = angles.cos().to(keys.device, dtype), angles.sin().to(keys.device, dtype)  # [n, R / 2]
    return turn(keys, cos, sin, is_interleaved=rotation.is_interleaved)


def turn(rows: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool) -> Tensor:
    """`rows` [..., n, D] turned by the angles of `cos` and `sin` [n, R / 2], which are float32 or better."""
    num_pairs = cos.shape[1]
    turning, rest = rows[..., : 2 * num_pairs].to(cos.dtype), rows[..., 2 * num_pairs :]
    if is_interleaved:
        x, y = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((x * cos - y * sin, y * cos + x * sin), dim=-1).flatten(-2)
    else:
        x, y = turning[..., :num_pairs], turning[..., num_pairs:]
        turned = torch.cat((x * cos - y * sin, y * cos + x * sin), dim=-1)
    return torch.cat((turned.to(rows.dtype), rest), dim=-1)


@dataclass(frozen=True, slots=True)
class ViewSize:
    """How large a view may become, in tokens.

    `num_start` tokens before anything was chosen: the first `num_sink` and the newest. `num_recent` newest tokens stay
    when the view has to be made anew because it outgrew `limit`. `num_extra` rows are free behind it for a tree.
    """

    num_start: int
    num_sink: int
    num_recent: int
    limit: int
    num_extra: int


class WholeCache:
    """A draft's memory that is all view: positions are those of the text."""

    def __init__(self, shapes: Sequence[LayerShape], num_tokens: int, num_extra: int) -> None:
        self.full = SlotCache(shapes, num_tokens + num_extra)

    @property
    def view(self) -> SlotCache:
        """What the draft attends to."""
        return self.full

    @property
    def num_read(self) -> int:
        """Leading tokens whose rows depend on the text alone."""
        return self.full.length

    @property
    def keeps_view_rows(self) -> bool:
        """Whether tokens run on the view belong to the memory."""
        return True

    def room(self, num_new: int) -> int:
        """How many of `num_new` further tokens can be run on the view now."""
        return num_new

    def read(self, num_new: int) -> None:
        """Commit the `num_new` rows that were just appended to the full cache."""
        self.full.advance(num_new)

    def filled(self, num_rows: int) -> None:
        """The first `num_rows` rows of the full cache were written from elsewhere; all else is forgotten."""
        self.truncate(0)
        self.full.advance(num_rows)

    def keep(self, num_new: int) -> None:
        """Commit the `num_new` rows that were just appended to the view."""
        self.full.advance(num_new)

    def focus(self, token_indices: Tensor) -> None:
        """Everything is in view already."""

    def drop_last(self) -> None:
        """Forget the newest token."""
        self.full.truncate(self.full.length - 1)

    def truncate(self, num_tokens: int) -> None:
        """Forget the tokens from `num_tokens` on."""
        self.full.truncate(num_tokens)


class FocusedCache:
    """A draft's memory with a view of bounded size.

    Until something was chosen, tokens are read into `full` at their own positions, and the view (the first and the
    newest of them) serves drafting alone. Afterwards tokens are run on the view, at the position behind it, and their
    rows copied from there; so each cached key remembers the position that it was rotated to.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], rotations: Sequence[Rotation], num_tokens: int, size: ViewSize
    ) -> None:
        self.full = SlotCache(shapes, num_tokens)
        self._view = SlotCache(shapes, size.limit + size.num_extra)
        self._rotations = tuple(rotations)
        self._size = size
        self._positions = torch.arange(num_tokens)  # of the keys in `full`
        self._num_read = 0
        self._chosen: Tensor | None = None  # tokens that retrieval chose
        self._num_behind = 0  # tokens up to here existed at that time; later ones follow the chosen
        self._is_stale = True

    @property
    def view(self) -> SlotCache:
        """What the draft attends to; `room` brings it up to date."""
        return self._view

    @property
    def num_read(self) -> int:
        """Leading tokens whose rows depend on the text alone, not on what was in view at the time."""
        return self._num_read

    @property
    def keeps_view_rows(self) -> bool:
        """Whether tokens run on the view belong to the memory."""
        return self._chosen is not None

    def room(self, num_new: int) -> int:
        """How many of `num_new` further tokens can be run on the view now; makes it anew where it must be."""
        if self._is_stale or self._view.length + num_new > self._size.limit:
            self._make_view(self._tokens_in_view(self.full.length, num_new))
        return min(num_new, self._size.limit - self._view.length)

    def read(self, num_new: int) -> None:
        """Commit the `num_new` rows that were just appended to the full cache, at their own positions."""
        assert self._num_read == self.full.length, "rows of the view lie at other positions, so nothing can follow them"
        self.full.advance(num_new)
        self._num_read = self.full.length
        self._is_stale = True

    def filled(self, num_rows: int) -> None:
        """The first `num_rows` rows of the full cache were written from elsewhere, at their own positions; all else is
        forgotten."""
        self.truncate(0)
        self.read(num_rows)

    def keep(self, num_new: int) -> None:
        """Commit the `num_new` rows that were just appended to the view, there and in the full cache."""
        start, num_all = self._view.length, self.full.length
        self.full.copy_rows(self._view, start, num_new)
        self._view.advance(num_new)
        self._positions[num_all : num_all + num_new] = torch.arange(start, start + num_new)

    def focus(self, token_indices: Tensor) -> None:
        """Look at these tokens (int64 [n], ascending) and at all later ones."""
        if self._chosen is None or not torch.equal(token_indices, self._chosen):
            self._chosen = token_indices
            self._num_behind = int(token_indices[-1]) + 1 if len(token_indices) else 0
            self._is_stale = True

    def drop_last(self) -> None:
        """Forget the newest token, which was run on the view."""
        self.full.truncate(self.full.length - 1)
        if not self._is_stale:
            self._view.truncate(self._view.length - 1)

    def truncate(self, num_tokens: int) -> None:
        """Forget the tokens from `num_tokens` (at most `num_read`) on, and what was chosen."""
        self.full.truncate(num_tokens)
        self._positions = torch.arange(len(self._positions))
        self._num_read = num_tokens
        self._chosen, self._is_stale = None, True

    def _tokens_in_view(self, num_all: int, num_new: int) -> Tensor:
        """Indices, ascending, of the tokens to look at: the chosen ones and those that came later.

        Where these leave no room for new ones, only the newest `num_recent` of the later tokens stay.
        """
        size = self._size
        most = size.limit - max(1, min(num_new, size.limit // 4))
        if self._chosen is None:
            chosen, first = torch.arange(min(size.num_sink, num_all)), num_all - size.num_start + size.num_sink
        else:
            chosen, first = self._chosen[self._chosen < num_all], self._num_behind
            if len(chosen) + num_all - first > most:
                first = max(first, num_all - size.num_recent)
        first = min(max(first, 0), num_all)  # the newest chosen tokens may not have been run yet
        tokens = torch.cat((chosen[chosen < first], torch.arange(first, num_all)))
        return tokens[max(len(tokens) - most, 0) :]

    def _make_view(self, tokens: Tensor) -> None:
        """Copy `tokens` out of the full cache to slots and positions 0, 1, 2 …"""
        shifts = torch.arange(len(tokens)) - self._positions[tokens]
        self._view.reset()
        for own, source in zip(self._view.banks, self.full.banks, strict=True):
            index = on_device(tokens, own.keys.device)
            keys = self._moved(source, source.keys.index_select(3, index), shifts)
            own.keys.narrow(3, 0, len(tokens)).copy_(keys)
            own.values.narrow(3, 0, len(tokens)).copy_(source.values.index_select(3, index))
        self._view.advance(len(tokens))
        self._is_stale = False

    def _moved(self, bank: Bank, keys: Tensor, shifts: Tensor) -> Tensor:
        """`keys` [layers, 1, Hk, n, D] of a bank moved by `shifts`, layer by layer as each one rotates."""
        if not shifts.any():
            return keys
        for rotation in self._rotations:
            rows = [row for row, layer in enumerate(bank.layers) if layer in rotation.layers]
            if len(rows) == len(bank.layers):
                return rotate_keys(keys, shifts, rotation)
            if rows:
                keys[rows] = rotate_keys(keys[rows], shifts, rotation)
        return keys
