"""Drafting with an EAGLE head: a layer that continues the target's own hidden states.

Job: keep a head's memory in step with the text, run it on the view that retrieval chose, and grow a tree from it, one
pass per level.
Non-job: the network (`eagle_head`), its files and its fit (`eagle_files`, `eagle_fit`), how trees grow (`tree`).

EAGLE-3 (arXiv 2503.01840, section 3.1) reads hidden states of three of the target's layers, EAGLE-1 and 2 (arXiv
2401.15077, 2406.16858) its final normalised ones; the files say which kind a head is. The feature of a token goes with
the token after it. The root has the feature of the last committed token, a drafted token what the head itself gave for
its parent; a drafted token that was accepted is run again with the target's feature.

Retrieval works as in `lm` (SpecExtend, arXiv 2505.20776, section 3.2): a windowed prefill, then a view of chosen rows
re-positioned to 0 … n - 1, and the tree at the positions behind the root. Without retrieval every row is in view at its
own position, also beyond the length that the head was trained on.

Shared with the target are the plain rows of its embedding and the product of its output layer, as heads are trained on
them. Multipliers that some targets put on embeddings (Gemma, Granite) are left out, and so are scales and soft caps of
logits (Cohere, Gemma), which keep the order of the tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spec_engine.cache.slots import num_shared, on_device
from spec_engine.cache.store import TextMemory
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.eagle_files import fetch_head
from spec_engine.drafters.eagle_fit import fit_head
from spec_engine.drafters.eagle_head import FittedHead
from spec_engine.drafters.eagle_memory import EagleMemory
from spec_engine.drafters.lm import make_level
from spec_engine.drafters.lm_memory import LMSettings, settings_for
from spec_engine.drafters.whole import Reach, WholeDrafts
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import DraftRanking, SamplingParams
from spec_engine.tree import DraftTree, TreeGrower, make_grower

_CATCH_UP = 512  # committed tokens whose features may wait: while drafting rests, the head does not run at all


class EagleDrafter:
    """A head that proposes trees. Its memory of the text outlives an answer.

    Raises `PresetError` for a view longer than the head's trained range.
    """

    name = "eagle3"

    def __init__(self, fitted: FittedHead, settings: LMSettings) -> None:
        ids, columns = fitted.target_ids, fitted.head.config.num_columns or settings.vocab_size
        self.vocab_size = int(ids.max()) + 1 if ids is not None else min(columns, settings.vocab_size)
        self._fitted = fitted
        self._settings = replace(settings, vocab_size=self.vocab_size)
        self._memory = EagleMemory(fitted, settings)

    @property
    def memories(self) -> tuple[TextMemory, ...]:
        """The rows of the text."""
        return (self._memory,)

    @property
    def whole(self) -> WholeDrafts | None:
        """Its drafts as captured device work, where they are that."""
        return self._memory.whole

    @property
    def products_note(self) -> str:
        """Who does the products of these drafts, where that was contested, in a sentence."""
        return self._memory.products_note

    def begin(self, sampling: SamplingParams) -> "EagleSession":
        """A session for a new answer."""
        return EagleSession(self._memory, self._fitted, self._settings, sampling)


def build(context: DrafterContext) -> EagleDrafter:
    """The drafter for ``draft.kind = "eagle3"``: loads the preset's head beside the target."""
    preset, target = context.preset, context.target
    files = fetch_head(preset)
    fitted = fit_head(files, target, "auto" if preset.draft.model is None else preset.draft.model.dtype)
    return EagleDrafter(fitted, settings_for(preset, target))


class EagleSession:
    """The drafter's side of one answer."""

    def __init__(self, memory: EagleMemory, fitted: FittedHead, settings: LMSettings, sampling: SamplingParams) -> None:
        self._memory = memory
        self._target_ids = fitted.target_ids
        self._settings = settings
        self._ranking = DraftRanking(sampling, shares_noise=settings.tree.shares_noise, token_ids=fitted.target_ids)
        self.taps = Taps(attention_row=settings.retrieval.enabled, features=fitted.layers)
        self._num_done = 0  # committed tokens; the next root stands at this position
        self._feature: Tensor | None = None  # [1, F] of the newest committed token: for the token after it
        self._pending: list[int] = []  # committed tokens whose rows were not run yet …
        self._pending_features: list[Tensor] = []  # … and the features of the tokens before them, [n, F] together
        self._has_joined = False  # the memory holds nothing but this answer's text
        self._has_root = False  # the memory's newest row is that of a root, not committed yet
        self._num_columns = len(fitted.target_ids) if fitted.target_ids is not None else settings.vocab_size
        self._reach = Reach()

    def reusable(self, prefix: Sequence[int]) -> int:
        """All but the last of the tokens that the memory has read: its feature is not kept, so the target reads it
        again. Tokens of an answer that was drafted on a view are read again too: their rows depend on that view."""
        return max(num_shared(self._memory.token_ids[: self._memory.num_reusable], prefix) - 1, 0)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        """Keep the rows of `prefix`, which `reusable` allowed. Nothing is left to be read."""
        self._memory.share(prefix)
        self._has_joined = True
        self._num_done = len(prefix)
        return iter(())

    def observe(self, step: Step) -> None:
        """Take committed tokens with their features. A few wait for the next proposal; more, or a prompt, are run."""
        assert step.features is not None, "the pass was not tapped"
        self._join()
        self._reach.confirmed(len(step.token_ids) - 1, step.depth)
        self._num_done = step.num_done
        before = self._feature
        features = step.features  # [n, F], combined when they are needed: while drafting rests they cost nothing
        self._feature = features if len(features) == 1 else features[-1:]
        if self._is_run(step.token_ids[0], before):
            self._wait_for_run(step.token_ids[1:], features[:-1])
        else:
            assert before is not None, "a first token has no row"
            self._wait_for_run(step.token_ids, torch.cat((before, features[:-1])) if len(features) > 1 else before)
        if step.is_prompt or len(self._pending) >= _CATCH_UP:
            self._catch_up()

    def focus(self, focus: Focus) -> None:
        """Look at the rows of the focused tokens' features and those after them."""
        self._memory.cache.focus(focus.token_indices)

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """A tree below `root` of at most `max_nodes` drafted nodes; levels that may bring less than `min_gain` are not
        run. Bare where no token was observed yet."""
        if max_nodes < 1 or min_gain == math.inf or self._feature is None:
            return DraftTree.root(root)
        self._join()
        self._drop_root()
        if (whole := self._whole_tree(root, self._feature, max_nodes, min_gain)) is not None:
            return whole
        tree = self._settings.tree
        config = replace(tree, num_nodes=min(tree.num_nodes, max_nodes))
        grower = make_grower(config, root, self._target_ids, min_gain)
        state = self._run_root(root, self._feature)
        view = self._memory.cache.view
        base = view.length
        self._ranking.forget(self._num_done + 1)
        self._grow(grower, state, base)
        view.truncate(base if self._has_root else base - 1)
        return grower.finish()

    def _whole_tree(self, root: int, feature: Tensor, max_nodes: int, min_gain: float) -> DraftTree | None:
        """The tree as one piece of device work; None where that cannot be."""
        memory, whole = self._memory, self._memory.whole
        if whole is None:
            return None
        if not memory.cache.keeps_view_rows:
            self._catch_up()
        num_new = len(self._pending) + 1
        has_room = memory.cache.room(num_new) == num_new
        work = memory.work(num_new, self._num_columns) if has_room else None
        if work is None:
            return None
        token_ids = [*self._pending, root]
        work.fill(token_ids, torch.cat([*self._pending_features, feature]))
        self._ranking.forget(self._num_done + 1)
        depth = self._reach.depth(min_gain, min(whole.deepest, max_nodes))
        tree = whole.grow(root, work, self._ranking, self._num_done + 1, depth)
        self._reach.drafted(tree.depth)
        if memory.cache.keeps_view_rows:
            memory.keep_on_view(token_ids)
            self._pending, self._pending_features = [], []
            self._has_root = True
        return tree.first(max_nodes)

    def _join(self) -> None:
        """Forget an earlier answer's text, where no prefix was taken over."""
        if not self._has_joined:
            self._memory.share(())
            self._has_joined = True

    def _is_run(self, token_id: int, before: Tensor | None) -> bool:
        """Whether the row of the next committed token is there already, or is none: the text's first token has no
        feature before it, the token behind a reused prefix kept its row, and a root was run for its draft."""
        known = self._memory.token_ids
        if before is None:
            assert not known or known[-1] == token_id, "the text does not go on as it did when its rows were kept"
            if not known:
                known.append(token_id)
            return True
        if self._has_root and known[-1] == token_id:
            self._has_root = False
            return True
        self._drop_root()
        return False

    def _drop_root(self) -> None:
        """Forget a root's row that was not followed by its commit."""
        if self._has_root:
            self._has_root = False
            self._memory.drop_last()

    def _wait_for_run(self, token_ids: Sequence[int], features: Tensor) -> None:
        self._pending.extend(token_ids)
        self._pending_features.append(features)

    def _take_pending(self, *more: Tensor) -> tuple[list[int], Tensor]:
        """The waiting rows, with `more` features behind them; none wait afterwards."""
        token_ids, features = self._pending, self._memory.combine(torch.cat([*self._pending_features, *more]))
        self._pending, self._pending_features = [], []
        return token_ids, features

    def _catch_up(self) -> None:
        """Bring the memory up to date."""
        if not self._pending:
            return
        token_ids, features = self._take_pending()
        if self._memory.cache.keeps_view_rows:
            self._memory.extend_view(token_ids, features)
        else:
            self._memory.read(token_ids, features)

    def _run_root(self, root: int, feature: Tensor) -> Tensor:
        """Bring the memory up to date and run the root; its state [1, H]. Its row is the view's last."""
        cache = self._memory.cache
        if not cache.keeps_view_rows:
            self._catch_up()
            cache.room(1)
            state = self._memory.run_on_view([root], self._memory.combine(feature))
            cache.view.advance(1)
            return state
        token_ids, features = self._take_pending(feature)
        state = self._memory.extend_view([*token_ids, root], features)
        self._has_root = True
        return state

    def _grow(self, grower: TreeGrower, state: Tensor, base: int) -> None:
        """Run the tree level by level behind the view's first `base` rows, until the grower has enough."""
        row_of: dict[int, int] = {}
        offsets: list[int] = []
        states = state  # [1 + rows, H]: of the root, then of every row
        frontier = grower.start(self._log_probs(state, 1)[0])
        while frontier:
            above = [grower.ancestors(node)[:-1] for node in frontier]
            rows = [1 + row_of[path[-1]] if path else 0 for path in above]
            features = states.index_select(0, on_device(rows, states.device))
            for node in frontier:
                row_of[node] = len(offsets)
                offsets.append(grower.depth(node) - 1)
            level = self._memory.run_level(make_level(grower, frontier, row_of, offsets), features, base)
            states = torch.cat((states, level))
            frontier = grower.extend(frontier, self._log_probs(level, grower.depth(frontier[0]) + 1))

    def _log_probs(self, states: Tensor, depth: int) -> Tensor:
        """Log-probabilities [n, columns] of the tokens at this depth as the answer is sampled; greedy at temperature
        1. Columns are those of the head: the grower knows the tokens that they stand for."""
        logits = self._memory.logits(states)
        known = logits if self._target_ids is not None else logits[:, : self._settings.vocab_size]
        return self._ranking.log_probs(known, self._num_done + depth)
