"""Our Triton kernels: against the float64 reference in Triton's interpreter, and compiled for cards that are not here.

They run in processes of their own (`triton_run`).
"""

from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from tests.attention.test_contract import SHAPES
from tests.triton_run import run_triton

pytest.importorskip("triton")

HERE = Path(__file__).parent
CARD_SHAPES = [*SHAPES, (32, 8, 128), (32, 8, 64), (8, 8, 256), (8, 2, 512)]  # of triton_grid.py
SMALL_CARD = 99 * 1024  # bytes of shared memory that a block may have on an RTX 3090 or 4090


def run(name: str, *arguments: str, interpret: bool) -> str:
    return run_triton(HERE / name, *arguments, interpret=interpret)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_kernels_equal_the_reference_over_the_grid(dtype: str) -> None:
    assert run("triton_grid.py", dtype, interpret=True).split()[-1] == "ok"


def test_a_captured_length_may_change_and_splits_are_even() -> None:
    assert run("triton_grid.py", "lengths", interpret=True).split()[-1] == "ok"


@pytest.mark.slow
def test_every_way_to_cut_the_kernels_gives_the_same() -> None:
    assert run("triton_grid.py", "tunings", interpret=True).split()[-1] == "ok"


def test_the_kernels_compile_for_ampere_ada_and_hopper() -> None:
    """They use the matrix units, spill no registers, and fit the shared memory of a small card."""
    lines = run("triton_compile.py", interpret=False).splitlines()
    assert len(lines) == 3 * 2 * 4 * 2
    for line in lines:
        kernel, capability, _, _, shared, products, spilled, waits = line.split()
        assert int(products) > 0, line
        assert int(spilled) <= (8 if version("triton").startswith("3.6.") else 0), line  # one kernel, two registers
        assert int(shared) <= (SMALL_CARD if capability != "90" else 227 * 1024), line
        assert kernel in ("_prefix_kernel", "_tree_kernel")
        assert int(waits) == (capability == "90"), line  # they begin early there, and wait before they read


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", range(len(CARD_SHAPES) + 1))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_kernels_equal_the_reference_on_the_card(dtype: str, shape: int) -> None:
    """One shape after the other; soft caps, sinks and dead rows behind the last."""
    assert run("triton_grid.py", dtype, "cuda", str(shape), interpret=False).split()[-1] == "ok"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_length_may_change_on_the_card() -> None:
    assert run("triton_grid.py", "lengths", "cuda", interpret=False).split()[-1] == "ok"
