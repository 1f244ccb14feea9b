"""Captured passes: replayed with other numbers they must give what a plain pass gives."""

import weakref

import pytest
import torch
from torch import Tensor

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.attention.sdpa import CpuBackend
from spec_engine.cache.slots import SlotCache
from spec_engine.config import RetrievalConfig, TreeConfig
from spec_engine.drafters.lm import LMDrafter
from spec_engine.drafters.lm_memory import LMSettings
from spec_engine.model import runner as runner_module
from spec_engine.model.capture import Captures, Work
from spec_engine.model.fused import Fused, fused
from spec_engine.model.graphs import Graphed, graphed, why_not
from spec_engine.model.hf_attention import Pass
from spec_engine.model.runner import Runner
from spec_engine.model.target import Step, Taps, Target
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.model.test_target import filled, random_tree, relative
from tests.tiny_models import ALL_SERVED, VOCAB_SIZE, random_ids, tiny_model
from tests.traced import Traced

LAYERS = (1, 2)


@pytest.fixture(autouse=True)
def reference(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one backend for the CPU that takes its lengths from tensors."""
    if "gpu" in request.keywords:
        return
    monkeypatch.setattr(runner_module, "pick", lambda device, dtype: Pick(ReferenceBackend(), "for tests"))


def pair(name: str, *, may_join: bool = False) -> tuple[Target, Target, Traced]:
    """A plain target, and one whose passes are captured."""
    plain, other = (Target(tiny_model(name), 400, 64, may_join=may_join and number == 1) for number in range(2))
    capture, forward = Traced(), other._forward
    assert isinstance(forward, Fused if may_join else Runner)
    other._forward = Graphed(other.runner, forward, Captures(capture, 1 << 30))
    return plain, other, capture


def steps(target: Target, prompt: tuple[int, ...], trees: list[DraftTree], taps: Taps) -> list[tuple[Tensor, Step]]:
    """Verify one tree after the other and keep some path of each."""
    target.reset()
    filled(target, prompt)
    found = []
    for number, tree in enumerate(trees):
        outputs = target.verify(tree, taps)
        leaf = (7 * number) % len(tree)
        path: list[int] = tree.ancestor_mask()[leaf].nonzero().flatten().tolist()
        found.append((outputs.logits.clone(), target.commit(outputs, path)))
    return found


def assert_steps_equal(target: Target, found: list[tuple[Tensor, Step]], want: list[tuple[Tensor, Step]]) -> None:
    for (logits, step), (true_logits, true_step) in zip(found, want, strict=True):
        assert relative(logits, true_logits) < 3e-5
        assert step.token_ids == true_step.token_ids
        for name in ("attention_row", "features"):
            value, true = getattr(step, name), getattr(true_step, name)
            assert (value is None) == (true is None)
            assert value is None or (value.shape == true.shape and relative(value, true) < 3e-5)
    assert target.length > 0


@pytest.mark.parametrize(
    ("name", "may_join"),
    [*((name, False) for name in ALL_SERVED), *((name, True) for name in ("qwen3", "mistral-sliding", "smollm3"))],
)
def test_a_replay_equals_a_plain_pass_at_every_length(name: str, may_join: bool) -> None:
    """Trees of other sizes and forms, behind texts that grow beyond the models' windows of 40 tokens."""
    plain, target, capture = pair(name, may_join=may_join)
    taps = Taps(attention_row=True, features=LAYERS)
    trees = [random_tree(size, seed, 5) for seed, size in enumerate((1, 6, 7, 8, 1, 5, 8, 1, 6, 1, 7, 12, 1, 8))]
    for prompt in (random_ids(9, 1), random_ids(90, 2)):
        found = steps(target, prompt, trees, taps)
        assert_steps_equal(target, found, steps(plain, prompt, trees, taps))
    assert capture.num_captures == 2
    assert capture.num_replays > len(trees)


def test_a_replay_leaves_what_lies_behind_its_rows() -> None:
    """Padded rows write to the last slot: text that was cut can still be taken up again behind an accepted tree."""
    plain, target, capture = pair("llama")
    text = random_ids(60, 3)
    for one in (plain, target):
        for _ in range(4):
            filled_anew(one, text)
            one.truncate(40)
            tree = DraftTree.chain(text[40:43])
            one.commit(one.verify(tree, Taps()), (0, 1, 2))
            assert one.reuse(text) == 60
    assert capture.num_replays > 1
    assert relative(target.last_rows()[0], plain.last_rows()[0]) < 3e-5


def filled_anew(target: Target, text: tuple[int, ...]) -> None:
    target.reset()
    filled(target, text)


def test_features_outlive_the_next_replay() -> None:
    _, target, capture = pair("llama")
    filled(target, random_ids(20, 1))
    kept = []
    for token in random_ids(8, 2):
        step = target.commit(target.verify(DraftTree.root(token), Taps(features=LAYERS)), (0,))
        assert step.features is not None
        kept.append((step.features, step.features.clone()))
    assert capture.num_replays > 3
    assert all(torch.equal(now, then) for now, then in kept)


def test_a_nearly_full_cache_is_served_plainly() -> None:
    """Where the padded columns of a graph would reach beyond its memory."""
    runner = Target(tiny_model("llama"), 100, 64).runner
    forward = Graphed(runner, runner, Captures(capture := Traced(), 1 << 30))
    tree = random_tree(20, 1, 5)
    for num_slots, num_captures in ((48, 0), (53, 1)):
        slots = SlotCache(runner.shapes, num_slots)
        cache = runner.bind(slots)
        chunk = random_ids(20, 1)
        runner.run(cache, Pass(runner.backend, 0, is_causal=True), chunk, torch.arange(20))
        slots.advance(20)
        offsets = torch.tensor(tree.depths)
        logits = []
        for one in (runner, forward, forward, forward, forward):
            current = Pass(runner.backend, 20, visible=tree.ancestor_mask(), offsets=offsets)
            logits.append(one.run(cache, current, tree.token_ids, offsets + 20))
        assert all(relative(other, logits[0]) < 3e-5 for other in logits[1:])
        assert capture.num_captures == num_captures


def plain_and(capture: Traced, num_bytes: int = 1 << 30) -> tuple[Target, Graphed, list[Tensor]]:
    """A target with this capture after eight single tokens; the logits that it gave."""
    target = Target(tiny_model("llama"), 100, 64)
    forward = Graphed(target.runner, target.runner, Captures(capture, num_bytes))
    target._forward = forward
    filled(target, random_ids(10, 1))
    logits = []
    for token in random_ids(8, 2):
        outputs = target.verify(DraftTree.root(token), Taps())
        logits.append(outputs.logits.clone())
        target.commit(outputs, (0,))
    return target, forward, logits


def test_what_cannot_be_captured_runs_plainly_and_says_why() -> None:
    _, forward, logits = plain_and(Traced(error="operation not permitted when stream is capturing\nand more"))
    assert forward.note == (
        "0 captured passes, 0 MiB; no more, because capturing failed: operation not permitted when stream is capturing"
    )
    _, _, want = plain_and(Traced())
    assert all(relative(one, other) < 3e-5 for one, other in zip(logits, want, strict=True))


class Wrong(Traced):
    """A capture whose replays are off."""

    def __call__(self, work: Work) -> Work:
        replay = super().__call__(work)

        def off() -> tuple[Tensor, ...]:
            logits, *others = replay()
            return logits.flip(-1), *others

        return off


def test_a_graph_that_gives_other_logits_is_not_used() -> None:
    capture = Wrong()
    _, forward, logits = plain_and(capture)
    assert forward.note.endswith("a captured pass gave other numbers than the same pass run plainly")
    assert capture.num_replays == 1
    _, _, want = plain_and(Traced())
    assert all(relative(one, other) < 3e-5 for one, other in zip(logits, want, strict=True))


def test_no_more_is_captured_than_the_memory_allows() -> None:
    target, forward, _ = plain_and(capture := Traced(num_bytes_each=3 << 20), num_bytes=2 << 20)
    for _ in range(6):
        target.verify(DraftTree.chain((1, 2, 3)), Taps())
    assert capture.num_captures == 1
    assert forward.note == "1 captured passes, 3 MiB; no more, because they would take more than 2 MiB"


def test_without_a_gpu_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Target(tiny_model("llama"), 100, 64).runner
    assert graphed(runner, runner, 1 << 30) is runner
    assert why_not(runner) == "there are none on a device of type 'cpu'"
    monkeypatch.setattr(runner, "device", torch.device("cuda"))
    assert why_not(runner) == ""
    monkeypatch.setattr(runner.model, "hf_device_map", {"model.layers.0": 0, "model.layers.1": "cpu"}, raising=False)
    assert why_not(runner) == "the model is spread over several devices"
    monkeypatch.setattr(runner, "backend", CpuBackend())
    assert why_not(runner) == "the attention backend 'torch-cpu-flash' needs lengths on the host"


@pytest.mark.parametrize("has_retrieval", [False, True])
def test_a_draft_model_grows_the_same_trees(has_retrieval: bool) -> None:
    """Its levels see rows of earlier levels, its view moves, and several accepted tokens are run at once."""
    retrieval = RetrievalConfig(enabled=has_retrieval, chunk_size=4, top_k=4, num_sink=4, num_recent=8)
    tree = TreeConfig(num_nodes=12, max_depth=4)
    found = []
    for capture in (None, Traced()):
        drafter = LMDrafter(tiny_model("llama"), LMSettings(200, VOCAB_SIZE, tree, retrieval))
        memory = drafter.memories[0]
        if capture is not None:
            runner = memory._runner  # type: ignore[attr-defined]
            memory._forward = Graphed(runner, memory._forward, Captures(capture, 1 << 30))  # type: ignore[attr-defined]
        session = drafter.begin(SamplingParams())
        prompt, text = random_ids(50, 1), random_ids(60, 2)
        session.observe(Step(prompt, len(prompt), is_prompt=True))
        trees = []
        num_done = len(prompt)
        while num_done < len(prompt) + len(text) - 3:
            accepted = text[num_done - len(prompt) :][: 1 + len(trees) % 3]
            trees.append(session.propose(accepted[0], 12))
            num_done += len(accepted)
            session.observe(Step(accepted, num_done))
        found.append(trees)
        assert capture is None or capture.num_replays > 15
    assert [one.token_ids for one in found[0]] == [one.token_ids for one in found[1]]
    assert [one.parents for one in found[0]] == [one.parents for one in found[1]]


def test_rotary_tables_that_a_capture_reads_stay_when_they_are_outgrown() -> None:
    """A graph knows addresses, not names: memory that it reads must not be given away."""
    runner = Target(tiny_model("llama"), 100, 64).runner
    forward = fused(runner)
    assert isinstance(forward, Fused)
    tables = []
    for num_slots in (500, 600):  # longer than those of the first check
        cache = runner.bind(SlotCache(runner.shapes, num_slots))
        forward.run(cache, Pass(runner.backend, 0), [5], torch.zeros(1, dtype=torch.int64))
        tables.append(weakref.ref(forward._cos))
    assert tables[0]() is not tables[1]()
    assert tables[0]() is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-sliding", "gemma2", "gpt_oss", "mixtral"])
def test_cuda_graphs_equal_plain_passes_on_the_card(name: str, dtype: torch.dtype) -> None:
    """Real captures; a model that cannot be captured must say so and give the same."""
    plain, target = (Target(tiny_model(name, dtype=dtype).cuda(), 400, 64, number << 28) for number in (0, 1))
    trees = [random_tree(size, seed, 5) for seed, size in enumerate((1, 6, 7, 8, 1, 5, 8, 1, 6, 1, 7, 12, 1, 8))]
    taps = Taps(attention_row=True, features=LAYERS)
    for prompt in (random_ids(9, 1), random_ids(90, 2)):
        pairs = zip(steps(target, prompt, trees, taps), steps(plain, prompt, trees, taps), strict=True)
        for (logits, step), (true_logits, true_step) in pairs:
            assert relative(logits.float(), true_logits.float()) < 5e-2
            assert step.token_ids == true_step.token_ids
    note = target.passes_note
    assert "2 captured passes" in note or "because" in note
    waits = name == "mixtral" or (name, dtype) == ("gpt_oss", torch.float16)  # torch's grouped products but in bfloat16
    assert "2 captured passes" in note or waits, note
