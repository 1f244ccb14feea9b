"""Drafting with Gemma 4's multi-token prediction head: its layers read the target's keys and values, and have none.

Job: keep the state that the next draft goes on from, and grow a tree from the head, one pass per level.
Non-job: the layers (`mtp_head`), what they see (`mtp_work`), how trees grow (`tree`).

Like a LongSpec head (arXiv 2502.17421) it has no memory that grows with the document and nothing to read at the start;
what it needs besides is the target's last hidden state. Published programs draft a chain of three to eight tokens with
it. Here it grows a tree, as drafted tokens do not see one another: a level is one pass, however it branches.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spec_engine.cache.slots import on_device
from spec_engine.cache.store import TextMemory
from spec_engine.config import Preset, TreeConfig
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.mtp_head import make_mtp_head, mtp_config
from spec_engine.drafters.mtp_work import MtpSight, MtpWork
from spec_engine.drafters.whole import Reach, WholeDrafts, whole_drafts
from spec_engine.errors import ModelError, RequestError
from spec_engine.model.checkpoint import load_checkpoint, load_head_config
from spec_engine.model.head_products import join_products
from spec_engine.model.memory import MemoryNeed, target_dtype
from spec_engine.model.products import READY_LEVEL_ROWS
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import DraftRanking, SamplingParams
from spec_engine.tree import DraftTree, TreeGrower, make_grower


class MtpDrafter:
    """A head in sight of its target, that proposes trees of the form `tree`; captured drafts may take `graph_bytes` on
    a GPU."""

    name = "mtp"
    memories: tuple[TextMemory, ...] = ()  # the text is the target's

    def __init__(self, sight: MtpSight, tree: TreeConfig, graph_bytes: int = 0) -> None:
        self.vocab_size = min(sight.head.config.vocab_size, sight.target.vocab_size)
        self.sight = sight
        self.tree = tree
        self.whole: WholeDrafts | None = None
        self._work: MtpWork | None = None
        if graph_bytes and not sight.why_not_whole:
            self.capture(whole_drafts(tree, sight.device, graph_bytes))

    def warm_up(self) -> None:
        """Have the products of a tree's levels ready, so that an answer's first draft does not wait for them."""
        for num_rows in range(1, READY_LEVEL_ROWS + 1):
            self.sight.warm_up(num_rows)

    def capture(self, whole: WholeDrafts) -> None:
        """Draft as captured device work from now on."""
        self.whole, self._work = whole, MtpWork(self.sight, self.vocab_size)

    def begin(self, sampling: SamplingParams) -> "MtpSession":
        """A session for a new answer."""
        return MtpSession(self, sampling)

    def filled(self, root: int, feature: Tensor, position: int) -> MtpWork | None:
        """Device work that draws a draft from `root`, with what it reads in its place; None where there is none."""
        if self._work is not None:
            self._work.fill(root, feature, position)
        return self._work


def build(context: DrafterContext) -> MtpDrafter:
    """The drafter for ``draft.kind = "mtp"``: loads the preset's head beside the target, in the target's dtype."""
    preset, ref, target = context.preset, context.preset.draft.model, context.target
    if ref is None:
        raise RequestError(f"The preset '{preset.name}' names no draft head. Add a [draft.model] with an id.")
    if ref.quantization != "none":
        raise ModelError(f"The head '{ref.id}' cannot be quantised. Remove draft.model.quantization from the preset.")
    head = make_mtp_head(load_checkpoint(preset, ref), target.last_rows()[0].device, target.dtype)
    join_products(head)
    drafter = MtpDrafter(MtpSight(head, target), preset.draft.tree, preset.graph_memory << 20)
    drafter.warm_up()
    return drafter


def mtp_need(preset: Preset, device: str) -> MemoryNeed:
    """What the head of ``draft.model`` needs beside its target, from its configuration."""
    ref = preset.draft.model
    assert ref is not None, "asked for a head that the preset does not name"
    config = mtp_config(load_head_config(preset, ref))
    queries = 2 * config.num_heads * sum(config.head_sizes)
    layers = config.hidden_size * (queries + 3 * config.intermediate_size * len(config.layer_types))
    outer = config.hidden_size * (3 * config.state_size + config.vocab_size + config.num_clusters)
    return MemoryNeed((layers + outer) * target_dtype(preset, device).itemsize, 0, preset.context_length, 0)


class MtpSession:
    """The drafter's side of one answer."""

    def __init__(self, drafter: MtpDrafter, sampling: SamplingParams) -> None:
        self._drafter = drafter
        self._sight = drafter.sight
        self._ranking = DraftRanking(sampling, shares_noise=drafter.tree.shares_noise)
        self.taps = Taps(features=(self._sight.state_layer,))
        self._num_done = 0  # committed tokens; the next root stands at this position
        self._feature: Tensor | None = None  # [1, S], the target's normalised state at the newest committed token
        self._reach = Reach()

    def reusable(self, prefix: Sequence[int]) -> int:
        """All but the last token: its state is not kept, so the target reads it again."""
        return max(len(prefix) - 1, 0)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        """Begin behind `prefix`. Nothing is computed, so there is nothing to wait for."""
        self._num_done = len(prefix)
        return iter(())

    def observe(self, step: Step) -> None:
        """Take committed tokens: the state at the last of them is what a draft goes on from."""
        assert step.features is not None, "the pass was not tapped"
        self._reach.confirmed(len(step.token_ids) - 1, step.depth)
        self._num_done = step.num_done
        self._feature = step.features if len(step.features) == 1 else step.features[-1:]

    def focus(self, focus: Focus) -> None:
        """It has no view of its own: the target's rows are seen in place."""

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """A tree below `root` of at most `max_nodes` drafted nodes; no level of less than `min_gain` is run. Bare where
        no token was observed yet."""
        if max_nodes < 1 or min_gain == math.inf or self._feature is None:
            return DraftTree.root(root)
        self._ranking.forget(self._num_done + 1)
        if (whole := self._whole_tree(root, self._feature, max_nodes, min_gain)) is not None:
            return whole
        tree = replace(self._drafter.tree, num_nodes=min(self._drafter.tree.num_nodes, max_nodes))
        grower = make_grower(tree, root, min_gain=min_gain)
        logits, state = self._sight.run(torch.tensor([root]), self._feature, self._num_done)
        self._grow(grower, grower.start(self._log_probs(logits, 1)[0]), state)
        return grower.finish()

    def _whole_tree(self, root: int, feature: Tensor, max_nodes: int, min_gain: float) -> DraftTree | None:
        """The tree as one piece of device work; None where that cannot be."""
        whole, work = self._drafter.whole, self._drafter.filled(root, feature, self._num_done)
        if whole is None or work is None:
            return None
        depth = self._reach.depth(min_gain, min(whole.deepest, max_nodes))
        tree = whole.grow(root, work, self._ranking, self._num_done + 1, depth)
        self._reach.drafted(tree.depth)
        return tree.first(max_nodes)

    def _grow(self, grower: TreeGrower, frontier: list[int], states: Tensor) -> None:
        """Run the tree level by level behind the `states` [1, S] of the root, until the grower has enough."""
        row_of: dict[int, int] = {}  # of the newest level's nodes
        while frontier:
            above = [grower.ancestors(node)[:-1] for node in frontier]
            parents = [row_of[path[-1]] if path else 0 for path in above]
            token_ids = torch.tensor([grower.token_id(node) for node in frontier])
            states = states.index_select(0, on_device(parents, states.device))
            logits, states = self._sight.run(token_ids, states, self._num_done)
            row_of = {node: row for row, node in enumerate(frontier)}
            frontier = grower.extend(frontier, self._log_probs(logits, grower.depth(frontier[0]) + 1))

    def _log_probs(self, logits: Tensor, depth: int) -> Tensor:
        """Log-probabilities [n, V] of the tokens at this depth as the answer is sampled; greedy at temperature 1."""
        return self._ranking.log_probs(logits[:, : self._drafter.vocab_size], self._num_done + depth)
