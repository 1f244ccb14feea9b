"""A LongSpec head together with what it sees: a ring of its own, and the target's last layer.

Job: `LongSpecMemory`: take committed tokens in, run the root and the levels of a tree, and attend for them.
Non-job: the layer (`longspec_head`), which tokens and nodes to run (`longspec`), drafts that the device runs by itself
(`longspec_work`).

The published code keeps rows for the whole prompt, and runs the layer over all of it. Here the ring has one window of
rows, a node's window goes by its position in the text rather than by its row, and the target's keys are read where they
lie. They are those of verified tokens alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spec_engine.attention import BoundedAttention, Scoring, tree_bias
from spec_engine.attention.merge import merge_two
from spec_engine.cache.slots import LayerShape, on_device
from spec_engine.cache.window import WindowCache
from spec_engine.drafters.longspec_head import HeadAngles, LongSpecHead
from spec_engine.drafters.longspec_work import ChosenRows, LongSpecParts, LongSpecWork
from spec_engine.drafters.whole import WholeDrafts, num_rows_for, why_not_whole
from spec_engine.errors import ModelError
from spec_engine.model.head_products import draft_output, output_weight, quicken
from spec_engine.model.target import Target


@dataclass(frozen=True, slots=True)
class TreeSize:
    """How large a tree may become: rows of all levels that are run, the root included, and levels. `num_chosen` are
    the tokens that may be in focus, 0 where nothing is chosen."""

    num_rows: int
    num_levels: int
    num_chosen: int = 0


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Copies of the target's rows in focus, [1, Hk, n, D], keys turned as they were; rows from `end` on follow."""

    keys: Tensor
    values: Tensor
    end: int


class LongSpecMemory:
    """`head` beside `target`. Raises `ModelError` when they do not fit each other."""

    def __init__(self, head: LongSpecHead, target: Target, size: TreeSize) -> None:
        check_fits(head, target)
        assert target.has_output, "a causal language model has an output layer"
        keys, _ = target.last_rows()
        config = head.config
        shape = LayerShape(config.num_kv_heads, config.head_size, config.head_size, keys.dtype, keys.device)
        self.window = config.window
        self._head, self._target = head, target
        self._embed = target.model.get_input_embeddings()
        self._backend = target.runner.backend
        self._scoring = Scoring(config.head_size**-0.5)
        self._num_levels = size.num_levels
        self._device, self._dtype = keys.device, keys.dtype
        self._ring = WindowCache(shape, config.window, size.num_rows)
        self._indices: Tensor | None = None  # of the tokens in focus
        self._num_focused = 0  # tokens that there were when it was chosen
        self._chosen: _Chosen | None = None
        self._root = 0  # position of the root
        self._angles: HeadAngles | None = None  # of the root and the levels below it
        self._depths: list[int] = []  # of the tree's rows
        self._rows_in_focus = ChosenRows(target, size.num_chosen) if size.num_chosen else None
        self._works: dict[int, LongSpecWork] = {}
        self._output: Callable[[Tensor], Tensor] = target.output  # of captured drafts
        self.whole: WholeDrafts | None = None
        self.products_note = ""

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run what the first draft of an answer takes in, a window and the root, so that its products are ready."""
        positions = torch.arange(self.window + 1, device=self._device)
        self._head.rows(self._embedded([0] * len(positions)), self._head.rotary.at(positions))

    def capture(self, whole: WholeDrafts, *, may_round: bool) -> None:
        """Draft as captured device work from now on, where trees end within the window; with `may_round` by matrices
        of 8 bits, where they are faster."""
        if whole.deepest > self.window:
            return
        self.whole = whole
        config, output = self._head.config, draft_output(output_weight(self._target))
        heads = config.num_heads, config.num_kv_heads, config.head_size
        self.products_note = quicken(self._head, output, heads, may_round=may_round)
        self._output = output or self._target.output

    def why_not_whole(self) -> str:
        """Why drafts of this head cannot be captured; "" where they can."""
        target = self._target
        output = target.model.get_output_embeddings()
        places = {target.device, self._device, output.weight.device}  # type: ignore[union-attr]
        if len(places) > 1:
            return "the target is spread over several devices"
        return why_not_whole(self._device, self._dtype, self._backend, self._head.config.head_size)

    def fill(self, pending: Sequence[int], root: int, position: int) -> LongSpecWork | None:
        """Device work that draws a draft from `root` at `position`, with what it reads in its place; None where more
        tokens wait than it takes. `pending` are those that came since the last call."""
        num_rows, backend = num_rows_for(len(pending) + 1), self._backend
        if self.whole is None or num_rows is None or not isinstance(backend, BoundedAttention):
            return None
        if num_rows not in self._works:
            parts = LongSpecParts(self._head, self._output, self._target, self._ring, backend, self._rows_in_focus)
            self._works[num_rows] = LongSpecWork(parts, num_rows)
        if self._rows_in_focus is not None and self._indices is not None and self._chosen is None:
            self._chosen = self._choose(self._indices)
            self._rows_in_focus.take(self._chosen.keys, self._chosen.values, self._chosen.end)
        self._works[num_rows].fill(pending, root, position)
        return self._works[num_rows]

    def restart(self) -> None:
        """Forget everything."""
        self._ring.restart(0)
        self.focus(None, 0)

    def focus(self, indices: Tensor | None, num_tokens: int) -> None:
        """Let the head see these of the first `num_tokens` tokens, and all later ones; None: all."""
        self._indices, self._num_focused, self._chosen = indices, num_tokens, None
        if self._rows_in_focus is not None and indices is None:
            self._rows_in_focus.length = self._rows_in_focus.end = 0

    @torch.inference_mode()
    def run_root(self, pending: Sequence[int], root: int, position: int) -> Tensor:
        """Take in the committed tokens before `position`, run `root` there; logits [1, V] after it.

        `pending` are those that came since the last call, or of these the last window.
        """
        assert self._target.length == position, "the target holds another text than this answer's"
        num_new = len(pending)
        first = position - num_new
        if self._ring.next_position != first:
            self._ring.restart(first)
        positions = torch.arange(first, position + self._num_levels, device=self._device)
        angles = self._head.rotary.at(positions)
        embeds = self._embedded([*pending, root])
        own = self._head.rows(embeds, angles.part(0, num_new + 1))
        self._ring.extend(own.keys[:, :, :num_new], own.values[:, :, :num_new])
        self._root, self._angles, self._depths = position, angles.part(num_new, self._num_levels), [0]
        self._ring.put(0, own.keys[:, :, num_new:], own.values[:, :, num_new:])
        seen = torch.ones(1, 1, dtype=torch.bool)
        return self._mixed(embeds[:, num_new:], own.queries[:, :, num_new:], 0, seen)

    @torch.inference_mode()
    def run_level(self, token_ids: Sequence[int], depth: int, visible: Tensor) -> Tensor:
        """Run n nodes of a level; logits [n, V].

        `visible` bool [n, N] on the CPU: which of the tree's rows, in the order they were run, the root first and these
        nodes last, each of them sees.
        """
        assert self._angles is not None, "the root comes first"
        embeds = self._embedded(token_ids)
        own = self._head.rows(embeds, self._angles.part(depth, 1))
        self._ring.put(len(self._depths), own.keys, own.values)
        self._depths += [depth] * len(token_ids)
        return self._mixed(embeds, own.queries, depth, visible)

    def _embedded(self, token_ids: Sequence[int]) -> Tensor:
        """The target's embeddings [1, n, H]."""
        embeds: Tensor = self._embed(torch.tensor([token_ids], device=self._target.device))
        return embeds.to(self._device, self._dtype)

    def _mixed(self, embeds: Tensor, queries: Tensor, depth: int, visible: Tensor) -> Tensor:
        """Logits [n, V] of the newest rows of the tree, with their own queries [1, Hq, n, D]."""
        assert self._angles is not None, "the root comes first"
        keys, values = self._ring.view(len(self._depths))
        lowest = self._root + depth - self.window  # position
        ring = (self._ring.positions >= lowest).expand(len(visible), -1)
        near = torch.tensor(self._depths) >= depth - self.window
        bias = tree_bias(torch.cat((ring, visible & near), dim=1), embeds.dtype, embeds.device)
        # All rows are few: one masked kernel, in which the order of the ring does not matter.
        seen, _ = self._backend.hybrid(queries, keys, values, self.window, bias, self._scoring)
        x = self._head.mix(embeds, seen, self._angles.part(depth, 1), self._see_target)
        return self._target.output(x[0])

    def _see_target(self, query: Tensor) -> Tensor:
        """Attention [1, Hq, n, D] to verified tokens: all of them, or those in focus and the ones since."""
        keys, values = self._target.last_rows()
        if self._indices is None:
            found = self._unmasked(query, keys, values)
            return torch.zeros_like(query) if found is None else found[0]
        if self._chosen is None:
            self._chosen = self._choose(self._indices)
        end = self._chosen.end
        newer = keys.narrow(2, end, keys.shape[2] - end), values.narrow(2, end, keys.shape[2] - end)
        parts = self._unmasked(query, self._chosen.keys, self._chosen.values), self._unmasked(query, *newer)
        found_parts = [part for part in parts if part is not None]
        if not found_parts:
            return torch.zeros_like(query)
        return (merge_two(*found_parts) if len(found_parts) == 2 else found_parts[0])[0]

    def _choose(self, indices: Tensor) -> _Chosen:
        """Copies of the rows of these tokens, of which some may not have been verified when they were chosen."""
        keys, values = self._target.last_rows()
        index = on_device(indices[indices < self._num_focused], keys.device)
        return _Chosen(keys.index_select(2, index), values.index_select(2, index), end=self._num_focused)

    def _unmasked(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Attention to all of these rows, in place, and its log-sum-exp; None where there is no row."""
        num_rows = keys.shape[2]
        return self._backend.hybrid(query, keys, values, num_rows, None, self._scoring) if num_rows else None


def check_fits(head: LongSpecHead, target: Target) -> None:
    """Raise `ModelError` where the sizes of head and target differ, with both numbers."""
    keys, values = target.last_rows()
    config = head.config
    weight = target.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor), "an embedding has a weight"
    pairs = (
        ("a hidden size", config.hidden_size, weight.shape[1]),
        ("a number of key/value heads", config.num_kv_heads, keys.shape[1]),
        ("a head size for keys", config.head_size, keys.shape[3]),
        ("a head size for values", config.head_size, values.shape[3]),
    )
    for what, own, wanted in pairs:
        if own != wanted:
            raise ModelError(
                f"The draft head was made for another target: it has {what} of {own}, and {target.runner.name} one of "
                f"{wanted}. Set draft.model to a head that was trained for this target."
            )
    if config.num_heads % config.num_kv_heads:
        raise ModelError(
            f"The draft head has {config.num_heads} query heads, which {config.num_kv_heads} key/value heads cannot "
            "share evenly. Correct its config.json, or choose another head."
        )
