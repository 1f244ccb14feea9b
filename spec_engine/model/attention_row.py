"""How much the newest token attends to each token of the text.

Job: `attention_row`, from one query per head, after a pass.
Non-job: choosing tokens by it (`retrieval`), recording the query (`hf_attention`).
"""

import torch
from torch import Tensor

from spec_engine.attention import Scoring

_HALF = (torch.float16, torch.bfloat16)
_FLOAT_BLOCK = 1024  # keys


@torch.inference_mode()
def attention_row(query: Tensor, keys: Tensor, scoring: Scoring, window: int | None) -> Tensor:
    """Attention [n] of a token with `query` [Hq, D] to `keys` [Hk, n, D], the last `window` of them where there is one:
    softmax in float32, mean over heads."""
    rows = query.reshape(keys.shape[0], -1, keys.shape[2])  # [Hk, G, D]
    logits = scoring.scale * _products(rows, keys)  # [Hk, G, n]
    if scoring.softcap is not None:
        logits = scoring.softcap * torch.tanh(logits / scoring.softcap)
    if window is not None:
        logits[..., : max(logits.shape[-1] - window, 0)] = -torch.inf
    if scoring.sink is not None:  # takes its share of the softmax, and is no token
        sink = scoring.sink.float().view(keys.shape[0], -1, 1)
        return torch.softmax(torch.cat((logits, sink), dim=-1), dim=-1)[..., :-1].mean(dim=(0, 1))
    return torch.softmax(logits, dim=-1).mean(dim=(0, 1))


def _products(rows: Tensor, keys: Tensor) -> Tensor:
    """rows [Hk, G, D] times keys [Hk, n, D], float32 [Hk, G, n]; a GPU reads keys of half precision as they are, a CPU
    makes them float32 a block at a time, which stays in its cache."""
    if rows.device.type == "cuda" and rows.dtype in _HALF:
        return torch.bmm(rows, keys.transpose(1, 2), out_dtype=torch.float32)
    wide = rows.float()
    blocks = keys.split(_FLOAT_BLOCK, dim=1) if keys.dtype in _HALF else (keys,)
    return torch.cat([torch.matmul(wide, block.float().transpose(1, 2)) for block in blocks], dim=-1)
