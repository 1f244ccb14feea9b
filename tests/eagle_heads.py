"""Tiny EAGLE heads on disk, as their authors would have written them, and a quick way to make one right."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from spec_engine.drafters.eagle_files import read_head
from spec_engine.drafters.eagle_head import EagleHead

Fields = dict[str, object]
Weights = dict[str, Tensor]

HIDDEN = 64  # of the tiny targets


def head_fields(**changes: object) -> Fields:
    """config.json of a head for the tiny targets; None takes a field away."""
    fields: Fields = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "vocab_size": 260,
        "draft_vocab_size": 260,
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not None}


def eagle3_weights(num_columns: int = 260, seed: int = 0, feature_size: int = 3 * HIDDEN) -> Weights:
    """EAGLE-3 weights under the authors' names: 4 query heads and 2 key heads of size 16."""
    shapes = {
        "fc.weight": (HIDDEN, feature_size),
        "midlayer.self_attn.q_proj.weight": (64, 2 * HIDDEN),
        "midlayer.self_attn.k_proj.weight": (32, 2 * HIDDEN),
        "midlayer.self_attn.v_proj.weight": (32, 2 * HIDDEN),
        "midlayer.self_attn.o_proj.weight": (HIDDEN, 64),
        "midlayer.mlp.gate_proj.weight": (96, HIDDEN),
        "midlayer.mlp.up_proj.weight": (96, HIDDEN),
        "midlayer.mlp.down_proj.weight": (HIDDEN, 96),
        "midlayer.hidden_norm.weight": (HIDDEN,),
        "midlayer.input_layernorm.weight": (HIDDEN,),
        "midlayer.post_attention_layernorm.weight": (HIDDEN,),
        "norm.weight": (HIDDEN,),
        "lm_head.weight": (num_columns, HIDDEN),
    }
    return _random(shapes, seed)


def eagle1_weights(target: PreTrainedModel, seed: int = 0, bias: bool = True) -> Weights:
    """EAGLE-1 weights: the target's embedding goes along, the layer has no first norm."""
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (HIDDEN, 2 * HIDDEN),
        "layers.0.self_attn.q_proj.weight": (64, HIDDEN),
        "layers.0.self_attn.k_proj.weight": (32, HIDDEN),
        "layers.0.self_attn.v_proj.weight": (32, HIDDEN),
        "layers.0.self_attn.o_proj.weight": (HIDDEN, 64),
        "layers.0.mlp.gate_proj.weight": (96, HIDDEN),
        "layers.0.mlp.up_proj.weight": (96, HIDDEN),
        "layers.0.mlp.down_proj.weight": (HIDDEN, 96),
        "layers.0.post_attention_layernorm.weight": (HIDDEN,),
    }
    if bias:
        shapes["fc.bias"] = (HIDDEN,)
    weights = _random(shapes, seed)
    weights["fc.weight"] *= 4  # states as large as those that the target's output layer reads
    return {**weights, "embed_tokens.weight": target.get_input_embeddings().weight.detach().clone()}


def _random(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Weights:
    """Peaky attention and clear logits, so that a wrong mask or position shows."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        scale = 4.0 if "lm_head" in name else 2.0 if "q_proj" in name or "k_proj" in name else 1.0
        weights[name] = 1 + 0.1 * noise if "norm" in name else noise * scale / math.sqrt(shape[-1])
    return weights


def write_head(folder: Path, weights: Weights, fields: Fields, file: str = "model.safetensors") -> Path:
    """Write a head as a hub download would look."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    stored = {name: weight.detach().contiguous() for name, weight in weights.items()}
    if file.endswith(".bin"):
        torch.save(stored, folder / file)
    else:
        save_file(stored, folder / file)
    return folder


def spelled(weights: Weights, old: str, new: str, prefix: str = "") -> Weights:
    """`weights` with other names; what stands outside the layers and the vocabulary's maps gets the prefix too."""
    return {f"{prefix}{name.replace(old, new)}": weight for name, weight in weights.items()}


def features_of(target: PreTrainedModel, token_ids: Sequence[int], layers: Sequence[int]) -> Tensor:
    """[tokens, F] by transformers alone: what enters these layers, and the final states for the number of layers."""
    with torch.no_grad():
        states = target(torch.tensor([list(token_ids)]), output_hidden_states=True).hidden_states
    return torch.cat([states[layer][0] for layer in layers], dim=-1)


def save_trained_head(folder: Path, target: PreTrainedModel, texts: Sequence[tuple[int, ...]], steps: int = 60) -> None:
    """Write an EAGLE-3 head that knows `texts` by heart, over their own tokens only.

    It learns to predict a token from the target's features, and the token after it from its own.
    """
    known = torch.tensor(sorted({token for text in texts for token in text}))
    num_layers: int = target.config.num_hidden_layers
    write_head(folder, eagle3_weights(len(known)), head_fields(draft_vocab_size=len(known)))
    files = read_head(folder, "head")
    head = EagleHead(files.config)
    head.load_state_dict(files.weights)
    embedding = target.get_input_embeddings().weight.detach()
    column = torch.zeros(260, dtype=torch.int64)
    column[known] = torch.arange(len(known))
    layers = (2, num_layers // 2, num_layers - 3)
    data = [(torch.tensor(text), features_of(target, text, layers)) for text in texts]
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = torch.zeros(())
        for ids, features in data:
            states = head.combine(features[:-1])[None]
            for step in range(2):
                rows = torch.arange(step, len(ids) - 1)
                states = head(embedding[ids[rows + 1]][None], states, rows)
                wanted = column[ids[step + 2 :]]
                loss = loss + F.cross_entropy(head.logits(states[0, :-1]), wanted)
                states = states[:, :-1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = {name.replace("layers.0.", "midlayer."): value for name, value in head.state_dict().items()}
    offsets = known - torch.arange(len(known))
    is_drafted = torch.zeros(260, dtype=torch.bool)
    is_drafted[known] = True
    write_head(folder, {**weights, "d2t": offsets, "t2d": is_drafted}, head_fields(draft_vocab_size=len(known)))
