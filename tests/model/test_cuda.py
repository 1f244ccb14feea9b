"""What only a card can show: draft models' captured passes, the row for retrieval, how often a step waits."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spec_engine.cache.slots import SlotCache
from spec_engine.config import RetrievalConfig
from spec_engine.drafters.whole import whole_drafts
from spec_engine.model import head_products
from spec_engine.model.capture import Captures, CudaCapture
from spec_engine.model.fused import fused
from spec_engine.model.graphs import Graphed
from spec_engine.model.hf_attention import Pass
from spec_engine.model.target import NO_TAPS, Taps, Target
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from spec_engine.verify import accept
from tests.drafters.test_whole import EAGLE, VIEW, drive, with_features
from tests.eagle_heads import eagle3_weights, features_of, head_fields, write_head
from tests.eagle_reference import OFF, drafter, layers_of
from tests.fakes import tiny_lm
from tests.model.test_target import filled, random_tree, relative
from tests.tiny_models import random_ids, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
HALF = [torch.float16, torch.bfloat16]
NUM_STEPS = 6


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-sliding"])
def test_a_draft_models_captured_passes_equal_plain_ones(name: str, dtype: torch.dtype) -> None:
    """Levels of trees of several sizes behind texts that grow, through the joined weights."""
    runner = Target(tiny_model(name, dtype=dtype).cuda(), 400, 64).runner
    forward = fused(runner)
    capture = CudaCapture(runner.device)
    captured = Graphed(runner, forward, Captures(capture, 1 << 28))
    pairs = []
    for one in (forward, captured):
        slots = SlotCache(runner.shapes, 400)
        cache, logits = runner.bind(slots), list[Tensor]()
        runner.run(cache, Pass(runner.backend, 0, is_causal=True), random_ids(90, 1), torch.arange(90), last=1)
        slots.advance(90)
        for seed, size in enumerate((1, 6, 7, 8, 1, 5, 8, 1, 6, 1, 7, 40, 1, 8, 33, 50)):
            tree, offsets = random_tree(size, seed, 5), torch.tensor([0])
            current = Pass(runner.backend, slots.length)
            if size > 1:
                offsets = torch.tensor(tree.depths)
                current = Pass(runner.backend, slots.length, visible=tree.ancestor_mask(), offsets=offsets)
            logits.append(one.run(cache, current, tree.token_ids, offsets + slots.length).float().clone())
            slots.advance(1)
        pairs.append(logits)
    assert all(relative(got, want) < 5e-2 for want, got in zip(*pairs, strict=True))
    assert captured.note.startswith("3 captured passes"), captured.note


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_attention_row_is_that_of_its_definition(dtype: torch.dtype) -> None:
    target = filled(Target(tiny_model("llama", dtype=dtype).cuda(), 400, 64), random_ids(200, 1))
    outputs = target.verify(DraftTree.chain(random_ids(5, 2)), Taps(attention_row=True))
    assert outputs.tapped is not None
    query, scoring = outputs.tapped
    step = target.commit(outputs, (0, 1, 2))
    keys = target.last_rows()[0][0].double()
    rows = query[0, :, 2].double().reshape(keys.shape[0], -1, keys.shape[2])
    want = torch.softmax(rows @ keys.transpose(1, 2) * scoring.scale, dim=-1).mean(dim=(0, 1))
    assert step.attention_row is not None
    assert step.attention_row.dtype == torch.float32
    assert relative(step.attention_row.double(), want) < 1e-3


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("taps", [NO_TAPS, Taps(attention_row=True, features=(1, 2))], ids=["plain", "tapped"])
def test_a_step_of_the_target_waits_for_the_card_once(size: int, taps: Taps) -> None:
    """Where its tokens are read; the host may run ahead everywhere else."""
    target = filled(Target(tiny_model("llama", dtype=torch.bfloat16).cuda(), 400, 64, 1 << 28), random_ids(90, 1))

    def step(seed: int) -> None:
        tree = random_tree(size, seed, 5)
        outputs = target.verify(tree, taps)
        accepted = accept(tree, outputs.logits.argmax(dim=-1).tolist())
        target.commit(outputs, accepted.path if size == 1 else (0, size - 1))

    for seed in range(NUM_STEPS):  # a pass is captured at its third use
        step(seed)
    assert "1 captured passes" in target.passes_note
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for seed in range(NUM_STEPS):
                step(seed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told = [f"{one.filename}:{one.lineno} {one.message}" for one in caught if "synchroniz" in str(one.message)]
    assert len(told) == NUM_STEPS, told


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("retrieval", [OFF, VIEW], ids=["whole", "retrieval"])
def test_whole_drafts_of_a_head_are_captured_and_read_once(
    tmp_path: Path, retrieval: RetrievalConfig, dtype: torch.dtype
) -> None:
    """The likeliest nodes are those that the same head finds level by level."""
    model = tiny_lm("llama")
    folder, text = write_head(tmp_path, eagle3_weights(), head_fields()), random_ids(90, 4)
    features = features_of(model, text, layers_of("eagle3", model)).cuda().to(dtype)
    drafts = []
    for is_whole in (False, True):
        own = drafter(folder, tiny_lm("llama").to(dtype).cuda(), EAGLE, retrieval)
        if is_whole:
            whole = whole_drafts(EAGLE, torch.device("cuda"), 1 << 28)
            own._memory.capture(whole, may_round=False)
        drafts.append(drive(own.begin(SamplingParams()), text, with_features(text, features)))
    assert "captured passes" in whole.note
    assert "because" not in whole.note, whole.note
    for tree, want in zip(drafts[1], drafts[0], strict=True):
        assert tree.log_q[:3] == pytest.approx(want.log_q[:3], abs=0.1)


def test_drafts_in_8_bits_are_near_those_in_16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured, with the cuts that are tried last. The head is random, so rounding moves its drafts more than usual."""
    times = iter(0.9**number for number in range(1000))
    monkeypatch.setattr(head_products, "gpu_timer", lambda device: lambda work: next(times))
    model = tiny_lm("llama")
    folder, text = write_head(tmp_path, eagle3_weights(), head_fields()), random_ids(90, 4)
    features = features_of(model, text, layers_of("eagle3", model)).cuda().bfloat16()
    drafts = []
    for may_round in (False, True):
        own = drafter(folder, tiny_lm("llama").bfloat16().cuda(), EAGLE, VIEW)
        own._memory.capture(whole_drafts(EAGLE, torch.device("cuda"), 1 << 28), may_round=may_round)
        drafts.append(drive(own.begin(SamplingParams()), text, with_features(text, features)))
    assert own._memory.products_note.count("in 8 bits") == 2, own._memory.products_note
    assert "captured passes" in own._memory.whole.note
    for tree, want in zip(drafts[1], drafts[0], strict=True):
        assert tree.log_q[1] == pytest.approx(want.log_q[1], abs=0.5)
