"""Two Triton kernels for what lies between the products of a decoder block (CUDA).

Job: `turn_and_put`: queries and keys normalised head by head where a model does that, turned to their positions, keys
and values written to their slots; `gate`: the middle of the feed-forward part.
Non-job: products, attention (`attention.triton`), deciding when to use them (`fused`).

As torch's own operators the same takes seven kernels a layer, ten with normalised heads, and each costs a microsecond
or two, also within a captured graph. All numbers are computed in float32 and rounded once.

Without a GPU they run in Triton's interpreter, as those of `attention.triton` do.
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from spec_engine.attention.triton import CannotLaunch, launching

_GATE_BLOCK: Final = 1024


@dataclass(frozen=True, slots=True)
class Heads:
    """How a projection's columns are laid out: `num` query heads, then keys and values of `num_kv`, of `size` each."""

    num: int
    num_kv: int
    size: int


@triton.jit
def _turn_kernel(  # type: ignore[no-untyped-def]
    mixed_ptr, cos_ptr, sin_ptr, norms_ptr, slots_ptr, query_ptr, keys_ptr, values_ptr,
    eps, mixed_row, query_head, keys_head, values_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    HAS_NORMS: tl.constexpr, IS_TURNED: tl.constexpr,
):  # fmt: skip
    """One head of one row. Entry i turns with entry i + D / 2; the sign lies in the sine."""
    row, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    is_there = d < D
    from_ptr = mixed_ptr + row * mixed_row + head * D
    x = tl.load(from_ptr + d, mask=is_there, other=0.0).to(tl.float32)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if head < HEADS + KV_HEADS:
        scale = 1.0
        across = (d + D // 2) % D
        if HAS_NORMS:
            scale = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
            norm_ptr = norms_ptr + (head >= HEADS) * D
            x = x * scale * tl.load(norm_ptr + d, mask=is_there, other=0.0).to(tl.float32)
        if IS_TURNED:
            other = tl.load(from_ptr + across, mask=is_there, other=0.0).to(tl.float32)
            if HAS_NORMS:
                other = other * scale * tl.load(norm_ptr + across, mask=is_there, other=0.0).to(tl.float32)
            cos = tl.load(cos_ptr + row * D + d, mask=is_there, other=0.0).to(tl.float32)
            sin = tl.load(sin_ptr + row * D + d, mask=is_there, other=0.0).to(tl.float32)
            x = x * cos + other * sin
    if head < HEADS:
        tl.store(query_ptr + head * query_head + row * D + d, x.to(query_ptr.dtype.element_ty), mask=is_there)
    elif head < HEADS + KV_HEADS:
        at = (head - HEADS) * keys_head + slot * D
        tl.store(keys_ptr + at + d, x.to(keys_ptr.dtype.element_ty), mask=is_there)
    else:
        at = (head - HEADS - KV_HEADS) * values_head + slot * D
        tl.store(values_ptr + at + d, x.to(values_ptr.dtype.element_ty), mask=is_there)


@triton.jit
def _gate_kernel(both_ptr, out_ptr, both_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block of one row: SiLU of the first half of the columns times the second half."""
    row, block = tl.program_id(0), tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    is_there = column < WIDTH
    at = both_ptr + row * both_row + column
    gate = tl.load(at, mask=is_there, other=0.0).to(tl.float32)
    up = tl.load(at + WIDTH, mask=is_there, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * WIDTH + column, result.to(out_ptr.dtype.element_ty), mask=is_there)


@dataclass(frozen=True, slots=True)
class Turn:
    """What rows are turned with: `cos` and signed `sin` [T, D], None for a layer that does not turn; the norms [2, D]
    of queries and keys, None where heads are not normalised, and their `eps`."""

    cos: Tensor | None
    sin: Tensor | None
    norms: Tensor | None
    eps: float


def turn_and_put(mixed: Tensor, heads: Heads, turn: Turn, slots: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
    """Queries [1, Hq, T, D] out of `mixed` [T, (Hq + 2 Hk) D]; keys and values go to `slots` [T] of a layer's `memory`,
    keys and values [1, Hk, slots, D]."""
    keys, values = memory
    num_rows = mixed.shape[0]
    assert keys.stride(2) == values.stride(2) == heads.size, "rows of a head lie next to each other"
    query = torch.empty(1, heads.num, num_rows, heads.size, dtype=mixed.dtype, device=mixed.device)
    unused = mixed  # what is not there is not looked at
    with launching(mixed):
        _turn_kernel[(num_rows, heads.num + 2 * heads.num_kv)](
            mixed,
            unused if turn.cos is None else turn.cos,
            unused if turn.sin is None else turn.sin,
            unused if turn.norms is None else turn.norms,
            slots, query, keys, values,
            turn.eps, mixed.stride(0), query.stride(1), keys.stride(1), values.stride(1),
            HEADS=heads.num, KV_HEADS=heads.num_kv, D=heads.size, BLOCK_D=triton.next_power_of_2(heads.size),
            HAS_NORMS=turn.norms is not None, IS_TURNED=turn.cos is not None, num_warps=1,
        )  # fmt: skip
    return query


def gate(both: Tensor) -> Tensor:
    """SiLU of the first half of the columns of `both` [T, 2 I] times the second half; [T, I]."""
    num_rows, width = both.shape[0], both.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=both.dtype, device=both.device)
    with launching(both):
        _gate_kernel[(num_rows, triton.cdiv(width, _GATE_BLOCK))](
            both, out, both.stride(0), WIDTH=width, BLOCK=_GATE_BLOCK, num_warps=4
        )
    return out


def can_run(device: torch.device, dtype: torch.dtype, heads: Heads) -> bool:
    """Whether the kernels run here: on a GPU in half precision, or anywhere in the interpreter. They are tried."""
    if not knobs.runtime.interpret and (device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16)):
        return False
    mixed = torch.zeros(1, (heads.num + 2 * heads.num_kv) * heads.size, dtype=dtype, device=device)
    memory = mixed.new_zeros(1, heads.num_kv, 1, heads.size), mixed.new_zeros(1, heads.num_kv, 1, heads.size)
    try:
        turn_and_put(
            mixed, heads, Turn(None, None, None, 1e-6), torch.zeros(1, dtype=torch.int64, device=device), memory
        )
        gate(mixed)
    except CannotLaunch:
        return False
    return True
