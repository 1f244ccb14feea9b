"""Run by test_likeliest: the kernels of `model.likeliest_kernels` against the definition.

Arguments: a dtype, ``again`` (captured on the card), or ``tree``; then the device. Prints "ok".
"""

import sys
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.config import TreeConfig
from spec_engine.model.capture import CudaCapture
from spec_engine.model.likeliest import by_torch, faster, likeliest_for
from spec_engine.model.likeliest_kernels import MOST, likeliest
from spec_engine.tree_tensors import TensorGrower, growth_plan, own_rows, read_tree

SIZES = ((1, 1), (3, 2), (50, 50), (2048, 16), (2049, 17), (32000, 16), (32001, 50), (128256, 10), (262144, 1))
INF, NAN = float("inf"), float("nan")


def check(logits: Tensor, num: int) -> None:
    """The columns, the lower one first where logits are equal, and their log-probabilities by float64."""
    values, columns = likeliest(logits, num)
    wide = logits.float()
    order = wide.sort(dim=-1, descending=True, stable=True).indices
    assert columns.dtype == torch.int64
    assert torch.equal(columns, order[:, :num]), (logits.shape, num)
    want = wide.double().log_softmax(dim=-1).gather(1, columns)
    torch.testing.assert_close(values.double(), want, rtol=0.0, atol=2e-5, equal_nan=True)
    if num > 1:  # the same with another number: they are the first of more
        assert torch.equal(likeliest(logits, num - 1)[1], columns[:, : num - 1])


def check_sizes(dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for num_columns, num in SIZES:
        rows = torch.randn(3, num_columns + 8, generator=generator) * 4
        check(rows.to(device, dtype)[:, :num_columns], num)  # which lie apart
        check(rows.to(device, dtype)[:, 1 : num_columns + 1], num)  # and begin anywhere
    check(rows[:, :80].double().to(device), 5)
    check(rows.t()[:3, :2].to(device, dtype), 2)
    found, want = (
        likeliest(rows[:, :100].to(device, dtype), MOST + 1),
        by_torch(rows[:, :100].to(device, dtype), MOST + 1),
    )
    assert torch.equal(found[0], want[0])


def check_ties(dtype: torch.dtype, device: str) -> None:
    """Equal logits, two zeros, excluded tokens, more than are left."""
    generator = torch.Generator().manual_seed(1)
    for num_columns, num in product((40, 3000, 5000), (1, 10, 30)):
        check(torch.zeros(2, num_columns, dtype=dtype, device=device), num)
        few = torch.randint(0, 3, (4, num_columns), generator=generator).to(device, dtype)
        check(few, num)
        check(torch.where(few == 0, -0.0, 0.0).to(dtype), num)
        check(-few, num)
        check(few.masked_fill(few < 2, -INF), num)
        alone = torch.full((2, num_columns), -INF, dtype=dtype, device=device)
        alone[:, num_columns - 3] = -5.0
        check(alone, num)
    check(torch.tensor([[3.0, -60000.0, 60000.0, 0.0, -0.5]], dtype=dtype, device=device), 5)


def check_broken(dtype: torch.dtype, device: str) -> None:
    """Rows with a number that is none, an infinite one, or nothing at all: it ends, and no node comes of them."""
    rows = torch.randn(5, 3000, generator=torch.Generator().manual_seed(2)).to(device, dtype)
    rows[0, 7], rows[1, 2999], rows[2], rows[3] = NAN, INF, -INF, NAN
    values, columns = likeliest(rows, 9)
    want, _ = by_torch(rows, 9)
    assert values[:4].isnan().all()
    torch.testing.assert_close(values, want, rtol=0.0, atol=2e-5, equal_nan=True)
    assert all(len(set(row)) == 9 and min(row) >= 0 and max(row) < 3000 for row in columns.tolist())


def check_again(device: str) -> None:
    """Captured, with other logits at the same place; the same ones give the same bits."""
    logits = torch.empty(10, 32000, dtype=torch.float16, device=device)
    generator = torch.Generator().manual_seed(3)

    def fill() -> Tensor:
        return logits.copy_(torch.randn(logits.shape, generator=generator))

    fill()
    replay = CudaCapture(logits.device)(lambda: likeliest(logits, 10))
    for _ in range(3):
        fill()
        values, columns = (x.clone() for x in replay())
        check(logits, 10)
        for again in (replay(), likeliest(logits, 10)):
            assert torch.equal(again[0], values)
            assert torch.equal(again[1], columns)


def check_tree(device: str) -> None:
    """A whole tree grows as by torch."""
    assert likeliest_for(torch.device(device)) in (likeliest, by_torch)
    assert faster(likeliest, torch.device(device), None) is likeliest
    generator = torch.Generator().manual_seed(4)
    plan = growth_plan(TreeConfig(policy="opt", num_nodes=30, threshold=-1.0, max_depth=4), 99, 2500)
    rows = [torch.randn(max(number, 1), 2500, generator=generator).to(device) * 3 for number in (1, *plan.num_run)]
    trees = []
    for ways in (likeliest, by_torch):
        grower = TensorGrower(plan, None, own_rows(plan, torch.device(device)), ways)
        grower.start(rows[0])
        for row in rows[1 : plan.depth]:
            grower.extend(row)
        trees.append(read_tree(0, grower.finish().tolist()))
    assert trees[0].token_ids == trees[1].token_ids
    assert trees[0].parents == trees[1].parents
    assert max(abs(one - other) for one, other in zip(trees[0].log_q, trees[1].log_q, strict=True)) < 1e-4


if __name__ == "__main__":
    what, where = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cpu"
    if what == "tree":
        check_tree(where)
    elif what == "again":
        check_again(where)
    else:
        for part in (check_sizes, check_ties, check_broken):
            part(getattr(torch, what), where)
    print("ok")
