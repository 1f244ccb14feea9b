"""Attention in half precision by matrix products, one key head after the other.

Job: `attend_by_head`, for processors on which torch's products of two matrices in half precision beat its flash
operator for the CPU. Non-job: saying where that is so (`contest`), dtypes other than the two half ones.

Three things make it fast. A head of a cache is a contiguous matrix, while the heads of a cache with room at its end are
not a contiguous batch, and torch copies such a batch before a batched product. A softmax in half precision is one
operator that reads and writes each logit once; its largest weight is one over the sum, so the log-sum-exp needs no pass
over exponentials. And a block of logits, `_BLOCK_LOGITS`, stays in the cache of a core.

Products give logits that are rounded to half precision, an error that grows with their size. So a row's largest logit
over a sample of the keys, and over the blocks so far, is subtracted inside of the product, where sums are still
float32: what weighs is then close to 0 and rounded finely. Any subtracted number leaves the result as it is.
Partial results are merged by log-sum-exp as in FlashDecoding.
"""

import torch
from torch import Tensor

from spec_engine.attention.merge import merge_two

_BLOCK_LOGITS = 1 << 19  # 1 MiB
_MOST_ROWS = 512  # of a block, and …
_LEAST_KEYS = 1024  # … keys, unless there are fewer
_FEW_ROWS = 8  # up to so many, a product over the keys is shared out among cores in …
_PIECES = 8  # … so many pieces
_SAMPLE = 64  # keys that say what to subtract


def attend_by_head(
    folded: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of folded rows [1, Hk, G * T, D] over k [1, Hk, keys, D] and v: out [1, Hk, G * T, Dv] in their dtype
    and lse [1, Hk, G * T] in float32.

    `bias` [G * T, keys] is 0 or -inf; no row may be hidden from all keys. With it a row's keys are one block. There is
    at least one key.
    """
    _, num_heads, num_rows, _ = folded.shape
    out = folded.new_empty(1, num_heads, num_rows, v.shape[3])
    lse = torch.empty(1, num_heads, num_rows)
    sample = k[:, :, :: max(1, k.shape[2] // _SAMPLE)]
    highest = torch.matmul(folded, sample.transpose(-1, -2)).amax(dim=-1, keepdim=True)
    offsets = highest * -scale
    for head in range(num_heads):
        for start in range(0, num_rows, _MOST_ROWS):
            rows = slice(start, min(start + _MOST_ROWS, num_rows))
            hidden = None if bias is None else bias[rows]
            few, few_lse = _attend(
                folded[0, head, rows], (k[0, head], v[0, head]), scale, offsets[0, head, rows], hidden
            )
            out[0, head, rows], lse[0, head, rows] = few, few_lse
    return out, lse


def _attend(
    q: Tensor, kv: tuple[Tensor, Tensor], scale: float, offset: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A block of rows q [rows, D] of one head; `offset` [rows, 1] is added to the logits while they are computed."""
    k, v = kv
    size = k.shape[0] if bias is not None else max(_LEAST_KEYS, _BLOCK_LOGITS // q.shape[0])
    found: tuple[Tensor, Tensor] | None = None
    for keys, values in zip(k.split(size), v.split(size), strict=True):
        logits = torch.addmm(offset if bias is None else bias + offset, q, keys.t(), alpha=scale)
        weights = torch.softmax(logits, dim=-1)
        top = logits.amax(dim=-1, keepdim=True)
        lse = (top.float() - weights.amax(dim=-1, keepdim=True).float().log_() - offset).squeeze(-1)
        out = _weigh(weights, values)
        found = (out, lse) if found is None else merge_two((out.float(), lse), (found[0].float(), found[1]))
        offset = torch.minimum(offset, offset - top)
    assert found is not None
    return found


def _weigh(weights: Tensor, values: Tensor) -> Tensor:
    """weights [rows, keys] times values [keys, Dv]. A product of few rows has too few results to share out among cores,
    so it is cut into pieces of the keys."""
    size = values.shape[0] // _PIECES
    if weights.shape[0] > _FEW_ROWS or size == 0:
        return torch.mm(weights, values)
    end = size * _PIECES
    pieces = weights[:, :end].unflatten(1, (_PIECES, size)).transpose(0, 1)
    out = torch.bmm(pieces, values[:end].view(_PIECES, size, -1)).sum(dim=0, dtype=torch.float32)
    return out if end == values.shape[0] else out + torch.mm(weights[:, end:], values[end:])
