"""Two drafters in one tree: a model's proposals and copies from the text, ranked together.

Job: `BlendDrafter`, which asks both and keeps the likeliest nodes under one budget, and `merge`, the rule for that.
Non-job: drafting itself (lm.py, eagle3.py, longspec.py, mtp.py, lookup.py).

A model knows how language goes on, copies know names and figures; at each step either may be the better guess (HOWL
joins a head and suffix decoding by choosing one of them, arXiv 2510.07535, section 3). Here both guess, and a token
that both propose counts as likelier than by either alone. Where a copy is nearly certain, the model is not run.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from spec_engine.cache.store import TextMemory
from spec_engine.config import BlendConfig, DrafterKind
from spec_engine.drafters import eagle3, lm, longspec, lookup, mtp
from spec_engine.drafters.base import Drafter, DrafterContext, DraftSession
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree

_MODELS: dict[DrafterKind, Callable[[DrafterContext], Drafter]] = {
    "lm": lm.build,
    "eagle3": eagle3.build,
    "longspec": longspec.build,
    "mtp": mtp.build,
}

_FOUND = 0.5  # of what copies leave open, that a model is taken to know
_LEAST = 1e-12  # probability of a proposed token at least; a cold distribution rounds others to 0


def merge(trees: Sequence[DraftTree], max_nodes: int) -> DraftTree:
    """The likeliest `max_nodes` nodes of several trees with the same root, best first, parents before children.

    A node stands for its path of tokens. Given its parent, it is wrong only if all that propose it are: its probability
    is one minus the product of theirs that it is another token. Where one says nothing about a node, the others decide.
    """
    paths: dict[tuple[int, ...], float] = {}  # tokens below the root -> log-probability that the last is wrong
    for tree in trees:
        path_of: list[tuple[int, ...]] = [()]
        for node in range(1, len(tree)):
            path = (*path_of[tree.parents[node]], tree.token_ids[node])
            path_of.append(path)
            right = math.exp(min(tree.log_q[node] - tree.log_q[tree.parents[node]], 0.0))
            paths[path] = paths.get(path, 0.0) + math.log1p(-min(max(right, _LEAST), 1 - 1e-9))
    log_q: dict[tuple[int, ...], float] = {(): 0.0}
    for path in sorted(paths, key=len):
        log_q[path] = log_q[path[:-1]] + math.log(-math.expm1(paths[path]))
    kept = [(), *sorted(paths, key=lambda path: (-log_q[path], len(path)))[:max_nodes]]
    node_of = {path: node for node, path in enumerate(kept)}
    return DraftTree(
        tuple(path[-1] if path else trees[0].token_ids[0] for path in kept),
        tuple(node_of[path[:-1]] if path else -1 for path in kept),
        tuple(len(path) for path in kept),
        tuple(log_q[path] for path in kept),
        sum(tree.num_passes for tree in trees),
    )


def is_worth_asking(copied_chance: float, first_gain: float) -> bool:
    """Whether a model may add `first_gain` tokens to copies whose first token is right with this chance. Where
    there are none, 0, it is asked as it would be alone."""
    return copied_chance == 0 or _FOUND * (1 - copied_chance) >= first_gain


class BlendSession:
    """The drafters' side of one answer."""

    def __init__(self, model: DraftSession, copies: DraftSession, config: BlendConfig) -> None:
        self._model = model
        self._copies = copies
        self._config = config

    @property
    def taps(self) -> Taps:
        """What the model needs."""
        return self._model.taps

    def reusable(self, prefix: Sequence[int]) -> int:
        """What both can go on from."""
        return min(self._model.reusable(prefix), self._copies.reusable(prefix))

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        """Both take over `prefix`, the model last; yields the tokens that both hold."""
        for _ in self._copies.reuse(prefix):
            yield 0
        yield from self._model.reuse(prefix)

    def observe(self, step: Step) -> None:
        """Committed tokens, for both."""
        self._copies.observe(step)
        self._model.observe(step)

    def focus(self, focus: Focus) -> None:
        """A view of the context, for the model."""
        self._model.focus(focus)

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """One tree of at most `max_nodes` drafted nodes from both. The model is asked where copies leave enough open:
        of the next token it can add what they are not sure of, as far as it knows better."""
        at_rest = min_gain == math.inf  # else unlikely copies may be what the model proposes too
        copied = self._copies.propose(root, max_nodes, least_chance=least_chance if at_rest else 0.0)
        copied_chance = math.exp(copied.log_q[1]) if len(copied) > 1 else 0.0
        if max_nodes < 1 or at_rest or copied_chance >= self._config.sure:
            return copied
        if not is_worth_asking(copied_chance, first_gain):
            return copied
        return merge((self._model.propose(root, max_nodes, min_gain), copied), max_nodes)


class BlendDrafter:
    """A model drafter and a copying one, for the same target."""

    name = "blend"

    def __init__(self, model: Drafter, copies: Drafter, config: BlendConfig) -> None:
        self.vocab_size = max(model.vocab_size, copies.vocab_size)
        self._model = model
        self._copies = copies
        self._config = config

    @property
    def memories(self) -> tuple[TextMemory, ...]:
        """Those of both."""
        return (*self._model.memories, *self._copies.memories)

    def begin(self, sampling: SamplingParams) -> BlendSession:
        """A session for a new answer."""
        return BlendSession(self._model.begin(sampling), self._copies.begin(sampling), self._config)


def build(context: DrafterContext) -> BlendDrafter:
    """The drafter for ``draft.kind = "blend"``: the model that the preset names, and lookup.

    Raises what building the model's drafter raises.
    """
    draft = context.preset.draft
    return BlendDrafter(_MODELS[draft.model_kind](context), lookup.build(context), draft.blend)
