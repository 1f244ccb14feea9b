"""Drafting with a LongSpec head equals the head's forward over whole rows; what it holds and what it looks at."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from spec_engine.config import DraftConfig, RetrievalConfig, TreeConfig, load_preset
from spec_engine.drafters.longspec import LongSpecDrafter, LongSpecSession, target_rotary
from spec_engine.drafters.longspec_head import LongSpecHead
from spec_engine.model.load import load_target
from spec_engine.model.target import Taps, Target
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.heads import delayed, longspec_head, longspec_reference, longspec_whole_rows
from tests.tiny_models import random_ids, tiny_model

OPT = TreeConfig(num_nodes=16, threshold=0.05, max_depth=5)
BEAM = TreeConfig(policy="beam", num_nodes=30, beam_widths=(3, 4, 4, 4))
CHAIN = TreeConfig(policy="chain", num_nodes=6, max_depth=6)
FOCUSED = RetrievalConfig(chunk_size=8, top_k=4)


class Draft:
    """A session beside its target, as the engine drives them."""

    def __init__(self, name: str, config: DraftConfig, window: int = 512, sizes: tuple[int, int] = (1100, 64)) -> None:
        self.model = sharp(name)
        self.head = longspec_head(self.model, window)
        self.target = Target(copy.deepcopy(self.model), *sizes)
        self.drafter = LongSpecDrafter(copy.deepcopy(self.head), self.target, config)
        self.session: LongSpecSession = self.drafter.begin(SamplingParams())
        list(self.session.reuse(()))

    def read(self, text: Sequence[int]) -> None:
        for step in self.target.prefill(text, self.session.taps):
            self.session.observe(step)

    def verified(self, tree: DraftTree, node: int) -> None:
        """The target looks at the whole tree and keeps the path to `node`."""
        outputs = self.target.verify(tree, self.session.taps)
        self.session.observe(self.target.commit(outputs, tree.path(node)))

    def assert_scores(self, tree: DraftTree, see: Callable[[Tensor], Tensor] | None = None) -> None:
        """Every node's log_q is what the head gives its path on whole rows, with the target seen up to the text's end.

        A node d levels down is d + 1 tokens ahead of what the target has verified: offset d + 1. `see` narrows the
        rows of the target that are in view.
        """
        text = self.target.token_ids
        turns = self.head.rotary.cross is not None
        for node in range(1, len(tree)):
            path = [tree.token_ids[index] for index in tree.path(node)]
            ids = (*text, *path)
            want = 0.0
            for depth, token in enumerate(path[1:]):
                if see is None:
                    logits = longspec_whole_rows(self.head, self.model, ids, depth + 1)
                else:
                    logits = longspec_reference(self.head, self.model, ids, see(delayed(len(ids), depth + 1)), turns)
                want += float(logits[len(text) + depth].log_softmax(-1)[token])
            assert abs(tree.log_q[node] - want) < 2e-3


def sharp(name: str) -> PreTrainedModel:
    """A tiny target whose output layer is so steep that OPT-Tree grows more than one level."""
    model = tiny_model(name)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 4
    return model


def plain(tree: TreeConfig) -> DraftConfig:
    return DraftConfig("longspec", tree=tree, retrieval=RetrievalConfig(enabled=False))


@pytest.mark.parametrize("name", ["llama", "llama-yarn", "qwen2", "smollm3"])
@pytest.mark.parametrize("tree", [OPT, BEAM, CHAIN], ids=lambda tree: tree.policy)
@torch.no_grad()
def test_drafting_equals_whole_rows(name: str, tree: TreeConfig) -> None:
    """For every level, and again after an accepted path whose siblings the target has seen too."""
    draft = Draft(name, plain(tree))
    draft.read(random_ids(50))
    drafted = draft.session.propose(9, 100)
    assert drafted.depth > 2
    draft.assert_scores(drafted)
    draft.verified(drafted, len(drafted) - 1)
    draft.assert_scores(draft.session.propose(7, 8))


@pytest.mark.parametrize("window", [1, 2, 8])
@torch.no_grad()
def test_windows_go_by_position(window: int) -> None:
    """Also when they end within the tree, and however the tokens came: at once, or few by few over the ring's end."""
    draft = Draft("llama", plain(BEAM), window)
    text = random_ids(60)
    draft.read(text[:30])
    for start, end in ((30, 33), (33, 34), (34, 40), (40, 41), (41, 60)):
        draft.session.propose(3, 10)
        draft.read(text[start:end])
    draft.assert_scores(draft.session.propose(9, 12))


@torch.no_grad()
def test_an_empty_context_and_a_reused_one() -> None:
    draft = Draft("llama", plain(CHAIN), window=8)
    draft.assert_scores(draft.session.propose(9, 4))  # the root alone: nothing of the target is there to be seen
    draft.read(random_ids(40))
    draft.session.propose(9, 4)
    draft.target.truncate(25)
    draft.session = draft.drafter.begin(SamplingParams())
    assert draft.session.reusable(draft.target.token_ids) == 25
    assert list(draft.session.reuse(draft.target.token_ids)) == []  # nothing was computed
    draft.assert_scores(draft.session.propose(5, 4))


def test_only_the_last_window_is_ever_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft("llama", plain(CHAIN), window=8)
    lengths: list[int] = []
    rows = LongSpecHead.rows
    monkeypatch.setattr(
        LongSpecHead, "rows", lambda self, x, angles: lengths.append(x.shape[1]) or rows(self, x, angles)
    )
    draft.read(random_ids(1000))
    assert lengths == []
    draft.session.propose(9, 3)
    draft.read((9, 3))
    draft.session.propose(4, 2)
    assert lengths == [8 + 1, 1, 1, 2 + 1, 1]


def held_bytes(holder: object, seen: set[int]) -> int:
    """Bytes of all tensors and lists of numbers below `holder`; models and the target are not its own."""
    if id(holder) in seen or isinstance(holder, Target | nn.Module):
        return 0
    seen.add(id(holder))
    if isinstance(holder, Tensor):
        return holder.untyped_storage().nbytes()
    if isinstance(holder, list | tuple):
        return 8 * len(holder) + sum(held_bytes(item, seen) for item in holder)
    return sum(held_bytes(item, seen) for item in vars(holder).values()) if hasattr(holder, "__dict__") else 0


def test_memory_does_not_grow_with_the_document() -> None:
    draft = Draft("llama", plain(BEAM), window=64, sizes=(5100, 512))
    found = []
    for num_tokens in (500, 4500):
        draft.read(random_ids(num_tokens))
        assert len(draft.session._pending) == 64
        draft.session.propose(9, 30)
        found.append(held_bytes(draft.session, set()))
    assert draft.target.length == 5000
    assert found[0] == found[1] > draft.drafter._memory._ring.num_bytes


class Spy:
    """A backend that notes the keys of the calls without a mask, those of the cross-attention."""

    def __init__(self, draft: Draft) -> None:
        self.keys: list[Tensor] = []
        self._backend = draft.drafter._memory._backend
        draft.drafter._memory._backend = self

    def hybrid(self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, bias: object, scoring: object) -> object:
        if bias is None:
            self.keys.append(k)
        return self._backend.hybrid(q, k, v, prefix_len, bias, scoring)


def test_the_targets_keys_are_read_where_they_lie() -> None:
    draft = Draft("llama", plain(BEAM))
    draft.read(random_ids(70))
    spy = Spy(draft)
    draft.session.propose(9, 30)
    keys, _ = draft.target.last_rows()
    assert len(spy.keys) == 4  # root and three levels
    assert {(key.data_ptr(), key.shape) for key in spy.keys} == {(keys.data_ptr(), keys.shape)}
    assert keys.shape[2] == 70  # verified tokens only


def test_taps_are_for_a_focus_only() -> None:
    whole = replace(plain(BEAM), retrieval=FOCUSED)
    focused = replace(whole, cross_attention="focus")
    switched_off = replace(plain(BEAM), cross_attention="focus")  # by with_drafter(use_retrieval=False)
    rows = [Draft("llama", config).session.taps for config in (whole, focused, switched_off)]
    assert rows == [Taps(), Taps(attention_row=True), Taps()]


def view(indices: Sequence[int]) -> Focus:
    return Focus((), torch.tensor(indices, dtype=torch.int64), 8)


@pytest.mark.parametrize("name", ["llama", "smollm3"])
@torch.no_grad()
def test_a_focus_on_everything_changes_nothing(name: str) -> None:
    draft = Draft(name, DraftConfig("longspec", tree=BEAM, retrieval=FOCUSED, cross_attention="focus"))
    draft.read(random_ids(50))
    draft.session.focus(view(range(50)))
    drafted = draft.session.propose(9, 30)
    draft.assert_scores(drafted)
    draft.verified(drafted, len(drafted) - 1)
    draft.assert_scores(draft.session.propose(7, 12))


@pytest.mark.parametrize("name", ["llama", "llama-llama3", "smollm3"])
@torch.no_grad()
def test_a_focus_hides_the_rest(name: str) -> None:
    """What is seen: the focused tokens at their own positions, and all that were committed after the choice."""
    draft = Draft(name, DraftConfig("longspec", tree=BEAM, retrieval=FOCUSED, cross_attention="focus"), window=16)
    draft.read(random_ids(120))
    for chosen in ([*range(8), *range(48, 56), *range(112, 120)], [*range(16, 24), *range(96, 104)]):
        num_tokens = draft.target.length
        draft.session.focus(view(chosen))

        def in_view(see: Tensor, chosen: list[int] = chosen, num_tokens: int = num_tokens) -> Tensor:
            columns = torch.zeros(see.shape[1], dtype=torch.bool)
            columns[chosen] = True
            columns[num_tokens:] = True
            return see & columns

        drafted = draft.session.propose(9, 12)
        draft.assert_scores(drafted, in_view)
        draft.verified(drafted, len(drafted) - 1)
        draft.assert_scores(draft.session.propose(7, 12), in_view)


def test_a_focus_bounds_what_drafting_reads() -> None:
    """Gathered once per choice; rows of later tokens are read where they lie."""
    draft = Draft("llama", DraftConfig("longspec", tree=BEAM, retrieval=FOCUSED, cross_attention="focus"))
    draft.read(random_ids(1000))
    draft.session.focus(view(range(40)))
    spy = Spy(draft)
    draft.session.propose(9, 30)
    assert {key.shape[2] for key in spy.keys} == {40}
    gathered = spy.keys[-1].data_ptr()
    draft.read((9, 3, 4))
    spy.keys.clear()
    draft.session.propose(5, 30)
    assert {key.shape[2] for key in spy.keys} == {40, 3}
    row_bytes = 16 * 4
    newer = draft.target.last_rows()[0].data_ptr() + 1000 * row_bytes
    assert {key.data_ptr() for key in spy.keys} == {gathered, newer}


def test_the_built_in_target_is_looked_at_without_rotation() -> None:
    """Its last layer is a full one without position embedding, its windowed layers rotate."""
    preset = load_preset("builtin")
    target = Target(load_target(preset, preset.target, device="cpu"), 256, 64)
    assert target.last_layer == 5
    rotary = target_rotary(target)
    assert rotary.cross is None
    assert 5 not in rotary.own.rotation.layers
    head = longspec_head(target.model, window=16)
    drafter = LongSpecDrafter(head, target, plain(BEAM))
    session = drafter.begin(SamplingParams())
    for step in target.prefill(random_ids(40, vocab_size=4000)):
        session.observe(step)
    assert session.propose(9, 30).depth == 4
