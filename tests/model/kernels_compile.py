"""Run by test_kernels, test_likeliest and test_streamed: compile kernels for cards that need not be here.

A line for each: kernel, compute capability, bytes spilled, shared memory, loads that run ahead, waits for the kernels
before; of products also kind, stages, whether they begin early, and the bits of their weights; of the likeliest tokens
columns and type of the logits. Argument: ``between``, ``likeliest`` or ``streamed``.
"""

import re
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.model import kernels, likeliest_kernels, streamed
from spec_engine.model.block_products import MOST_ROWS, Cut
from spec_engine.model.contest import FEW_ROWS, NARROW_ROW, NARROW_ROWS, ONE_ROW
from tests.attention.triton_compile import spilled

ALIGNED = "_ptr$|^(num_in|num_out|x_row|weight_row|num_columns|num_groups|logits_row)$"
TYPES = {"slots_ptr": "*i64", "eps": "fp32"}
LIKELIEST_TYPES = {"groups_ptr": "*i64", "columns_ptr": "*i64", "parts_ptr": "*fp32", "log_probs_ptr": "*fp32"}


def compiled(
    kernel: triton.JITFunction, capability: int, constants: dict[str, int | bool], num_warps: int, dtype: str = "bf16"
) -> str:
    names = kernel.arg_names
    is_narrow = constants.get("HAS_SCALES", False)
    kinds = {name: "*bf16" if name.endswith("_ptr") else "i32" for name in names} | TYPES
    kinds |= {"weight_ptr": "*i8", "scales_ptr": "*fp32"} if is_narrow else {}
    kinds |= LIKELIEST_TYPES | {"logits_ptr": f"*{dtype}"}
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else kinds[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if re.search(ALIGNED, name)},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps})
    figures = (
        capability,
        spilled(made.asm["cubin"]),
        made.metadata.shared,
        made.asm["ptx"].count("cp.async.cg"),
        made.asm["ptx"].count("griddepcontrol.wait"),
    )
    return " ".join([kernel.__name__, *map(str, figures)])


def streamed_constants(cut: Cut, kind: str) -> dict[str, int | bool]:
    """Those of a launch of the built-in kinds of product."""
    sizes = {"OUTS": cut.outs, "INS": cut.ins, "ROWS": MOST_ROWS, "STAGES": cut.stages}
    flags = {"HAS_NORM": kind != "added", "HAS_BASE": kind == "added", "IS_GATED": kind == "gated", "HAS_BIAS": False}
    flags["HAS_SCALES"] = cut.is_narrow
    return sizes | flags | {"IS_EVEN": True, "UPCAST": False, "IS_EARLY": cut.is_early}


if __name__ == "__main__":
    if sys.argv[1] == "streamed":
        one_row = *ONE_ROW, *(replace(cut, is_narrow=True) for cut in NARROW_ROW)
        few_rows = *FEW_ROWS, *(replace(cut, is_narrow=True) for cut in NARROW_ROWS)
        both = (streamed._one_row_kernel, one_row), (streamed._few_rows_kernel, few_rows)
        for capability, (kernel, cuts), kind in product((80, 89, 90), both, ("normed", "added", "gated")):
            early = [replace(cut, is_early=True) for cut in cuts] if capability >= 90 else []
            for cut in (*cuts, *early):
                told = compiled(kernel, capability, streamed_constants(cut, kind), cut.num_warps)
                print(told, kind, cut.stages, cut.is_early, 8 if cut.is_narrow else 16)
        sys.exit()
    if sys.argv[1] == "likeliest":
        for capability, num_columns, dtype in product((80, 89, 90), (4096, 32000, 128256, 262144), ("bf16", "fp32")):
            early, cut = {"IS_EARLY": capability >= 90}, likeliest_kernels.cut_of(num_columns)
            group, block = {"GROUP": cut.pop("GROUP")}, likeliest_kernels.BLOCK
            first = {**group, "BLOCK": block, **early}
            told = [compiled(likeliest_kernels._groups_kernel, capability, first, 4, dtype)]
            for most in (likeliest_kernels.USUAL, likeliest_kernels.MOST):
                second = {**group, **cut, "MOST": most, **early}
                told.append(compiled(likeliest_kernels._columns_kernel, capability, second, 8, dtype))
            print("\n".join(f"{line} {num_columns} {dtype}" for line in told))
        sys.exit()
    for capability, size, has_norms in product((80, 89, 90), (64, 96, 128, 256), (False, True)):
        heads = {"HEADS": 32, "KV_HEADS": 8, "D": size, "BLOCK_D": triton.next_power_of_2(size)}
        for at_once, num_warps in ((1, 1), (8, 4)):
            flags = {"AT_ONCE": at_once, "HAS_NORMS": has_norms, "IS_TURNED": True, "IS_EARLY": capability >= 90}
            print(compiled(kernels._turn_kernel, capability, {**heads, **flags}, num_warps))
    for capability in (80, 89, 90):
        print(
            compiled(kernels._gate_kernel, capability, {"WIDTH": 14336, "BLOCK": 1024, "IS_EARLY": capability >= 90}, 4)
        )
