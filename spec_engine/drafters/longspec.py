"""Drafting with a LongSpec head (arXiv 2502.17421): one layer that reads the target's last-layer keys and values.

Job: keep track of the text, and grow a tree from the head, one pass per level.
Non-job: the layer (`longspec_head`), what it sees (`longspec_memory`), how trees grow (`tree`).

A prompt costs the head next to nothing: keys and values of its windowed self-attention depend on tokens alone, so the
last window of them is computed with the first root, and the cross-attention finds its rows in the target's cache. With
``draft.cross_attention = "focus"`` it looks at the chunks that retrieval chose instead of all of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spec_engine.cache.store import TextMemory
from spec_engine.config import DraftConfig, Preset
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.lm_memory import num_chosen
from spec_engine.drafters.longspec_head import HeadRotary, LongSpecHead, head_config, make_head
from spec_engine.drafters.longspec_memory import LongSpecMemory, TreeSize
from spec_engine.drafters.whole import Reach, WholeDrafts, whole_drafts
from spec_engine.errors import ModelError, RequestError
from spec_engine.model.checkpoint import load_checkpoint, load_head_config
from spec_engine.model.head_products import join_products
from spec_engine.model.memory import MemoryNeed, target_dtype
from spec_engine.model.rope import find_rotary
from spec_engine.model.target import Step, Taps, Target
from spec_engine.retrieval import Focus
from spec_engine.sampling import DraftRanking, SamplingParams
from spec_engine.tree import DraftTree, TreeGrower, make_grower


class LongSpecDrafter:
    """A head that proposes trees for `target`; captured drafts may take `graph_bytes` on a GPU. Raises `ModelError`
    when they do not fit each other."""

    name = "longspec"
    memories: tuple[TextMemory, ...] = ()  # the ring is filled with the first root

    def __init__(self, head: LongSpecHead, target: Target, config: DraftConfig, graph_bytes: int = 0) -> None:
        self.vocab_size = target.vocab_size
        self._config = config
        self._memory = LongSpecMemory(head, target, _tree_size(config))
        if graph_bytes and not self._memory.why_not_whole():
            whole = whole_drafts(config.tree, target.device, graph_bytes)
            self._memory.capture(whole, may_round=config.weights == "auto")

    def warm_up(self) -> None:
        """Make the first draft of an answer ready, so that it takes no longer than others."""
        self._memory.warm_up()

    @property
    def whole(self) -> WholeDrafts | None:
        """Its drafts as captured device work, where they are that."""
        return self._memory.whole

    @property
    def products_note(self) -> str:
        """Who does the products of these drafts, where that was contested, in a sentence."""
        return self._memory.products_note

    def begin(self, sampling: SamplingParams) -> "LongSpecSession":
        """A session for a new answer."""
        return LongSpecSession(self._memory, self._config, sampling, self.vocab_size)


def build(context: DrafterContext) -> LongSpecDrafter:
    """The drafter for ``draft.kind = "longspec"``: loads the preset's head beside the target, in the target's dtype."""
    preset, ref, target = context.preset, context.preset.draft.model, context.target
    if ref is None:
        raise RequestError(f"The preset '{preset.name}' names no draft head. Add a [draft.model] with an id.")
    if ref.quantization != "none":
        raise ModelError(f"The head '{ref.id}' cannot be quantised. Remove draft.model.quantization from the preset.")
    checkpoint = load_checkpoint(preset, ref)
    head = make_head(checkpoint, target_rotary(target), target.last_rows()[0].device, target.dtype)
    join_products(head.requires_grad_(False))
    drafter = LongSpecDrafter(head, target, preset.draft, preset.graph_memory << 20)
    drafter.warm_up()
    return drafter


def longspec_need(preset: Preset, device: str) -> MemoryNeed:
    """What the head of ``draft.model`` needs beside its target, from its configuration; its ring is next to nothing."""
    ref = preset.draft.model
    assert ref is not None, "asked for a head that the preset does not name"
    sizes = head_config(load_head_config(preset, ref))
    attention = sizes.head_size * (4 * sizes.num_heads + 2 * sizes.num_kv_heads)
    num_weights = sizes.hidden_size * (attention + 3 * sizes.intermediate_size)
    return MemoryNeed(num_weights * target_dtype(preset, device).itemsize, 0, preset.context_length, 0)


def target_rotary(target: Target) -> HeadRotary:
    """How a head of `target` turns by position. Raises `UnsupportedModel` for a target without a rotary embedding."""
    return HeadRotary(*find_rotary(target.runner, target.last_layer))


class LongSpecSession:
    """The drafter's side of one answer."""

    def __init__(self, memory: LongSpecMemory, config: DraftConfig, sampling: SamplingParams, vocab_size: int) -> None:
        self._memory = memory
        self._tree = config.tree
        self._is_focused = _is_focused(config)
        self._vocab_size = vocab_size
        self._ranking = DraftRanking(sampling, shares_noise=config.tree.shares_noise)
        self._num_done = 0  # committed tokens; the next root stands at this position
        self._pending: list[int] = []  # of these, the newest that the head has not taken in yet, one window at most
        self._reach = Reach()
        memory.restart()

    @property
    def taps(self) -> Taps:
        """Retrieval needs the target's attention; without it the target's cache is all that is looked at."""
        return Taps(attention_row=self._is_focused)

    def reusable(self, prefix: Sequence[int]) -> int:
        """All of it: the head needs the tokens, and the target's rows, which are there."""
        return len(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        """Begin behind `prefix`. Nothing is computed, so there is nothing to wait for."""
        self._memory.restart()
        self._pending = list(prefix[-self._memory.window :])
        self._num_done = len(prefix)
        return iter(())

    def observe(self, step: Step) -> None:
        """Take committed tokens; those of the last window wait for the next proposal."""
        self._reach.confirmed(len(step.token_ids) - 1, step.depth)
        self._num_done = step.num_done
        self._pending.extend(step.token_ids)
        del self._pending[: -self._memory.window]

    def focus(self, focus: Focus) -> None:
        """Look at the target's rows of the focused tokens and of those after them."""
        if self._is_focused:
            self._memory.focus(focus.token_indices, self._num_done)

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """A tree below `root` of at most `max_nodes` drafted nodes; no level of less than `min_gain` is run."""
        if max_nodes < 1 or min_gain == math.inf:
            return DraftTree.root(root)
        if (whole := self._whole_tree(root, max_nodes, min_gain)) is not None:
            return whole
        tree = replace(self._tree, num_nodes=min(self._tree.num_nodes, max_nodes))
        grower = make_grower(tree, root, min_gain=min_gain)
        self._ranking.forget(self._num_done + 1)
        logits = self._memory.run_root(self._pending, root, self._num_done)
        self._pending.clear()
        self._grow(grower, grower.start(self._log_probs(logits, 1)[0]))
        return grower.finish()

    def _whole_tree(self, root: int, max_nodes: int, min_gain: float) -> DraftTree | None:
        """The tree as one piece of device work; None where that cannot be."""
        whole, work = self._memory.whole, self._memory.fill(self._pending, root, self._num_done)
        if whole is None or work is None:
            return None
        self._pending.clear()
        self._ranking.forget(self._num_done + 1)
        depth = self._reach.depth(min_gain, min(whole.deepest, max_nodes))
        tree = whole.grow(root, work, self._ranking, self._num_done + 1, depth)
        self._reach.drafted(tree.depth)
        return tree.first(max_nodes)

    def _grow(self, grower: TreeGrower, frontier: list[int]) -> None:
        """Run the tree level by level, until the grower has enough."""
        row_of: dict[int, int] = {}  # of each node; row 0 is the root's
        while frontier:
            for node in frontier:
                row_of[node] = len(row_of) + 1
            visible = torch.zeros(len(frontier), len(row_of) + 1, dtype=torch.bool)
            visible[:, 0] = True
            for row, node in enumerate(frontier):
                visible[row, [row_of[ancestor] for ancestor in grower.ancestors(node)]] = True
            depth = grower.depth(frontier[0])
            logits = self._memory.run_level([grower.token_id(node) for node in frontier], depth, visible)
            frontier = grower.extend(frontier, self._log_probs(logits, depth + 1))

    def _log_probs(self, logits: Tensor, depth: int) -> Tensor:
        """Log-probabilities [n, V] of the tokens at this depth as the answer is sampled; greedy at temperature 1."""
        known = logits[:, : self._vocab_size]
        return self._ranking.log_probs(known, self._num_done + depth)


def _is_focused(config: DraftConfig) -> bool:
    """Whether the head looks at what retrieval has in focus alone."""
    return config.cross_attention == "focus" and config.retrieval.enabled


def _tree_size(config: DraftConfig) -> TreeSize:
    """The most that any policy of the tree runs, and what may be in focus."""
    tree = config.tree
    num_levels = max(tree.max_depth, len(tree.beam_widths)) + 1
    num_rows = max(tree.num_nodes * tree.max_depth, sum(tree.beam_widths)) + 1
    return TreeSize(num_rows, num_levels, num_chosen(config.retrieval) if _is_focused(config) else 0)
