"""Run by test_kernels: the kernels of `model.kernels` against torch's operators, and whole captured passes
and drafts with them.

Arguments: a dtype, ``passes`` or ``drafts``; then the device. Prints "ok".
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.drafters import eagle_memory
from spec_engine.drafters.whole import WholeDrafts
from spec_engine.model import kernels
from spec_engine.model import runner as runner_module
from spec_engine.model.capture import Captures
from spec_engine.model.fused import Fused
from spec_engine.model.graphs import Graphed
from spec_engine.model.head_products import join_products
from spec_engine.model.likeliest_kernels import likeliest
from spec_engine.model.target import Taps, Target
from spec_engine.tree import DraftTree
from tests.drafters.test_whole import (
    DRAWN,
    EAGLE,
    GREEDY,
    OPT,
    VIEW,
    assert_same,
    drive,
    eagle_pair,
    longspec_pair,
    with_features,
)
from tests.eagle_heads import features_of, head_fields, write_head
from tests.eagle_reference import OFF, layers_of, weights_of
from tests.fakes import tiny_lm
from tests.tiny_models import random_ids, tiny_model

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def near(found: Tensor, want: Tensor) -> None:
    limit = TOLERANCE[found.dtype] * max(float(want.abs().max()), 1.0)
    assert float((found.double() - want.double()).abs().max()) <= limit, (found.shape, limit)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """By the definition, the sine without a sign."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def check_kernels(dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    grid = [(4, 2, 64), (2, 2, 16), (8, 1, 96), (3, 3, 128)]
    for number, (num, num_kv, size) in enumerate(grid):
        for num_rows in (1, 3, 16, 70):
            mixed = random(num_rows, (num + 2 * num_kv) * size + 8)[:, :-8]  # rows may lie apart
            num_angles = 1 if num_rows == 16 else num_rows  # one position for all rows, as in a level of a tree
            angles = torch.rand(num_angles, size // 2, generator=generator).repeat(1, 2) * 6
            cos, sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
            signed = torch.cat((-sin[:, : size // 2], sin[:, size // 2 :]), dim=-1).contiguous()
            norms = random(2, size) if (num_rows + number) % 2 else None
            is_turned = num_rows != 3
            memory = random(1, num_kv, 80, size), random(1, num_kv, 80, size)
            before = [x.clone() for x in memory]
            slots = torch.randperm(80, generator=generator)[:num_rows].to(device)
            turn = kernels.Turn(cos if is_turned else None, signed if is_turned else None, norms, 1e-5)
            query = kernels.turn_and_put(mixed, kernels.Heads(num, num_kv, size), turn, slots, memory)
            rows = mixed.double().view(num_rows, -1, size).transpose(0, 1)
            q, k, v = rows.split([num, num_kv, num_kv])
            if norms is not None:
                q, k = (
                    x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * norms[i].double()
                    for i, x in enumerate((q, k))
                )
            if is_turned:
                q, k = turned(q, cos.double(), sin.double()), turned(k, cos.double(), sin.double())
            near(query[0], q)
            for store, old, new in zip(memory, before, (k, v), strict=True):
                near(store[0][:, slots], new)
                others = [slot for slot in range(80) if slot not in slots.tolist()]
                assert torch.equal(store[0][:, others], old[0][:, others])
            both = random(num_rows, 2 * 1200 + 8)[:, :-8]
            gate, up = both.double().chunk(2, -1)
            near(kernels.gate(both), torch.nn.functional.silu(gate) * up)


class Again:
    """A capture that runs the work again: the kernels of a replay, with the numbers that lie in memory by then."""

    num_bytes = 0

    def __call__(self, work):  # type: ignore[no-untyped-def]
        return work


def check_passes() -> None:
    """Passes of ordinary models whose padded rows go through the kernels give what transformers' forward gives."""
    runner_module.pick = lambda device, dtype: Pick(ReferenceBackend(), "for tests")  # type: ignore[assignment]
    for name in ("llama", "qwen2", "qwen3", "mistral-sliding", "smollm3"):
        plain, target = Target(tiny_model(name), 200, 64), Target(tiny_model(name), 200, 64, may_join=True)
        assert isinstance(target._forward, Fused)
        forward = Graphed(target.runner, target._forward, Captures(Again(), 1 << 30))
        target._forward = forward
        for one in (plain, target):
            for _ in one.prefill(random_ids(60, 1)):
                pass
        tree = DraftTree((3, 4, 5, 6, 7), (-1, 0, 0, 1, 3), (0, 1, 1, 2, 3), (0.0, -1.0, -1.0, -2.0, -3.0))
        num_layers = int(plain.model.config.num_hidden_layers)
        taps = Taps(attention_row=True, features=(0, num_layers - 1, num_layers))
        for step in range(7):
            found, want = (one.verify(tree, taps) for one in (target, plain))
            near(found.logits, want.logits)
            kept, true = target.commit(found, (0, 1, 3)), plain.commit(want, (0, 1, 3))
            assert step < 3 or "1 captured" in forward.note, forward.note
            for value, other in ((kept.attention_row, true.attention_row), (kept.features, true.features)):
                assert value is not None
                assert other is not None
                near(value, other)


def check_drafts() -> None:
    """Whole drafts of heads whose rows go through the kernels are those that they make level by level."""
    for module in (eagle_memory, runner_module):
        module.pick = lambda device, dtype: Pick(ReferenceBackend(), "for tests")  # type: ignore[assignment]
    ways = (EAGLE, "eagle3", VIEW, DRAWN), (OPT, "eagle1", OFF, GREEDY)
    for tree, kind, retrieval, sampling in ways:
        model = tiny_lm("llama")
        text = random_ids(64, 4)
        features = features_of(model, text, layers_of(kind, model)).double()
        with TemporaryDirectory() as folder:
            head = write_head(Path(folder), weights_of(kind, model), head_fields())
            plain, other, _ = eagle_pair(head, tree, retrieval)
        other._memory.capture(WholeDrafts(tree, Captures(Again(), 1 << 30), likeliest), may_round=False)
        steps = with_features(text, features)
        want, found = (drive(one.begin(sampling), text, steps) for one in (plain, other))
        works = other._memory._works.values()
        assert works, "nothing was drafted as a whole"
        assert all(work._kernels is kernels for work in works)
        # Our kernels round to float32; a random head without a norm at its beginning makes more of that at each level.
        assert_same(found, want, 1e-5 if kind == "eagle3" else 2e-2)
        assert "captured" in other._memory.whole.note, other._memory.whole.note
    text, trees = random_ids(64, 4), []
    for number, (target, own) in enumerate(longspec_pair(EAGLE, 24, True)[:2]):
        join_products(own._memory._head.requires_grad_(False))
        if number == 1:
            own._memory.capture(WholeDrafts(EAGLE, Captures(Again(), 1 << 30), likeliest), may_round=False)
        steps = lambda start, end, target=target: target.prefill(text[start:end])  # type: ignore[misc]  # noqa: E731
        trees.append(drive(own.begin(DRAWN), text, steps))
    assert own._memory._head.mlp._gated._products._gate is kernels.gate
    assert_same(*trees)


if __name__ == "__main__":
    if sys.argv[1] == "passes":
        check_passes()
    elif sys.argv[1] == "drafts":
        check_drafts()
    else:
        check_kernels(getattr(torch, sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cpu")
    print("ok")
