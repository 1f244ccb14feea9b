"""Whole drafts as device work, captured: the same trees as level by level, replayed behind other texts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.attention.sdpa import CpuBackend
from spec_engine.config import RetrievalConfig, TreeConfig
from spec_engine.drafters import eagle_memory
from spec_engine.drafters.base import DraftSession
from spec_engine.drafters.eagle3 import EagleDrafter
from spec_engine.drafters.whole import Reach, WholeDrafts, why_not_whole
from spec_engine.model.capture import Captures
from spec_engine.model.target import Step
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.eagle_heads import eagle1_weights, eagle3_weights, features_of, head_fields, write_head
from tests.eagle_reference import OFF, drafter, layers_of, weights_of
from tests.fakes import tiny_lm
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
    monkeypatch.setattr(eagle_memory, "pick", lambda device, dtype: Pick(ReferenceBackend(), "for tests"))


def drive(session: DraftSession, text: Sequence[int], features: Tensor | None, num_prompt: int) -> list[DraftTree]:
    """Steps that keep one, two or three tokens, and a view that moves; the trees that were drafted."""

    def step(start: int, end: int) -> Step:
        rows = None if features is None else features[start:end]
        return Step(tuple(text[start:end]), end, features=rows, is_prompt=start == 0)

    for _ in session.reuse(()):
        pass
    session.observe(step(0, num_prompt))
    trees, done, kept = [], num_prompt, (1, 3, 2, 1, 1, 2)
    while done + 4 < len(text):
        trees.append(session.propose(text[done], 100))
        num_kept = kept[len(trees) % len(kept)]
        session.observe(step(done, done + num_kept))
        done += num_kept
        if len(trees) % 3 == 0:
            first = 8 * (len(trees) % 5)
            session.focus(Focus((0,), torch.arange(first, first + 40), 8))
    return trees


def assert_same(found: Sequence[DraftTree], want: Sequence[DraftTree]) -> None:
    assert [tree.token_ids for tree in found] == [tree.token_ids for tree in want]
    assert [tree.parents for tree in found] == [tree.parents for tree in want]
    for tree, other in zip(found, want, strict=True):
        assert tree.log_q == pytest.approx(other.log_q, abs=1e-5)


def eagle_pair(folder: Path, tree: TreeConfig, retrieval: RetrievalConfig) -> tuple[EagleDrafter, EagleDrafter, Traced]:
    """A head that drafts level by level, and one whose drafts are captured; in float64, where no tie is near."""
    plain, other = (drafter(folder, tiny_lm("llama").double(), tree, retrieval) for _ in range(2))
    capture = Traced()
    other._memory.whole = WholeDrafts(tree, Captures(capture, 1 << 30))
    return plain, other, capture


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("retrieval", [OFF, VIEW], ids=["whole", "retrieval"])
@pytest.mark.parametrize("kind", ["eagle3", "eagle1"])
@pytest.mark.parametrize("tree", [EAGLE, OPT, BEAM, CHAIN], ids=lambda tree: tree.policy)
def test_an_eagle_head_drafts_the_same_trees(
    tmp_path: Path, tree: TreeConfig, kind: str, retrieval: RetrievalConfig, sampling: SamplingParams
) -> None:
    model = tiny_lm("llama")
    folder = write_head(tmp_path, weights_of(kind, model), head_fields())
    text = random_ids(90, 4)
    features = features_of(model, text, layers_of(kind, model)).double()
    plain, other, capture = eagle_pair(folder, tree, retrieval)
    want, found = (drive(one.begin(sampling), text, features, 50) for one in (plain, other))
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
    plain, other, capture = eagle_pair(folder, EAGLE, OFF)
    for seed in (1, 2):
        want, found = (drive(one.begin(replace(DRAWN, seed=seed)), text, features, 50) for one in (plain, other))
        assert_same(found, want)
    assert capture.num_captures == 1
