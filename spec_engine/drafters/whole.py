"""Whole drafts of a head as device work: all levels of a tree without the host between them, captured as CUDA graphs.

Job: `WholeDrafts`, which grows a tree from a `HeadWork` and captures that; `Reach`, how many levels are worth it.
Non-job: what a head computes (`eagle_work`, `longspec_work`, `mtp_work`), the choices in a tree (`tree_tensors`).

A head takes 0.1 to 0.2 ms a level on a large GPU. Started kernel by kernel, and with a look at the result before the
next level, a level takes the host several times as long; as one graph, a draft is started once and read once. Small
models (`lm`) are not drafted like this: a level of theirs costs more than a look, so they stop where they are unsure.

What does not depend on the text is fixed in a graph: the rows that it begins with (padded to `NUM_ROWS`), the levels,
and how scores are made of logits. A graph whose numbers differ from those of the same work run plainly is not used.
"""

from collections.abc import Hashable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from spec_engine.attention import AttentionBackend, BoundedAttention
from spec_engine.config import TreeConfig
from spec_engine.model.capture import Captures, CudaCapture, Work
from spec_engine.model.likeliest import by_torch, likeliest_for
from spec_engine.sampling import DraftRanking, DraftRecipe
from spec_engine.tree import DraftTree, Likeliest
from spec_engine.tree_tensors import GrowthPlan, TensorGrower, TensorLevel, growth_plan, own_rows, read_tree

NUM_ROWS = (4, 8, 16)  # committed tokens that wait, and the root
_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # levels, so that there are few graphs
DEEPEST = _DEPTHS[-1]
_MEMORY = 0.9  # weight of how deep earlier drafts were right against the next one
_MOST_DRAFTS = 64  # pieces of work that are kept
_COMPARED = 8  # nodes of a captured draft, the likeliest …
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # … whose log-probabilities may differ so much
_HALF_TOLERANCE = 0.1


class HeadWork(Protocol):
    """A head's rows as device work: what it reads lies in device memory, written before by its owner.

    The first pass has `num_rows` rows, some of them nobody's. `vocabulary` int64 [V] on the device names the tokens of
    the logits' first `num_columns` columns, where they are not simply the first ones.
    """

    num_rows: int
    num_columns: int
    vocabulary: Tensor | None
    device: torch.device
    dtype: torch.dtype

    def root(self) -> Tensor:
        """Run the rows that wait and the root; logits [1, V] after the root."""

    def level(self, level: TensorLevel, depth: int, first: int) -> Tensor:
        """Run a level, `depth` below the root, whose rows begin at `first` of the tree's, the root not counted; logits
        [n, V]."""


def why_not_whole(device: torch.device, dtype: torch.dtype, backend: AttentionBackend, head_size: int) -> str:
    """Why drafts of such a head are not captured; "" where they are."""
    if device.type != "cuda":
        return f"there are no graphs on a device of type '{device.type}'"
    if not isinstance(backend, BoundedAttention) or not backend.can_bound(dtype, head_size, head_size):
        return f"the attention backend '{backend.name}' needs lengths on the host"
    return ""


def whole_drafts(tree: TreeConfig, device: torch.device, num_bytes: int) -> "WholeDrafts":
    """Drafts of `tree` captured as CUDA graphs, which may take `num_bytes`."""
    return WholeDrafts(tree, Captures(CudaCapture(device), num_bytes), likeliest_for(device))


def num_rows_for(num_waiting: int) -> int | None:
    """Padded rows for so many, the root among them; None where that is more than any graph has."""
    return next((rows for rows in NUM_ROWS if rows >= num_waiting), None)


class WholeDrafts:
    """Trees of the form `tree` from one head, whatever the answer; `likeliest` makes log-probabilities of logits."""

    def __init__(self, tree: TreeConfig, captures: Captures, likeliest: Likeliest = by_torch) -> None:
        self._tree = tree
        self._likeliest = likeliest
        self._captures = captures
        self._drafts: dict[Hashable, _Draft] = {}
        self._noise: Tensor | None = None  # [deepest, V], which all drafts read

    @property
    def note(self) -> str:
        """What was captured, or why nothing is."""
        return self._captures.note

    @property
    def deepest(self) -> int:
        """Levels at most."""
        tree = self._tree
        return min(len(tree.beam_widths) if tree.policy == "beam" else tree.max_depth, DEEPEST)

    def num_tree_rows(self, num_columns: int) -> int:
        """Rows of the levels of a tree at most, from a head that knows `num_columns` tokens."""
        return growth_plan(self._tree, self.deepest, num_columns).num_rows

    def grow(self, root: int, work: HeadWork, ranking: DraftRanking, position: int, depth: int) -> DraftTree:
        """A tree of about `depth` levels below `root`, whose children are tokens at `position` of the sequence.

        `work` was given what it reads. The rows of its first pass are written; those of the levels may be forgotten.
        """
        depth = next((known for known in _DEPTHS if known >= depth), self.deepest)
        key = (work.num_rows, depth, ranking.recipe)
        draft = self._drafts.get(key)
        if draft is None:
            if len(self._drafts) >= _MOST_DRAFTS:
                self._drafts.pop(next(iter(self._drafts)))  # of a way of drawing that is long out of use, most likely
            plan = growth_plan(self._tree, depth, work.num_columns)
            draft = self._drafts[key] = _Draft(work, ranking.recipe, plan, self._likeliest)
        draft.noise = self._place_noise(ranking, position, work)
        if draft.is_plain and self._captures.is_due(key):
            draft.capture(self._captures)
        (found,) = draft.run()
        return replace(read_tree(root, found.tolist()), num_passes=draft.num_passes)

    def _place_noise(self, ranking: DraftRanking, position: int, work: HeadWork) -> Tensor | None:
        """Put the noise of the tokens from `position` on where the drafts read it."""
        for level in range(self.deepest):
            noise = ranking.noise_at(position + level, work.num_columns, work.device)
            if noise is None:
                return None
            if self._noise is None:
                self._noise = torch.empty(self.deepest, work.num_columns, device=work.device)
            self._noise[level].copy_(noise)
        return self._noise


class _Draft:
    """One piece of work: a head's first rows, and all levels of a plan."""

    def __init__(self, work: HeadWork, recipe: DraftRecipe, plan: GrowthPlan, likeliest: Likeliest) -> None:
        self._work = work
        self._likeliest = likeliest
        self._recipe = recipe
        self._plan = plan
        self._own = own_rows(plan, work.device)
        self.num_passes = plan.depth  # of the root, and of all levels but the last
        self.noise: Tensor | None = None  # [levels, V]
        self.run: Work = self._grown

    @property
    def is_plain(self) -> bool:
        """Whether it was not captured."""
        return self.run == self._grown

    def capture(self, captures: Captures) -> None:
        """Run a replay from now on, if it gives what the work gives."""
        limit = _TOLERANCE.get(self._work.dtype, _HALF_TOLERANCE)

        def is_right(replay: Work) -> bool:
            want, found = (work()[0][:_COMPARED, 2].clamp(min=-1e3) for work in (self._grown, replay))
            return torch.allclose(want, found, rtol=limit, atol=limit)

        replay = captures.record(self._grown, is_right)
        self.run = replay or self.run

    @torch.inference_mode()
    def _grown(self) -> tuple[Tensor, ...]:
        """The tree, float64 [num_nodes, 3]."""
        work, plan = self._work, self._plan
        grower = TensorGrower(plan, work.vocabulary, self._own, self._likeliest)
        level = grower.start(self._weights(work.root(), 0))
        first = 0
        for depth in range(1, plan.depth):
            weights = self._weights(work.level(level, depth, first), depth)
            first += plan.num_run[depth - 1]
            level = grower.extend(weights)
        return (grower.finish(),)

    def _weights(self, logits: Tensor, depth: int) -> Tensor:
        noise = None if self.noise is None else self.noise[depth]
        return self._recipe.weights(logits[:, : self._work.num_columns], noise)


class Reach:
    """How deep drafts of an answer were right: `depth` says how many levels are worth their time.

    By level the chance to be confirmed if the one above was, from recent drafts. A level that was not drafted keeps
    its chance, and is hoped for again where a draft was right to its end.
    """

    def __init__(self) -> None:
        self._chances: list[float] = []
        self._depth = 0  # of the draft whose result is open

    def drafted(self, depth: int) -> None:
        """A draft of so many levels is on its way."""
        self._depth = depth
        self._chances += [1.0] * (depth + 1 - len(self._chances))

    def confirmed(self, num_tokens: int, num_run: int | None = None) -> None:
        """So many of its tokens were, of `num_run` levels that the target ran: nothing is known of those below. Beside
        copies those are the levels of the merged tree, which may be deeper than what was kept of this draft."""
        self._depth = min(self._depth, self._depth if num_run is None else num_run)
        if not self._depth:
            return
        for level in range(min(num_tokens + 1, self._depth)):
            self._chances[level] = _MEMORY * self._chances[level] + (1 - _MEMORY) * (level < num_tokens)
        if num_tokens >= self._depth:
            self._chances[self._depth] = _MEMORY * self._chances[self._depth] + 1 - _MEMORY
        self._depth = 0

    def depth(self, min_gain: float, deepest: int) -> int:
        """Levels that bring at least `min_gain` tokens each, at least one."""
        expected = 1.0
        for level in range(deepest):
            expected *= self._chances[level] if level < len(self._chances) else 1.0
            if expected < min_gain:
                return max(level, 1)
        return deepest
