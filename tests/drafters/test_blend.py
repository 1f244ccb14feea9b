"""How two trees become one, and when the model is asked."""

import math
import random
from collections.abc import Iterator, Sequence

import pytest

from spec_engine.config import BlendConfig
from spec_engine.drafters.blend import BlendDrafter, merge
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree


def tree_of(chances: dict[tuple[int, ...], float], root: int = 1) -> DraftTree:
    """A tree from paths below the root, parents first, with the chance of each last token given its parent."""
    node_of: dict[tuple[int, ...], int] = {(): 0}
    log_q = [0.0]
    for path, chance in chances.items():
        node_of[path] = len(node_of)
        log_q.append(log_q[node_of[path[:-1]]] + (math.log(chance) if chance else -1e4))
    return DraftTree(
        tuple(path[-1] if path else root for path in node_of),
        tuple(node_of[path[:-1]] if path else -1 for path in node_of),
        tuple(len(path) for path in node_of),
        tuple(log_q),
    )


def chances_of(tree: DraftTree) -> dict[tuple[int, ...], float]:
    """Paths and the probability of each, from the root."""
    return {
        tuple(tree.token_ids[step] for step in tree.path(node)[1:]): math.exp(tree.log_q[node])
        for node in range(1, len(tree))
    }


def test_what_both_propose_is_likelier_than_by_either() -> None:
    left, right = tree_of({(7,): 0.6, (7, 8): 0.5}), tree_of({(7,): 0.5, (9,): 0.3})
    merged = merge((left, right), 10)
    assert merged.token_ids[0] == 1
    expected = {(7,): 0.8, (7, 8): 0.8 * 0.5, (9,): 0.3}
    assert chances_of(merged) == pytest.approx(expected)


def test_the_budget_takes_the_likeliest() -> None:
    left, right = tree_of({(7,): 0.6, (7, 8): 0.9, (5,): 0.1}), tree_of({(9,): 0.5, (9, 9): 0.5})
    assert list(chances_of(merge((left, right), 3))) == [(7,), (7, 8), (9,)]


@pytest.mark.parametrize("seed", range(30))
def test_any_two_trees_merge_to_a_tree(seed: int) -> None:
    """Also with certain nodes, whose children tie with them."""
    dice = random.Random(seed)
    trees = []
    for _ in range(2):
        chances: dict[tuple[int, ...], float] = {}
        for _ in range(dice.randrange(12)):
            path = (*dice.choice([(), *chances]), dice.randrange(3))
            chances[path] = dice.choice((1.0, 1.0, 0.5, 1e-6, 1e-300, 0.0))
        trees.append(tree_of(chances))
    both = set(chances_of(trees[0])) | set(chances_of(trees[1]))
    for budget in (0, 1, 3, 100):
        merged = merge(trees, budget)
        assert len(merged) == min(budget, len(both)) + 1
        assert set(chances_of(merged)) <= both
        assert list(merged.log_q) == sorted(merged.log_q, reverse=True)


class Scripted:
    """A drafter and its session that always propose one tree, and count how often they are asked."""

    name, vocab_size, taps = "scripted", 100, Taps()

    def __init__(self, tree: DraftTree) -> None:
        self.tree, self.num_asked, self.seen = tree, 0, list[int]()

    def begin(self, sampling: SamplingParams) -> "Scripted":
        return self

    def reusable(self, prefix: Sequence[int]) -> int:
        return len(prefix) - 3

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        yield len(prefix)

    def observe(self, step: Step) -> None:
        self.seen += step.token_ids

    def focus(self, focus: Focus) -> None:
        """No view."""

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        self.num_asked += 1
        return self.tree


@pytest.mark.parametrize(("chance", "num_asked"), [(0.95, 0), (0.5, 1)])
def test_the_model_is_asked_where_copies_are_unsure(chance: float, num_asked: int) -> None:
    model, copies = Scripted(tree_of({(4,): 0.7})), Scripted(tree_of({(5,): chance}))
    session = BlendDrafter(model, copies, BlendConfig(sure=0.9)).begin(SamplingParams())
    assert session.reusable(range(10)) == 7
    assert list(session.reuse((1, 2))) == [0, 2]
    session.observe(Step((3,), 3))
    assert model.seen == copies.seen == [3]
    tree = session.propose(1, 8)
    assert model.num_asked == num_asked
    assert set(tree.token_ids[1:]) == ({4, 5} if num_asked else {5})
    assert model.num_asked == num_asked


@pytest.mark.parametrize(
    ("chance", "first_gain", "num_asked"),
    [(0.6, 0.15, 1), (0.6, 0.25, 0), (0.0, 3.0, 1), (0.6, math.inf, 0), (0.0, math.inf, 0)],
)
def test_the_model_is_asked_where_copies_leave_enough_open(chance: float, first_gain: float, num_asked: int) -> None:
    """While drafting rests copies go on, and nothing but them."""
    model, copies = Scripted(tree_of({(4,): 0.7})), Scripted(tree_of({(5,): chance} if chance else {}))
    session = BlendDrafter(model, copies, BlendConfig(sure=0.9)).begin(SamplingParams())
    tree = session.propose(1, 8, 0.0 if first_gain < math.inf else math.inf, first_gain)
    assert model.num_asked == num_asked
    assert len(tree) == 1 + num_asked + (chance > 0)
    assert copies.num_asked == 1


def test_without_copies_the_model_drafts_alone() -> None:
    model = Scripted(tree_of({(4,): 0.7, (4, 6): 0.5}))
    session = BlendDrafter(model, Scripted(DraftTree.root(1)), BlendConfig()).begin(SamplingParams())
    assert session.propose(1, 8).token_ids == (1, 4, 6)
