"""Matrices in 8 bits: what rounding loses, products with them, and which copies are held."""

import pytest
import torch
from torch import Tensor

from spec_engine.model.memory import held_bytes
from spec_engine.model.narrow import narrowed
from spec_engine.model.products import Matrix


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_what_is_lost() -> None:
    """Half a step of each column's own scale at most, a hundredth of the matrix."""
    weight = random(4096, 48) * torch.logspace(-3, 3, 48)
    narrow = narrowed(weight)
    lost = narrow.widened(torch.float32) - weight
    assert narrow.weight.dtype == torch.int8
    assert narrow.weight.stride(0) == 1, "column by column"
    assert bool((lost.abs() <= 0.5001 * narrow.scales).all())
    assert float((lost.norm(dim=0) / weight.norm(dim=0)).max()) < 0.012
    assert narrow.noise == pytest.approx(float((lost.norm(dim=0) / weight.norm(dim=0)).mean()), rel=0.1)


def test_columns_of_zeros_and_outliers() -> None:
    weight = random(64, 3)
    weight[:, 1] = 0
    weight[5, 2] = 1000
    wide = narrowed(weight).widened(torch.float32)
    assert torch.equal(wide[:, 1], torch.zeros(64))
    assert float(wide[5, 2]) == pytest.approx(1000)
    assert narrowed(weight[:, 2:]).noise > 0.5, "what the others lose is not hidden by the outlier"
    assert torch.equal(wide[:, 0], narrowed(weight[:, :1]).widened(torch.float32)[:, 0]), "each column by itself"


def test_more_columns_than_are_rounded_at_once() -> None:
    weight = random(8, 4096 + 3)
    narrow = narrowed(weight)
    torch.testing.assert_close(narrow.widened(torch.float32), weight, atol=0.02, rtol=0)
    assert bool((narrow.scales > 0).all())


def test_a_matrix_that_holds_8_bits_alone() -> None:
    """Products with many rows still go; it takes a quarter of the bytes that float32 takes."""
    bias = random(24)
    matrix = Matrix(random(256, 24), bias)
    x, before = random(100, 256), held_bytes(matrix)[0]
    want = matrix.narrow.widened(torch.float32)
    matrix.keep_narrow()
    torch.testing.assert_close(matrix(x), x @ want + bias)
    base = random(100, 24)
    torch.testing.assert_close(matrix.added_to(base, x), base + x @ want + bias)
    torch.testing.assert_close(matrix.add_to(base.clone(), x), base + x @ want + bias)
    assert held_bytes(matrix)[0] < 0.3 * before
    matrix.forget_narrow()
    assert matrix.is_narrow, "it is all that is held"


def test_a_copy_that_lost_is_forgotten() -> None:
    matrix = Matrix(random(256, 24), None)
    before = held_bytes(matrix)[0]
    assert matrix.narrow is matrix.narrow, "rounded once"
    assert held_bytes(matrix)[0] > before
    matrix.forget_narrow()
    assert held_bytes(matrix)[0] == before
