"""Run by test_streamed: the kernels of `model.streamed` against float64, and whole passes that go through them.

Arguments: a dtype, a device and, on a card, where every size is compiled for itself, the number of one; or ``passes``
or ``heads``; on a card also ``chain`` and ``card``. Prints "ok".
"""

import sys
from dataclasses import replace
from itertools import count, cycle, product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.drafters import eagle_memory, eagle_work
from spec_engine.drafters.eagle_memory import EagleMemory
from spec_engine.drafters.longspec_memory import LongSpecMemory
from spec_engine.drafters.whole import WholeDrafts
from spec_engine.model import fused as fused_module
from spec_engine.model import head_products
from spec_engine.model import products as products_module
from spec_engine.model import runner as runner_module
from spec_engine.model.block_products import Around, ChosenProducts, Cut
from spec_engine.model.capture import Captures, CudaCapture, Work
from spec_engine.model.contest import Timer, narrow_cuts, usual_cuts
from spec_engine.model.fused import Fused
from spec_engine.model.head_products import DraftOutput, join_products
from spec_engine.model.narrow import narrowed
from spec_engine.model.products import Matrix
from spec_engine.model.streamed import product as streamed
from spec_engine.model.target import Taps, Target
from spec_engine.tree import DraftTree
from tests.drafters.test_whole import EAGLE, GREEDY, VIEW, drive, eagle_pair, longspec_pair, with_features
from tests.eagle_heads import features_of, head_fields, write_head
from tests.eagle_reference import layers_of, weights_of
from tests.fakes import tiny_lm
from tests.model.kernels_grid import Again
from tests.tiny_models import random_ids, tiny_model

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
EPS = 1e-5
SECONDS = cycle((2.0, 1.0, 1.5, 1.5, 2.0, 1.0, 2.0, 1.0))  # torch, three cuts of ours, and the best twice again
FASTER = iter(range(10**6, 0, -1))  # what is tried later is faster: the last cut, an early one on Hopper
SIZES = [(256, 128), (200, 72), (96, 33), (1024, 48)]  # columns in and out
CARD_SIZES = [*SIZES, (4096, 6144), (14336, 4096)]
SMALL = Cut(16, 64, 4, 2), Cut(32, 32, 2, 3)  # so that several blocks are read


def near(found: Tensor, want: Tensor) -> None:
    assert found.shape == want.shape
    assert torch.isfinite(found).all()
    limit = TOLERANCE[found.dtype] * float(want.norm())
    assert float((found.double() - want).norm()) <= limit, (found.shape, float((found.double() - want).norm()) / limit)


def check_kernels(sizes: list[tuple[int, int]], dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    for (num_in, num_out), num_rows in product(sizes, (1, 2, 5, 16)):
        apart = 8 if num_in <= 1024 else 16  # rows may; of large ones so that they are aligned, as a model's are
        x = 3 * random(num_rows, num_in + apart)[:, :-apart]
        matrix, bias, norm, base = (
            random(num_out, num_in) / 8,
            random(num_out),
            random(num_in),
            random(num_rows, num_out),
        )
        wide = x.double()
        normed = wide * (wide.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * norm.double()
        true = matrix.double().t()
        gates, ups = matrix[: num_out // 2].double().t(), matrix[num_out // 2 : num_out // 2 * 2].double().t()
        both = matrix[: num_out // 2 * 2].t()
        for cut in (*SMALL, *usual_cuts(num_rows, x.device)):  # on Hopper early ones too
            near(streamed(x, matrix.t(), None, Around(), cut), wide @ true)
            near(streamed(x, matrix.t(), bias, Around(norm, EPS), cut), normed @ true + bias.double())
            near(streamed(x, matrix.t(), None, Around(base=base), cut), wide @ true + base.double())
            near(streamed(x, both, None, Around(norm, EPS, is_gated=True), cut), silu(normed @ gates) * (normed @ ups))
        check_narrow(matrix, x, (bias, norm, base))


def check_narrow(matrix: Tensor, x: Tensor, around: tuple[Tensor, Tensor, Tensor]) -> None:
    """The same by matrices of 8 bits, against what these say exactly."""
    (bias, norm, base), wide, narrow = around, x.double(), narrowed(matrix.t())
    normed = wide * (wide.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * norm.double()
    true, half = narrow.widened(torch.float64), len(matrix) // 2
    both = narrowed(matrix[: 2 * half].t())
    gates, ups = both.widened(torch.float64).split(half, 1)
    cuts = narrow_cuts(len(x), x.device) if x.device.type == "cuda" else SMALL
    for cut in cuts:
        how = Around(norm, EPS, scales=narrow.scales)
        near(streamed(x, narrow.weight, bias, how, cut), normed @ true + bias.double())
        near(streamed(x, narrow.weight, None, Around(scales=narrow.scales), cut), wide @ true)
        near(
            streamed(x, narrow.weight, None, Around(base=base, scales=narrow.scales), cut), wide @ true + base.double()
        )
        how = Around(is_gated=True, scales=both.scales)
        near(streamed(x, both.weight, None, how, cut), silu(wide @ gates) * (wide @ ups))


def as_on_a_gpu(*, has_others: bool = True) -> None:
    """Matrices lie in memory as they do there, and attention is by the definition; without our other kernels, which
    take long here, if wanted."""
    for module in (fused_module, eagle_work) if not has_others else ():
        module.kernels_for = lambda device, dtype, heads: None  # type: ignore[assignment]
    for module in (runner_module, eagle_memory):
        module.pick = lambda device, dtype: Pick(ReferenceBackend(), "for tests")  # type: ignore[assignment]
    large = Cut(128, 64, 4, 2, is_narrow=True)  # as programs take long here
    fused_module.all_cuts = lambda num_rows, device: (large,)  # type: ignore[assignment]
    head_products.narrow_cuts = fused_module.all_cuts
    for module in (fused_module, head_products):
        module.packs = lambda device, dtype: False  # type: ignore[assignment]
    products_module.gains_by_columns = lambda weight: False  # type: ignore[assignment]


def check_passes() -> None:
    """Passes of ordinary models through our kernels give what transformers' forward gives."""
    streamed(torch.ones(1, 64), torch.ones(32, 64).t(), None, Around(), SMALL[0])  # what cannot run is not chosen below
    as_on_a_gpu()
    for name in ("llama", "qwen2", "qwen3"):
        plain, target = Target(tiny_model(name), 200, 64), Target(tiny_model(name), 200, 64, may_join=True)
        forward = target.weights[1]
        assert isinstance(forward, Fused)
        forward.choose_products(lambda work: next(SECONDS))
        assert isinstance(forward._products, ChosenProducts)
        assert len(forward._products._cuts) == 10, "five forms, with one row and with more"
        assert "5 of 5 forms with 1 row, 2.00 to 2.00 times as fast" in target.passes_note
        for one in (plain, target):
            for _ in one.prefill(random_ids(60, 1)):
                pass
        last = int(plain.model.config.num_hidden_layers)
        taps = Taps(attention_row=True, features=(0, last))
        for tree in (DraftTree.root(3), DraftTree((3, 4, 5, 6), (-1, 0, 0, 1), (0, 1, 1, 2), (0.0, -1.0, -1.0, -2.0))):
            found, want = (one.verify(tree, taps) for one in (target, plain))
            near(found.logits, want.logits.double())
            kept, true = target.commit(found, (0,)), plain.commit(want, (0,))
            assert kept.features is not None
            assert true.features is not None
            near(kept.features, true.features.double())


def last_wins() -> Timer:
    """A timer to which whatever is tried later is faster: the last cut of a draft, which has 8 bits."""
    times = (0.9**number for number in count())
    return lambda work: next(times)


def rounded(weight: Tensor) -> Tensor:
    """[out, in] as 8 bits have it."""
    return narrowed(weight.t()).widened(weight.dtype).t()


def check_draft_models() -> None:
    """Passes of a draft model that was rounded are those of its rounded weights, and its modules hold nothing else."""
    as_on_a_gpu(has_others=False)
    for is_tied in (False, True):
        made = [tiny_model("llama", tie_word_embeddings=is_tied) for _ in range(2)]
        for module in made[0].modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(rounded(module.weight), requires_grad=False)
        plain, draft = (Target(model, 300, 100, may_join=bool(number)) for number, model in enumerate(made))
        forward = draft.weights[1]
        assert isinstance(forward, Fused)
        forward.choose_products(last_wins(), draft.model)
        assert forward.note.count("5 of 5 forms with") == forward.note.count("(5 in 8 bits)") == 2, forward.note
        held = [name for name, _ in draft.model.named_parameters() if "proj" in name or "lm_head" in name]
        assert held == [], "what is tied goes by the embedding's name"
        assert (forward._head._weight is not None) == is_tied
        for one in (plain, draft):
            for _ in one.prefill(random_ids(160, 1)):  # 100 rows, which are multiplied in 16 bits, and 60
                pass
        wide = DraftTree(tuple(range(3, 24)), (-1, *[0] * 20), (0, *[1] * 20), (0.0, *[-1.0] * 20))
        for tree in (DraftTree.root(3), wide.first(4), *(() if is_tied else (wide,))):  # the embedding has 16 bits too
            near(draft.verify(tree, Taps()).logits, plain.verify(tree, Taps()).logits.double())


def round_head(head: nn.Module) -> None:
    """Give the matrices of a joined head the numbers that 8 bits have, in its own dtype."""
    for joined in head_products._joined(head):
        joined._matrix = Matrix(rounded(joined.held.weight.t()).t(), joined.held.bias)


def round_whole(memory: EagleMemory | LongSpecMemory) -> None:
    """Let drafts be captured, and the last cut win the contest before."""
    head_products.gpu_timer = lambda device: last_wins()  # type: ignore[assignment]
    memory.capture(WholeDrafts(EAGLE, Captures(Again(), 1 << 30)), may_round=True)
    head_products.gpu_timer = lambda device: None  # type: ignore[assignment]


@torch.inference_mode()
def check_heads() -> None:
    """Draft heads that were rounded give what their rounded weights give, hold nothing else, and draft."""
    as_on_a_gpu(has_others=False)
    model, text = tiny_lm("llama"), random_ids(58, 4)
    for kind in ("eagle3", "eagle1"):
        with TemporaryDirectory() as folder:
            path = write_head(Path(folder), weights_of(kind, model), head_fields())
            plain, draft, _ = eagle_pair(path, EAGLE, VIEW)
        round_whole(draft._memory)
        memories = plain._memory, draft._memory
        assert memories[1].products_note.count("in 8 bits") == 2, memories[1].products_note
        round_head(memories[0]._head)
        for num_rows in (1, 20, 80):
            generator = torch.Generator().manual_seed(num_rows)
            rows = [torch.randn(1, num_rows, 64, generator=generator).double() for _ in range(2)]
            states = [memory._head(*rows, torch.arange(num_rows)) for memory in memories]
            near(states[1].float(), states[0])
            output = memories[0]._fitted.output
            if output is not None and num_rows <= 16:  # the target's, a copy of which is rounded for few rows
                output = DraftOutput(rounded(memories[0]._fitted.output_weight))
            near(memories[1].logits(states[0][0]).float(), memories[0]._head.logits(states[0][0], output))
        features = features_of(model, text, layers_of(kind, model)).double()
        assert all(len(tree) > 5 for tree in drive(draft.begin(GREEDY), text, with_features(text, features)))
    (_, plain_one), (target, own), _ = longspec_pair(EAGLE, 24, True)
    heads = [one._memory._head for one in (plain_one, own)]
    for head in heads:
        join_products(head.requires_grad_(False))
    round_whole(own._memory)
    assert all(weight.numel() == 0 for name, weight in heads[1].named_parameters() if "_proj.weight" in name)
    round_head(heads[0])
    rows, positions = torch.randn(1, 20, 64).double(), torch.arange(20)
    keys = torch.randn(2, 1, 2, 20, 16).double()
    near(heads[1](rows, positions, *keys).float(), heads[0](rows, positions, *keys))
    trees = drive(own.begin(GREEDY), text, lambda start, end: target.prefill(text[start:end]))
    assert all(len(tree) > 5 for tree in trees)


@torch.inference_mode()
def check_chain() -> None:
    """Products that need one another, captured and replayed often: kernels that begin early give the same bits as those
    that wait for their turn."""
    device, generator = torch.device("cuda"), torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

    hidden, inner, layers = 2048, 5120, 6
    shapes = {"mix": (hidden, hidden), "out": (hidden, hidden), "both": (2 * inner, hidden), "down": (hidden, inner)}
    weights = [{name: random(*shape) / shape[1] ** 0.5 for name, shape in shapes.items()} for _ in range(layers)]
    norm = torch.ones(hidden, dtype=torch.bfloat16, device=device)

    def run(x: Tensor, cut: Cut) -> Tensor:
        for layer in weights:
            mixed = streamed(x, layer["mix"].t(), None, Around(norm, EPS), cut)
            x = streamed(mixed, layer["out"].t(), None, Around(base=x), cut)
            inside = streamed(x, layer["both"].t(), None, Around(norm, EPS, is_gated=True), cut)
            x = streamed(inside, layer["down"].t(), None, Around(base=x), cut)
        return x

    def work(x: Tensor, cut: Cut) -> Work:
        return lambda: (run(x, cut),)

    for num_rows in (1, 5, 16):
        x = random(num_rows, hidden)
        for cut in usual_cuts(num_rows, device):
            if not cut.is_early:
                continue
            want = run(x, replace(cut, is_early=False)).clone()
            replay = CudaCapture(device, is_brief=True)(work(x, cut))
            for _ in range(200):
                (found,) = replay()
                assert torch.equal(found, want), (num_rows, cut)


def check_passes_on_the_card() -> None:
    """Captured passes through our products, behind the real attention, give what transformers' modules give."""
    for name in ("llama", "qwen2", "qwen3"):
        plain, target = (
            Target(tiny_model(name, dtype=torch.bfloat16).cuda(), 200, 64, 1 << 28, may_join=joins)
            for joins in (False, True)
        )
        forward = target.weights[1]
        assert isinstance(forward, Fused)
        forward.choose_products(lambda work: float(next(FASTER)))
        assert isinstance(forward._products, ChosenProducts)
        for one in (plain, target):
            for _ in one.prefill(random_ids(60, 1)):
                pass
        tree = DraftTree((3, 4, 5, 6), (-1, 0, 0, 1), (0, 1, 1, 2), (0.0, -1.0, -1.0, -2.0))
        for size in (DraftTree.root(3), tree) * 6:  # a pass is captured at its third use
            found, want = (one.verify(size, Taps()).logits.float() for one in (target, plain))
            assert float((found - want).norm()) <= 5e-2 * float(want.norm())


if __name__ == "__main__":
    if sys.argv[1] == "passes":
        check_passes()
    elif sys.argv[1] == "heads":
        check_draft_models()
        check_heads()
    elif sys.argv[1] == "chain":
        check_chain()
    elif sys.argv[1] == "card":
        check_passes_on_the_card()
    else:
        chosen = slice(int(sys.argv[3]), int(sys.argv[3]) + 1) if len(sys.argv) > 3 else slice(len(SIZES))
        check_kernels(CARD_SIZES[chosen], getattr(torch, sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cpu")
    print("ok")
