"""The likeliest tokens of rows of logits as two Triton kernels (CUDA).

Job: `likeliest`: of each row the `num` columns of largest logits, with their log-probabilities.
Non-job: when to use it (`likeliest`), choosing the target's own tokens (`sampling`).

By its sources torch's `topk` over few long rows is 10 to 16 launches (`mbtopk` in ATen/native/cuda/TensorTopK.cu: a
radix select in passes, a gather, a sort), beside two for log-softmax. A draft's level looks for 16 of 32,000 columns,
which takes no select: the first kernel reads the logits once and keeps the best column of each group of some dozens,
besides the sums that log-softmax needs. Any of the `num` best columns lies in one of the `num` groups whose best are
the best, as otherwise each of these held a better one. So the second kernel, one program a row, picks these groups,
reads them again, and picks the columns: `num` maxima over a few thousand numbers, twice. With groups of G columns these
are V / G and num G numbers, together fewest at G = √(V / num).

Columns are compared as integers that hold the logit, so ordered as floats are, and below it the column. So all differ,
of equal logits the lower column comes first, and the same logits give the same columns each time. As with torch, a row
with a number that is none, an infinite one, or nothing above -inf gets log-probabilities that are no numbers.

Both begin early, as those of `kernels` do. Without a GPU they run in Triton's interpreter.
"""

import math
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from spec_engine.attention import starts_early
from spec_engine.attention.triton import launching, let_next_start
from spec_engine.model.likeliest import by_torch

MOST: Final = 64  # columns of a row that are looked for; each takes a maximum, so for many torch's way is the faster
USUAL: Final = 16  # of a level
BLOCK: Final = 2048  # columns of a program of the first kernel
_LEAST_GROUP, _MOST_GROUP = 16, 128
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_NOTHING = tl.constexpr(-(1 << 63))  # the key of no column
_LAST = tl.constexpr((1 << 31) - 1)  # all bits but the sign; with them turned, what fell rises


@triton.jit
def _keys(x, column, is_there):  # type: ignore[no-untyped-def]
    """int64: in the upper half an integer in the order of the floats, below it the column, its bits turned."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)  # there are two zeros
    order = tl.where(bits < 0, bits ^ _LAST, bits).to(tl.int64)
    return tl.where(is_there, (order << 32) | (column ^ _LAST).to(tl.int64), _NOTHING)


@triton.jit
def _largest(keys, num, MOST: tl.constexpr):  # type: ignore[no-untyped-def]
    """[MOST]: the `num` largest of `keys`, which differ, the largest first; then nothing."""
    place = tl.arange(0, MOST)
    found = tl.full([MOST], _NOTHING, tl.int64)
    for number in range(num):
        best = tl.max(keys)
        found = tl.where(place == number, best, found)
        keys = tl.where(keys == best, _NOTHING, keys)
    return found


@triton.jit
def _groups_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, groups_ptr, parts_ptr, num_columns, logits_row,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, IS_EARLY: tl.constexpr,
):  # fmt: skip
    """A block of one row -> the best key of each of its groups, keys [n, groups]; its largest logit, and the sum of
    exponentials below that, parts [n, blocks, 2] float32."""
    let_next_start(IS_EARLY)
    row, block = tl.program_id(0), tl.program_id(1)
    group = block * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    is_there = column < num_columns
    at = logits_ptr + row.to(tl.int64) * logits_row + column
    x = tl.load(at, mask=is_there, other=-float("inf")).to(tl.float32)
    num_blocks = tl.num_programs(1)
    tl.store(groups_ptr + row * num_blocks * (BLOCK // GROUP) + group, tl.max(_keys(x, column, is_there), 1))
    top = tl.max(x)
    total = tl.sum(tl.exp(x - tl.where(top == -float("inf"), 0.0, top)))
    tl.store(parts_ptr + (row * num_blocks + block) * 2, top)
    tl.store(parts_ptr + (row * num_blocks + block) * 2 + 1, total)


@triton.jit(do_not_specialize=["num"])
def _columns_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, groups_ptr, parts_ptr, log_probs_ptr, columns_ptr, num, num_columns, num_groups, num_blocks, logits_row,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, BLOCKS: tl.constexpr, MOST: tl.constexpr, IS_EARLY: tl.constexpr,
):  # fmt: skip
    """One row: the best groups, in them the best columns, and what their logits are below the log-sum-exp."""
    let_next_start(IS_EARLY)
    row = tl.program_id(0)
    group, block = tl.arange(0, GROUPS), tl.arange(0, BLOCKS)
    keys = tl.load(groups_ptr + row * num_groups + group, mask=group < num_groups, other=_NOTHING)
    best = _largest(keys, num, MOST)
    first = ((best & _LAST) ^ _LAST).to(tl.int32) // GROUP * GROUP
    column = first[:, None] + tl.arange(0, GROUP)[None, :]
    is_there = (best != _NOTHING)[:, None] & (column < num_columns)
    x = tl.load(logits_ptr + row.to(tl.int64) * logits_row + column, mask=is_there, other=0.0).to(tl.float32)
    best = _largest(_keys(x, column, is_there), num, MOST)
    order = (best >> 32).to(tl.int32)
    logit = tl.where(order < 0, order ^ _LAST, order).to(tl.float32, bitcast=True)
    part = parts_ptr + (row * num_blocks + block) * 2
    tops = tl.load(part, mask=block < num_blocks, other=-float("inf"))
    top = tl.max(tops)
    weights = tl.exp(tops - tl.where(top == -float("inf"), 0.0, top))
    total = tl.sum(weights * tl.load(part + 1, mask=block < num_blocks, other=0.0))
    place = tl.arange(0, MOST)
    tl.store(log_probs_ptr + row * num + place, logit - top - tl.log(total), mask=place < num)
    tl.store(columns_ptr + row * num + place, (best & _LAST) ^ _LAST, mask=place < num)


def likeliest(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities float32 [n, num] of the `num` likeliest columns of `logits` [n, V], V at least `num`, the
    likeliest first, of equal ones the lower column; and the columns, int64 [n, num]. Rows may lie apart. More than
    `MOST` are torch's. Raises `CannotLaunch` where this card does not run it."""
    num_rows, num_columns = logits.shape
    assert 0 < num <= num_columns, "no more columns than there are"
    if num > MOST:
        return by_torch(logits, num)
    if logits.dtype not in _DTYPES or logits.stride(1) != 1:
        logits = logits.float().contiguous()
    cut, device = cut_of(num_columns), logits.device
    num_blocks = triton.cdiv(num_columns, BLOCK)
    num_groups = num_blocks * (BLOCK // cut["GROUP"])
    keys = torch.empty(num_rows, num_groups, dtype=torch.int64, device=device)
    parts = torch.empty(num_rows, num_blocks, 2, dtype=torch.float32, device=device)
    values = torch.empty(num_rows, num, dtype=torch.float32, device=device)
    columns = torch.empty(num_rows, num, dtype=torch.int64, device=device)
    is_early = starts_early(device) and not knobs.runtime.interpret
    early = {"IS_EARLY": is_early, **({"launch_pdl": True} if is_early else {})}  # not every platform knows the option
    with launching(logits):
        _groups_kernel[(num_rows, num_blocks)](
            logits,
            keys,
            parts,
            num_columns,
            logits.stride(0),
            GROUP=cut["GROUP"],
            BLOCK=BLOCK,
            num_warps=4,
            **early,
        )
        _columns_kernel[(num_rows,)](
            logits, keys, parts, values, columns, num, num_columns, num_groups, num_blocks, logits.stride(0),
            MOST=USUAL if num <= USUAL else MOST, num_warps=8, **cut, **early,
        )  # fmt: skip
    return values, columns


def can_run(device: torch.device) -> bool:
    """Whether the kernels may run there: on a GPU, or anywhere in the interpreter."""
    return device.type == "cuda" or bool(knobs.runtime.interpret)


def cut_of(num_columns: int) -> dict[str, int]:
    """Columns of a group, about the root of the columns for each that is usually looked for, and what the second kernel
    reads: groups and blocks of a row. All are powers of two."""
    root = math.isqrt(num_columns // USUAL)
    group = min(max(1 << root.bit_length() >> 1, _LEAST_GROUP), _MOST_GROUP)
    blocks = triton.next_power_of_2(triton.cdiv(num_columns, BLOCK))
    return {"GROUP": group, "GROUPS": blocks * (BLOCK // group), "BLOCKS": blocks}
