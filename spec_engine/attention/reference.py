"""Attention by the definition, in float64: what every backend is compared with.

Job: be obviously right.
Non-job: speed, memory.
"""

import torch
from torch import Tensor

from spec_engine.attention.base import Bounds, Scoring, TreeBias


class ReferenceBackend:
    """The contract of `AttentionBackend` with one masked softmax over all keys in float64."""

    name = "reference"

    def hybrid(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, bias: TreeBias | None, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        if bias is not None:
            num_edge = bias.values.shape[1] - (k.shape[2] - prefix_len)
            seen = bias.values == 0
            visible[:, :num_edge] = seen[:, :num_edge]
            visible[:, prefix_len:] = seen[:, num_edge:]
        return _attend(q, k, v, visible, scoring)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(prefix_len)
        return _attend(q, k, v, visible, scoring)

    def bounded(
        self, q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, bias: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        first, start, end = bounds.values.unbind()
        keys = torch.arange(k.shape[2], device=q.device)
        visible = ((keys >= start) & (keys < end)).expand(q.shape[2], -1)
        columns = torch.arange(bias.shape[1], device=q.device)
        places = torch.where(columns < bounds.num_edge, first + columns, end + columns - bounds.num_edge)
        seen = torch.zeros(visible.shape, device=q.device).index_add(1, places, (bias == 0).float())
        return _attend(q, k, v, visible | (seen > 0), scoring)

    def can_bound(self, dtype: torch.dtype, size: int, value_size: int) -> bool:
        return True


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Softmax attention where row i sees key j exactly when ``visible[i, j]`` [T, keys]."""
    num_heads, num_rows = q.shape[1:3]
    folded = q.double().reshape(1, k.shape[1], -1, q.shape[3])  # heads that share keys, one behind the other
    logits = (folded @ k.double().transpose(-1, -2)).view(1, num_heads, num_rows, -1) * scoring.scale
    if scoring.softcap is not None:
        logits = scoring.softcap * torch.tanh(logits / scoring.softcap)
    logits = logits.masked_fill(~visible, -torch.inf)
    terms = [logits]
    if scoring.sink is not None:
        terms.append(scoring.sink.double().view(1, -1, 1, 1).expand(*logits.shape[:3], 1))
    lse = torch.logsumexp(torch.cat(terms, dim=-1), dim=-1)
    weights = torch.exp(logits - lse.masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1))
    out = (weights.view(1, k.shape[1], folded.shape[2], -1) @ v.double()).view(1, num_heads, num_rows, -1)
    return out.to(q.dtype), lse if q.dtype == torch.float64 else lse.float()
