"""Attention with torch's own kernels.

Job: `MatmulBackend` (any device and dtype, soft caps), `CpuBackend` (torch's flash operator for the CPU) and
`CudaBackend` (torch's flash operator for CUDA).
Non-job: choosing one of them (`pick`), windows (the bridge turns them into a bias).

The group fold: in the unmasked part all rows see the same keys, so the G = Hq / Hk query heads of a key head are
treated as G * T rows of one head. Keys and values are then read once per key head instead of once per query head, which
makes a one-row pass 2 to 4 times faster on the CPU.

Measured on CPUs with AVX512 (torch 2.13, one and two threads; Hk 2 to 8, D 64 and 128): for few rows the folded flash
operator is the fastest or close to it. For more it depends on the processor, because the operator does its products
with MKL in float32: `contest` measures it against products head by head (`by_head`). Batched products over all heads
are slow, because the heads of a cache are no contiguous batch and torch copies them first.
"""

import torch
from torch import Tensor

from spec_engine.attention import by_head
from spec_engine.attention.base import Scoring, TreeBias
from spec_engine.attention.by_head import attend_by_head, whole_blocks
from spec_engine.attention.contest import Verdict
from spec_engine.attention.merge import add_sink, merge, merge_two, wide

_BLOCK = 1024  # keys per block of the matmul path
_SQUARE_ROWS = 128  # new tokens of a prompt that share a block of the products
_FLASH_ONLY = Verdict()
_MAX_FLASH_HEAD = 256  # head size up to which CUDA's flash operator works; it must be a multiple of 8


class MatmulBackend:
    """Attention by matrix products over blocks of keys, with a running maximum. Works everywhere."""

    name = "matmul"

    def hybrid(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, bias: TreeBias | None, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        if bias is None:
            out, lse = self._unmasked(q, k, v, scoring)
        else:
            num_edge = bias.values.shape[1] - (k.shape[2] - prefix_len)
            few_k, few_v = _masked_keys(k, num_edge, prefix_len), _masked_keys(v, num_edge, prefix_len)
            out, lse = self._masked(q, few_k, few_v, bias, scoring)
            if prefix_len > num_edge:
                length = prefix_len - num_edge
                prefix = self._unmasked(q, k.narrow(2, num_edge, length), v.narrow(2, num_edge, length), scoring)
                out, lse = merge_two(prefix, (out, lse)) if bias.dead is None else merge([prefix, (out, lse)])
        return (out, lse) if scoring.sink is None else add_sink(out, lse, scoring.sink)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
        num_new = q.shape[2]
        out, lse = self._square(q, k.narrow(2, prefix_len, num_new), v.narrow(2, prefix_len, num_new), scoring)
        if prefix_len:
            prefix = self._unmasked(q, k.narrow(2, 0, prefix_len), v.narrow(2, 0, prefix_len), scoring)
            out, lse = merge_two(prefix, (out, lse))
        return (out, lse) if scoring.sink is None else add_sink(out, lse, scoring.sink)

    def _unmasked(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """Every row sees every key; there is at least one."""
        _, num_heads, num_new, _ = q.shape
        out, lse = _blocked(_fold(q, k), k, v, scoring)
        return out.view(1, num_heads, num_new, -1), lse.view(1, num_heads, num_new)

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, bias: TreeBias, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """Few keys [1, Hk, E + N, D] under a bias."""
        _, num_heads, num_new, _ = q.shape
        logits = _logits(_fold(q, k), k, scoring).view(1, num_heads, num_new, -1) + bias.values
        lse = torch.logsumexp(logits, dim=-1)
        floor = lse if bias.dead is None else lse.masked_fill(bias.dead, 0.0)
        weights = torch.exp(logits - floor.unsqueeze(-1)).to(v.dtype)
        out = torch.matmul(weights.view(1, k.shape[1], -1, k.shape[2]), v)
        return out.view(1, num_heads, num_new, -1), lse

    def _square(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """As many rows as keys, row i sees keys 0 to i. In parts, so that no mask grows with the square of a chunk."""
        num_new, parts = q.shape[2], []
        for start in range(0, num_new, _BLOCK) if num_new > _BLOCK else ():
            length = min(_BLOCK, num_new - start)
            few, own_k, own_v = (x.narrow(2, start, length) for x in (q, k, v))
            part = self._square(few, own_k, own_v, scoring)
            if start:
                part = merge_two(self._unmasked(few, k.narrow(2, 0, start), v.narrow(2, 0, start), scoring), part)
            parts.append(part)
        if parts:
            return torch.cat([out for out, _ in parts], dim=2), torch.cat([lse for _, lse in parts], dim=2)
        values = torch.full((num_new, num_new), -torch.inf, dtype=wide(q[:0]).dtype, device=q.device).triu_(1)
        return self._masked(q, k, v, TreeBias(values, None), scoring)


class CpuBackend(MatmulBackend):
    """torch's flash operator for the CPU, folded, and for most keys products head by head, where `verdict` says that
    they are faster. Soft caps and values of another size go the matmul way.

    The operator kills the process on an empty set of keys and reports lse 0 for a fully masked row; the first never
    happens here, the second is put right.
    """

    name = "torch-cpu-flash"

    def __init__(self, verdict: Verdict = _FLASH_ONLY) -> None:
        self._verdict = verdict

    def warm_up(self, num_rows: int, num_keys: int, num_groups: int, size: int, dtype: torch.dtype) -> None:
        """Have the kernels compiled for products of up to `num_rows` new tokens with up to `num_keys` keys, where they
        are used: the first one of each form takes some milliseconds."""
        rows = {by_head.filled(num_groups * num) for num in range(1, num_rows + 1)}
        for num in rows if dtype in by_head.DTYPES else ():
            if self._verdict.prefers_products(num):
                by_head.warm_up(num, num_keys, size, dtype)

    def _unmasked(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        _, num_heads, num_new, size = q.shape
        folded = _fold(q, k)
        num_rows, num_keys = folded.shape[2], k.shape[2]
        blocks = whole_blocks(num_rows, num_keys, size, q.dtype) if self._by_head(num_rows, q, scoring) else []
        start = sum(blocks)
        parts = []
        if blocks:
            parts.append(attend_by_head(folded, k.narrow(2, 0, start), v.narrow(2, 0, start), scoring.scale, blocks))
        if start < num_keys:
            few_k, few_v = k.narrow(2, start, num_keys - start), v.narrow(2, start, num_keys - start)
            if scoring.softcap is None and size == v.shape[3]:
                parts.append(_flash_cpu(folded, few_k, few_v, 0.0, False, attn_mask=None, scale=scoring.scale))
            else:
                parts.append(_blocked(folded, few_k, few_v, scoring))
        out, lse = parts[0] if len(parts) == 1 else merge_two(parts[1], parts[0])
        return out.reshape(1, num_heads, num_new, -1), lse.reshape(1, num_heads, num_new)

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, bias: TreeBias, scoring: Scoring) -> tuple[Tensor, Tensor]:
        if scoring.softcap is not None or q.shape[3] != v.shape[3]:
            return super()._masked(q, k, v, bias, scoring)
        out, lse = _flash_cpu(q, k, v, 0.0, False, attn_mask=bias.values, scale=scoring.scale)
        return out, lse if bias.dead is None else lse.masked_fill(bias.dead, -torch.inf)

    def _square(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        num_new = q.shape[2]
        if num_new >= _SQUARE_ROWS and self._by_head(q.shape[1] * _SQUARE_ROWS // k.shape[1], q, scoring):
            return self._steps(q, k, v, scoring)
        if scoring.softcap is not None or q.shape[3] != v.shape[3]:
            return super()._square(q, k, v, scoring)
        out, lse = _flash_cpu(q, k, v, 0.0, True, attn_mask=None, scale=scoring.scale)
        return out, lse

    def _steps(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """`_square` in steps of `_SQUARE_ROWS` rows over the keys up to the last of them; what is left goes the other
        way, so that products are of few forms."""
        _, num_heads, num_new, _ = q.shape
        parts = []
        for start in range(0, num_new, _SQUARE_ROWS):
            length = min(_SQUARE_ROWS, num_new - start)
            end = start + length
            few, seen_k, seen_v = q.narrow(2, start, length), k.narrow(2, 0, end), v.narrow(2, 0, end)
            hidden = torch.full((length, end), -torch.inf, dtype=q.dtype).triu_(start + 1)
            if length < _SQUARE_ROWS:
                parts.append(self._masked(few, seen_k, seen_v, TreeBias(hidden, None), scoring))
                continue
            repeated = hidden.repeat(num_heads // k.shape[1], 1)
            out, lse = attend_by_head(_fold(few, k), seen_k, seen_v, scoring.scale, [end], repeated)
            parts.append((out.view(1, num_heads, length, -1), lse.view(1, num_heads, length)))
        return torch.cat([out for out, _ in parts], dim=2), torch.cat([lse for _, lse in parts], dim=2)

    def _by_head(self, num_rows: int, q: Tensor, scoring: Scoring) -> bool:
        """Whether products head by head can do it and are faster."""
        can = q.dtype in by_head.DTYPES and scoring.softcap is None
        return can and self._verdict.prefers_products(num_rows)


class CudaBackend(MatmulBackend):
    """torch's flash operator for CUDA (float16 and bfloat16, compute capability 8 and up), folded.

    It takes no mask, so the masked part is a small matrix product; soft caps and odd head sizes go the matmul way too.
    """

    name = "torch-cuda-flash"

    def _unmasked(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        if not _fits_flash(q, v, scoring):
            return super()._unmasked(q, k, v, scoring)
        _, num_heads, num_new, size = q.shape
        folded = _fold(q, k)
        out, lse = _flash_cuda(folded, k, v, 0.0, False, False, scale=scoring.scale)[:2]
        lse = lse[:, :, : folded.shape[2]]  # the operator may pad the rows
        return out.reshape(1, num_heads, num_new, size), lse.reshape(1, num_heads, num_new)

    def _square(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        if not _fits_flash(q, v, scoring):
            return super()._square(q, k, v, scoring)
        out, lse = _flash_cuda(q, k, v, 0.0, True, False, scale=scoring.scale)[:2]
        return out, lse[:, :, : q.shape[2]]


_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_cuda = torch.ops.aten._scaled_dot_product_flash_attention


def _fits_flash(q: Tensor, v: Tensor, scoring: Scoring) -> bool:
    """Whether CUDA's flash operator can do it."""
    size = q.shape[3]
    is_plain = scoring.softcap is None and size == v.shape[3]
    return is_plain and size % 8 == 0 and size <= _MAX_FLASH_HEAD and q.dtype in (torch.float16, torch.bfloat16)


def _fold(q: Tensor, k: Tensor) -> Tensor:
    """The group fold: q [1, Hq, T, D] as [1, Hk, G * T, D]; row g * T + t is head h * G + g, new token t."""
    num_kv_heads = k.shape[1]
    return q.reshape(1, num_kv_heads, q.shape[1] // num_kv_heads * q.shape[2], q.shape[3])


def _masked_keys(x: Tensor, num_edge: int, prefix_len: int) -> Tensor:
    """The keys or values of the masked part: the `num_edge` oldest and those behind the prefix."""
    if num_edge == prefix_len:
        return x
    new = x.narrow(2, prefix_len, x.shape[2] - prefix_len)
    return torch.cat([x.narrow(2, 0, num_edge), new], dim=2) if num_edge else new


def _logits(folded: Tensor, k: Tensor, scoring: Scoring) -> Tensor:
    """Logits [1, Hk, rows, keys] in float32 or float64."""
    logits = wide(torch.matmul(folded * scoring.scale, k.transpose(-1, -2)))
    return logits if scoring.softcap is None else scoring.softcap * torch.tanh(logits / scoring.softcap)


def _blocked(folded: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Online softmax (Milakov and Gimelshein, arXiv 1805.02867) over blocks of keys, all of them visible."""
    rows = (*folded.shape[:3], 1)
    acc = wide(v.new_zeros(*rows[:3], v.shape[3]))
    total = acc.new_zeros(rows)
    top = acc.new_full(rows, -torch.inf)
    for start in range(0, k.shape[2], _BLOCK):
        length = min(_BLOCK, k.shape[2] - start)
        logits = _logits(folded, k.narrow(2, start, length), scoring)
        new_top = torch.maximum(top, logits.amax(dim=-1, keepdim=True))
        factor, top = torch.exp(top - new_top), new_top
        weights = logits.sub_(top).exp_()
        total.mul_(factor).add_(weights.sum(dim=-1, keepdim=True))
        acc.mul_(factor).add_(torch.matmul(weights.to(v.dtype), v.narrow(2, start, length)))
    return (acc / total).to(folded.dtype), (top + torch.log(total)).squeeze(-1)
