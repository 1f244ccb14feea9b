"""Two Triton kernels for what lies between the products of a decoder block (CUDA).

Job: `turn_and_put`: queries and keys normalised head by head where a model does that, turned to their positions, keys
and values written to their slots; `gate`: the middle of the feed-forward part.
Non-job: products, attention (`attention.triton`), deciding when to use them (`fused`).

As torch's own operators the same takes seven kernels a layer, ten with normalised heads, and each costs a microsecond
or two, also within a captured graph. All numbers are computed in float32 and rounded once. Where a card can, they
begin early and let the next kernel do so, see `streamed`.

Without a GPU they run in Triton's interpreter, as those of `attention.triton` do.
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from spec_engine.attention import starts_early
from spec_engine.attention.triton import launching, let_next_start

_GATE_BLOCK: Final = 1024
_FEW_ROWS, _MANY_HEADS = (
    64,
    8,
)  # of more rows a program turns so many heads: else a prompt takes 400,000 programs a layer


@dataclass(frozen=True, slots=True)
class Heads:
    """How a projection's columns are laid out: `num` query heads, then keys and values of `num_kv`, of `size` each."""

    num: int
    num_kv: int
    size: int


@triton.jit
def _turn_kernel(  # type: ignore[no-untyped-def]
    mixed_ptr, cos_ptr, sin_ptr, norms_ptr, slots_ptr, query_ptr, keys_ptr, values_ptr,
    eps, mixed_row, turn_row, query_head, keys_head, values_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, AT_ONCE: tl.constexpr,
    HAS_NORMS: tl.constexpr, IS_TURNED: tl.constexpr, IS_EARLY: tl.constexpr,
):  # fmt: skip
    """`AT_ONCE` heads of one row. Entry i turns with entry i + D / 2; the sign lies in the sine."""
    let_next_start(IS_EARLY)
    row = tl.program_id(0)
    head = (tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE))[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    is_there = (head < HEADS + 2 * KV_HEADS) & (d < D)
    is_turned = head < HEADS + KV_HEADS
    from_ptr = mixed_ptr + row * mixed_row + head * D
    x = tl.load(from_ptr + d, mask=is_there, other=0.0).to(tl.float32)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    across = (d + D // 2) % D
    scale = 1.0
    norm_ptr = norms_ptr + tl.where(head >= HEADS, D, 0)
    if HAS_NORMS:
        scale = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        weight = tl.load(norm_ptr + d, mask=is_there & is_turned, other=0.0).to(tl.float32)
        x = tl.where(is_turned, x * scale * weight, x)
    if IS_TURNED:
        other = tl.load(from_ptr + across, mask=is_there, other=0.0).to(tl.float32)
        if HAS_NORMS:
            other = other * scale * tl.load(norm_ptr + across, mask=is_there & is_turned, other=0.0).to(tl.float32)
        cos = tl.load(cos_ptr + row * turn_row + d, mask=d < D, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + row * turn_row + d, mask=d < D, other=0.0).to(tl.float32)
        x = tl.where(is_turned, x * cos + other * sin, x)
    to_query = query_ptr + head * query_head + row * D + d
    tl.store(to_query, x.to(query_ptr.dtype.element_ty), mask=is_there & (head < HEADS))
    to_keys = keys_ptr + (head - HEADS) * keys_head + slot * D + d
    tl.store(to_keys, x.to(keys_ptr.dtype.element_ty), mask=is_there & (head >= HEADS) & is_turned)
    to_values = values_ptr + (head - HEADS - KV_HEADS) * values_head + slot * D + d
    tl.store(to_values, x.to(values_ptr.dtype.element_ty), mask=is_there & (head >= HEADS + KV_HEADS))


@triton.jit
def _gate_kernel(  # type: ignore[no-untyped-def]
    both_ptr, out_ptr, both_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr, IS_EARLY: tl.constexpr
):
    """A block of one row: SiLU of the first half of the columns times the second half."""
    let_next_start(IS_EARLY)
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
    """What rows are turned with: `cos` and signed `sin` [T, D], or [1, D] for rows of one position, None for a layer
    that does not turn; the norms [2, D] of queries and keys, None where heads are not normalised, and their `eps`."""

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
    at_once = _MANY_HEADS if num_rows > _FEW_ROWS else 1
    turn_row = 0 if turn.cos is None or len(turn.cos) == 1 else heads.size
    with launching(mixed):
        _turn_kernel[(num_rows, triton.cdiv(heads.num + 2 * heads.num_kv, at_once))](
            mixed,
            unused if turn.cos is None else turn.cos,
            unused if turn.sin is None else turn.sin,
            unused if turn.norms is None else turn.norms,
            slots, query, keys, values,
            turn.eps, mixed.stride(0), turn_row, query.stride(1), keys.stride(1), values.stride(1),
            HEADS=heads.num, KV_HEADS=heads.num_kv, D=heads.size, BLOCK_D=triton.next_power_of_2(heads.size),
            AT_ONCE=at_once, HAS_NORMS=turn.norms is not None, IS_TURNED=turn.cos is not None,
            num_warps=1 if at_once == 1 else 4, **_early(mixed),
        )  # fmt: skip
    return query


def gate(both: Tensor) -> Tensor:
    """SiLU of the first half of the columns of `both` [T, 2 I] times the second half; [T, I]."""
    num_rows, width = both.shape[0], both.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=both.dtype, device=both.device)
    with launching(both):
        _gate_kernel[(num_rows, triton.cdiv(width, _GATE_BLOCK))](
            both, out, both.stride(0), WIDTH=width, BLOCK=_GATE_BLOCK, num_warps=4, **_early(both)
        )
    return out


def _early(x: Tensor) -> dict[str, bool]:
    """Options of a kernel on the device of `x` that may begin while the one before it ends."""
    is_early = starts_early(x.device) and not knobs.runtime.interpret
    return {"IS_EARLY": is_early, **({"launch_pdl": True} if is_early else {})}  # not every platform knows the option


def can_run(device: torch.device, dtype: torch.dtype, heads: Heads) -> bool:
    """Whether the kernels run here: on a GPU in half precision, or anywhere in the interpreter. They are tried."""
    if not knobs.runtime.interpret and (device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16)):
        return False
    mixed = torch.zeros(_FEW_ROWS + 1, (heads.num + 2 * heads.num_kv) * heads.size, dtype=dtype, device=device)
    memory = mixed.new_zeros(1, heads.num_kv, 1, heads.size), mixed.new_zeros(1, heads.num_kv, 1, heads.size)
    slots = torch.zeros(len(mixed), dtype=torch.int64, device=device)
    try:
        for rows in (1, len(mixed)):
            turn_and_put(mixed[:rows], heads, Turn(None, None, None, 1e-6), slots[:rows], memory)
        gate(mixed[:1])
    except RuntimeError:  # `CannotLaunch`, or what CUDA says
        return False
    return True
