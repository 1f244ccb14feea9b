"""Trees and their growth, checked against brute force over every path of a small vocabulary."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from spec_engine.config import TreeConfig, TreePolicy
from spec_engine.tree import DraftTree, make_grower

ROOT = 7


class TableDraft:
    """A draft whose next-token distribution is a fixed random function of the whole path."""

    def __init__(self, seed: int, vocab_size: int = 5, sharpness: float = 1.5) -> None:
        self._seed = seed
        self._vocab_size = vocab_size
        self._sharpness = sharpness
        self.num_rows = 0

    def row(self, path: tuple[int, ...]) -> Tensor:
        """Log-probabilities [V] after a path of tokens."""
        self.num_rows += 1
        generator = torch.Generator().manual_seed(hash((self._seed, *path)) % 2**31)
        return (torch.randn(self._vocab_size, generator=generator) * self._sharpness).log_softmax(-1)

    def all_paths(self, max_depth: int) -> dict[tuple[int, ...], float]:
        """Summed log-probability of every path down to a depth."""
        scores: dict[tuple[int, ...], float] = {(): 0.0}
        for depth in range(max_depth):
            for path in [path for path in scores if len(path) == depth]:
                for token_id, value in enumerate(self.row(path).double().tolist()):
                    scores[(*path, token_id)] = scores[path] + value
        del scores[()]
        return scores


def grow(config: TreeConfig, draft: TableDraft) -> DraftTree:
    grower = make_grower(config, ROOT)
    frontier = grower.start(draft.row(()))
    while frontier:
        paths = [tuple(grower.token_id(a) for a in grower.ancestors(node)) for node in frontier]
        assert [grower.depth(node) for node in frontier] == [len(path) for path in paths]
        frontier = grower.extend(frontier, torch.stack([draft.row(path) for path in paths]))
    return grower.finish()


def paths_of(tree: DraftTree) -> dict[tuple[int, ...], float]:
    """Token path below the root -> log q."""
    return {tuple(tree.token_ids[n] for n in tree.path(node)[1:]): tree.log_q[node] for node in range(1, len(tree))}


def assert_is_tree(tree: DraftTree) -> None:
    assert tree.token_ids[0] == ROOT
    for node in range(1, len(tree)):
        assert tree.parents[node] < node
        assert tree.log_q[node] <= tree.log_q[tree.parents[node]]
    siblings = list(zip(tree.parents, tree.token_ids, strict=True))
    assert len(set(siblings)) == len(siblings)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_nodes", [1, 3, 8, 20])
def test_opt_tree_is_the_best_tree(seed: int, num_nodes: int) -> None:
    draft = TableDraft(seed)
    tree = grow(TreeConfig(num_nodes=num_nodes, threshold=-1.0, max_depth=4), draft)
    scores = draft.all_paths(4)
    best = sorted(scores.values(), reverse=True)[:num_nodes]
    assert_is_tree(tree)
    assert list(tree.log_q[1:]) == pytest.approx(best, abs=1e-9)
    for path, log_q in paths_of(tree).items():
        assert log_q == pytest.approx(scores[path], abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_opt_tree_stops_at_the_first_level_that_gains_too_little(seed: int, threshold: float) -> None:
    draft = TableDraft(seed, sharpness=4.0)
    num_nodes, max_depth = 6, 5
    tree = grow(TreeConfig(num_nodes=num_nodes, threshold=threshold, max_depth=max_depth), draft)
    scores = draft.all_paths(max_depth)

    def expected_length(depth: int) -> float:
        best = sorted((math.exp(s) for path, s in scores.items() if len(path) <= depth), reverse=True)
        return sum(best[:num_nodes])

    depth = 1
    while depth < max_depth and expected_length(depth) - (expected_length(depth - 1) if depth > 1 else 0) > threshold:
        depth += 1
    assert sum(math.exp(value) for value in tree.log_q[1:]) == pytest.approx(expected_length(depth), abs=1e-9)


def test_opt_tree_runs_no_level_in_vain() -> None:
    draft = TableDraft(0, sharpness=0.01)  # nearly uniform: the first level gains little
    tree = grow(TreeConfig(num_nodes=2, threshold=0.7, max_depth=10), draft)
    assert draft.num_rows == 1
    assert tree.depth == 1


def test_certain_draft_gives_a_chain_to_full_depth() -> None:
    """A margin of 40 rounds every probability to 1, so all path probabilities tie."""
    row = torch.full((4,), -40.0)
    row[2] = 0.0
    for num_nodes in (1, 2, 5, 12):
        grower = make_grower(TreeConfig(num_nodes=num_nodes, max_depth=10), ROOT)
        frontier = grower.start(row.log_softmax(-1))
        while frontier:
            frontier = grower.extend(frontier, row.log_softmax(-1).repeat(len(frontier), 1))
        tree = grower.finish()
        assert_is_tree(tree)
        assert len(tree) == num_nodes + 1
        chain = min(num_nodes, 10)
        assert tree.token_ids[1 : chain + 1] == (2,) * chain
        assert tree.depths[1 : chain + 1] == tuple(range(1, chain + 1))


def test_ties_everywhere_keep_parents() -> None:
    """One-letter alphabet: each node has probability exactly 1; and a two-letter one with exact halves."""
    for vocab_size, num_nodes in itertools.product((1, 2), range(1, 9)):
        grower = make_grower(TreeConfig(num_nodes=num_nodes, threshold=-1.0, max_depth=4), ROOT)
        row = torch.zeros(vocab_size).log_softmax(-1)
        frontier = grower.start(row)
        while frontier:
            frontier = grower.extend(frontier, row.repeat(len(frontier), 1))
        tree = grower.finish()
        assert_is_tree(tree)
        assert len(tree) == 1 + min(num_nodes, 4 if vocab_size == 1 else 30)


def test_log_probabilities_above_zero_do_not_lift_a_child_over_its_parent() -> None:
    grower = make_grower(TreeConfig(num_nodes=3, max_depth=3), ROOT)
    row = torch.tensor([1e-6, -20.0])
    frontier = grower.start(row)
    while frontier:
        frontier = grower.extend(frontier, row.repeat(len(frontier), 1))
    assert_is_tree(grower.finish())


def test_excluded_tokens_are_not_drafted() -> None:
    grower = make_grower(TreeConfig(num_nodes=4, threshold=-1.0, max_depth=2), ROOT)
    row = torch.tensor([0.0, -torch.inf, -torch.inf])
    frontier = grower.start(row)
    while frontier:
        frontier = grower.extend(frontier, row.repeat(len(frontier), 1))
    assert grower.finish().token_ids == (ROOT, 0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_fixed_beam_levels_are_the_best_continuations(seed: int) -> None:
    draft = TableDraft(seed, vocab_size=6)
    widths = (2, 4, 3, 5)
    tree = grow(TreeConfig(policy="beam", num_nodes=14, beam_widths=widths), draft)
    scores = draft.all_paths(4)
    level: list[tuple[int, ...]] = [()]
    expected: dict[tuple[int, ...], float] = {}
    for width in widths:
        candidates = {(*path, token_id): scores[(*path, token_id)] for path in level for token_id in range(6)}
        level = sorted(candidates, key=lambda path: -candidates[path])[:width]
        expected.update({path: candidates[path] for path in level})
    assert_is_tree(tree)
    assert paths_of(tree) == pytest.approx(expected, abs=1e-9)


def test_longspec_shape_fits_the_default_beam() -> None:
    tree = grow(TreeConfig(policy="beam", num_nodes=68), TableDraft(1, vocab_size=50))
    counts = [tree.depths.count(depth) for depth in range(6)]
    assert counts == [1, 4, 16, 16, 16, 16]


def test_a_smaller_budget_gives_the_head_of_the_beam() -> None:
    full = grow(TreeConfig(policy="beam", num_nodes=14, beam_widths=(2, 4, 3, 5)), TableDraft(3))
    small = grow(TreeConfig(policy="beam", num_nodes=5, beam_widths=(2, 4, 3, 5)), TableDraft(3))
    assert len(small) == 6
    assert small.log_q[1] == full.log_q[1]


def eagle_candidates(draft: TableDraft, top_k: int, max_depth: int) -> dict[tuple[int, ...], float]:
    """EAGLE-2's candidates by its own words: `top_k` of the root, then `top_k` of the best `top_k` of each level."""
    level: dict[tuple[int, ...], float] = {(): 0.0}
    candidates: dict[tuple[int, ...], float] = {}
    for _ in range(max_depth):
        parents = sorted(level, key=lambda path: -level[path])[:top_k]
        level = {
            (*path, token_id): level[path] + value
            for path in parents
            for value, token_id in sorted(
                ((value, token_id) for token_id, value in enumerate(draft.row(path).double().tolist())), reverse=True
            )[:top_k]
        }
        candidates.update(level)
    return candidates


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_nodes", "max_depth", "top_k"), [(1, 3, 4), (6, 5, 2), (20, 4, 3), (59, 4, 10)])
def test_eagle_tree_is_the_best_of_its_candidates(seed: int, num_nodes: int, max_depth: int, top_k: int) -> None:
    draft = TableDraft(seed, vocab_size=12)
    tree = grow(TreeConfig(policy="eagle", num_nodes=num_nodes, max_depth=max_depth, top_k=top_k), draft)
    candidates = eagle_candidates(TableDraft(seed, vocab_size=12), top_k, max_depth)
    best = dict(sorted(candidates.items(), key=lambda item: -item[1])[:num_nodes])
    assert_is_tree(tree)
    assert paths_of(tree) == pytest.approx(best, abs=1e-9)


def test_eagle_tree_runs_only_nodes_that_can_matter() -> None:
    draft = TableDraft(0, vocab_size=12)
    grow(TreeConfig(policy="eagle", num_nodes=4, max_depth=6, top_k=10), draft)
    assert draft.num_rows <= 1 + 5 * 4


def test_eagle_tree_keeps_parents_where_everything_ties() -> None:
    """One letter: every node has probability 1; two letters: exact halves; a certain draft: a chain to the bottom."""
    certain = torch.full((4,), -40.0)
    certain[2] = 0.0
    rows = [torch.zeros(1), torch.zeros(2), certain]
    for row, num_nodes, top_k in itertools.product(rows, (1, 2, 5, 9), (1, 2, 3)):
        grower = make_grower(TreeConfig(policy="eagle", num_nodes=num_nodes, max_depth=4, top_k=top_k), ROOT)
        frontier = grower.start(row.log_softmax(-1))
        while frontier:
            frontier = grower.extend(frontier, row.log_softmax(-1).repeat(len(frontier), 1))
        tree = grower.finish()
        assert_is_tree(tree)
        if row is certain:
            depth = min(num_nodes, 4)
            assert tree.token_ids[1 : depth + 1] == (2,) * depth


@pytest.mark.parametrize("policy", ["opt", "chain", "beam", "eagle"])
def test_columns_may_stand_for_other_tokens(policy: TreePolicy) -> None:
    config = TreeConfig(policy=policy, num_nodes=9, threshold=0.1, max_depth=4, beam_widths=(2, 3, 4), top_k=3)
    vocabulary = torch.tensor([30, 7, 12, 55, 41])
    trees = []
    for names in (None, vocabulary):
        grower = make_grower(config, ROOT, names)
        draft = TableDraft(3)
        frontier = grower.start(draft.row(()))
        while frontier:
            tokens = [tuple(grower.token_id(a) for a in grower.ancestors(node)) for node in frontier]
            paths = tokens if names is None else [tuple(names.tolist().index(t) for t in path) for path in tokens]
            frontier = grower.extend(frontier, torch.stack([draft.row(path) for path in paths]))
        trees.append(grower.finish())
    plain, named = trees
    assert named.token_ids[1:] == tuple(vocabulary[list(plain.token_ids[1:])].tolist())
    assert (named.parents, named.log_q) == (plain.parents, plain.log_q)


@pytest.mark.parametrize(("num_nodes", "max_depth"), [(4, 9), (9, 4)])
def test_chain_follows_the_likeliest_token(num_nodes: int, max_depth: int) -> None:
    draft = TableDraft(5)
    tree = grow(TreeConfig(policy="chain", num_nodes=num_nodes, max_depth=max_depth), draft)
    path: tuple[int, ...] = ()
    for _ in range(4):
        path = (*path, int(draft.row(path).argmax()))
    assert tree.token_ids == (ROOT, *path)
    assert tree.depths == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("policy", ["opt", "beam", "eagle", "chain"])
def test_a_level_is_not_run_where_too_little_is_expected_of_it(policy: TreePolicy) -> None:
    """The token behind the root is certain, and half of each level's chance is lost from one to the next."""
    config = TreeConfig(policy=policy, num_nodes=8, threshold=0.0, max_depth=6, top_k=1, beam_widths=(1,) * 6)
    rows = [torch.tensor([1.0, 0.0]), *[torch.tensor([0.5, 0.0])] * 6]
    for min_gain, num_passes in [(0.0, 6), (0.1, 4), (0.2, 3), (0.3, 2), (1.01, 1)]:
        grower = make_grower(config, ROOT, min_gain=min_gain)
        frontier = grower.start(rows[0].log())
        for row in rows[1:]:
            if frontier:
                frontier = grower.extend(frontier, row.log()[None])
        tree = grower.finish()
        assert tree.num_passes == num_passes
        assert tree.depth == num_passes
        assert tree.first(1).num_passes == tree.within(1).num_passes == num_passes


@pytest.mark.parametrize("policy", ["opt", "beam", "eagle"])
def test_a_row_is_not_run_that_is_worth_less_than_its_part_of_a_pass(policy: TreePolicy) -> None:
    """Unlikely tokens stay in the tree, but nothing is drafted behind them; the likeliest one is always run."""
    config = TreeConfig(policy=policy, num_nodes=8, threshold=0.0, max_depth=3, top_k=4, beam_widths=(4, 4, 4))
    row = torch.tensor([0.9, 0.05, 0.01, 0.04]).log()
    for min_gain, num_run in [(0.0, 4), (0.1, 3), (0.36, 2), (0.6, 1)]:
        grower = make_grower(config, ROOT, min_gain=min_gain)
        assert len(grower.start(row)) == num_run
        assert len(grower.finish()) == 5
    assert len(make_grower(config, ROOT, min_gain=0.9).start(torch.full((4,), 0.25).log())) == 4  # 0.25 > 0.9 / 8


def test_finish_before_any_level_is_a_bare_root() -> None:
    assert make_grower(TreeConfig(), ROOT).finish() == DraftTree.root(ROOT)


def test_ancestor_mask_agrees_with_paths() -> None:
    tree = grow(TreeConfig(num_nodes=15, threshold=-1.0, max_depth=5), TableDraft(2))
    mask = tree.ancestor_mask()
    for node in range(len(tree)):
        assert tuple(mask[node].nonzero().flatten().tolist()) == tuple(sorted(tree.path(node)))


def test_within_keeps_the_upper_levels() -> None:
    tree = DraftTree((9, 1, 2, 3, 4), (-1, 0, 1, 0, 3), (0, 1, 2, 1, 2), (0.0, -0.1, -0.2, -0.3, -0.4))
    assert tree.within(1) == DraftTree((9, 1, 3), (-1, 0, 0), (0, 1, 1), (0.0, -0.1, -0.3))
    assert tree.within(2) is tree
    assert tree.within(0) == DraftTree.root(9)


def test_values_are_tuples_and_wrong_trees_are_refused() -> None:
    tree = DraftTree([1, 2], [-1, 0], [0, 1], [0.0, -1.0])  # type: ignore[arg-type]
    assert tree == DraftTree((1, 2), (-1, 0), (0, 1), (0.0, -1.0))
    with pytest.raises(AssertionError, match="before its parent"):
        DraftTree((1, 2, 3), (-1, 2, 0), (0, 2, 1), (0.0, 0.0, 0.0))
    with pytest.raises(AssertionError, match="one below"):
        DraftTree((1, 2), (-1, 0), (0, 2), (0.0, 0.0))
