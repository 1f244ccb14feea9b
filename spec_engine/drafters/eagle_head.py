"""The network of an EAGLE head: one decoder layer that continues the target's hidden states.

Job: `EagleHead`, an ordinary differentiable module over whole rows [B, L], whose attention is passed in; so the module
that trains is the module that drafts. `FittedHead` is one with all that it needs of its target.
Non-job: reading files (`eagle_files`), caches (`eagle_memory`), trees, losses.

EAGLE-3 (arXiv 2503.01840, section 3.1): ``fc`` mixes hidden states of three of the target's layers into a feature; the
layer attends with the token's embedding and the feature side by side, adds to the feature, and has a final norm and an
output layer of its own, often over a part of the vocabulary. EAGLE-1 and 2 (arXiv 2401.15077, section 4.1; 2406.16858):
``fc`` mixes embedding and feature, a plain layer without its first norm follows, and the target's output layer reads
the result. In both a row pairs the feature of one position with the token of the next, and what the layer gives is the
feature of the next row while tokens are drafted; in EAGLE-3 that is the state before the final norm.

Shapes beyond the usual alphabet: B rows of a batch, H hidden size, F width of the target's features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spec_engine.model.head_products import Gated, Joined, Summed

Turns = tuple[Tensor, Tensor]
"""Cosine and signed sine [..., 1, T or 1, D] in float32: a turn is ``x * cos + roll(x, D / 2) * sin``."""


@dataclass(frozen=True, slots=True)
class Projected:
    """What the rows of a layer project to, side by side: queries, keys and values [B, T, (Hq + 2 Hk) D], before they
    are turned."""

    rows: Tensor
    num_heads: int
    num_kv_heads: int
    turns: Turns

    def turned(self) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, Hq, T, D], k and v [B, Hk, T, D]; q and k rotated."""
        num_turned = self.num_heads + self.num_kv_heads
        heads = self.rows.unflatten(-1, (num_turned + self.num_kv_heads, -1)).transpose(1, 2)
        turned = _turn(heads[:, :num_turned], self.turns)
        return turned[:, : self.num_heads], turned[:, self.num_heads :], heads[:, num_turned:]


Attend = Callable[[int, Projected], Tensor]
"""(layer, its projected rows) -> what the queries saw, [B, Hq, T, D]."""


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotary embedding: `inv_freq` [D / 2] in radians per position, and what cosine and sine are multiplied by."""

    inv_freq: tuple[float, ...]
    scale: float = 1.0

    @classmethod
    def plain(cls, head_size: int, theta: float = 10000.0) -> "Rope":
        """Without scaling, as published heads have it."""
        return cls(tuple(theta ** (-index / head_size) for index in range(0, head_size, 2)))


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The shape of a head. `feature_size` is F; `num_columns` the width of its own output layer and `num_embeddings`
    the rows of its own embedding, each None where the target's serves."""

    is_eagle3: bool
    hidden_size: int
    feature_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rope: Rope
    num_layers: int = 1
    norm_eps: float = 1e-6
    num_columns: int | None = None
    num_embeddings: int | None = None
    has_fc: bool = True  # an EAGLE-3 head without reads the target's final states as they are
    norm_before_residual: bool = False  # EAGLE-3: the layer adds to the normalised feature
    biases: frozenset[str] = frozenset()  # of fc, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj


class EagleHead(nn.Module):
    """The head; parameters are named as in published files, with ``layers.0`` for EAGLE-3's ``midlayer``."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width = config.feature_size if config.is_eagle3 else config.hidden_size + config.feature_size
        self.fc = _linear(config, "fc", width, config.hidden_size) if config.has_fc else nn.Identity()
        self.layers = nn.ModuleList(_Layer(config, number) for number in range(config.num_layers))
        self.norm = _norm(config) if config.is_eagle3 else nn.Identity()
        self.lm_head = nn.Linear(config.hidden_size, config.num_columns, bias=False) if config.num_columns else None
        self.embed_tokens = nn.Embedding(config.num_embeddings, config.hidden_size) if config.num_embeddings else None
        self._mix = Joined(self.fc) if isinstance(self.fc, nn.Linear) else self.fc
        self._columns = Joined(self.lm_head) if self.lm_head is not None else None
        inv_freq = torch.tensor(config.rope.inv_freq, device="cpu")
        self._inv_freq = torch.cat((inv_freq, inv_freq))  # [D]; no buffer: casts must leave it alone

    def combine(self, features: Tensor) -> Tensor:
        """The target's features [..., F] as a row takes them, [..., H]: mixed by ``fc`` in EAGLE-3, as they are in
        EAGLE-1."""
        mixed: Tensor = self._mix(features) if self.config.is_eagle3 else features
        return mixed

    def forward(self, embedded: Tensor, features: Tensor, positions: Tensor, attend: Attend | None = None) -> Tensor:
        """States [B, T, H], the features of the following rows.

        `embedded` [B, T, H] are token embeddings, `features` [B, T, H] those of the positions before: `combine` of the
        target's, or an earlier result of the head. `positions` [T] or [B, T]; any number will do. Attention is causal
        over these rows unless `attend` says otherwise.
        """
        return self.turned(embedded, features, self.turns(positions), attend)

    def turned(self, embedded: Tensor, features: Tensor, turns: Turns, attend: Attend | None = None) -> Tensor:
        """`forward` of rows whose positions are given as `turns`."""
        states: Tensor = features if self.config.is_eagle3 else self._mix(torch.cat((embedded, features), dim=-1))
        for layer in self.layers:
            states = layer(states, embedded, turns, attend or _causal)
        return states

    def logits(self, states: Tensor, output: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """What follows each state [..., H]: [..., V], over the head's own columns or those of `output`, the target's
        output layer, which a head without one needs."""
        last = self._columns or output
        assert last is not None, "a head without an output layer needs the target's"
        logits: Tensor = last(self.norm(states))
        return logits

    def turns(self, positions: Tensor) -> Turns:
        """Those of `positions` [..., T], computed, so that no table ends."""
        if self._inv_freq.device != positions.device:
            self._inv_freq = self._inv_freq.to(positions.device)
        angles = (positions[..., None].float() * self._inv_freq).unsqueeze(-3)
        cos, sin = angles.cos(), angles.sin()
        sin.narrow(-1, 0, self.config.head_size // 2).neg_()
        scale = self.config.rope.scale
        return (cos, sin) if scale == 1 else (cos * scale, sin * scale)


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A head that fits its target. `layers` are what it reads, as the target's taps number them; `embedding` [V, H] and
    `output` are its own or the target's. `target_ids` int64 [columns] names the token of each column, where they are
    not the first ones. `trained_length` in tokens, where it is known."""

    name: str
    head: EagleHead
    layers: tuple[int, ...]
    embedding: Tensor
    output: Callable[[Tensor], Tensor] | None
    target_ids: Tensor | None
    trained_length: int | None
    is_apart: bool = False  # the target is spread over devices, and `output` may lie on another one than the head
    output_weight: Tensor | None = None  # [V, H] of the target's `output`, where that is a plain matrix

    @property
    def device(self) -> torch.device:
        """Where the head runs."""
        return next(self.head.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights and its cache."""
        return next(self.head.parameters()).dtype


class _Layer(nn.Module):
    """A decoder layer. The first one has two inputs in EAGLE-3, and no norm before its attention in EAGLE-1."""

    def __init__(self, config: HeadConfig, number: int) -> None:
        super().__init__()
        self._takes_both = config.is_eagle3 and number == 0
        self._norm_before_residual = config.norm_before_residual
        if self._takes_both:
            self.hidden_norm = _norm(config)
        self.input_layernorm = _norm(config) if config.is_eagle3 or number > 0 else nn.Identity()
        self.self_attn = _Attention(config, number, (2 if self._takes_both else 1) * config.hidden_size)
        self.post_attention_layernorm = _norm(config)
        self.mlp = _Mlp(config)

    def forward(self, states: Tensor, embedded: Tensor, turns: Turns, attend: Attend) -> Tensor:
        if self._takes_both:
            normed = self.hidden_norm(states)
            seen = torch.cat((self.input_layernorm(embedded), normed), dim=-1)
            states = normed if self._norm_before_residual else states
        else:
            seen = self.input_layernorm(states)
        states = self.self_attn(states, seen, turns, attend)
        result: Tensor = self.mlp(states, self.post_attention_layernorm(states))
        return result


class _Attention(nn.Module):
    """Projections and the rotary embedding; who sees whom is the caller's."""

    def __init__(self, config: HeadConfig, number: int, width: int) -> None:
        super().__init__()
        self._number = number
        queries, keys = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        self.q_proj = _linear(config, "q_proj", width, queries)
        self.k_proj = _linear(config, "k_proj", width, keys)
        self.v_proj = _linear(config, "v_proj", width, keys)
        self.o_proj = _linear(config, "o_proj", queries, config.hidden_size)
        self._qkv, self._out = Joined(self.q_proj, self.k_proj, self.v_proj), Summed(self.o_proj, keeps_base=True)
        self._num_heads, self._num_kv_heads = config.num_heads, config.num_kv_heads

    def forward(self, states: Tensor, seen: Tensor, turns: Turns, attend: Attend) -> Tensor:
        """`states` and what attention gives for `seen`."""
        projected = Projected(self._qkv(seen), self._num_heads, self._num_kv_heads, turns)
        mixed = attend(self._number, projected)
        return self._out.added_to(states, mixed.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    """The gated middle of a Llama layer."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.gate_proj = _linear(config, "gate_proj", config.hidden_size, config.intermediate_size)
        self.up_proj = _linear(config, "up_proj", config.hidden_size, config.intermediate_size)
        self.down_proj = _linear(config, "down_proj", config.intermediate_size, config.hidden_size)
        self._gated, self._down = Gated(self.gate_proj, self.up_proj), Summed(self.down_proj, keeps_base=False)

    def forward(self, states: Tensor, normed: Tensor) -> Tensor:
        """`states`, which are used up, and what the middle gives for `normed`."""
        return self._down.added_to(states, self._gated(normed))


def _linear(config: HeadConfig, name: str, num_in: int, num_out: int) -> nn.Linear:
    return nn.Linear(num_in, num_out, bias=name in config.biases)


def _norm(config: HeadConfig) -> nn.RMSNorm:
    return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)


def _turn(x: Tensor, turns: Turns) -> Tensor:
    """`x` [B, heads, T, D] rotated; entry i turns with entry i + D / 2."""
    cos, sin = turns
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def _causal(layer: int, projected: Projected) -> Tensor:
    """Each row sees those up to itself."""
    q, k, v = projected.turned()
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
