"""LongSpec heads beside tiny targets: random ones, ones taught a few texts (heads of other kinds too), and what they
should compute."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, silu
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from spec_engine.config import DrafterKind
from spec_engine.drafters.longspec import target_rotary
from spec_engine.drafters.longspec_head import HeadConfig, LongSpecHead, save_head
from spec_engine.model.target import Target
from tests.eagle_heads import save_trained_head
from tests.mtp_heads import mtp_head, save_mtp, teach_mtp


def longspec_head(model: PreTrainedModel, window: int = 512, seed: int = 5, **changes: int) -> LongSpecHead:
    """A random head that fits `model`, peaky enough for a wrong mask to show; `changes` overwrite sizes."""
    config, target = model.config, Target(model, 64, 64)
    keys, _ = target.last_rows()
    sizes = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": keys.shape[1],
        "head_size": keys.shape[3],
    }
    head = LongSpecHead(HeadConfig(**{**sizes, **changes}, window=window), target_rotary(target))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in head.named_parameters():
            is_peaky = "q_proj" in name or "k_proj" in name
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 2:
                weight.copy_(noise * (2.0 if is_peaky else 1.0) / weight.shape[1] ** 0.5)
            else:
                weight.copy_(0.1 * noise + (1.0 if "norm" in name else 0.0))
    return head.to(model.dtype)


@torch.no_grad()
def last_rows(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [B, Hk, L, D] of the last layer for `ids` [B, L], by transformers alone."""
    layer = model(ids, use_cache=True).past_key_values.layers[-1]
    return layer.keys, layer.values


def teach(head: LongSpecHead, model: PreTrainedModel, texts: Sequence[Sequence[int]], num_steps: int = 120) -> None:
    """Train `head` to continue these texts as `model` does: the module's own forward, offsets from 1 to 4."""
    rows = [(torch.tensor([list(text)]), *last_rows(model, torch.tensor([list(text)]))) for text in texts]
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for step in range(num_steps):
        ids, keys, values = rows[step % len(rows)]
        with torch.no_grad():
            embeds, wanted = model.get_input_embeddings()(ids), model(ids, use_cache=False).logits[0].argmax(-1)
        hidden = head(embeds, torch.arange(ids.shape[1]), keys, values, 1 + step % 4)
        loss = cross_entropy(model.get_output_embeddings()(hidden[0]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.requires_grad_(False)


def longspec_reference(
    head: LongSpecHead, model: PreTrainedModel, ids: Sequence[int], see: Tensor, layer_turns: bool
) -> Tensor:
    """Logits [L, V]: softmax attention by the definition. `see` bool [L, L] says which target rows each token sees."""
    weights, config = dict(head.named_parameters()), head.config
    tokens = torch.tensor([list(ids)])
    length, groups = len(ids), config.num_heads // config.num_kv_heads
    x = model.get_input_embeddings()(tokens)[0]
    cos, sin = model.model.rotary_emb(x, torch.arange(length)[None])

    def project(name: str, x: Tensor) -> Tensor:  # [heads, L, D]
        rows = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return rows.view(length, -1, config.head_size).transpose(0, 1)

    def turned(rows: Tensor) -> Tensor:
        return apply_rotary_pos_emb(rows[None], rows[None], cos, sin)[0][0]

    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, name: str) -> Tensor:
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        logits = (q @ k.transpose(1, 2) / math.sqrt(config.head_size)).masked_fill(~seen, -torch.inf)
        mixed = torch.nan_to_num(logits.double().softmax(-1)).float() @ v  # no row in view: nothing is added
        return mixed.transpose(0, 1).reshape(length, -1) @ weights[f"{name}.o_proj.weight"].T

    def norm(name: str, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.eps).sqrt() * weights[f"{name}.weight"]

    distance = torch.arange(length)[:, None] - torch.arange(length)[None]
    near = (distance >= 0) & (distance <= config.window)
    y = norm("input_layernorm", x)
    q, k, v = (project(f"self_attn.{name}_proj", y) for name in "qkv")
    x = x + attend(turned(q), turned(k), v, near, "self_attn")
    q = project("cross_attn.q_proj", norm("post_self_attention_layernorm", x))
    keys, values = (rows[0] for rows in last_rows(model, tokens))
    x = x + attend(turned(q) if layer_turns else q, keys, values, see, "cross_attn")
    y = norm("post_cross_attention_layernorm", x)
    gate, up, down = (weights[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    x = x + (silu(y @ gate.T) * (y @ up.T)) @ down.T
    logits: Tensor = model.get_output_embeddings()(x)
    return logits


def longspec_whole_rows(head: LongSpecHead, model: PreTrainedModel, ids: Sequence[int], offset: int) -> Tensor:
    """Logits [L, V] of the head's forward over whole rows."""
    tokens = torch.tensor([list(ids)])
    embeds = model.get_input_embeddings()(tokens)
    hidden = head(embeds, torch.arange(len(ids)), *last_rows(model, tokens), offset)
    logits: Tensor = model.get_output_embeddings()(hidden[0])
    return logits


def delayed(length: int, offset: int) -> Tensor:
    """bool [L, L]: token t sees rows up to t - `offset`."""
    return torch.ones(length, length, dtype=torch.bool).tril(-offset)


def save_taught_head(
    folder: Path, kind: DrafterKind, model: PreTrainedModel, texts: Sequence[tuple[int, ...]], num_steps: int = 120
) -> None:
    """Write a head that knows `texts`, for a copy of `model`. Raises `UnsupportedModel` where none can be made."""
    twin = copy.deepcopy(model)
    if kind == "eagle3":
        save_trained_head(folder, twin, texts)
        return
    if kind == "mtp":
        multi = mtp_head(twin)
        teach_mtp(multi, twin, texts, num_steps)
        save_mtp(multi, folder)
        return
    head = longspec_head(twin)
    teach(head, twin, texts, num_steps)
    save_head(head, folder)
