"""Merging attention over disjoint sets of keys by log-sum-exp.

Job: combine (out, lse) pairs as if one softmax had run over all keys, in float32 or better, and add the sink term.
Non-job: computing the pairs.

The rule is that of FlashDecoding's split-KV reduction: each part weighs ``exp(lse_part - lse_all)``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


def merge_two(part: tuple[Tensor, Tensor], base: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Merge two parts, of which `base` has no fully masked row; `part` may have some.

    Each part is out [1, Hq, T, Dv] and lse [1, Hq, T]; so is the result, out in the dtype of the parts.
    """
    weight = torch.sigmoid(part[1] - base[1]).unsqueeze(-1)  # 0 where part's lse is -inf
    out = torch.lerp(wide(base[0]), wide(part[0]), weight)
    return out.to(base[0].dtype), torch.logaddexp(part[1], base[1])


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Merge any number of parts; rows that are fully masked in some or all of them are allowed."""
    lses = torch.stack([lse for _, lse in parts])  # [parts, 1, Hq, T]
    total = torch.logsumexp(lses, dim=0)
    weights = torch.exp(lses - total.masked_fill(total == -torch.inf, 0.0)).unsqueeze(-1)
    out = wide(parts[0][0]) * weights[0]
    for index, (other, _) in enumerate(parts[1:], start=1):
        out = out + wide(other) * weights[index]
    return out.to(parts[0][0].dtype), total


def add_sink(out: Tensor, lse: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """Let the extra logit `sink` [Hq] take its share of every row's softmax; it brings no value."""
    extra = sink.to(lse.dtype).view(1, -1, 1)
    weight = torch.sigmoid(lse - extra).unsqueeze(-1)
    return (wide(out) * weight).to(out.dtype), torch.logaddexp(lse, extra.expand_as(lse))
