"""Run by test_kernels: compile the kernels of `model.kernels` for cards that need not be here; prints bytes spilled."""

import re
import sys
from itertools import product
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.model import kernels
from tests.attention.triton_compile import spilled

TYPES = {"slots_ptr": "*i64", "eps": "fp32"}


def compiled(kernel: triton.JITFunction, capability: int, constants: dict[str, int | bool], num_warps: int) -> str:
    names = kernel.arg_names
    kinds = {name: "*bf16" if name.endswith("_ptr") else "i32" for name in names} | TYPES
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else kinds[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if re.search("_ptr$", name)},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps})
    return f"{kernel.__name__} {capability} {spilled(made.asm['cubin'])}"


if __name__ == "__main__":
    for capability, size, has_norms in product((80, 89, 90), (64, 96, 128, 256), (False, True)):
        heads = {"HEADS": 32, "KV_HEADS": 8, "D": size, "BLOCK_D": triton.next_power_of_2(size)}
        flags = {"HAS_NORMS": has_norms, "IS_TURNED": True}
        print(compiled(kernels._turn_kernel, capability, {**heads, **flags}, 1))
    for capability in (80, 89, 90):
        print(compiled(kernels._gate_kernel, capability, {"WIDTH": 14336, "BLOCK": 1024}, 4))
