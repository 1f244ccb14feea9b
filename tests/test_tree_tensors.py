"""Trees grown in tensors of fixed sizes are those that the growers on the host find."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spec_engine.config import TreeConfig
from spec_engine.tree import DraftTree
from spec_engine.tree_tensors import GrowthPlan, TensorGrower, growth_plan, own_rows, read_tree
from tests.test_tree import ROOT, TableDraft, grow

POLICIES = [
    TreeConfig(policy="opt", num_nodes=9, threshold=-1.0, max_depth=5),
    TreeConfig(policy="opt", num_nodes=16, threshold=-1.0, max_depth=3),
    TreeConfig(policy="eagle", num_nodes=12, top_k=3, max_depth=5),
    TreeConfig(policy="eagle", num_nodes=59, top_k=10, max_depth=4),
    TreeConfig(policy="beam", num_nodes=15, beam_widths=(3, 4, 4, 2)),
    TreeConfig(policy="beam", num_nodes=6, beam_widths=(4, 2, 8)),
    TreeConfig(policy="chain", num_nodes=4, max_depth=7),
]


def grow_in_tensors(plan: GrowthPlan, draft: TableDraft, vocabulary: Tensor | None = None) -> DraftTree:
    """As a captured draft does: no number is looked at before the end, but by the draft that stands for the model."""
    grower = TensorGrower(plan, vocabulary, own_rows(plan, torch.device("cpu")))
    level = grower.start(draft.row(())[None])
    paths: list[tuple[int, ...]] = []
    first = 0
    for depth in range(1, plan.depth):
        tokens: list[int] = level.token_ids.tolist()
        above = level.parents.tolist()
        before = paths[first:] if depth > 1 else [()]
        first = len(paths)
        paths += [(*before[row], token) for row, token in zip(above, tokens, strict=True)]
        assert level.visible.shape == (plan.num_run[depth - 1], len(paths))
        for row, seen in zip(paths[first:], level.visible.tolist(), strict=True):
            ancestors = [path for path, is_seen in zip(paths, seen, strict=True) if is_seen]
            assert sorted(ancestors, key=len) == [row[: length + 1] for length in range(len(row))]
        level = grower.extend(torch.stack([draft.row(path) for path in paths[first:]]))
    return read_tree(ROOT, grower.finish().tolist())


@pytest.mark.parametrize("config", POLICIES, ids=lambda config: f"{config.policy}-{config.num_nodes}")
@given(seed=st.integers(0, 2**16), sharpness=st.sampled_from([0.0, 0.5, 3.0, 60.0]), vocab_size=st.integers(2, 12))
def test_the_tree_is_that_of_the_host(config: TreeConfig, seed: int, sharpness: float, vocab_size: int) -> None:
    """Also where probabilities tie (sharpness 0) or round to 1 and 0 (60), and for few tokens."""
    draft = TableDraft(seed, vocab_size, sharpness)
    plan = growth_plan(config, 99, vocab_size)
    assert grow_in_tensors(plan, draft) == grow(config, draft)


@pytest.mark.parametrize("config", POLICIES, ids=lambda config: f"{config.policy}-{config.num_nodes}")
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_fewer_levels_give_the_tree_of_that_depth(config: TreeConfig, depth: int) -> None:
    draft = TableDraft(3, 8)
    shallow = replace(config, max_depth=min(depth, config.max_depth), beam_widths=config.beam_widths[:depth])
    plan = growth_plan(config, depth, 8)
    assert plan.depth == depth
    assert grow_in_tensors(plan, draft) == grow(shallow, draft)


def test_the_first_nodes_are_the_tree_of_a_smaller_budget() -> None:
    config = POLICIES[3]
    tree = grow_in_tensors(growth_plan(config, 99, 40), TableDraft(1, 40))
    assert tree.first(5) == grow(replace(config, num_nodes=5), TableDraft(1, 40))


def test_wide_levels_of_opt_tree_are_cut() -> None:
    """50 nodes could all lie in one level; of which no more are run than a graph has rows for."""
    plan = growth_plan(TreeConfig(policy="opt", num_nodes=50, max_depth=4), 99, 1000)
    assert plan.num_run == (16, 16, 16, 0)
    assert plan.num_children == (50, 16, 16, 16)
    assert plan.num_kept == (50, 50, 50, 50)


def test_what_has_no_probability_is_no_node() -> None:
    """Excluded tokens (-inf), and what a broken draft gives (no number)."""
    plan = growth_plan(TreeConfig(policy="eagle", num_nodes=6, top_k=2, max_depth=2), 2, 4)
    grower = TensorGrower(plan, None, own_rows(plan, torch.device("cpu")))
    grower.start(torch.tensor([[-math.inf, -0.5, math.nan, -math.inf]]))
    grower.extend(torch.tensor([[-math.inf, -math.inf, -1.0, -math.inf], [-0.1, -0.2, -0.3, -0.4]]))
    tree = read_tree(ROOT, grower.finish().tolist())
    assert tree.token_ids == (ROOT, 1, 2)
    assert tree.log_q == pytest.approx((0.0, -0.5, -1.5))


def test_a_draft_with_a_vocabulary_of_its_own_names_tokens() -> None:
    names = torch.tensor([30, 10, 20, 50])
    config = replace(POLICIES[2], max_depth=1)
    named = grow_in_tensors(growth_plan(config, 1, 4), TableDraft(5, 4), names)
    assert named.token_ids[1:] == tuple(names[list(grow(config, TableDraft(5, 4)).token_ids[1:])].tolist())
