"""Run by test_triton: compile the kernels as they are launched, for cards that need not be here.

A line for each: kernel, compute capability, head size, rows, shared memory, matrix instructions, bytes spilled, waits
for the kernels before.
"""

import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.attention import cuts
from spec_engine.attention import triton as kernels

POINTERS = {"q_ptr": "*bf16", "k_ptr": "*bf16", "v_ptr": "*bf16", "bias_ptr": "*bf16", "out_ptr": "*bf16"}
BUILD = ("num_warps", "num_stages", "launch_pdl")  # options of the compiler, no arguments
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def spilled(cubin: bytes) -> int:
    """Bytes of a kernel's stack: registers that did not fit."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return max(int(size) for size in re.findall(r"STACK:(\d+)", told))


def compiled(kernel: triton.JITFunction, capability: int, size: int, rows: int, tuning: cuts.Tuning) -> str:
    """Compile one kernel with the constants of a launch."""
    options = cuts.launch_options(rows, size, size, torch.bfloat16, tuning, is_early=capability >= 90)
    constants = {**options, "GROUP": 4, "D": size, "DV": size, "SPLITS": 32, "HAS_CAP": False, "UPCAST": False}
    if kernel is kernels._tree_kernel:
        constants |= {"HAS_SINK": False, **cuts.tree_options(rows, 32, size, size, tuning)}
    else:
        constants |= cuts.prefix_options(rows, size, size, torch.bfloat16, tuning)
    build = {name: constants.pop(name) for name in BUILD if name in constants}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kind(name) for name in names}
    aligned = [place for place, name in enumerate(names) if re.search("_ptr$|_head$|([qkv]|out)_row$", name)]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options=build)
    products = made.asm["ptx"].count("mma.sync") + made.asm["ptx"].count("wgmma.mma_async")
    waits = made.asm["ptx"].count("griddepcontrol.wait")
    figures = (capability, size, rows, made.metadata.shared, products, spilled(made.asm["cubin"]), waits)
    return " ".join([kernel.__name__, *map(str, figures)])


def kind(name: str) -> str:
    """The type of an argument at a launch."""
    if name.endswith("_ptr"):
        return POINTERS.get(name, "*i32" if name == "bounds_ptr" else "*fp32")
    return "fp32" if name in ("scale", "softcap") else "i32"


if __name__ == "__main__":
    both = (kernels._prefix_kernel, kernels._tree_kernel)
    for capability, number, size, kernel in product((80, 89, 90), (16, 64), (64, 128, 256, 512), both):
        rows = cuts.grid_of(number, 8, size, torch.device("cpu"), cuts.Tuning()).rows
        print(compiled(kernel, capability, size, rows, cuts.Tuning()))
