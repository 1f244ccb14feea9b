"""Attention on a CPU by matrix products, one key head after the other.

Job: `attend_by_head`, for processors on which products of two matrices beat torch's flash operator for the CPU, and
`whole_blocks`, which keys it takes. Non-job: saying where it is faster (`contest`), the keys that are left over.

Four things make it fast. A head of a cache is a contiguous matrix, while the heads of a cache with room at its end are
not a contiguous batch, and torch copies such a batch before a batched product. A softmax is one operator that reads and
writes each logit once; its largest weight is one over the sum, so the log-sum-exp needs no pass over exponentials. A
block of logits, `_BLOCK_BYTES`, stays in the cache of a core. And oneDNN does the products, which compiles a kernel for
each new shape, 3 to 7 milliseconds each (EPYC, torch 2.13): a context that grows by some tokens a step would have a new
one in every step. So keys are taken in blocks of few sizes and rows are filled up to few numbers.

In half precision products give logits that are rounded, an error that grows with their size. So a row's largest logit
over a sample of the keys, and over the blocks so far, is subtracted inside of the product, where sums are still
float32: what weighs is then close to 0 and rounded finely. Any subtracted number leaves the result as it is.
Partial results are merged by log-sum-exp as in FlashDecoding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from spec_engine import onednn
from spec_engine.attention.merge import merge_two

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_BLOCK_BYTES = 1 << 21
_MOST_ROWS = 512  # of a block, and …
_LEAST_KEYS = 512  # … keys, always a power of two
_LEAST_WORK = 1 << 23  # multiplications of a block: below it, its operators take longer to start than to run
_MOST_TIMES = 4  # the least number of keys; more sizes would be no faster
_SAMPLE = 64  # keys that say what to subtract


def whole_blocks(num_rows: int, num_keys: int, size: int, dtype: torch.dtype) -> list[int]:
    """The sizes of the blocks, the largest first, in which folded rows go over most of `num_keys` keys of `size`
    columns; empty where none is worth its start."""
    blocks: list[int] = []
    for block in _sizes(filled(min(num_rows, _MOST_ROWS)), size, dtype):
        num = num_keys // block
        blocks += [block] * num
        num_keys -= num * block
    return blocks


def filled(num_rows: int) -> int:
    """So many rows are run for `num_rows`: a power of two or one and a half of one."""
    most = _power_of_two(num_rows)
    return 3 * most // 4 if num_rows <= 3 * most // 4 else most


def warm_up(num_rows: int, num_keys: int, size: int, dtype: torch.dtype) -> None:
    """Have the kernels compiled for `num_rows` filled rows over all sizes of blocks that `num_keys` keys have."""
    for block in _sizes(num_rows, size, dtype):
        if block > num_keys:
            continue
        q, keys = (torch.zeros(1, 1, num, size, dtype=dtype) for num in (num_rows, block))
        attend_by_head(q, keys, keys, 1.0, [block])


def attend_by_head(
    folded: Tensor, k: Tensor, v: Tensor, scale: float, blocks: Sequence[int], bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of folded rows [1, Hk, G * T, D] over k [1, Hk, keys, D] and v: out [1, Hk, G * T, Dv] in their dtype
    and lse [1, Hk, G * T] in float32. float32, float16 and bfloat16.

    `blocks` are the sizes of the parts that the keys are taken in, all of them together; `bias` [G * T, keys] is 0 or
    -inf, and no row may be hidden from all keys of a block.
    """
    _, num_heads, num_rows, _ = folded.shape
    is_half = folded.dtype != torch.float32
    out = folded.new_empty(1, num_heads, num_rows, v.shape[3])
    lse = torch.empty(1, num_heads, num_rows)
    offsets = _offsets(folded, k, scale) if is_half else None
    for head in range(num_heads):
        keys, values = k[0, head].split(list(blocks)), v[0, head].split(list(blocks))
        for start in range(0, num_rows, _MOST_ROWS):
            num = min(num_rows - start, _MOST_ROWS)
            rows = slice(start, start + num)
            q = _fill(folded[0, head, rows])
            hidden = None if bias is None else _fill(bias[rows])
            if offsets is None:
                few, few_lse = _attend(q * scale, (keys, values), hidden)
            else:
                few, few_lse = _attend_halved(q, (keys, values), scale, _fill(offsets[0, head, rows]), hidden)
            out[0, head, rows], lse[0, head, rows] = few[:num], few_lse[:num]
    return out, lse


Parts = tuple[Sequence[Tensor], Sequence[Tensor]]


def _attend(q: Tensor, parts: Parts, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows q [rows, D], scaled, over the blocks of one head in float32."""
    found: tuple[Tensor, Tensor] | None = None
    start = 0
    for keys, values in zip(*parts, strict=True):
        logits = onednn.product(q, keys)
        if bias is not None:
            logits += bias[:, start : start + len(keys)]
        weights = torch.softmax(logits, dim=-1)
        lse = logits.amax(dim=-1) - weights.amax(dim=-1).log_()
        out = onednn.product(weights, values.t())
        found = (out, lse) if found is None else merge_two((out, lse), found)
        start += len(keys)
    assert found is not None
    return found


def _attend_halved(q: Tensor, parts: Parts, scale: float, offset: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same in half precision; `offset` [rows, 1] is added to the logits while they are computed."""
    found: tuple[Tensor, Tensor] | None = None
    start = 0
    for keys, values in zip(*parts, strict=True):
        added = offset if bias is None else bias[:, start : start + len(keys)] + offset
        logits = torch.addmm(added, q, keys.t(), alpha=scale)
        weights = torch.softmax(logits, dim=-1)
        top = logits.amax(dim=-1, keepdim=True)
        lse = (top.float() - weights.amax(dim=-1, keepdim=True).float().log_() - offset).squeeze(-1)
        out = torch.mm(weights, values).float()
        found = (out, lse) if found is None else merge_two((out, lse), found)
        offset = torch.minimum(offset, offset - top)
        start += len(keys)
    assert found is not None
    return found


def _offsets(folded: Tensor, k: Tensor, scale: float) -> Tensor:
    """What brings a row's largest logit over a sample of the keys to 0: [1, Hk, G * T, 1]."""
    sample = k[:, :, :: max(1, k.shape[2] // _SAMPLE)][:, :, :_SAMPLE]
    highest = torch.matmul(folded, sample.transpose(-1, -2)).amax(dim=-1, keepdim=True)
    return highest * -scale


def _fill(rows: Tensor) -> Tensor:
    """`rows` [rows, …] with rows of zeros behind them, up to a number that has its kernels."""
    missing = filled(len(rows)) - len(rows)
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


def _sizes(num_rows: int, size: int, dtype: torch.dtype) -> list[int]:
    """Of blocks for so many filled rows, the largest first."""
    least = max(_LEAST_KEYS, _power_of_two(-(-_LEAST_WORK // (num_rows * size))))
    block = max(least, min(_MOST_TIMES * least, _power_of_two(_BLOCK_BYTES // dtype.itemsize // num_rows)))
    return [block >> shift for shift in range((block // least).bit_length())]


def _power_of_two(number: int) -> int:
    """The least that is no smaller."""
    return 1 << (number - 1).bit_length()
