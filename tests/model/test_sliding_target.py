"""Targets whose layers with a window hold their newest rows alone, behind texts that are much longer than these."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.cache import sliding
from spec_engine.cache.store import PrefixStore
from spec_engine.drafters.mtp_work import MtpSight
from spec_engine.engine import Request, StopRules
from spec_engine.events import Finished, PromptReady
from spec_engine.loading import load_engine
from spec_engine.model import runner as runner_module
from spec_engine.model import target as target_module
from spec_engine.model.capture import Captures
from spec_engine.model.graphs import Graphed
from spec_engine.model.target import TREE_SLOTS, Taps, Target
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.fakes import pair_preset, save_pair, tiny_lm
from tests.model.test_graphs import LAYERS, assert_steps_equal, steps
from tests.model.test_target import filled, random_tree, relative, teacher_forced
from tests.mtp_heads import mtp_head
from tests.tiny_models import random_ids, tiny_model
from tests.traced import Traced

MIXED = ("smollm3-sliding", "gemma2", "gemma4", "gpt_oss", "cohere2", "olmo3")
REL_FP32 = 3e-5
LONG, CAPACITY = 700, 1200
REACH = 40 + 16  # of the tiny models' windows
NUM_SLIDING = REACH + 16 + TREE_SLOTS + 1


@pytest.fixture(autouse=True)
def little_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of a prompt and a tree, so that rows move all the time."""
    monkeypatch.setattr(target_module, "LEAST_SLACK", 0)
    monkeypatch.setattr(sliding, "_LEAST_PLACE", 16)


def target_of(name: str, *, may_join: bool = False) -> Target:
    target = Target(tiny_model(name), CAPACITY, 16, may_join=may_join)
    assert target._slots.num_sliding_slots == NUM_SLIDING
    return target


def is_joined(name: str) -> bool:
    return name == "smollm3-sliding"


@pytest.mark.parametrize("name", MIXED)
def test_trees_behind_a_long_text_are_those_of_transformers(name: str) -> None:
    text = random_ids(LONG + 60, 1)
    want = teacher_forced(name, text)
    for may_join in {False, is_joined(name)}:
        target = filled(target_of(name, may_join=may_join), text[:LONG])
        assert target._slots.first_sliding > LONG // 2
        while target.length < LONG + 50:
            tokens = (*text[target.length : target.length + 4], 3, 4)
            branches = DraftTree(tokens, (-1, 0, 1, 2, 0, 4), (0, 1, 2, 3, 1, 2), (0.0,) * 6)
            outputs = target.verify(branches, Taps(attention_row=True))
            for node in range(4):
                assert relative(outputs.logits[node], want[target.length + node]) <= REL_FP32
            step = target.commit(outputs, (0, 1, 2))
            assert step.attention_row is not None
            assert len(step.attention_row) == target.length


@pytest.mark.parametrize("name", ["gemma2", "gemma4", "smollm3-sliding", "cohere2"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_is_what_a_fresh_target_would_hold(name: str, seed: int) -> None:
    """Random texts with common beginnings, trees, cuts and passes that are never committed."""
    dice = random.Random(seed)
    target, model = target_of(name, may_join=is_joined(name)), tiny_model(name)
    texts = [random_ids(LONG, 1)]
    for number in range(3):
        texts.append((*texts[0][: 60 + 120 * number], *random_ids(LONG - 60 - 120 * number, 2 + number)))
    num_held = []
    for _ in range(40):
        text = dice.choice(texts)
        num_wanted = dice.randrange(1, LONG)
        num_kept = target.reuse(text[:num_wanted], lambda prefix: max(len(prefix) - dice.randrange(3), 0))
        num_held.append(num_kept)
        assert target.token_ids == text[:num_kept]
        for _ in target.prefill(text[num_kept:num_wanted]):
            if dice.random() < 0.1:
                break
        for _ in range(dice.randrange(30)):
            tree = random_tree(dice.randrange(1, 6), dice.randrange(99), dice.randrange(200))
            outputs = target.verify(tree, Taps())
            if dice.random() < 0.5:
                target.commit(outputs, tree.path(dice.randrange(len(tree))))
        with torch.inference_mode():
            logits = target.verify(DraftTree.root(5), Taps()).logits[0]
            want = model(torch.tensor([[*target.token_ids, 5]])).logits[0, -1]
        assert relative(logits, want) <= 1e-4
    assert sum(num > 60 for num in num_held) > 5


@pytest.mark.parametrize("name", MIXED)
def test_captured_passes_find_their_rows_however_often_these_moved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "pick", lambda device, dtype: Pick(ReferenceBackend(), "for tests"))
    plain, target = target_of(name), target_of(name)
    capture = Traced()
    target._forward = Graphed(target.runner, target.runner, Captures(capture, 1 << 30))
    trees = [random_tree(size, seed, 5) for seed, size in enumerate((1, 6, 7, 8, 1, 5, 8, 1, 6, 1, 7, 12, 1, 8) * 4)]
    taps = Taps(attention_row=True, features=LAYERS)
    for prompt in (random_ids(9, 1), random_ids(LONG, 2)):
        firsts = {target._slots.first_sliding}
        found = steps(target, prompt, trees, taps)
        firsts.add(target._slots.first_sliding)
        assert_steps_equal(target, found, steps(plain, prompt, trees, taps))
    assert len(firsts) > 1
    assert capture.num_replays > len(trees)


def test_a_captured_pass_writes_padding_where_no_text_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a text that fills the memory, cut back and written once more as it was: its end is held then."""
    monkeypatch.setattr(runner_module, "pick", lambda device, dtype: Pick(ReferenceBackend(), "for tests"))
    target, capture = Target(tiny_model("gemma2"), 3000, 300), Traced()
    target._forward = Graphed(target.runner, target.runner, Captures(capture, 1 << 30))
    filled(target, random_ids(50, 9))
    for _ in range(6):
        target.commit(target.verify(DraftTree.chain((1, 2, 3)), Taps()), (0, 1, 2))
    text = random_ids(REACH + 300 + TREE_SLOTS, 1)
    target.reuse(text)
    filled(target, text[:-600])
    filled(target, text[-600:])
    assert target._slots.first_sliding == 0  # just full
    assert target.reuse(text[:-290]) == len(text) - 290
    for _ in range(8):
        chain = DraftTree.chain(text[target.length : target.length + 3])
        target.commit(target.verify(chain, Taps()), (0, 1, 2))
    assert capture.num_replays > 8
    assert target.reuse(text) == len(text)
    logits = target.verify(DraftTree.root(5), Taps()).logits[0]
    assert relative(logits, teacher_forced("gemma2", (*text, 5))[-1]) <= REL_FP32


def test_a_conversation_about_a_document_never_reads_it_again() -> None:
    """Questions and long answers, from the end of the document on, and now and then a new chat."""
    target = target_of("gemma2")
    document = random_ids(300, 1)
    filled(target, (*document, 7, 7, 7))  # read ahead, with some question
    chat = document
    for number in range(6):
        prompt = (*chat, *random_ids(20, 10 + number))
        assert target.reuse(prompt[:-1]) == len(chat)
        filled(target, prompt[len(chat) : -1])
        answer = random_ids(150, 20 + number)
        filled(target, (prompt[-1], *answer))
        assert target.reuse(prompt[:-1]) == len(prompt) - 1  # the plain run to compare with
        filled(target, (prompt[-1], *answer))
        chat = document if number % 3 == 2 else (*prompt, *answer)


def test_the_end_of_a_document_that_was_named_outlives_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that grew by a file, asked about with answers of several moves, and read ahead of each question."""
    target = target_of("gemma2")
    one = random_ids(200, 1)
    filled(target, (*one, 5, 6))
    target.reuse((*one, 7, 8))
    document = (*one, *random_ids(100, 2))
    filled(target, (*document, 7)[target.reuse((*document, 7)) :])
    target.remember(len(document))
    chat = document
    for number in range(4):
        prompt = (*chat, *random_ids(5, 10 + number))
        filled(target, (*prompt, *random_ids(150, 20 + number))[target.reuse(prompt[:-1]) :])
        chat = target.token_ids
        filled(target, (*chat, 3, 3)[target.reuse((*chat, 3)) :])
    assert target.reuse((*document, 9, 9)) == len(document)


def test_a_place_that_was_lost_is_read_once_and_then_kept() -> None:
    target = target_of("gemma2")
    document = random_ids(300, 1)
    filled(target, (*document, *random_ids(400, 2)))  # an answer that nobody knew would come
    held = []
    for number in range(3):
        prompt = (*document, *random_ids(400, 3 + number))
        held.append(target.reuse(prompt))
        filled(target, prompt[held[-1] :])
    assert held == [0, 300, 300]


def test_rows_are_those_that_are_needed_and_can_be_brought_back() -> None:
    text = random_ids(300, 1)
    target, other = target_of("gemma2"), target_of("gemma2")
    rows = filled(target, text).rows(text)
    assert rows is not None
    assert {name: len(one[0]) for name, one in rows.items() if name.startswith("keys")} == {
        "keys.000": REACH, "keys.001": 300, "keys.002": REACH,
    }  # fmt: skip
    filled(other, random_ids(500, 2))
    for name, place in other.room(300).items():
        place.copy_(rows[name])
    other.filled(text)
    root = DraftTree.root(9)
    assert torch.equal(other.verify(root, Taps()).logits, target.verify(root, Taps()).logits)
    assert target.rows(text[:200]) is None


def test_the_memory_is_smaller() -> None:
    mixed, whole = target_of("cohere2"), Target(tiny_model("mistral-sliding"), CAPACITY, 16)
    num_slots, per_token = CAPACITY + TREE_SLOTS, 2 * 2 * 16 * 4
    assert mixed.cache_bytes == per_token * (num_slots + 3 * NUM_SLIDING)
    assert whole.cache_bytes == per_token * 3 * num_slots  # every layer has a window: the last is looked at as a whole


def test_a_multi_token_head_sees_the_same_rows_however_often_they_moved() -> None:
    model = tiny_lm("gemma4")
    text, logits = random_ids(LONG, 3), list[Tensor]()
    for slack in (4000, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target_module, "LEAST_SLACK", slack)
            target = Target(model, CAPACITY, 16)
        sight = MtpSight(mtp_head(model), target)
        *_, step = target.prefill(text, Taps(features=(sight.state_layer,)))
        assert step.features is not None
        assert (target._slots.first_sliding > 0) == (slack == 0)
        logits.append(sight.run(torch.tensor([4, 9]), step.features[-1:].expand(2, -1), LONG)[0])
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lm", "blend"])
def test_answers_are_plain_ones_and_files_hold_what_is_needed(kind: str, tmp_path: Path) -> None:
    """A document kept on disk, in a new process, behind an answer of several moves."""
    target = tiny_lm("gemma2")
    save_pair(tmp_path, target, tiny_lm(seed=3))
    preset = pair_preset(tmp_path, kind, context_length=1500, prefill_chunk=64)  # type: ignore[arg-type]
    prompt = tuple(token % 250 for token in random_ids(800, 4))
    store = PrefixStore(tmp_path / "kept", 1 << 30)
    found = []
    for number in range(2):
        engine = load_engine(preset, device="cpu").keeping_prefixes(store)
        ready, *_, finished = engine.generate(Request(prompt, SamplingParams(), StopRules(300)))
        assert isinstance(ready, PromptReady)
        assert isinstance(finished, Finished)
        found.append(finished.token_ids)
        assert ready.num_restored_tokens == (700 if number else 0)
        ready, *_ = engine.generate(Request((*prompt[:700], 5, 6), SamplingParams(), StopRules(5)))
        assert isinstance(ready, PromptReady)
        assert engine.keep_prefix(prompt[:700], "document")
    assert found[0] == found[1]
    plain = load_engine(preset, device="cpu", drafter="none")
    *_, finished = plain.generate(Request(prompt, SamplingParams(), StopRules(300)))
    assert isinstance(finished, Finished)
    assert finished.token_ids == found[0]


def test_what_cannot_be_kept_any_more_leaves_the_text_as_it_is(tmp_path: Path) -> None:
    """Rows before the end of the document went while an answer was written."""
    save_pair(tmp_path, tiny_lm("gemma2"), tiny_lm(seed=3))
    preset = pair_preset(tmp_path, "lookup", context_length=1500, prefill_chunk=64)
    engine = load_engine(preset, device="cpu").keeping_prefixes(PrefixStore(tmp_path / "kept", 1 << 30))
    prompt = tuple(token % 250 for token in random_ids(600, 4))
    list(engine.generate(Request(prompt, SamplingParams(), StopRules(500))))
    assert not engine.keep_prefix(prompt[:550], "document")
    ready, *_ = engine.generate(Request((*prompt, 5), SamplingParams(), StopRules(5)))
    assert isinstance(ready, PromptReady)
    assert ready.num_reused_tokens == 599


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["smollm3-sliding", "gemma2", "gemma4"])
def test_cuda_graphs_find_rows_that_moved(name: str) -> None:
    """Real captures, in half precision, behind a text that is much longer than the windows' memory."""
    model = tiny_model(name, dtype=torch.bfloat16).cuda()
    plain, target = (Target(model, CAPACITY, 16, number << 28) for number in (0, 1))
    trees = [random_tree(size, seed, 5) for seed, size in enumerate((1, 6, 7, 8, 1, 5, 8, 1, 6, 1, 7, 12, 1, 8) * 4)]
    taps = Taps(attention_row=True, features=LAYERS)
    prompt = random_ids(LONG, 2)
    first = filled(target, prompt)._slots.first_sliding
    for (logits, step), (true_logits, true_step) in zip(
        steps(target, prompt, trees, taps), steps(plain, prompt, trees, taps), strict=True
    ):
        assert relative(logits.float(), true_logits.float()) < 5e-2
        assert step.token_ids == true_step.token_ids
    assert target._slots.first_sliding > first > 0
    assert "3 captured passes" in target.passes_note, target.passes_note
