"""Hybrid tree attention as two Triton kernels (CUDA).

Job: `TritonBackend`: a split-KV kernel over the unmasked prefix with the group fold, and one over the masked part that
also merges the splits and the sink. Nothing else is launched, whatever the number of rows.
Non-job: how both are cut (`cuts`), prefill, which another backend does, choosing a backend (`pick`).

The first kernel is FlashDecoding's (arXiv 2311.01282): each program takes one share of the keys for a block of rows.
The grid is the same at every length, because where the shares begin is computed on the device from numbers that lie
there; so a captured graph runs at any length, and the shares are even. The second kernel runs the few masked keys (a
tree, and the keys at the edge of a window) through the same online softmax, started from the splits' results. There is
little of it per head, so each of its programs makes a slice of the values' columns, and reads several splits at a time:
one program a head that took one split after the other would wait for memory longer than the first kernel runs.

Both may begin early, as the kernels around them do (`model.streamed`): they let the next one start at once, which has
its weights brought into the cache, and wait themselves for what came before.

Without a GPU the kernels run in Triton's interpreter (``TRITON_INTERPRET=1``), which is how they are tested everywhere.
Its product of bfloat16 blocks is wrong, so blocks are made float32 there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CalledProcessError
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.errors import TritonError

from spec_engine.attention.base import AttentionBackend, Bounds, Scoring, TreeBias, starts_early
from spec_engine.attention.cuts import USUAL, Tuning, grid_of, launch_options, prefix_options, tree_options

_DTYPES: Final = (torch.float16, torch.bfloat16)  # float32 spills its registers: no matrix unit takes it unrounded
_LARGEST_HEAD: Final = 512


class CannotLaunch(RuntimeError):
    """A kernel could not be compiled for this card, or needs more shared memory or registers than it has."""


@contextmanager
def launching(x: Tensor) -> Iterator[None]:
    """Kernels start on the device of `x` inside the block. Raises `CannotLaunch` for what Triton raises, also where it
    finds no C compiler or may not write to its cache."""
    try:
        with torch.cuda.device_of(x):
            yield
    except (TritonError, CalledProcessError, OSError, ImportError) as error:
        raise CannotLaunch(f"{type(error).__name__}: {error}") from error


@triton.jit
def let_next_start(IS_EARLY: tl.constexpr):  # type: ignore[no-untyped-def]
    """What kernels before wrote may be read from here on; the next one may start."""
    if IS_EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _scores(q, k, scale, softcap, HAS_CAP: tl.constexpr, UPCAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits [rows, keys] in units of log 2."""
    if UPCAST:
        q, k = q.to(tl.float32), k.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if HAS_CAP:
        scores = softcap * (2.0 / (1.0 + tl.exp2(-2.0 * 1.4426950408889634 * scores * scale / softcap)) - 1.0)
        scores = scores * 1.4426950408889634
    else:
        scores = scores * (scale * 1.4426950408889634)
    return scores


@triton.jit
def _take(top, total, acc, scores, v, UPCAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Online softmax (arXiv 1805.02867): take another block of scores [rows, keys] and values [keys, Dv] in."""
    new_top = tl.maximum(top, tl.max(scores, 1))
    base = tl.where(new_top == -float("inf"), 0.0, new_top)
    factor = tl.exp2(top - base)
    weights = tl.exp2(scores - base[:, None])
    if UPCAST:
        v = v.to(tl.float32)
    acc = acc * factor[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return new_top, total * factor + tl.sum(weights, 1), acc


@triton.jit(do_not_specialize=["num_rows", "num_new"])
def _prefix_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, bounds_ptr, part_ptr, lse_ptr, scale, softcap, num_rows, num_new,
    q_head, q_row, k_head, k_row, v_head, v_row,
    GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, SPLITS: tl.constexpr, HAS_CAP: tl.constexpr, UPCAST: tl.constexpr,
    IS_EARLY: tl.constexpr,
):  # fmt: skip
    """A block of rows of one key head over one share of the keys [start, end) -> part [Hk, splits, rows, Dv] float32,
    normalised, and its log2-sum-exp [Hk, splits, rows]."""
    let_next_start(IS_EARLY)
    head, split, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    k_ptr += head.to(tl.int64) * k_head  # long contexts of many heads have more than 2^31 numbers
    v_ptr += head.to(tl.int64) * v_head
    start, end = tl.load(bounds_ptr + 1).to(tl.int32), tl.load(bounds_ptr + 2).to(tl.int32)
    share = tl.cdiv(tl.cdiv(end - start, KEYS), SPLITS) * KEYS
    first = start + split * share
    last = tl.minimum(first + share, end)
    rows = block * ROWS + tl.arange(0, ROWS)
    d, dv = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    is_row = rows < num_rows
    q_at = (head * GROUP + rows // num_new) * q_head + rows % num_new * q_row
    q = tl.load(q_ptr + q_at[:, None] + d, mask=is_row[:, None] & (d < D), other=0.0)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_DV], tl.float32)
    for begin in range(first, last, KEYS):
        keys = begin + tl.arange(0, KEYS)
        is_key = keys < last
        key_at = keys.to(tl.int64)
        k = tl.load(k_ptr + key_at[:, None] * k_row + d, mask=is_key[:, None] & (d < D), other=0.0)
        v = tl.load(v_ptr + key_at[:, None] * v_row + dv, mask=is_key[:, None] & (dv < DV), other=0.0)
        scores = _scores(q, k, scale, softcap, HAS_CAP, UPCAST)
        scores = tl.where(is_key[None, :], scores, -float("inf"))
        top, total, acc = _take(top, total, acc, scores, v, UPCAST)
    is_empty = total == 0.0
    at = (head * SPLITS + split) * num_rows + rows
    tl.store(lse_ptr + at, tl.where(is_empty, -float("inf"), top + tl.log2(tl.where(is_empty, 1.0, total))), is_row)
    acc = acc / tl.where(is_empty, 1.0, total)[:, None]
    tl.store(part_ptr + at[:, None] * DV + dv, acc, mask=is_row[:, None] & (dv < DV))


@triton.jit(do_not_specialize=["num_rows", "num_new", "num_edge", "num_keys"])
def _tree_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, bounds_ptr, part_ptr, part_lse_ptr, bias_ptr, sink_ptr, out_ptr, lse_ptr,
    scale, softcap, num_rows, num_new, num_edge, num_keys, q_head, q_row, k_head, k_row, v_head, v_row,
    out_head, out_row, bias_row,
    GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr, SLICE: tl.constexpr, SPLITS: tl.constexpr, MERGED: tl.constexpr, HAS_CAP: tl.constexpr,
    HAS_SINK: tl.constexpr, UPCAST: tl.constexpr, IS_EARLY: tl.constexpr,
):  # fmt: skip
    """A slice of the values' columns for a block of rows of one key head: the splits merged, the `num_keys` masked keys
    and the sink taken in; lse in the order of the query heads. The first `num_edge` masked keys lie from `first` on,
    the others from `end` on."""
    let_next_start(IS_EARLY)
    head, block, column = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    k_ptr += head.to(tl.int64) * k_head
    v_ptr += head.to(tl.int64) * v_head
    first, end = tl.load(bounds_ptr).to(tl.int32), tl.load(bounds_ptr + 2).to(tl.int32)
    rows = block * ROWS + tl.arange(0, ROWS)
    d, dv = tl.arange(0, BLOCK_D), column * SLICE + tl.arange(0, SLICE)
    is_row = rows < num_rows
    query_head = head * GROUP + rows // num_new
    new = rows % num_new
    q_at = query_head * q_head + new * q_row
    q = tl.load(q_ptr + q_at[:, None] + d, mask=is_row[:, None] & (d < D), other=0.0)
    at = (head * SPLITS + tl.arange(0, SPLITS)[:, None]) * num_rows + rows[None, :]
    tops = tl.load(part_lse_ptr + at, mask=is_row[None, :], other=-float("inf"))  # [splits, rows]
    top = tl.max(tops, 0)
    base = tl.where(top == -float("inf"), 0.0, top)
    total = tl.sum(tl.exp2(tops - base[None, :]), 0)
    acc = tl.zeros([ROWS, SLICE], tl.float32)
    for begin in range(0, SPLITS, MERGED):
        for number in tl.static_range(MERGED):
            part_at = (head * SPLITS + begin + number) * num_rows + rows
            weight = tl.exp2(tl.load(part_lse_ptr + part_at, mask=is_row, other=-float("inf")) - base)
            part = tl.load(part_ptr + part_at[:, None] * DV + dv, mask=is_row[:, None] & (dv < DV), other=0.0)
            acc += part * weight[:, None]
    for begin in range(0, num_keys, KEYS):
        number = begin + tl.arange(0, KEYS)
        is_key = number < num_keys
        key_at = tl.where(number < num_edge, first + number, end + number - num_edge).to(tl.int64)
        k = tl.load(k_ptr + key_at[:, None] * k_row + d, mask=is_key[:, None] & (d < D), other=0.0)
        v = tl.load(v_ptr + key_at[:, None] * v_row + dv, mask=is_key[:, None] & (dv < DV), other=0.0)
        seen = is_row[:, None] & is_key[None, :]
        bias = tl.load(bias_ptr + new[:, None] * bias_row + number, mask=seen, other=-float("inf")).to(tl.float32)
        scores = _scores(q, k, scale, softcap, HAS_CAP, UPCAST) + bias
        top, total, acc = _take(top, total, acc, scores, v, UPCAST)
    if HAS_SINK:
        sink = tl.load(sink_ptr + query_head, mask=is_row, other=0.0).to(tl.float32) * 1.4426950408889634
        new_top = tl.maximum(top, sink)
        factor = tl.exp2(top - new_top)
        acc = acc * factor[:, None]
        total = total * factor + tl.exp2(sink - new_top)
        top = new_top
    is_empty = total == 0.0
    total = tl.where(is_empty, 1.0, total)
    lse = tl.where(is_empty, -float("inf"), (top + tl.log2(total)) / 1.4426950408889634)
    if column == 0:
        tl.store(lse_ptr + query_head * num_new + new, lse, is_row)
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    out_at = query_head * out_head + new * out_row
    tl.store(out_ptr + out_at[:, None] + dv, out, mask=is_row[:, None] & (dv < DV))


class TritonBackend:
    """The kernels of this file; `prefill` does chunks of a prompt, and what the kernels cannot do: other dtypes than
    float16 and bfloat16, heads larger than 512."""

    def __init__(self, prefill: AttentionBackend, tuning: Tuning = USUAL) -> None:
        self._prefill = prefill
        self._tuning = tuning
        self._bounds: tuple[tuple[int, int, torch.device], Tensor] | None = None

    @property
    def name(self) -> str:
        return f"triton, {self._prefill.name} for prefill"

    def causal(self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
        return self._prefill.causal(q, k, v, prefix_len, scoring)

    def hybrid(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, bias: TreeBias | None, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        if not self.can_bound(q.dtype, q.shape[3], v.shape[3]):
            return self._prefill.hybrid(q, k, v, prefix_len, bias, scoring)
        num_edge = 0 if bias is None else bias.values.shape[1] - (k.shape[2] - prefix_len)
        bounds = self._on_device(num_edge, k.shape[2] if bias is None else prefix_len, q.device)
        with launching(q):
            few = None if bias is None else bias.values
            return self._attend(q, k, v, Bounds(bounds, num_edge), few, scoring)

    def bounded(
        self, q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, bias: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        with launching(q):
            return self._attend(q, k, v, bounds, bias, scoring)

    def can_bound(self, dtype: torch.dtype, size: int, value_size: int) -> bool:
        return _can_run(dtype) and max(size, value_size) <= _LARGEST_HEAD

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, bias: Tensor | None, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        """Attention within `bounds`, under `bias` [T, E + N] to the edge and to the keys behind the end. The numbers
        may change between two replays of a captured call."""
        tuning, interpreted = self._tuning, bool(knobs.runtime.interpret)
        _, num_heads, num_new, size = q.shape
        num_kv_heads, value_size = k.shape[1], v.shape[3]
        num_rows = num_heads // num_kv_heads * num_new
        grid = grid_of(num_rows, num_kv_heads, max(size, value_size), q.device, tuning)
        q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
        part = torch.empty(num_kv_heads, grid.num_splits, num_rows, value_size, dtype=torch.float32, device=q.device)
        part_lse = torch.empty(part.shape[:3], dtype=torch.float32, device=q.device)
        by_row = torch.empty(1, num_new, num_heads, value_size, dtype=q.dtype, device=q.device)
        out = by_row.transpose(1, 2)  # as the next product reads it
        lse = torch.empty(1, num_heads, num_new, dtype=torch.float32, device=q.device)
        strides = (q.stride(1), q.stride(2), k.stride(1), k.stride(2), v.stride(1), v.stride(2))
        shape = {
            **launch_options(
                grid.rows, size, value_size, q.dtype, tuning, is_early=starts_early(q.device) and not interpreted
            ),
            "GROUP": num_heads // num_kv_heads,
            "D": size,
            "DV": value_size,
            "SPLITS": grid.num_splits,
            "HAS_CAP": scoring.softcap is not None,
            "UPCAST": interpreted,
        }
        softcap = scoring.softcap or 1.0
        _prefix_kernel[(num_kv_heads, grid.num_splits, grid.num_blocks)](
            q, k, v, bounds.values, part, part_lse, scoring.scale, softcap, num_rows, num_new, *strides, **shape,
            **prefix_options(grid.rows, size, value_size, q.dtype, tuning),
        )  # fmt: skip
        few = bias if bias is not None else lse  # not looked at
        cut = tree_options(grid.rows, grid.num_splits, size, value_size, tuning)
        _tree_kernel[(num_kv_heads, grid.num_blocks, triton.cdiv(value_size, cut["SLICE"]))](
            q, k, v, bounds.values, part, part_lse, few, scoring.sink if scoring.sink is not None else lse, out, lse,
            scoring.scale, softcap, num_rows, num_new, bounds.num_edge, 0 if bias is None else bias.shape[1], *strides,
            out.stride(1), out.stride(2), 0 if bias is None else bias.stride(0), HAS_SINK=scoring.sink is not None,
            **cut, **shape,
        )  # fmt: skip
        return out, lse

    def _on_device(self, num_edge: int, end: int, device: torch.device) -> Tensor:
        """The numbers of a call, int32 [3]; all layers of a pass ask for the same ones."""
        key = (num_edge, end, device)
        if self._bounds is None or self._bounds[0] != key:
            self._bounds = key, torch.tensor([0, num_edge, end], dtype=torch.int32, device=device)
        return self._bounds[1]


def _can_run(dtype: torch.dtype) -> bool:
    """Whether the kernels take this type."""
    return dtype in _DTYPES or (dtype == torch.float32 and knobs.runtime.interpret)
