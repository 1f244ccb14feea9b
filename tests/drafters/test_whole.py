"""Whole drafts as device work, captured: the same trees as level by level, replayed behind other texts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.attention.sdpa import CpuBackend
from spec_engine.config import DraftConfig, RetrievalConfig, TreeConfig
from spec_engine.drafters import eagle_memory
from spec_engine.drafters.base import DraftSession
from spec_engine.drafters.eagle3 import EagleDrafter
from spec_engine.drafters.longspec import LongSpecDrafter
from spec_engine.drafters.whole import Reach, WholeDrafts, why_not_whole
from spec_engine.model import runner as runner_module
from spec_engine.model.capture import Captures, Work
from spec_engine.model.target import Step, Target
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.drafters.test_longspec import sharp
from tests.eagle_heads import eagle3_weights, features_of, head_fields, write_head
from tests.eagle_reference import OFF, drafter, layers_of, weights_of
from tests.fakes import tiny_lm
from tests.heads import longspec_head
from tests.tiny_models import random_ids
from tests.traced import Traced

EAGLE = TreeConfig(policy="eagle", num_nodes=14, max_depth=4, top_k=3)
OPT = TreeConfig(policy="opt", num_nodes=10, threshold=-1.0, max_depth=4)
BEAM = TreeConfig(policy="beam", num_nodes=15, beam_widths=(3, 4, 4))
CHAIN = TreeConfig(policy="chain", num_nodes=4, max_depth=4)
VIEW = RetrievalConfig(chunk_size=8, top_k=4, num_sink=8, num_recent=16, prefill_window=48)
GREEDY = SamplingParams()
DRAWN = SamplingParams(temperature=0.8, top_k=40, seed=3)


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one backend for the CPU that takes its lengths from tensors."""
    for module in (eagle_memory, runner_module):
        monkeypatch.setattr(module, "pick", lambda device, dtype: Pick(ReferenceBackend(), "for tests"))


Steps = Callable[[int, int], Iterable[Step]]  # those that commit the tokens from one number to another


def with_features(text: Sequence[int], features: Tensor) -> Steps:
    return lambda start, end: [Step(tuple(text[start:end]), end, features=features[start:end], is_prompt=start == 0)]


def drive(session: DraftSession, text: Sequence[int], steps: Steps, num_prompt: int = 50) -> list[DraftTree]:
    """Steps that keep one, two or three tokens, and a view that moves; the trees that were drafted."""
    for _ in session.reuse(()):
        pass
    for step in steps(0, num_prompt):
        session.observe(step)
    trees, done, kept = [], num_prompt, (1, 3, 2, 1, 1, 2)
    while done + 4 < len(text):
        trees.append(session.propose(text[done], 100))
        num_kept = kept[len(trees) % len(kept)]
        for step in steps(done, done + num_kept):
            session.observe(step)
        done += num_kept
        if len(trees) % 3 == 0:
            first = 8 * (len(trees) % 5)
            session.focus(Focus((0,), torch.arange(first, first + 40), 8))
    return trees


def assert_same(found: Sequence[DraftTree], want: Sequence[DraftTree], limit: float = 1e-5) -> None:
    assert [tree.token_ids for tree in found] == [tree.token_ids for tree in want]
    assert [tree.parents for tree in found] == [tree.parents for tree in want]
    assert all(tree.num_passes >= other.num_passes > 0 for tree, other in zip(found, want, strict=True))
    for tree, other in zip(found, want, strict=True):
        assert tree.log_q == pytest.approx(other.log_q, abs=limit)


def eagle_pair(folder: Path, tree: TreeConfig, retrieval: RetrievalConfig) -> tuple[EagleDrafter, EagleDrafter, Traced]:
    """A head that drafts level by level, and one whose drafts are captured; in float64, where no tie is near."""
    plain, other = (drafter(folder, tiny_lm("llama").double(), tree, retrieval) for _ in range(2))
    capture = Traced()
    other._memory.capture(WholeDrafts(tree, Captures(capture, 1 << 30)), may_round=False)
    return plain, other, capture


@pytest.mark.parametrize(
    ("tree", "kind", "retrieval", "sampling"),
    [
        (EAGLE, "eagle3", OFF, GREEDY),
        (EAGLE, "eagle3", VIEW, DRAWN),
        (EAGLE, "eagle1", VIEW, GREEDY),
        (OPT, "eagle3", VIEW, GREEDY),
        (OPT, "eagle1", OFF, DRAWN),
        (BEAM, "eagle3", OFF, GREEDY),
        (CHAIN, "eagle3", VIEW, GREEDY),
    ],
    ids=["eagle", "eagle-view-drawn", "eagle1-view", "opt-view", "opt-eagle1-drawn", "beam", "chain-view"],
)
def test_an_eagle_head_drafts_the_same_trees(
    tmp_path: Path, tree: TreeConfig, kind: str, retrieval: RetrievalConfig, sampling: SamplingParams
) -> None:
    model = tiny_lm("llama")
    folder = write_head(tmp_path, weights_of(kind, model), head_fields())
    text = random_ids(90, 4)
    features = features_of(model, text, layers_of(kind, model)).double()
    plain, other, capture = eagle_pair(folder, tree, retrieval)
    want, found = (drive(one.begin(sampling), text, with_features(text, features)) for one in (plain, other))
    assert_same(found, want)
    assert len(want) > 15
    assert capture.num_captures >= 1
    assert capture.num_replays > 8


def test_answers_of_another_seed_replay_the_same_draft(tmp_path: Path) -> None:
    """The noise of an answer lies in memory that the graph reads, not in the graph."""
    model = tiny_lm("llama")
    folder = write_head(tmp_path, eagle3_weights(), head_fields())
    text = random_ids(80, 4)
    features = features_of(model, text, layers_of("eagle3", model)).double()
    steps = with_features(text, features)
    plain, other, capture = eagle_pair(folder, EAGLE, OFF)
    answers = (replace(DRAWN, seed=1), replace(DRAWN, seed=2), GREEDY)
    for sampling, num_captures in zip(answers, (1, 1, 2), strict=True):
        want, found = (drive(one.begin(sampling), text, steps) for one in (plain, other))
        assert_same(found, want)
        assert capture.num_captures == num_captures


def longspec_pair(
    tree: TreeConfig, window: int, is_focused: bool
) -> tuple[tuple[Target, LongSpecDrafter], tuple[Target, LongSpecDrafter], Traced]:
    """A head beside a target that drafts level by level, and one whose drafts are captured."""
    config = DraftConfig("longspec", tree=tree, retrieval=VIEW, cross_attention="focus" if is_focused else "whole")
    pairs = []
    for _ in range(2):
        model = sharp("llama").double()
        target = Target(model, 400, 64)
        pairs.append((target, LongSpecDrafter(longspec_head(model, window), target, config)))
    capture = Traced()
    pairs[1][1]._memory.capture(WholeDrafts(tree, Captures(capture, 1 << 30)), may_round=False)
    return pairs[0], pairs[1], capture


@pytest.mark.parametrize(
    ("tree", "window", "is_focused", "sampling"),
    [
        (EAGLE, 512, False, GREEDY),
        (EAGLE, 24, True, DRAWN),
        (OPT, 24, False, GREEDY),
        (BEAM, 24, True, GREEDY),
        (CHAIN, 512, True, GREEDY),
    ],
    ids=["eagle", "eagle-focus-drawn", "opt-ring", "beam-focus", "chain-focus"],
)
def test_a_longspec_head_drafts_the_same_trees(
    tree: TreeConfig, window: int, is_focused: bool, sampling: SamplingParams
) -> None:
    """The ring goes round in a window of 24 tokens, and the first root finds more tokens waiting than a graph takes."""
    *pairs, capture = longspec_pair(tree, window, is_focused)
    text = random_ids(110, 4)
    found = []
    for target, own in pairs:
        steps: Steps = lambda start, end, target=target: target.prefill(text[start:end])  # noqa: E731
        found.append(drive(own.begin(sampling), text, steps))
    assert_same(found[1], found[0])
    assert len(found[0]) > 20
    assert capture.num_captures >= 1
    assert capture.num_replays > 8


def test_a_tree_that_leaves_the_window_is_drafted_level_by_level() -> None:
    (_, own), _, _ = longspec_pair(EAGLE, 3, False)
    own._memory.capture(WholeDrafts(EAGLE, Captures(Traced(), 1 << 30)), may_round=False)
    assert own._memory.whole is None


def test_a_draft_that_cannot_be_captured_is_still_right(tmp_path: Path) -> None:
    model = tiny_lm("llama")
    folder = write_head(tmp_path, eagle3_weights(), head_fields())
    text = random_ids(70, 4)
    features = features_of(model, text, layers_of("eagle3", model)).double()
    plain, other, _ = eagle_pair(folder, EAGLE, OFF)
    whole = WholeDrafts(EAGLE, Captures(Traced(error="operation not permitted"), 1 << 30))
    other._memory.capture(whole, may_round=False)
    want, found = (drive(one.begin(GREEDY), text, with_features(text, features)) for one in (plain, other))
    assert_same(found, want)
    assert whole.note == "0 captured passes, 0 MiB; no more, because capturing failed: operation not permitted"


class Wrong(Traced):
    """A capture whose replays are off."""

    def __call__(self, work: Work) -> Work:
        replay = super().__call__(work)
        return lambda: tuple(result - 1 for result in replay())


def test_a_captured_draft_that_gives_other_scores_is_not_used(tmp_path: Path) -> None:
    model = tiny_lm("llama")
    folder = write_head(tmp_path, eagle3_weights(), head_fields())
    text = random_ids(70, 4)
    features = features_of(model, text, layers_of("eagle3", model)).double()
    plain, other, _ = eagle_pair(folder, EAGLE, OFF)
    other._memory.capture(WholeDrafts(EAGLE, Captures(capture := Wrong(), 1 << 30)), may_round=False)
    want, found = (drive(one.begin(GREEDY), text, with_features(text, features)) for one in (plain, other))
    assert_same(found, want)
    assert capture.num_replays == 1


def test_the_levels_go_by_how_deep_drafts_were_right() -> None:
    reach = Reach()
    assert reach.depth(0.5, 8) == 8
    for _ in range(30):
        reach.drafted(8)
        reach.confirmed(2)
    assert reach.depth(0.5, 8) == 2
    assert reach.depth(0.0, 8) == 8
    for _ in range(30):  # right to their ends: deeper ones get another chance
        reach.drafted(2)
        reach.confirmed(2)
    assert reach.depth(0.5, 8) > 2
    reach.drafted(4)
    for _ in range(50):  # steps without a draft say nothing
        reach.confirmed(0)
    assert reach.depth(0.5, 8) > 2
    for _ in range(30):
        reach.drafted(3)
        reach.confirmed(0)
    assert reach.depth(0.5, 8) == 1


def test_levels_that_were_cut_before_the_target_saw_them_were_not_wrong() -> None:
    reach = Reach()
    for _ in range(30):
        reach.drafted(8)
        reach.confirmed(2, 2)
    assert reach.depth(0.5, 8) == 8
    for _ in range(30):
        reach.drafted(8)
        reach.confirmed(0, 0)
    assert reach.depth(0.5, 8) == 8
    for _ in range(30):
        reach.drafted(8)
        reach.confirmed(1, 2)
    assert reach.depth(0.5, 8) == 1


def test_without_a_gpu_heads_draft_level_by_level() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    reference = ReferenceBackend()
    assert why_not_whole(cpu, torch.float32, reference, 64) == "there are no graphs on a device of type 'cpu'"
    assert why_not_whole(cuda, torch.float32, reference, 64) == ""
    assert why_not_whole(cuda, torch.float32, CpuBackend(), 64).endswith("needs lengths on the host")
