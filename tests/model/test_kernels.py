"""The kernels between the products: against torch in Triton's interpreter, and compiled for cards that are not here."""

from pathlib import Path

import pytest
import torch

from tests.triton_run import run_triton

pytest.importorskip("triton")

HERE = Path(__file__).parent


def run(name: str, *arguments: str, interpret: bool) -> str:
    return run_triton(HERE / name, *arguments, interpret=interpret)


@pytest.mark.parametrize("what", ["float32", "float16", "bfloat16", "passes", "drafts"])
def test_they_give_what_torch_gives(what: str) -> None:
    """Heads of many sizes, rows that lie apart, layers that do not turn; and whole passes of ordinary models,
    and drafts of heads."""
    assert run("kernels_grid.py", what, interpret=True).split()[-1] == "ok"


def test_they_compile_for_ampere_ada_and_hopper_without_spilling() -> None:
    lines = run("kernels_compile.py", "between", interpret=False).splitlines()
    assert len(lines) == 3 * 4 * 2 * 2 + 3
    assert [line for line in lines if line.split()[2] != "0"] == []
    waits = {line.split()[1]: line.split()[5] for line in lines}
    assert waits == {"80": "0", "89": "0", "90": "1"}, "on Hopper they begin early, and wait before they read"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_they_give_what_torch_gives_on_the_card(dtype: str) -> None:
    assert run("kernels_grid.py", dtype, "cuda", interpret=False).split()[-1] == "ok"
