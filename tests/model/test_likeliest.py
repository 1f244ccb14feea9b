"""The few likeliest tokens: kernels in Triton's interpreter and compiled for cards that are not here; who is used."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from spec_engine.attention.triton import CannotLaunch
from spec_engine.model.capture import Work
from spec_engine.model.likeliest import by_torch, faster, likeliest_for
from tests.model.test_kernels import run

CPU = torch.device("cpu")


@pytest.mark.parametrize("what", ["float32", "float16", "bfloat16", "tree"])
def test_they_give_the_likeliest_of_each_row(what: str) -> None:
    """Rows that lie apart, ties, excluded tokens, numbers that are none; and a tree that grows by them."""
    assert run("likeliest_grid.py", what, interpret=True).split()[-1] == "ok"


def test_they_compile_for_ampere_ada_and_hopper_without_spilling() -> None:
    lines = [line.split() for line in run("kernels_compile.py", "likeliest", interpret=False).splitlines()]
    assert len(lines) == 3 * 4 * 2 * 3
    assert [line for line in lines if line[2] != "0"] == []
    assert [line for line in lines if int(line[3]) > 4096] == [], "many programs share a multiprocessor"
    assert [line for line in lines if line[5] != ("1" if line[1] == "90" else "0")] == [], "early ones wait"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("what", ["float32", "float16", "bfloat16", "again", "tree"])
def test_they_give_the_likeliest_of_each_row_on_the_card(what: str) -> None:
    """Captured too."""
    assert run("likeliest_grid.py", what, "cuda", interpret=False).split()[-1] == "ok"


def test_torch_gives_log_probabilities_of_any_type() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0]], dtype=torch.float64)
    values, columns = by_torch(logits, 2)
    assert values.dtype == torch.float32
    assert columns.tolist() == [[1, 3]]
    torch.testing.assert_close(values.double(), logits.log_softmax(-1)[:, [1, 3]], rtol=0.0, atol=1e-6)


def test_without_a_gpu_it_is_torch() -> None:
    assert likeliest_for(CPU) is by_torch


def ours(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    return by_torch(logits, num)


def wrong(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    values, columns = by_torch(logits, num)
    return values - 0.01, columns


def others(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    values, columns = by_torch(logits, num)
    return values, (columns + 1) % logits.shape[1]


def refused(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    raise CannotLaunch("out of resource: shared memory")


def timer(*seconds: float) -> Callable[[Work], float]:
    """Tells these, one after the other."""
    times = iter(seconds)
    return lambda work: next(times)


def test_ours_has_to_win_twice() -> None:
    assert faster(ours, CPU, None) is ours
    assert faster(ours, CPU, timer(1.0, 2.0, 1.0, 2.0)) is ours
    assert faster(ours, CPU, timer(1.0, 2.0, 2.0, 1.0)) is by_torch
    assert faster(ours, CPU, timer(1.0, 1.0)) is by_torch


@pytest.mark.parametrize("way", [wrong, others, refused])
def test_what_is_wrong_or_cannot_run_is_never_taken(way: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
    assert faster(way, CPU, timer(1.0, 2.0, 1.0, 2.0)) is by_torch
