"""Draft trees that grow in tensors of fixed sizes, so that a whole draft can be device work without the host.

Job: `GrowthPlan`, the sizes of each level for a policy, and `TensorGrower`, which turns the draft's log-probabilities
into the rows to be run next and at last into the tree.
Non-job: running a draft (`drafters.whole`), trees whose form depends on what was drafted before (`tree`).

A grower on the host (`tree`) looks at a level's numbers before the next one is run: it waits for the device once a
level. Here the number of levels and of rows is fixed beforehand, and all choices are sorts on the device. What is
chosen is the same as there, for the same depth: path log-probabilities are summed in float64, a child never exceeds its
parent, sorts are stable over nodes stored parents first. Two differences: growth does not end early, and of OPT-Tree's
levels no more than `_MOST_RUN` nodes are run, with as many children each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spec_engine.config import TreeConfig
from spec_engine.tree import DraftTree, Likeliest, of_log_probs

_MOST_RUN = 16


@dataclass(frozen=True, slots=True)
class GrowthPlan:
    """Sizes by level, from the root's children on: how many children of each parent are looked at, how many of all of
    them become candidates, and how many of these are run (0 in the last level). The best `num_nodes` make the tree."""

    num_children: tuple[int, ...]
    num_kept: tuple[int, ...]
    num_run: tuple[int, ...]
    num_nodes: int

    @property
    def depth(self) -> int:
        """Levels."""
        return len(self.num_kept)

    @property
    def num_rows(self) -> int:
        """Rows of all levels that are run, the root's not among them."""
        return sum(self.num_run)


def growth_plan(config: TreeConfig, depth: int, num_columns: int) -> GrowthPlan:
    """Sizes for a tree of `config` with at most `depth` levels from a draft that knows `num_columns` tokens."""
    deepest = len(config.beam_widths) if config.policy == "beam" else config.max_depth
    depth = max(min(depth, deepest, config.num_nodes), 1)
    children, kept, run = [], [], []
    num_parents = 1
    for level in range(depth):
        looked_at, width, wanted = _sizes(config, level)
        looked_at = min(looked_at, num_columns)
        kept.append(min(width, num_parents * looked_at))
        run.append(min(wanted, kept[-1]) if level < depth - 1 else 0)
        children.append(looked_at)
        num_parents = run[-1]
    return GrowthPlan(tuple(children), tuple(kept), tuple(run), min(config.num_nodes, sum(kept)))


def _sizes(config: TreeConfig, level: int) -> tuple[int, int, int]:
    """Children looked at, candidates and rows of a level by the policies of `tree`."""
    if config.policy == "chain":
        return 1, 1, 1
    if config.policy == "beam":
        width = config.beam_widths[level]
        return width, width, width
    if config.policy == "eagle":
        candidates = config.top_k if level == 0 else config.top_k**2
        return config.top_k, min(candidates, config.num_nodes), config.top_k
    width = min(config.num_nodes, _MOST_RUN)
    return (config.num_nodes if level == 0 else width), config.num_nodes, width


@dataclass(frozen=True, slots=True)
class TensorLevel:
    """Rows to run: their tokens int64 [n], the rows of the level before that they continue (int64 [n]; of the first
    level the root's, 0), and which rows of the tree each of them sees, bool [n, N], itself last."""

    token_ids: Tensor
    parents: Tensor
    visible: Tensor


class TensorGrower:
    """One tree in the making; all sizes are those of `plan`. `vocabulary` int64 [V] names the token of each column.
    `own` is what `own_rows` made. With another `likeliest` the rows that it takes are whatever that makes
    log-probabilities of."""

    def __init__(
        self, plan: GrowthPlan, vocabulary: Tensor | None, own: Tensor, likeliest: Likeliest = of_log_probs
    ) -> None:
        self._plan = plan
        self._own = own
        self._likeliest = likeliest
        self._vocabulary = vocabulary
        self._scores: list[Tensor] = []  # float64 [candidates], of each level
        self._tokens: list[Tensor] = []
        self._parents: list[Tensor] = []  # candidates' numbers, counted through all levels; -1: the root
        self._visible: Tensor | None = None  # of the newest rows

    def start(self, log_probs: Tensor) -> TensorLevel:
        """Take the log-probabilities [1, V] that follow the root."""
        return self._add(log_probs, log_probs.new_zeros(1, dtype=torch.float64))

    def extend(self, log_probs: Tensor) -> TensorLevel:
        """Take those that follow the newest rows, [n, V]."""
        num_rows = self._plan.num_run[len(self._scores) - 1]
        return self._add(log_probs, self._scores[-1][:num_rows])

    def finish(self) -> Tensor:
        """The tree, float64 [num_nodes, 3]: token, number of the parent among these (-1: the root) and path
        log-probability, which is -inf where there was no further token."""
        scores, tokens, parents = (torch.cat(parts) for parts in (self._scores, self._tokens, self._parents))
        best = scores.sort(descending=True, stable=True)
        kept = best.indices[: self._plan.num_nodes]
        ranks = torch.arange(len(scores), device=scores.device)
        rank_of = torch.empty_like(ranks).scatter_(0, best.indices, ranks)
        above = parents[kept]
        parent = torch.where(above < 0, -1, rank_of[above.clamp(min=0)])
        return torch.stack((tokens[kept].double(), parent.double(), scores[kept]), dim=1)

    def _add(self, log_probs: Tensor, path: Tensor) -> TensorLevel:
        """Store the best children of the newest rows, whose own scores are `path` [n]."""
        plan, level = self._plan, len(self._scores)
        values, columns = self._likeliest(log_probs, plan.num_children[level])  # [n, k]
        step = values.double().nan_to_num(nan=-torch.inf, neginf=-torch.inf).clamp(max=0.0)
        order = (step + path[:, None]).flatten().sort(descending=True, stable=True)
        chosen = order.indices[: plan.num_kept[level]]
        tokens = columns.flatten()[chosen]
        rows = chosen // plan.num_children[level]  # of the level before
        self._scores.append(order.values[: plan.num_kept[level]])
        self._tokens.append(tokens if self._vocabulary is None else self._vocabulary[tokens])
        self._parents.append(rows + sum(plan.num_kept[: level - 1]) if level else torch.full_like(rows, -1))
        num_run = plan.num_run[level]
        above = rows[:num_run]
        own = self._own[:num_run, :num_run]
        if self._visible is None:
            self._visible = own
        else:
            self._visible = torch.cat((self._visible[above], own), dim=1)
        return TensorLevel(self._tokens[-1][:num_run], above, self._visible)


def own_rows(plan: GrowthPlan, device: torch.device) -> Tensor:
    """Each row of a level sees itself: bool [n, n] for the largest level. The same for all trees of a plan."""
    return torch.eye(max(plan.num_run), dtype=torch.bool, device=device)


def read_tree(root: int, rows: Sequence[Sequence[float]]) -> DraftTree:
    """What `TensorGrower.finish` gave, on the host, as a tree below `root`; nodes of no probability are left out."""
    found = [(int(token), int(parent) + 1, score) for token, parent, score in rows if score > -torch.inf]
    depths = [0]
    for _, parent, _ in found:
        depths.append(depths[parent] + 1)
    token_ids, parents, scores = zip(*found, strict=True) if found else ((), (), ())
    return DraftTree((root, *token_ids), (-1, *parents), tuple(depths), (0.0, *scores))
