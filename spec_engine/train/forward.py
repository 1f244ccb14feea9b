"""The training pass of the built-in models: transformers' own weights, attention written for whole rows.

Job: hidden states [B, L, H] of a SmolLM3 or Llama model for full rows without a cache, and the attention-guidance
losses. `tests/train` holds it equal to transformers' forward.
Non-job: generation (the engine), the optimiser (loop.py).

Sliding layers are computed in blocks of one window, so their cost does not grow with the row.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel


class Guide(NamedTuple):
    """Where heads of a layer should look: from `rows` [B, n] to `targets` [B, heads, n], int64; below 0: left out.

    As many heads as `targets` has are guided, evenly spread.
    """

    rows: Tensor
    targets: Tensor


Guides = dict[int, Guide]  # by layer


def rope_tables(model: PreTrainedModel, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [1, L, D] in float32 for positions 0 to `length` - 1."""
    positions = torch.arange(length, device=model.device)[None]
    like = torch.zeros(1, device=model.device)
    cos, sin = model.model.rotary_emb(like, positions)
    return cos.float(), sin.float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return (x * cos + turned * sin).to(x.dtype)


def _windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention over the last `window` keys, own key included. q, k, v [B, Hq, L, D]; L divisible by window."""
    batch, heads, length, size = q.shape
    blocks = length // window

    def pairs(x: Tensor) -> Tensor:  # [B, Hq, blocks, 2 window, D]: each block behind the one before it
        x = x.view(batch, heads, blocks, window, size)
        return torch.cat((F.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0)), x), 3)

    row = torch.arange(window, device=q.device)[:, None] + window
    column = torch.arange(2 * window, device=q.device)[None]
    seen = (column <= row) & (column > row - window)  # [window, 2 window]
    first = seen & (column >= window)
    mask = torch.cat((first[None], seen[None].expand(blocks - 1, -1, -1))) if blocks > 1 else first[None]
    scores = torch.matmul(q.view(batch, heads, blocks, window, size) * size**-0.5, pairs(k).transpose(-1, -2))
    weights = torch.softmax(scores.float().masked_fill(~mask, float("-inf")), -1).to(q.dtype)
    return torch.matmul(weights, pairs(v)).reshape(batch, heads, length, size)


def _guide(q: Tensor, k: Tensor, guide: Guide, window: int | None) -> Tensor:
    """-log of the weight that the guided heads give to their targets; mean over the targets in sight."""
    rows, targets = guide.rows, guide.targets
    step = q.shape[1] // targets.shape[1]  # a slice: torch 2.13 compiles an index of heads to code that breaks memory
    q, k = q[:, ::step].float(), k[:, ::step].float()  # [B, h, L, D]
    index = rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    picked = q.gather(2, index) * q.shape[-1] ** -0.5  # [B, h, n, D]
    scores = torch.matmul(picked, k.transpose(-1, -2))  # [B, h, n, L]
    column, row = torch.arange(k.shape[2], device=q.device)[None, None, None], rows[:, None, :, None]
    lowest = -1 if window is None else row - window  # the newest key that is not seen any more
    log_weight = torch.log_softmax(scores.masked_fill((column > row) | (column <= lowest), float("-inf")), -1)
    chosen = log_weight.gather(3, targets.clamp_min(0)[..., None])[..., 0]
    valid = targets >= 0 if window is None else (targets >= 0) & (targets > rows[:, None] - window)
    return -torch.where(valid, chosen, 0.0).sum() / valid.sum().clamp_min(1)


def hidden_states(
    model: PreTrainedModel, ids: Tensor, rope: tuple[Tensor, Tensor], guides: Guides
) -> tuple[Tensor, dict[int, Tensor]]:
    """Final hidden states [B, L, H] after the norm, and the guidance loss of each guided layer."""
    config = model.config
    head_size = config.hidden_size // config.num_attention_heads
    groups = config.num_attention_heads // config.num_key_value_heads
    no_rope = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    x = model.model.embed_tokens(ids)
    guidance: dict[int, Tensor] = {}
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        normed = layer.input_layernorm(x)
        q, k, v = (
            project(normed).view(*ids.shape, -1, head_size).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if no_rope[number]:
            q, k = _rotate(q, *rope), _rotate(k, *rope)
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        window = config.sliding_window if kinds[number] == "sliding_attention" else None
        if window is not None and ids.shape[1] > window:
            mixed = _windowed(q, k, v, window)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if number in guides:
            guidance[number] = _guide(q, k, guides[number], window)
        x = x + attention.o_proj(mixed.transpose(1, 2).reshape(*ids.shape, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.model.norm(x), guidance
