"""A draft model together with what it has read.

Job: `LMMemory`: read tokens, run tokens and tree levels on the view, keep token ids and cached rows in step.
Non-job: when to do what (`drafters.lm`), what is in view (`cache.working`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spec_engine.cache.slots import num_shared
from spec_engine.cache.working import FocusedCache, ViewSize, WholeCache
from spec_engine.config import Preset, RetrievalConfig, TreeConfig
from spec_engine.errors import PresetError
from spec_engine.model.fused import fused, warm_up
from spec_engine.model.graphs import NUM_ROWS, Graphed, graphed, graphs_note
from spec_engine.model.hf_attention import Pass
from spec_engine.model.hf_cache import SlotAdapter
from spec_engine.model.rope import find_rotations
from spec_engine.model.runner import Runner
from spec_engine.model.target import Target
from spec_engine.pacer import PrefillPacer

_READ_CHUNK = 512  # tokens of a reading pass at most


@dataclass(frozen=True, slots=True)
class LMSettings:
    """How a draft model drafts. `num_tokens` is the longest context, `vocab_size` bounds the proposed token ids;
    captured passes may take `graph_bytes` on a GPU. There `may_round` allows matrices of 8 bits, for good: the model
    must be nobody else's."""

    num_tokens: int
    vocab_size: int
    tree: TreeConfig
    retrieval: RetrievalConfig
    graph_bytes: int = 0
    may_round: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """Nodes to run: `visible` [n, N] over the rows of this and earlier levels, `offsets` [N] their depths below the
    root's children. Without `visible` each row sees all earlier ones."""

    token_ids: list[int]
    visible: Tensor | None
    offsets: Tensor


class LMMemory:
    """The draft model with what it has read: tokens, and their keys and values."""

    def __init__(self, runner: Runner, settings: LMSettings) -> None:
        self._runner = runner
        self._plain = fused(runner, may_round=settings.may_round)
        self._forward = graphed(runner, self._plain, settings.graph_bytes)
        num_rows = num_tree_rows(settings)
        self.cache: WholeCache | FocusedCache
        self._window: int | None = None
        if settings.retrieval.enabled:
            size = view_size(settings, num_rows)
            trained: int | None = getattr(runner.config, "max_position_embeddings", None)
            check_range(size, settings, trained, runner.name)
            self.cache = FocusedCache(runner.shapes, find_rotations(runner), settings.num_tokens + 1, size)
            window = settings.retrieval.prefill_window
            self._window = window if trained is None else min(window, trained)
        else:
            self.cache = WholeCache(runner.shapes, settings.num_tokens + 1, num_rows)
        self._on_full = runner.bind(self.cache.full)
        self._on_view = runner.bind(self.cache.view)
        self.token_ids: list[int] = []
        self.pacer = PrefillPacer(_READ_CHUNK)

    @property
    def passes_note(self) -> str:
        """Which of its passes were captured, or why none are, in a sentence."""
        return graphs_note(self._forward, self._runner)

    def warm_up(self, num_rows: int) -> None:
        """Make passes of up to so many rows ready, see `fused.warm_up`."""
        warm_up(self._plain, num_rows, self._on_view.slots.num_slots)

    def read(self, token_ids: Sequence[int]) -> None:
        """Take tokens in at their own positions; with retrieval each sees the last `prefill_window` tokens."""
        start, began = self.cache.full.length, time.perf_counter()
        current = Pass(self._runner.backend, start, is_causal=True, window=self._window)
        self._run(self._on_full, current, token_ids, torch.arange(start, start + len(token_ids)), last=1)
        self.cache.read(len(token_ids))
        self.pacer.record(len(token_ids), time.perf_counter() - began)
        self.token_ids.extend(token_ids)

    def run_on_view(self, token_ids: Sequence[int]) -> Tensor:
        """Run consecutive tokens behind the view; logits [1, V] after the last. The rows are not committed."""
        start, num_new = self.cache.view.length, len(token_ids)
        if 1 < num_new <= NUM_ROWS[-1] and isinstance(self._forward, Graphed):  # as a chain: chunks are not captured
            visible = torch.ones(num_new, num_new, dtype=torch.bool).tril()
            current = Pass(self._runner.backend, start, visible=visible, offsets=torch.arange(num_new))
        else:
            current = Pass(self._runner.backend, start, is_causal=num_new > 1)
        return self._run(self._on_view, current, token_ids, torch.arange(start, start + num_new), last=1)

    def extend_view(self, token_ids: Sequence[int]) -> Tensor:
        """Run consecutive tokens behind the view and keep them; logits [1, V] after the last."""
        logits = self.run_on_view(token_ids)
        self.cache.keep(len(token_ids))
        self.token_ids.extend(token_ids)
        return logits

    def run_level(self, level: Level, base: int) -> Tensor:
        """Run the nodes of a tree level behind the view, whose first `base` rows all of them see; logits [n, V]."""
        if level.visible is None:
            current = Pass(self._runner.backend, self.cache.view.length)
        else:
            current = Pass(self._runner.backend, base, visible=level.visible, offsets=level.offsets)
        positions = base + level.offsets[-len(level.token_ids) :]
        return self._run(self._on_view, current, level.token_ids, positions)

    def drop_last(self) -> None:
        """Forget the newest token, which was run on the view."""
        self.cache.drop_last()
        self.token_ids.pop()

    def share(self, prefix: Sequence[int]) -> int:
        """Forget all but the longest prefix shared with these tokens; return its length."""
        num_kept = num_shared(self.token_ids[: self.cache.num_read], prefix)
        self.cache.truncate(num_kept)
        del self.token_ids[num_kept:]
        return num_kept

    def rows(self, token_ids: Sequence[int]) -> Mapping[str, Tensor] | None:
        """Rows of the text's beginning `token_ids`, by name; None where they are not held, or depend on a view."""
        is_held = self.token_ids[: self.cache.num_read][: len(token_ids)] == list(token_ids)
        return self.cache.full.rows(len(token_ids)) if is_held else None

    def room(self, num_tokens: int) -> Mapping[str, Tensor]:
        """Forget everything; the places of the rows of `num_tokens` tokens, to be written to."""
        self.share(())
        return self.cache.full.room(num_tokens)

    def filled(self, token_ids: Sequence[int]) -> None:
        """What `room` gave was written to: these are the tokens."""
        self.cache.filled(len(token_ids))
        self.token_ids = list(token_ids)

    def _run(
        self, cache: SlotAdapter, current: Pass, token_ids: Sequence[int], positions: Tensor, last: int = 0
    ) -> Tensor:
        return self._forward.run(cache, current, token_ids, positions, last)


def settings_for(preset: Preset, target: Target) -> LMSettings:
    """What a preset says, beside this target."""
    draft, graph_bytes = preset.draft, preset.graph_memory << 20
    may_round = draft.weights == "auto"
    return LMSettings(target.capacity, target.vocab_size, draft.tree, draft.retrieval, graph_bytes, may_round)


def num_tree_rows(settings: LMSettings) -> int:
    """Rows of the root and of all levels of a tree at most."""
    tree = settings.tree
    return max(tree.num_nodes * tree.max_depth, sum(tree.beam_widths)) + 1


def view_size(settings: LMSettings, num_rows: int) -> ViewSize:
    """How large the view may become with these settings; `num_rows` are kept free for a tree.

    Retrieval gives whole chunks: the best ones, and those that hold the first and the last tokens. Until its next
    choice, new tokens follow behind.
    """
    config = settings.retrieval
    chosen = num_chosen(config)
    grown = max(config.num_recent, config.chunk_size) + config.every * (settings.tree.max_depth + 1)
    return ViewSize(
        num_start=config.num_sink + config.top_k * config.chunk_size + config.num_recent,
        num_sink=config.num_sink,
        num_recent=config.num_recent,
        limit=chosen + grown,
        num_extra=num_rows,
    )


def num_chosen(config: RetrievalConfig) -> int:
    """Tokens of a view at most when it is chosen: whole chunks, those of the first and the newest tokens too."""
    num_forced = -(-config.num_sink // config.chunk_size) + -(-config.num_recent // config.chunk_size) + 1
    return (config.top_k + num_forced) * config.chunk_size


def check_range(size: ViewSize, settings: LMSettings, trained: int | None, name: str) -> None:
    """Raise `PresetError` when the view would leave the positions that the draft was trained on."""
    longest = size.limit + settings.tree.max_depth
    if trained is None or min(longest, settings.num_tokens) <= trained:
        return
    config = settings.retrieval
    excess = -(-(longest - trained) // config.chunk_size)
    raise PresetError(
        f"The draft {name} was trained on {trained:,} tokens, but the view that retrieval gives it may hold "
        f"{longest:,}. Set draft.retrieval.top_k to {max(config.top_k - excess, 1)} or less."
    )
