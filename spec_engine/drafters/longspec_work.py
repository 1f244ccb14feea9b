"""A LongSpec head's rows as device work, so that a whole draft can be captured.

Job: `LongSpecWork`: the rows that wait and the root, and the levels of a tree, over the ring and the target's memory;
`ChosenRows`, copies of the target's rows in focus, always in the same place.
Non-job: when to draft (`longspec`), what belongs to the ring (`longspec_memory`), the tree (`drafters.whole`).

What depends on a level's depth alone, its angles and what it sees of the ring, is computed for all levels before the
first one: each operator more takes a microsecond or two a level, also within a graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spec_engine.attention import BoundedAttention, Bounds, Scoring
from spec_engine.attention.merge import merge
from spec_engine.cache.window import WindowCache
from spec_engine.drafters.longspec_head import HeadAngles, LongSpecHead
from spec_engine.drafters.whole import DEEPEST
from spec_engine.model.capture import Mirror
from spec_engine.model.target import Target
from spec_engine.tree_tensors import TensorLevel


class ChosenRows:
    """Room for copies of `num_rows` of the target's rows. `length` are in use, and rows from `end` on follow them."""

    def __init__(self, target: Target, num_rows: int) -> None:
        keys, values = target.memory(target.last_layer)
        self.length = self.end = 0
        self.keys, self.values = (
            torch.zeros(1, x.shape[1], num_rows, x.shape[3], dtype=x.dtype, device=x.device) for x in (keys, values)
        )

    def take(self, keys: Tensor, values: Tensor, end: int) -> None:
        """Hold these rows [1, Hk, n, D]; the target's from `end` on are seen besides."""
        self.length, self.end = keys.shape[2], end
        self.keys.narrow(2, 0, self.length).copy_(keys)
        self.values.narrow(2, 0, self.length).copy_(values)


@dataclass(frozen=True, slots=True)
class LongSpecParts:
    """What a head drafts with; `output` [n, H] -> [n, V] reads its result. Without `chosen` it sees all rows of the
    target."""

    head: LongSpecHead
    output: Callable[[Tensor], Tensor]
    target: Target
    ring: WindowCache
    backend: BoundedAttention
    chosen: ChosenRows | None


class LongSpecWork:
    """A `HeadWork` of `parts` whose first pass has `num_rows` rows. Trees end within the window."""

    vocabulary: Tensor | None = None

    def __init__(self, parts: LongSpecParts, num_rows: int) -> None:
        target, ring = parts.target, parts.ring
        self.num_rows, self.num_columns = num_rows, target.vocab_size
        self.device, self.dtype = target.device, target.dtype
        self._parts = parts
        self._embed = target.model.get_input_embeddings()
        self._scoring = Scoring(parts.head.config.head_size**-0.5)
        size = 3 * num_rows + 10 + DEEPEST + ring.num_rows
        self._numbers = Mirror(torch.zeros(size, dtype=torch.int64), self.device)
        numbers = self._numbers.on_device
        self._token_ids, self._positions, self._slots = numbers[: 3 * num_rows].view(3, num_rows)
        others = numbers[3 * num_rows :]
        self._in_chosen, self._in_target, self._in_ring = others[:9].view(3, 3)
        self._root = others[9:10]
        self._level_positions, self._ring_positions = others[10:].split([DEEPEST, ring.num_rows])
        self._open, self._shut = (torch.full((), x, dtype=self.dtype, device=self.device) for x in (0.0, -torch.inf))
        self._sees_root = torch.ones(1, 1, dtype=torch.bool, device=self.device)
        self._angles, self._in_window = self._by_depth()

    @torch.inference_mode()
    def fill(self, pending: Sequence[int], root: int, position: int) -> None:
        """The committed tokens before `position` that the ring lacks, and the root; `num_rows` or fewer together."""
        ring, chosen, num_new = self._parts.ring, self._parts.chosen, len(pending)
        first = position - num_new
        if ring.next_position != first:
            ring.restart(first)
        numbers = self._numbers.host
        numbers.zero_()
        table = numbers[: 3 * self.num_rows].view(3, -1)
        table[0, : num_new + 1] = torch.tensor([*pending, root])
        table[1, : num_new + 1] = torch.arange(first, position + 1)
        table[2].fill_(ring.num_slots - 1)
        table[2, :num_new] = ring.reserve(num_new)
        table[2, num_new] = ring.num_rows
        length, end = (0, 0) if chosen is None else (chosen.length, chosen.end)
        others = numbers[3 * self.num_rows :]
        others[:10] = torch.tensor([0, 0, length, end, end, position, 0, 0, 0, num_new])
        others[10 : 10 + DEEPEST] = torch.arange(position, position + DEEPEST)
        others[10 + DEEPEST :] = ring.positions
        self._numbers.send()

    def root(self) -> Tensor:
        """See `HeadWork`."""
        head, memory = self._parts.head, self._parts.ring.memory
        embeds = self._embedded(self._token_ids)
        own = head.rows(embeds, head.rotary.at(self._positions))
        for store, rows in zip(memory, (own.keys, own.values), strict=True):
            store.index_copy_(2, self._slots, rows)
        self._angles, self._in_window = self._by_depth()
        root, queries = embeds.index_select(1, self._root), own.queries.index_select(2, self._root)
        return self._logits(root, queries, 0, self._sees_root)

    def level(self, level: TensorLevel, depth: int, first: int) -> Tensor:
        """See `HeadWork`."""
        head, ring = self._parts.head, self._parts.ring
        embeds = self._embedded(level.token_ids)
        own = head.rows(embeds, self._angles.part(depth, 1))
        for store, rows in zip(ring.memory, (own.keys, own.values), strict=True):
            store.narrow(2, ring.num_rows + 1 + first, rows.shape[2]).copy_(rows)
        sees_root = self._sees_root.expand(len(level.token_ids), 1)
        return self._logits(embeds, own.queries, depth, torch.cat((sees_root, level.visible), dim=1))

    def _embedded(self, token_ids: Tensor) -> Tensor:
        """[1, n, H]"""
        embeds: Tensor = self._embed(token_ids[None])
        return embeds.to(self.dtype)

    def _logits(self, embeds: Tensor, queries: Tensor, depth: int, seen: Tensor) -> Tensor:
        """[n, V] of rows at this depth, with these queries, that see these rows of the tree, bool [n, N], the root's
        first."""
        parts = self._parts
        in_window = self._in_window[depth].expand(len(seen), -1)
        bias = torch.where(torch.cat((in_window, seen), dim=1), self._open, self._shut)
        own = self._see(queries, parts.ring.memory, self._in_ring, bias)[0]
        x = parts.head.mix(embeds, own, self._angles.part(depth, 1), self._see_target)
        return parts.output(x[0])

    def _by_depth(self) -> tuple[HeadAngles, Tensor]:
        """By depth, the root's first: angles, and which rows of the ring lie in the window, bool [depths, rows]."""
        nearest = self._level_positions[:, None] - self._parts.ring.num_rows
        return self._parts.head.rotary.at(self._level_positions), self._ring_positions >= nearest

    def _see_target(self, query: Tensor) -> Tensor:
        """Attention [1, Hq, n, D] to verified tokens: all, or those in focus and the ones since."""
        nothing = query.new_zeros(query.shape[2], 0)
        target = self._parts.target
        newer = self._see(query, target.memory(target.last_layer), self._in_target, nothing)
        if (chosen := self._parts.chosen) is None:
            return newer[0]
        return merge([self._see(query, (chosen.keys, chosen.values), self._in_chosen, nothing), newer])[0]

    def _see(self, query: Tensor, memory: tuple[Tensor, Tensor], bounds: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return self._parts.backend.bounded(query, *memory, Bounds(bounds, 0), bias, self._scoring)
