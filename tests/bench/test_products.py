"""The sweep over products: which cuts are tried for how long, and what is told of them."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

pytest.importorskip("triton")

from spec_engine.bench import products
from spec_engine.bench.products import product_line, sweep_products, uses_of
from spec_engine.model import streamed
from spec_engine.model.block_products import Around, Cut
from spec_engine.model.contest import ONE_ROW

HERE = torch.float32, torch.device("cpu")


def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, around: Around, cut: Cut) -> Tensor:
    """What our kernels give."""
    if around.norm is not None:
        x = torch.rms_norm(x, around.norm.shape, around.norm, around.eps)
    out = x @ (weight if around.scales is None else weight * around.scales)
    if around.is_gated:
        gate, up = out.chunk(2, -1)
        return silu(gate) * up
    return out if around.base is None else out + around.base


def test_products_of_a_published_size() -> None:
    """Llama-3.1-8B: 32 and 8 heads of 128, 14,336 inner columns. Sizes by its configuration, on no device."""
    uses = uses_of("Llama-3.1-8B-Instruct", (torch.bfloat16, torch.device("meta")))
    forms = [use.form(1)[:3] for use in uses]
    assert forms == [
        ("normed", 4096, 6144), ("added", 4096, 4096), ("gated", 4096, 28672), ("added", 14336, 4096),
        ("normed", 4096, 128256),
    ]  # fmt: skip
    assert [len(use.members) for use in uses] == [8, 8, 8, 8, 1]


def test_each_product_names_its_fastest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "product", by_torch)
    seconds = iter(range(10**6, 0, -1))  # what comes later is faster
    told: list[str] = []
    found = sweep_products("tiny", HERE, 1000.0, lambda work: float(next(seconds)), told.append)
    assert len(told) == 10, "five products, with 1 and with 16 rows"
    ways = {(row.kind, row.num_in, row.num_out, row.num_rows): 0 for row in found}
    for row in found:
        ways[row.kind, row.num_in, row.num_out, row.num_rows] += 1
    assert sorted(set(ways.values())) == [1 + 6 + 46, 1 + 6 + 53], "cuBLAS, those that a draft tries, others"
    last = found[-1]
    assert f"{last.kind} {last.num_in} x {last.num_out}, 16 rows: {last.cut}" in product_line(found)
    assert json.loads(json.dumps(last.values()))["cut"].startswith("Cut(outs=")


def test_it_ends_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a draft tries is tried anyhow."""
    monkeypatch.setattr(streamed, "product", by_torch)
    found = sweep_products("tiny", HERE, 0.0, lambda work: 1.0, lambda line: None)
    assert len(found) == 10 * (1 + 6)


def test_early_cuts_are_tried_where_the_card_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "product", by_torch)
    both = (*ONE_ROW, *(replace(cut, is_early=True) for cut in ONE_ROW))
    monkeypatch.setattr(products, "all_cuts", lambda num_rows, device: both)
    found = sweep_products("tiny", HERE, 1000.0, lambda work: 1.0, lambda line: None)
    others = {row.cut for row in found} - {"cuBLAS", *map(str, both)}
    assert others
    assert all("is_early=True" in cut for cut in others)
