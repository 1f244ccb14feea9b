"""Drafting with a small language model of the same vocabulary.

Job: keep the draft model's memory in step with the target, run the model on the view that retrieval chose, and grow a
tree from it, one pass per level.
Non-job: how trees grow (`tree`), what is in view (`retrieval`, `cache.working`).

With retrieval this is SpecExtend's cross-model retrieval (arXiv 2505.20776, section 3.2): the draft reads the prompt
with a window, so that relative distances stay as in its training, and then looks at the focused part of the context
only, re-positioned to 0 … n - 1. Without retrieval the draft sees all it has at its own positions, plain speculative
decoding. In a step, the newly accepted tokens and the root take one pass, each level of the tree another; the rows of
the tree lie behind the view and are forgotten afterwards.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_engine.cache.store import TextMemory
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.lm_memory import Level, LMMemory, LMSettings, settings_for
from spec_engine.errors import RequestError
from spec_engine.model.likeliest import likeliest_for
from spec_engine.model.load import check_vocabulary, load_target, load_tokenizer
from spec_engine.model.products import READY_LEVEL_ROWS
from spec_engine.model.runner import Runner, check_context
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import DraftRanking, SamplingParams
from spec_engine.tree import DraftTree, Likeliest, TreeGrower, make_grower

_CATCH_UP = (
    512  # committed tokens that may wait for the next draft: while drafting rests, the draft does not run at all
)


class LMDrafter:
    """A small model that proposes trees. Its memory of the text outlives an answer.

    Raises `UnsupportedModel` for a model that cannot be used, `PresetError` for a view longer than its trained range.
    """

    name = "lm"

    def __init__(self, model: PreTrainedModel, settings: LMSettings) -> None:
        runner = Runner(model)
        check_context(runner, settings.num_tokens + settings.tree.max_depth)
        self.vocab_size = min(settings.vocab_size, runner.vocab_size)
        self._settings = settings
        self._memory = LMMemory(runner, settings)
        self._likeliest = likeliest_for(runner.device)

    def warm_up(self) -> None:
        """Make its passes ready, so that the first drafts take no longer than others."""
        self._memory.warm_up(READY_LEVEL_ROWS)

    @property
    def passes_note(self) -> str:
        """Which of its passes were captured, or why none are, in a sentence."""
        return self._memory.passes_note

    @property
    def memories(self) -> tuple[TextMemory, ...]:
        """The rows of the text."""
        return (self._memory,)

    def begin(self, sampling: SamplingParams) -> "LMSession":
        """A session for a new answer."""
        settings = replace(self._settings, vocab_size=self.vocab_size)
        return LMSession(self._memory, settings, sampling, self._likeliest)


def build(context: DrafterContext) -> LMDrafter:
    """The drafter for ``draft.kind = "lm"``: loads the preset's draft model beside the target."""
    preset, draft = context.preset, context.preset.draft
    if draft.model is None:
        raise RequestError(f"The preset '{preset.name}' names no draft model. Add a [draft.model] with an id.")
    check_vocabulary(load_tokenizer(preset, preset.target), load_tokenizer(preset, draft.model))
    model = load_target(preset, draft.model, device=context.device)
    drafter = LMDrafter(model, settings_for(preset, context.target))
    drafter.warm_up()
    return drafter


class LMSession:
    """The drafter's side of one answer."""

    def __init__(self, memory: LMMemory, settings: LMSettings, sampling: SamplingParams, likeliest: Likeliest) -> None:
        self._memory = memory
        self._likeliest = likeliest
        self._settings = settings
        self._ranking = DraftRanking(sampling, shares_noise=settings.tree.shares_noise)
        self.taps = Taps(attention_row=settings.retrieval.enabled)  # retrieval needs the target's attention
        self._num_done = 0  # committed tokens; the next root stands at this position
        self._pending: list[int] = []  # committed tokens that the draft has not run yet
        self._has_joined = False  # the memory holds nothing but this answer's text
        self._has_root = False  # the memory's newest token is a root, not committed yet

    def reusable(self, prefix: Sequence[int]) -> int:
        """All of it: the draft reads tokens by itself."""
        return len(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        """Keep what the memory shares with `prefix`, read the rest in chunks; yields the number of tokens held."""
        num_held = self._memory.share(prefix)
        self._has_joined = True
        self._num_done = len(prefix)
        while num_held < len(prefix):
            chunk = prefix[num_held : num_held + self._memory.pacer.size]
            self._memory.read(chunk)
            num_held += len(chunk)
            yield num_held

    def observe(self, step: Step) -> None:
        """Take committed tokens. A few wait for the next proposal; more, and those of a prompt, are run at once."""
        self._join()
        self._num_done = step.num_done
        token_ids = step.token_ids
        if self._has_root:
            self._has_root = False
            if token_ids[:1] == (self._memory.token_ids[-1],):
                token_ids = token_ids[1:]
            else:
                self._memory.drop_last()
        self._pending.extend(token_ids)
        if step.is_prompt or len(self._pending) >= _CATCH_UP:
            self._catch_up()

    def focus(self, focus: Focus) -> None:
        """Look at the focused tokens and those after them."""
        self._memory.cache.focus(focus.token_indices)

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """A tree below `root` of at most `max_nodes` drafted nodes; no level of less than `min_gain` is run."""
        if max_nodes < 1 or min_gain == math.inf:
            return DraftTree.root(root)
        self._join()
        if self._has_root:
            self._has_root = False
            self._memory.drop_last()
        tree = self._settings.tree
        tree = replace(tree, num_nodes=min(tree.num_nodes, max_nodes))
        grower = make_grower(tree, root, min_gain=min_gain, likeliest=self._likeliest)
        logits = self._run_root(root)
        view = self._memory.cache.view
        base = view.length
        self._ranking.forget(self._num_done + 1)
        self._grow(grower, grower.start(self._weights(logits, 1)[0]), base)
        view.truncate(base if self._has_root else base - 1)
        return grower.finish()

    def _join(self) -> None:
        """Forget an earlier answer's text, where no prefix was taken over."""
        if not self._has_joined:
            self._memory.share(())
            self._has_joined = True

    def _catch_up(self) -> None:
        """Bring the memory up to date."""
        if not self._pending:
            return
        if self._memory.cache.keeps_view_rows:
            self._extend_view(self._pending)
        else:
            for start in range(0, len(self._pending), self._memory.pacer.largest):
                self._memory.read(self._pending[start : start + self._memory.pacer.largest])
        self._pending.clear()

    def _run_root(self, root: int) -> Tensor:
        """Bring the memory up to date and run the root; logits [1, V] after it. Its row is the view's last."""
        cache = self._memory.cache
        if not cache.keeps_view_rows:
            self._catch_up()
            cache.room(1)
            logits = self._memory.run_on_view([root])
            cache.view.advance(1)
            return logits
        logits = self._extend_view([*self._pending, root])
        self._pending.clear()
        self._has_root = True
        return logits

    def _extend_view(self, tokens: list[int]) -> Tensor:
        """Run committed tokens, at least one, in passes as large as the view has room for; logits [1, V] at last."""
        done = 0
        while done < len(tokens):
            num_next = self._memory.cache.room(len(tokens) - done)
            logits = self._memory.extend_view(tokens[done : done + num_next])
            done += num_next
        return logits

    def _grow(self, grower: TreeGrower, frontier: list[int], base: int) -> None:
        """Run the tree level by level behind the view's first `base` rows, until the grower has enough."""
        row_of: dict[int, int] = {}
        offsets: list[int] = []
        while frontier:
            for node in frontier:
                row_of[node] = len(offsets)
                offsets.append(grower.depth(node) - 1)
            logits = self._memory.run_level(make_level(grower, frontier, row_of, offsets), base)
            self._memory.cache.view.advance(len(frontier))
            depth = grower.depth(frontier[0]) + 1
            frontier = grower.extend(frontier, self._weights(logits, depth))

    def _weights(self, logits: Tensor, depth: int) -> Tensor:
        """[n, V] by whose log-softmax the tokens at this depth are ranked, as the answer is sampled."""
        known = logits[:, : self._settings.vocab_size]
        return self._ranking.weights(known, self._num_done + depth)


def make_level(grower: TreeGrower, frontier: Sequence[int], row_of: dict[int, int], offsets: Sequence[int]) -> Level:
    """The level `frontier`, whose rows are the last ones."""
    token_ids = [grower.token_id(node) for node in frontier]
    seen = [[row_of[ancestor] for ancestor in grower.ancestors(node)] for node in frontier]
    if len(frontier) == 1 and len(seen[0]) == len(offsets):
        return Level(token_ids, None, torch.tensor(offsets))
    visible = torch.zeros(len(frontier), len(offsets), dtype=torch.bool)
    rows = [row for row, columns in enumerate(seen) for _ in columns]
    visible[rows, [column for columns in seen for column in columns]] = True
    return Level(token_ids, visible, torch.tensor(offsets))
