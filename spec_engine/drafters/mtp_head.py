"""Gemma 4's multi-token prediction head (its "assistant" checkpoints): layers without keys and values of their own.

Job: `MtpHead`, the module, and reading its files.
Non-job: what its layers see (`mtp_work`), sessions and trees (`mtp`).

A row is a token's embedding beside a state as wide as the target's, both the target's own for the root; for a drafted
token the state is what the head gave for its parent. The layers, Gemma's with four norms each, have queries only: they
look at keys and values that the target has computed, in its last layer of the same kind (with a window or without) that
has some. All rows of a draft stand at the root's position. The form is that of transformers' ``gemma4_assistant``,
version 5.23, whose constructor fails on a head that shares all of its layers; so it is written anew.

Small targets' heads have a vocabulary in clusters: a first product finds the likeliest clusters, and only their tokens
get logits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spec_engine.errors import ModelError
from spec_engine.model.checkpoint import Checkpoint
from spec_engine.model.head_products import Joined
from spec_engine.model.rope import Angles

SLIDING = "sliding_attention"
_KINDS = (SLIDING, "full_attention")
_ORDER = "token_ordering"
_FULL_HEAD = 512  # entries of heads in layers without a window, where a configuration does not say
_ROOTS = ("model.", "masked_embedding.")  # before the names of tensors in the files

See = Callable[[int, Tensor], Tensor]
"""Attention of a layer: its number, queries [1, Hq, n, D] -> what they saw, of the same shape."""


@dataclass(frozen=True, slots=True)
class MtpConfig:
    """Sizes of a head for a target whose states have `state_size` entries. `layer_types` are "sliding_attention", with
    the `window`, or "full_attention"; `head_sizes` are those of the layers. Of `num_clusters` of the vocabulary
    `num_open` get logits; 0: all of it does."""

    hidden_size: int
    state_size: int
    intermediate_size: int
    num_heads: int
    layer_types: tuple[str, ...]
    head_sizes: tuple[int, ...]
    window: int
    vocab_size: int
    num_clusters: int = 0
    num_open: int = 0
    eps: float = 1e-6


class MtpHead(nn.Module):
    """The head, for drafting."""

    def __init__(self, config: MtpConfig) -> None:
        super().__init__()
        self.config = config
        self.pre_projection = nn.Linear(2 * config.state_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList(_Layer(config, size) for size in config.head_sizes)
        self.norm = nn.RMSNorm(config.hidden_size, config.eps)
        self.post_projection = nn.Linear(config.hidden_size, config.state_size, bias=False)
        self.embed_tokens = nn.Linear(config.hidden_size, config.vocab_size, bias=False)  # the output layer, tied
        self._into, self._out_of = Joined(self.pre_projection), Joined(self.post_projection)
        if config.num_clusters:
            self.centroids = nn.Linear(config.hidden_size, config.num_clusters, bias=False)
            self.register_buffer(_ORDER, torch.zeros(config.vocab_size, dtype=torch.int64))

    def forward(self, embeds: Tensor, states: Tensor, angles: Sequence[Angles | None], see: See) -> Tensor:
        """Normalised hidden rows [n, H] of n tokens with embeddings and states [n, S] each; `angles`, by layer, are
        those of the one position that all of them stand at; None where keys do not turn."""
        x = self._into(torch.cat((embeds, states), dim=-1))
        for number, layer in enumerate(self.layers):
            x = layer(x, angles[number], lambda query, number=number: see(number, query))
        normed: Tensor = self.norm(x)
        return normed

    def state(self, hidden: Tensor) -> Tensor:
        """What the children of rows `hidden` [n, H] go on from: [n, S]."""
        return self._out_of(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, V] after rows `hidden` [n, H]; -inf for the tokens of clusters that are not looked at."""
        if not self.config.num_clusters:
            every: Tensor = self.embed_tokens(hidden)
            return every
        order = self.get_buffer(_ORDER).view(self.config.num_clusters, -1)  # tokens of each cluster
        likeliest = self.centroids(hidden).topk(self.config.num_open, dim=-1).indices
        token_ids = order[likeliest].flatten(1)  # [n, open * tokens]
        rows = F.embedding(token_ids, self.embed_tokens.weight)
        found = torch.matmul(rows, hidden.unsqueeze(-1)).squeeze(-1)
        return hidden.new_full((len(hidden), self.config.vocab_size), -torch.inf).scatter_(1, token_ids, found)


class _Layer(nn.Module):
    """A layer of Gemma 4 that borrows keys and values."""

    def __init__(self, config: MtpConfig, head_size: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.eps
        self.self_attn = _Queries(config, head_size)
        self.mlp = _FeedForward(config)
        self.input_layernorm = nn.RMSNorm(size, eps)
        self.post_attention_layernorm = nn.RMSNorm(size, eps)
        self.pre_feedforward_layernorm = nn.RMSNorm(size, eps)
        self.post_feedforward_layernorm = nn.RMSNorm(size, eps)
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(self, x: Tensor, angles: Angles | None, see: Callable[[Tensor], Tensor]) -> Tensor:
        """[n, H]"""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), angles, see))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x * self.get_buffer("layer_scalar")


class _Queries(nn.Module):
    """Attention to keys that are somebody else's. Queries are normalised, so logits are not scaled."""

    def __init__(self, config: MtpConfig, head_size: int) -> None:
        super().__init__()
        width = config.num_heads * head_size
        self._size = head_size
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.q_norm = nn.RMSNorm(head_size, config.eps)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self._projected, self._out = Joined(self.q_proj), Joined(self.o_proj)

    def forward(self, x: Tensor, angles: Angles | None, see: Callable[[Tensor], Tensor]) -> Tensor:
        """[n, H]"""
        heads = self.q_norm(self._projected(x).view(len(x), -1, self._size)).transpose(0, 1)[None]
        seen = see(heads if angles is None else angles.turn(heads))
        return self._out(seen[0].transpose(0, 1).flatten(1))


class _FeedForward(nn.Module):
    """The gated feed-forward part of Gemma."""

    def __init__(self, config: MtpConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self._gate_up, self._down = Joined(self.gate_proj, self.up_proj), Joined(self.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        """[n, H]"""
        gate, up = self._gate_up(x).chunk(2, dim=-1)
        return self._down(F.gelu(gate, approximate="tanh") * up)


def mtp_config(checkpoint: Checkpoint, head_sizes: Sequence[int] = ()) -> MtpConfig:
    """The sizes that a head's config.json gives. Head sizes are those of the tensors; without these, the config's.

    Raises `ModelError`.
    """
    text = checkpoint.table("text_config")
    kinds = text.config.get("layer_types")
    if not isinstance(kinds, list) or not kinds or any(kind not in _KINDS for kind in kinds):
        raise ModelError(
            f"'{checkpoint.name}' is no multi-token prediction head of Gemma 4: the text_config in its config.json has "
            "no layer_types of sliding and full attention. Set draft.model to a head such as "
            "google/gemma-4-E4B-it-assistant, or draft.kind to what it is."
        )
    for key, known in (("hidden_activation", "gelu_pytorch_tanh"), ("hidden_size_per_layer_input", 0)):
        given = text.config.get(key)
        if given is not None and given != known:
            raise ModelError(f"The head '{checkpoint.name}' has {key} = {given}; only {known} is known here.")
    is_clustered = checkpoint.flag("use_ordered_embeddings")
    sizes = tuple(head_sizes) or tuple(_head_size(text, layer, kind) for layer, kind in enumerate(kinds))
    return MtpConfig(
        hidden_size=text.number("hidden_size"),
        state_size=checkpoint.number("backbone_hidden_size"),
        intermediate_size=text.number("intermediate_size"),
        num_heads=text.number("num_attention_heads"),
        layer_types=tuple(kinds),
        head_sizes=sizes,
        window=text.number("sliding_window"),
        vocab_size=text.number("vocab_size"),
        num_clusters=checkpoint.number("num_centroids") if is_clustered else 0,
        num_open=checkpoint.number("centroid_intermediate_top_k") if is_clustered else 0,
        eps=text.decimal("rms_norm_eps", 1e-6),
    )


def _head_size(text: Checkpoint, layer: int, kind: str) -> int:
    """What the configuration says of a layer's heads: published ones have a number for each kind, and what transformers
    5.23 writes names the layers that differ."""
    own = text.table("per_layer_config").table(str(layer)).number_or_none("head_dim")
    if own is None and kind != SLIDING and "per_layer_config" not in text.config:
        own = text.number_or_none("global_head_dim") or _FULL_HEAD
    return own or text.number("head_dim")


def make_mtp_head(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> MtpHead:
    """The stored head in `dtype` on `device`. Raises `ModelError` when its tensors are not those of such a head."""
    stored = _named(checkpoint.tensors)
    norms = [stored.get(f"layers.{layer}.self_attn.q_norm.weight") for layer in range(len(checkpoint.tensors))]
    config = mtp_config(checkpoint, [norm.numel() for norm in norms if norm is not None])
    if len(config.head_sizes) != len(config.layer_types):
        raise _misfit(checkpoint.name, f"it has {len(config.head_sizes)} layers and {len(config.layer_types)} kinds")
    if config.num_clusters and config.vocab_size % config.num_clusters:
        raise _misfit(checkpoint.name, f"{config.num_clusters} clusters do not share {config.vocab_size} tokens evenly")
    if config.num_open > config.num_clusters:
        raise _misfit(checkpoint.name, f"it is to look at {config.num_open} of {config.num_clusters} clusters")
    with torch.device("meta"):
        head = MtpHead(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    for problem, names in (("lacks", wanted.keys() - stored.keys()), ("also holds", stored.keys() - wanted.keys())):
        if names:
            raise _misfit(checkpoint.name, f"it {problem} {', '.join(sorted(names)[:3])}")
    for name, shape in wanted.items():
        if tuple(stored[name].shape) != shape:
            raise _misfit(checkpoint.name, f"{name} has the shape {tuple(stored[name].shape)}, not {shape}")
    if config.num_clusters and not torch.equal(stored[_ORDER].long().sort().values, torch.arange(config.vocab_size)):
        raise _misfit(checkpoint.name, "its clusters do not hold every token once")
    placed = {name: tensor.to(device, torch.int64 if name == _ORDER else dtype) for name, tensor in stored.items()}
    head.load_state_dict(placed, assign=True)
    return head.requires_grad_(False)


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names. The output layer is the embedding, stored once or twice."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for root in _ROOTS:
            name = name.removeprefix(root)
        named[name] = tensor
    output = named.pop("lm_head.weight", None)
    if output is not None:
        named.setdefault("embed_tokens.weight", output)
    return named


def _misfit(name: str, problem: str) -> ModelError:
    return ModelError(
        f"'{name}' cannot be used as a multi-token prediction head of Gemma 4: {problem}. Load the head again, or set "
        "draft.model to one such as google/gemma-4-E4B-it-assistant."
    )
