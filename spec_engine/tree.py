"""Draft trees: the value that is verified in one target pass, and the policies that grow it.

Job: `DraftTree` (tokens, parents, depths, path log-probabilities, ancestor mask) and the growers behind
`make_grower`: OPT-Tree, LongSpec's fixed beam, EAGLE-2's dynamic tree, and a chain. A grower turns rows of the draft's
log-probabilities into the nodes to be run next, so a drafter only runs its model.
Non-job: running a model, deciding the node budget, accepting tokens.

Every grower sums log-probabilities along the path in float64 and never lets a child exceed its parent, and every
choice is a stable sort over nodes stored parents first. So a tie, also the one that appears when a probability rounds
to 1, always falls to the parent, and each prefix of the ranking is a tree.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from spec_engine.config import TreeConfig

Likeliest = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Of rows [n, V] the log-probabilities [n, k] of the k likeliest columns, the likeliest first, and these columns."""

_ROW_SHARE = 1 / 8  # of a pass, that a row takes at most: 8 take twice as long as one on a CPU, no longer on a GPU


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Drafted tokens below a root. Node 0 is the root, a committed token that the target's cache does not hold yet.

    Parents come before their children, and growers list the likelier nodes first, so the first k nodes are the best
    tree of k nodes. Lists given for the fields become tuples.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]  # node; -1 for the root
    depths: tuple[int, ...]  # 0 for the root
    log_q: tuple[float, ...]  # summed log-probability of the path under the draft; 0 for the root
    num_passes: int = field(default=0, compare=False)  # of a draft model, that it took

    def __post_init__(self) -> None:
        for name in ("token_ids", "parents", "depths", "log_q"):
            if type(values := getattr(self, name)) is not tuple:
                object.__setattr__(self, name, tuple(values))
        num_nodes, parents, depths = len(self.token_ids), self.parents, self.depths
        assert num_nodes > 0, "a tree has a root"
        assert (parents[0], depths[0]) == (-1, 0), "node 0 must be the root"
        assert len(parents) == len(depths) == len(self.log_q) == num_nodes, "fields differ in length"
        for node in range(1, num_nodes):
            parent = parents[node]
            assert 0 <= parent < node, f"node {node} comes before its parent {parent}"
            assert depths[node] == depths[parent] + 1, f"node {node} is not one below its parent"

    @classmethod
    def root(cls, token_id: int) -> "DraftTree":
        """A tree without drafts: the pass over it is plain decoding."""
        return cls((token_id,), (-1,), (0,), (0.0,))

    @classmethod
    def chain(cls, token_ids: Sequence[int], log_q: Sequence[float] | None = None) -> "DraftTree":
        """The root `token_ids[0]` and one token a level after it; `log_q` (root included) defaults to zeros."""
        num_nodes = len(token_ids)
        scores = tuple(log_q) if log_q is not None else (0.0,) * num_nodes
        return cls(tuple(token_ids), tuple(range(-1, num_nodes - 1)), tuple(range(num_nodes)), scores)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def depth(self) -> int:
        """Deepest level; 0 for a bare root."""
        return max(self.depths)

    def first(self, num_nodes: int) -> "DraftTree":
        """The root and the first `num_nodes` nodes below it."""
        if len(self) <= num_nodes + 1:
            return self
        stop = num_nodes + 1
        return replace(
            self,
            token_ids=self.token_ids[:stop],
            parents=self.parents[:stop],
            depths=self.depths[:stop],
            log_q=self.log_q[:stop],
        )

    def within(self, depth: int) -> "DraftTree":
        """The tree without the nodes deeper than `depth`."""
        if self.depth <= depth:
            return self
        kept = [node for node in range(len(self)) if self.depths[node] <= depth]
        new = {node: index for index, node in enumerate(kept)} | {-1: -1}
        parents = tuple(new[self.parents[node]] for node in kept)
        token_ids, depths = (tuple(values[node] for node in kept) for values in (self.token_ids, self.depths))
        return DraftTree(token_ids, parents, depths, tuple(self.log_q[node] for node in kept), self.num_passes)

    def ancestor_mask(self) -> Tensor:
        """Bool [N, N] on the CPU: ``mask[i, j]`` says that node j lies on the path from the root to i, i included."""
        num_nodes = len(self)
        rows: list[bytearray] = []
        for node, parent in enumerate(self.parents):
            rows.append(bytearray(num_nodes) if parent < 0 else rows[parent][:])
            rows[node][node] = 1
        return torch.frombuffer(bytearray().join(rows), dtype=torch.bool).view(num_nodes, num_nodes)

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from the root to `node`, both included."""
        nodes = [node]
        while nodes[-1] != 0:
            nodes.append(self.parents[nodes[-1]])
        return tuple(reversed(nodes))


class TreeGrower(Protocol):
    """Grows one tree level by level. Node ids are the grower's own; the root has none (its children's parent is -1)."""

    def start(self, root_log_probs: Tensor) -> list[int]:
        """Take the log-probabilities [V] that follow the root; return the nodes to run next, [] when done."""

    def extend(self, frontier: Sequence[int], log_probs: Tensor) -> list[int]:
        """Take one row [n, V] per node of the frontier, in its order; return the nodes to run next, [] when done."""

    def token_id(self, node: int) -> int:
        """The token of a node."""

    def depth(self, node: int) -> int:
        """The level of a node; 1 for children of the root."""

    def ancestors(self, node: int) -> tuple[int, ...]:
        """Nodes from the first level down to `node`, itself included."""

    def finish(self) -> DraftTree:
        """The best nodes within the budget as a tree, the likeliest first. May be called at any point."""


def of_log_probs(log_probs: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """`Likeliest` of rows that are log-probabilities already."""
    values, columns = log_probs.topk(num, dim=-1)
    return values, columns


def make_grower(
    config: TreeConfig,
    root_token_id: int,
    vocabulary: Tensor | None = None,
    min_gain: float = 0.0,
    likeliest: Likeliest = of_log_probs,
) -> TreeGrower:
    """The grower for `config.policy`; `config.num_nodes` bounds the drafted nodes whatever the policy.

    `vocabulary` int64 [V] names the token of each column, for a draft that knows a part of the tokens only. A level is
    not run where less than `min_gain` tokens are expected of it: if it is as unsure against the level above it as that
    was itself. With another `likeliest` the rows that it takes are whatever that makes log-probabilities of.
    """
    growers: dict[str, type[_Grower]] = {"opt": _OptTree, "chain": _Chain, "beam": _FixedBeam, "eagle": _EagleTree}
    return growers[config.policy](config, root_token_id, vocabulary, min_gain, likeliest)


class _Grower:
    """What the policies share: node storage, the ranking of candidates, and the final choice."""

    def __init__(
        self,
        config: TreeConfig,
        root_token_id: int,
        vocabulary: Tensor | None,
        min_gain: float,
        likeliest: Likeliest,
    ) -> None:
        self._config = config
        self._likeliest = likeliest
        self._min_gain = min_gain
        self._num_passes = 0
        self._chance = 1.0  # of a token at the newest level to be among the nodes that are run next
        self._root_token_id = root_token_id
        self._vocabulary = vocabulary
        self._token_ids: list[int] = []
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._log_q: list[float] = []

    def token_id(self, node: int) -> int:
        return self._token_ids[node]

    def depth(self, node: int) -> int:
        return self._depths[node]

    def ancestors(self, node: int) -> tuple[int, ...]:
        nodes = []
        while node != -1:
            nodes.append(node)
            node = self._parents[node]
        return tuple(reversed(nodes))

    def start(self, root_log_probs: Tensor) -> list[int]:
        return self._grow([-1], root_log_probs[None])

    def extend(self, frontier: Sequence[int], log_probs: Tensor) -> list[int]:
        return self._grow(frontier, log_probs)

    def _grow(self, parents: Sequence[int], log_probs: Tensor) -> list[int]:
        """Take the level below `parents`; the nodes to run next, none where running them is not worth it."""
        self._num_passes += 1
        frontier = self._next(self._add_level(parents, log_probs))
        least = self._min_gain * _ROW_SHARE
        if len(frontier) > 1 and least > 0:
            frontier = [node for node in frontier if math.exp(self._log_q[node]) >= least] or frontier[:1]
        above, self._chance = self._chance, sum(math.exp(self._log_q[node]) for node in frontier)
        return frontier if self._chance * min(self._chance / max(above, 1e-9), 1.0) >= self._min_gain else []

    def finish(self) -> DraftTree:
        """The `num_nodes` nodes of largest path probability, renumbered in that order behind the root."""
        kept = self._best()
        node_of = {node: index + 1 for index, node in enumerate(kept)}
        node_of[-1] = 0
        return DraftTree(
            (self._root_token_id, *(self._token_ids[node] for node in kept)),
            (-1, *(node_of[self._parents[node]] for node in kept)),
            (0, *(self._depths[node] for node in kept)),
            (0.0, *(self._log_q[node] for node in kept)),
            self._num_passes,
        )

    def _width(self, level: int) -> int:
        """How many nodes the level may hold."""
        raise NotImplementedError

    def _num_children(self, level: int) -> int:
        """How many children of one parent are looked at. A level cannot take more of them than it holds."""
        return self._width(level)

    def _next(self, level: list[int]) -> list[int]:
        """Which nodes of the newest level, the likeliest first, are run next."""
        raise NotImplementedError

    def _best(self) -> list[int]:
        """The best nodes so far within the budget, likeliest first; a tie keeps storage order, so parents first."""
        ranking = sorted(range(len(self._log_q)), key=lambda node: -self._log_q[node])
        return ranking[: self._config.num_nodes]

    def _fertile(self, best: Sequence[int]) -> set[int]:
        """Those of the best nodes whose children may become such. A child is not likelier than its parent, and a tie
        falls to the older node: so where the budget is used up, none below the last of the best."""
        if len(best) < self._config.num_nodes:
            return set(best)
        return {node for node in best if self._log_q[node] > self._log_q[best[-1]]}

    def _add_level(self, parents: Sequence[int], log_probs: Tensor) -> list[int]:
        """Store the best children of `parents` ([n, V], one row each) by summed log-probability; return their ids."""
        level = 1 if parents[0] == -1 else self._depths[parents[0]] + 1
        width = self._width(level)
        values, columns = self._likeliest(log_probs, min(self._num_children(level), log_probs.shape[-1]))  # [n, k]
        token_ids = columns if self._vocabulary is None else self._vocabulary[columns]
        sent = token_ids.flatten().to("cpu", non_blocking=True)  # arrives before the values, for which the host waits
        path = torch.tensor([0.0 if node == -1 else self._log_q[node] for node in parents], dtype=torch.float64)
        scores = (values.double().cpu().clamp(max=0.0) + path[:, None]).flatten()  # [n * k]
        order = scores.sort(descending=True, stable=True)
        tokens = sent.tolist()
        num_children = values.shape[1]
        added = []
        for score, index in zip(order.values[:width].tolist(), order.indices[:width].tolist(), strict=True):
            if score == -math.inf or math.isnan(score):
                continue
            added.append(len(self._token_ids))
            self._token_ids.append(tokens[index])
            self._parents.append(parents[index // num_children])
            self._depths.append(level)
            self._log_q.append(score)
        return added


class _OptTree(_Grower):
    """OPT-Tree (arXiv 2406.17276, section 3): the tree of `num_nodes` nodes with the largest expected accepted length.

    The expected length is the sum of the path probabilities of the best `num_nodes` nodes. A further level is drafted
    while the last one raised that sum by more than `threshold`. Only nodes that belong to the best ones so far are run:
    a child is never likelier than its parent, so no descendant of another node could enter the final tree.
    """

    _expected = 0.0

    def _width(self, level: int) -> int:
        return self._config.num_nodes

    def _next(self, level: list[int]) -> list[int]:
        best = self._best()
        expected = sum(math.exp(self._log_q[node]) for node in best)
        gain, self._expected = expected - self._expected, expected
        if not level or gain <= self._config.threshold or self._depths[level[0]] >= self._config.max_depth:
            return []
        return sorted(self._fertile(best).intersection(level))


class _FixedBeam(_Grower):
    """LongSpec's fixed tree (arXiv 2502.17421): level i holds the `beam_widths[i]` best continuations of level i - 1.

    Continuations of all nodes of a level compete with each other by summed log-probability. All levels are grown
    whatever `num_nodes` is, and the likeliest nodes stay.
    """

    def _width(self, level: int) -> int:
        return self._config.beam_widths[level - 1]

    def _next(self, level: list[int]) -> list[int]:
        return level if level and self._depths[level[0]] < len(self._config.beam_widths) else []


class _EagleTree(_Grower):
    """EAGLE-2's dynamic tree (arXiv 2406.16858, sections 4.1 and 4.2), which EAGLE-3 keeps.

    The `top_k` likeliest nodes of a level get `top_k` children each, all of which are candidates; the best `num_nodes`
    candidates make the tree. A node that is not among them already, or is the last of them, is not run: its
    descendants rank behind it, so the tree is the same without them.
    """

    def _width(self, level: int) -> int:
        num_candidates = self._config.top_k if level == 1 else self._config.top_k**2
        return min(num_candidates, self._config.num_nodes)

    def _num_children(self, level: int) -> int:
        return self._config.top_k

    def _next(self, level: list[int]) -> list[int]:
        if not level or self._depths[level[0]] >= self._config.max_depth:
            return []
        fertile = self._fertile(self._best())
        return [node for node in level[: self._config.top_k] if node in fertile]


class _Chain(_Grower):
    """The likeliest token at every level, down to `max_depth` or `num_nodes`."""

    def _width(self, level: int) -> int:
        return 1

    def _next(self, level: list[int]) -> list[int]:
        deepest = min(self._config.num_nodes, self._config.max_depth)
        return level if level and self._depths[level[0]] < deepest else []
