"""LongSpec's draft head ("GLIDE"; arXiv 2502.17421, section 3.1): one decoder layer that reads the target's memory.

Job: `LongSpecHead`, the module that is trained and that drafts, and reading and writing its files.
Non-job: memory and trees (`longspec_memory`, `longspec`), the training loop.

A token's embedding, the target's own, passes through self-attention with a window, through cross-attention to the keys
and values of the target's last layer, and through a feed-forward part; the target's output layer reads the result,
without a norm in between. No hidden state of the target goes in, and keys and values of the self-attention depend on
tokens alone, so nothing has to be computed for a prompt but the last window.

Files are those of ``sail/longspec-*``. They hold a k_proj and a v_proj in cross_attn too, whose result was never used:
these are left out, and so is what belongs to the target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spec_engine.errors import ModelError
from spec_engine.model.checkpoint import Checkpoint, save_checkpoint
from spec_engine.model.head_products import Gated, Joined, Summed
from spec_engine.model.rope import Angles, Rotary

_PREFIX = "draft_model."  # of checkpoints that training wrote
_NOT_OURS = ("cross_attn.k_proj", "cross_attn.v_proj", "embed_tokens", "lm_head", "rotary_emb")
_WINDOW_KEY = "self_attention_window"  # in config.json; published heads have none and were trained with 512
_QUERY_BLOCK = 256  # rows of a training pass that share one mask, at least

See = Callable[[Tensor], Tensor]
"""Attention: queries [B, Hq, T, D] -> what they saw, of the same shape."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Sizes of a head. A token sees itself and the `window` tokens before it."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    eps: float = 1e-6
    window: int = 512


@dataclass(frozen=True, slots=True)
class HeadRotary:
    """How a head turns by position: `own` in its self-attention, `cross` its queries to the target's keys.

    Both are the target's (`model.rope.find_rotary`); `cross` is None where those keys are not rotated.
    """

    own: Rotary
    cross: Rotary | None

    def at(self, positions: Tensor) -> "HeadAngles":
        """The angles of `positions` int64 [n]."""
        return HeadAngles(self.own.at(positions), None if self.cross is None else self.cross.at(positions))


@dataclass(frozen=True, slots=True)
class HeadAngles:
    """The angles of n positions, of both attentions."""

    own: Angles
    cross: Angles | None

    def part(self, start: int, length: int) -> "HeadAngles":
        """Those of `length` positions from `start` on."""
        return HeadAngles(self.own.part(start, length), None if self.cross is None else self.cross.part(start, length))


@dataclass(frozen=True, slots=True)
class OwnRows:
    """What tokens bring to the self-attention: queries [B, Hq, T, D], keys and values [B, Hk, T, D], turned."""

    queries: Tensor
    keys: Tensor
    values: Tensor


class LongSpecHead(nn.Module):
    """The layer. `forward` takes whole rows, for training; `rows` and `mix` are its steps, for drafting."""

    def __init__(self, config: HeadConfig, rotary: HeadRotary) -> None:
        super().__init__()
        self.config = config
        self.rotary = rotary
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.eps)
        self.self_attn = _SelfAttention(config)
        self.post_self_attention_layernorm = nn.RMSNorm(config.hidden_size, config.eps)
        self.cross_attn = _Attention(config)
        self.post_cross_attention_layernorm = nn.RMSNorm(config.hidden_size, config.eps)
        self.mlp = _FeedForward(config)

    def forward(self, embeds: Tensor, positions: Tensor, keys: Tensor, values: Tensor, offset: int = 1) -> Tensor:
        """What the output layer reads, [B, L, H], for whole rows; differentiable.

        `embeds` [B, L, H] of the tokens, `positions` int64 [L], `keys` and `values` [B, Hk, L, D] of the target's last
        layer for the same tokens. Token t sees those up to ``t - offset``. A root sees the target up to the token
        before it, offset 1, and the deeper a node, the further behind; so training varies `offset` from 1 to 4
        ("Flash Noisy Training", section 3.2).
        """
        angles = self.rotary.at(positions.to(embeds.device))
        own = self.rows(embeds, angles)
        seen = _windowed(own.queries, own.keys, own.values, self.config.window)
        return self.mix(embeds, seen, angles, lambda q: _delayed(q, keys, values, offset))

    def rows(self, embeds: Tensor, angles: HeadAngles) -> OwnRows:
        """Tokens `embeds` [B, T, H] as the self-attention sees them. They depend on the tokens alone."""
        return self.self_attn.rows(self.input_layernorm(embeds), angles.own)

    def mix(self, embeds: Tensor, seen: Tensor, angles: HeadAngles, see_target: See) -> Tensor:
        """The layer's output [B, T, H] for tokens `embeds` [B, T, H], given what their own queries saw,
        [B, Hq, T, D], and what they see of the target."""
        x = self.self_attn.added_to(embeds, seen)
        query = self.cross_attn.queries(self.post_self_attention_layernorm(x))
        if angles.cross is not None:
            query = angles.cross.turn(query)
        x = self.cross_attn.added_to(x, see_target(query))
        mixed: Tensor = self.mlp(x, self.post_cross_attention_layernorm(x))
        return mixed


class _Attention(nn.Module):
    """Projections for queries to keys that are somebody else's."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self._size = config.head_size
        width = config.num_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden_size, width)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self._projected, self._out = Joined(self.q_proj), Summed(self.o_proj, keeps_base=True)

    def queries(self, x: Tensor) -> Tensor:
        """[B, Hq, T, D]"""
        return self._heads(self._projected(x))

    def added_to(self, x: Tensor, seen: Tensor) -> Tensor:
        """`x` [B, T, H] and what all heads saw, [B, Hq, T, D]."""
        return self._out.added_to(x, seen.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self._size).transpose(1, 2)


class _SelfAttention(_Attention):
    """Projections with keys and values of its own."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        width = config.num_kv_heads * config.head_size
        self.k_proj = nn.Linear(config.hidden_size, width)
        self.v_proj = nn.Linear(config.hidden_size, width)
        self._projected = Joined(self.q_proj, self.k_proj, self.v_proj)
        self._num_heads, self._num_kv_heads = config.num_heads, config.num_kv_heads

    def rows(self, x: Tensor, angles: Angles) -> OwnRows:
        """Queries, keys and values for x [B, T, H]."""
        heads = self._heads(self._projected(x))  # [B, Hq + 2 Hk, T, D]
        num_turned = self._num_heads + self._num_kv_heads
        turned = angles.turn(heads[:, :num_turned])
        return OwnRows(turned[:, : self._num_heads], turned[:, self._num_heads :], heads[:, num_turned:])


class _FeedForward(nn.Module):
    """The gated feed-forward part of Llama and Qwen2."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self._gated, self._down = Gated(self.gate_proj, self.up_proj), Summed(self.down_proj, keeps_base=False)

    def forward(self, x: Tensor, normed: Tensor) -> Tensor:
        """`x`, which is used up, and what the middle gives for `normed`, [B, T, H]."""
        return self._down.added_to(x, self._gated(normed))


def _windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Row t sees keys t - `window` to t. In blocks, so that no mask grows with the square of the row."""
    length = q.shape[2]
    if length <= window + 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    block = max(window, _QUERY_BLOCK)
    outs = []
    for start in range(0, length, block):
        end, first = min(start + block, length), max(start - window, 0)
        row = torch.arange(start, end, device=q.device)[:, None]
        column = torch.arange(first, end, device=q.device)[None]
        seen = (column <= row) & (column >= row - window)
        part = q[:, :, start:end], k[:, :, first:end], v[:, :, first:end]
        outs.append(F.scaled_dot_product_attention(*part, attn_mask=seen, enable_gqa=True))
    return torch.cat(outs, dim=2)


def _delayed(q: Tensor, k: Tensor, v: Tensor, offset: int) -> Tensor:
    """Row t sees keys up to t - `offset`; the first `offset` rows see none and get zeros. Causal, without a mask."""
    num_seeing = q.shape[2] - offset
    if num_seeing <= 0:
        return torch.zeros_like(q)
    q, k, v = q[:, :, offset:], k[:, :, :num_seeing], v[:, :, :num_seeing]
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return F.pad(seen, (0, 0, offset, 0))


def head_config(checkpoint: Checkpoint) -> HeadConfig:
    """The sizes that a head's config.json gives, in the names of LlamaConfig and Qwen2Config. Raises `ModelError`."""
    config, number = checkpoint.config, checkpoint.number
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"The head '{checkpoint.name}' uses the activation '{activation}'; only silu is known here.")
    num_heads = number("num_attention_heads")
    has_size = config.get("head_dim") is not None
    eps = config.get("rms_norm_eps")
    return HeadConfig(
        hidden_size=number("hidden_size"),
        intermediate_size=number("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=number("num_key_value_heads", "num_attention_heads"),
        head_size=number("head_dim") if has_size else number("hidden_size") // num_heads,
        eps=eps if isinstance(eps, float) else 1e-6,
        window=number(_WINDOW_KEY) if _WINDOW_KEY in config else 512,
    )


def make_head(checkpoint: Checkpoint, rotary: HeadRotary, device: torch.device, dtype: torch.dtype) -> LongSpecHead:
    """The stored head in `dtype` on `device`. Raises `ModelError` when its tensors are not those of a LongSpec head."""
    stored = {name.removeprefix(_PREFIX): tensor for name, tensor in checkpoint.tensors.items()}
    stored = {name: tensor for name, tensor in stored.items() if not any(other in name for other in _NOT_OURS)}
    with torch.device("meta"):
        head = LongSpecHead(head_config(checkpoint), rotary)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    for problem, names in (("lacks", wanted.keys() - stored.keys()), ("also holds", stored.keys() - wanted.keys())):
        if names:
            raise ModelError(
                f"'{checkpoint.name}' is no LongSpec head: it {problem} {', '.join(sorted(names)[:3])}. Set "
                "draft.model to one, such as sail/longspec-vicuna-7b-v1.5-16k, or draft.kind to what it is."
            )
    for name, shape in wanted.items():
        if tuple(stored[name].shape) != shape:
            raise ModelError(
                f"'{checkpoint.name}': {name} has the shape {tuple(stored[name].shape)}, by its config.json it should "
                f"be {shape}. The files do not belong together; load the head again."
            )
    head.load_state_dict({name: tensor.to(device, dtype) for name, tensor in stored.items()}, assign=True)
    return head


def save_head(head: LongSpecHead, folder: Path) -> None:
    """Write a head as the published ones are: ``config.json`` and ``model.safetensors``."""
    config = head.config
    table = {
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "num_hidden_layers": 1,
        "rms_norm_eps": config.eps,
        _WINDOW_KEY: config.window,
    }
    save_checkpoint(folder, table, head.state_dict())
