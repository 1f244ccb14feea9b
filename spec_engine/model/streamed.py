"""Products of a few rows as Triton kernels (CUDA): a matrix streams by once, what lies around it is done on the way.

Job: `product`: rows normalised as they are read, a matrix, then a sum with other rows or the gate of a feed-forward
part, in one kernel.
Non-job: how it is cut, when it is faster than cuBLAS (`contest`), what lies between the products (`kernels`).

A pass over few rows is the time that its weights take to be read, plus the gaps between kernels: in each the memory is
idle while one kernel drains and the next one fills up. Of ten kernels a layer three are norms and a gate, whose
numbers are few, so each program of a product makes them itself. Rows are normalised behind the sum: with r one over a
row's root mean square and g the norm's weights, W (r g x) = r W (g x), and r is known when all of x has been read. So
float16, in which g x may be too large, normalises before.

Hopper's cards can start a kernel while the one before it drains (programmatic dependent launch). An early cut does
that: weights depend on nothing, so it has them brought into the cache, and only then waits for its rows. Every early
kernel waits for all that came before it, so what follows it may rely on that as well.

Weights of drafts may be in 8 bits (`narrow`): they are widened as they are read, and their columns' scales are put on
the sums.

All sums are float32, rounded once. Without a GPU it runs in Triton's interpreter, as `attention.triton` does.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from spec_engine.attention.triton import launching
from spec_engine.model.block_products import MOST_ROWS, Around, Cut


@triton.jit
def _block(weight_ptr, at, is_there, IS_EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block of the matrix. It is read once: other things are worth the cache more."""
    if IS_EVEN:
        return tl.load(weight_ptr + at, eviction_policy="evict_first")
    return tl.load(weight_ptr + at, mask=is_there, other=0, eviction_policy="evict_first")


@triton.jit
def _begun(  # type: ignore[no-untyped-def]
    weight_ptr, num_in, num_out, weight_row, OUTS: tl.constexpr, INS: tl.constexpr, IS_EARLY: tl.constexpr
):
    """The program's columns, which of them there are, and where their weights lie. What kernels before wrote may be
    read from here on: an early one lets the next kernel start, brings its first blocks [outs, 4 * INS] into the cache,
    and waits."""
    n = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    n_at = tl.minimum(n, num_out - 1).to(tl.int64)[:, None] * weight_row
    if IS_EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        # a line of the cache holds 128 bytes
        k = tl.minimum(tl.arange(0, INS // 16) * (1024 // weight_ptr.dtype.element_ty.primitive_bitwidth), num_in - 1)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [weight_ptr + n_at + k[None, :]], tl.int32, False, 1
        )
        tl.extra.cuda.gdc_wait()
    return n, n < num_out, n_at


@triton.jit
def _finished(  # type: ignore[no-untyped-def]
    out, up, n, row, is_out, scales_ptr, base_ptr, bias_ptr, num_out,
    HAS_SCALES: tl.constexpr, HAS_BASE: tl.constexpr, HAS_BIAS: tl.constexpr, IS_GATED: tl.constexpr,
):  # fmt: skip
    """What is done with sums before they are stored."""
    if HAS_SCALES:
        out *= tl.load(scales_ptr + n, mask=n < num_out, other=0.0)
        if IS_GATED:
            up *= tl.load(scales_ptr + num_out + n, mask=n < num_out, other=0.0)
    if HAS_BIAS:
        out += tl.load(bias_ptr + n + tl.zeros_like(row), mask=is_out, other=0.0).to(tl.float32)
    if IS_GATED:
        out = out / (1.0 + tl.exp(-out)) * up
    if HAS_BASE:
        out += tl.load(base_ptr + row * num_out + n, mask=is_out, other=0.0).to(tl.float32)
    return out


@triton.jit
def _one_row_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, scales_ptr, norm_ptr, base_ptr, bias_ptr, out_ptr, eps,
    num_rows, num_in, num_out, x_row, weight_row,
    OUTS: tl.constexpr, INS: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, HAS_SCALES: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_BASE: tl.constexpr, HAS_BIAS: tl.constexpr, IS_GATED: tl.constexpr,
    IS_EVEN: tl.constexpr, UPCAST: tl.constexpr, IS_EARLY: tl.constexpr,
):  # fmt: skip
    """`OUTS` columns of the result for one row, by multiplying and adding: sums are kept apart until the end."""
    n, is_out, n_at = _begun(weight_ptr, num_in, num_out, weight_row, OUTS, INS, IS_EARLY)
    up_at = n_at + tl.cast(num_out, tl.int64) * weight_row
    out = tl.zeros([OUTS, INS], tl.float32)
    up = tl.zeros([OUTS, INS], tl.float32)
    squares = tl.zeros([INS], tl.float32)
    for begin in tl.range(0, num_in, INS, num_stages=STAGES):
        k = begin + tl.arange(0, INS)
        is_there = is_out[:, None] & (k < num_in)[None, :]
        weights = _block(weight_ptr, n_at + k[None, :], is_there, IS_EVEN)
        if IS_GATED:
            ups = _block(weight_ptr, up_at + k[None, :], is_there, IS_EVEN)
        x = tl.load(x_ptr + k, mask=k < num_in, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += x * x
            x = x * tl.load(norm_ptr + k, mask=k < num_in, other=0.0).to(tl.float32)
            x = x.to(x_ptr.dtype.element_ty).to(tl.float32)  # as in the other kernel
        out += weights.to(tl.float32) * x[None, :]
        if IS_GATED:
            up += ups.to(tl.float32) * x[None, :]
    scale = 1.0
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / num_in + eps)
    result = _finished(
        tl.sum(out, 1) * scale, tl.sum(up, 1) * scale, n, tl.zeros_like(n), is_out, scales_ptr, base_ptr, bias_ptr,
        num_out, HAS_SCALES, HAS_BASE, HAS_BIAS, IS_GATED,
    )  # fmt: skip
    tl.store(out_ptr + n, result.to(out_ptr.dtype.element_ty), mask=is_out)


@triton.jit(do_not_specialize=["num_rows"])
def _few_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, scales_ptr, norm_ptr, base_ptr, bias_ptr, out_ptr, eps,
    num_rows, num_in, num_out, x_row, weight_row,
    OUTS: tl.constexpr, INS: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, HAS_SCALES: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_BASE: tl.constexpr, HAS_BIAS: tl.constexpr, IS_GATED: tl.constexpr,
    IS_EVEN: tl.constexpr, UPCAST: tl.constexpr, IS_EARLY: tl.constexpr,
):  # fmt: skip
    """`OUTS` columns of the result for up to `ROWS` rows, by the matrix units."""
    n, is_out, n_at = _begun(weight_ptr, num_in, num_out, weight_row, OUTS, INS, IS_EARLY)
    up_at = n_at + tl.cast(num_out, tl.int64) * weight_row
    rows = tl.arange(0, ROWS)
    is_row = rows < num_rows
    out = tl.zeros([OUTS, ROWS], tl.float32)
    up = tl.zeros([OUTS, ROWS], tl.float32)
    squares = tl.zeros([ROWS], tl.float32)
    for begin in tl.range(0, num_in, INS, num_stages=STAGES):
        k = begin + tl.arange(0, INS)
        is_there = is_out[:, None] & (k < num_in)[None, :]
        weights = _block(weight_ptr, n_at + k[None, :], is_there, IS_EVEN)
        if IS_GATED:
            ups = _block(weight_ptr, up_at + k[None, :], is_there, IS_EVEN)
        x = tl.load(x_ptr + rows[:, None] * x_row + k, mask=is_row[:, None] & (k < num_in)[None, :], other=0.0)
        if HAS_NORM:
            wide = x.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            x = (wide * tl.load(norm_ptr + k, mask=k < num_in, other=0.0).to(tl.float32)[None, :]).to(x.dtype)
        if UPCAST:
            x = x.to(tl.float32)
        out += tl.dot(weights.to(x.dtype), tl.trans(x), input_precision="ieee")
        if IS_GATED:
            up += tl.dot(ups.to(x.dtype), tl.trans(x), input_precision="ieee")
    if HAS_NORM:
        scale = tl.rsqrt(squares / num_in + eps)
        out *= scale[None, :]
        up *= scale[None, :]
    is_stored = is_out[:, None] & is_row[None, :]
    result = _finished(
        out, up, n[:, None], rows[None, :], is_stored, scales_ptr, base_ptr, bias_ptr, num_out,
        HAS_SCALES, HAS_BASE, HAS_BIAS, IS_GATED,
    )  # fmt: skip
    tl.store(out_ptr + rows[None, :] * num_out + n[:, None], result.to(out_ptr.dtype.element_ty), mask=is_stored)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, around: Around, cut: Cut) -> Tensor:
    """Rows [T, out], [T, out / 2] of a gate, for x [T, in], T at most `MOST_ROWS`, and `weight` [in, out] stored column
    by column, as linear layers are; of 8 bits where `around` has scales. Raises `CannotLaunch` for a cut that this card
    does not run."""
    (num_rows, num_in), num_out = x.shape, weight.shape[1] // (2 if around.is_gated else 1)
    assert num_rows <= MOST_ROWS, "more rows than a program takes"
    assert weight.stride(0) == x.stride(1) == 1, "what is multiplied lies side by side"
    assert around.base is None or around.base.is_contiguous(), "rows that are added lie one behind the other"
    assert not (around.is_gated and bias is not None), "no gate has a bias"
    if around.norm is not None and x.dtype == torch.float16:
        x = torch.rms_norm(x, around.norm.shape, around.norm, around.eps)
        around = replace(around, norm=None)
    out = torch.empty(num_rows, num_out, dtype=x.dtype, device=x.device)
    unused = x  # what is not there is not looked at
    early = {"launch_pdl": True} if cut.is_early else {}  # not every platform knows the option
    kernel = _one_row_kernel if num_rows == 1 else _few_rows_kernel
    with launching(x):
        kernel[(triton.cdiv(num_out, cut.outs),)](
            x, weight,
            unused if around.scales is None else around.scales,
            unused if around.norm is None else around.norm,
            unused if around.base is None else around.base,
            unused if bias is None else bias,
            out, around.eps, num_rows, num_in, num_out, x.stride(0), weight.stride(1),
            OUTS=cut.outs, INS=cut.ins, ROWS=MOST_ROWS, STAGES=cut.stages,
            HAS_SCALES=around.scales is not None, HAS_NORM=around.norm is not None,
            HAS_BASE=around.base is not None, HAS_BIAS=bias is not None, IS_GATED=around.is_gated,
            IS_EVEN=num_in % cut.ins == 0 and num_out % cut.outs == 0, UPCAST=bool(knobs.runtime.interpret),
            IS_EARLY=cut.is_early, num_warps=cut.num_warps, **early,
        )  # fmt: skip
    return out
