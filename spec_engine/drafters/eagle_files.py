"""Files of EAGLE heads, in their published spellings.

Job: `read_head`: a folder's configuration and weights under one set of names; `save_head`: the same the other way;
`head_need`: memory from the configuration alone.
Non-job: whether a head fits its target and what it shares with it (`eagle3`), the network (`eagle_head`).

Formats: the authors' (github SafeAILab/EAGLE; ``midlayer.*``, ``d2t``, often ``pytorch_model.bin``), SpecForge's and
SGLang's (``eagle_config``, ``model.safetensors``), vLLM's and speculators' (``layers.0.*``, ``draft_id_to_target_id``,
``transformer_layer_config``). Where a file and its configuration disagree about what is there, the file is right.

The layers whose states a head reads stand under one key with two meanings. Inside ``eagle_config`` (SpecForge, SGLang)
a number names a layer's output; at the top level (speculators, vLLM) its input, as `model.features` numbers them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from spec_engine.config import Preset
from spec_engine.drafters.eagle_head import EagleHead, HeadConfig, Rope
from spec_engine.errors import ModelError, RequestError, UnsupportedModel
from spec_engine.model.checkpoint import Checkpoint, load_head_config, read_checkpoint, save_checkpoint
from spec_engine.model.load import fetch, pick_device, pick_dtype
from spec_engine.model.memory import MemoryNeed, target_dtype

_TARGET_IDS = ("d2t", "draft_id_to_target_id")
_UNUSED = ("t2d", "target_id_to_draft_id")  # the other direction
_CHANGING_ROPE = ("dynamic", "longrope")  # whose frequencies depend on the length of a call
_ROPE_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters")
_LAYER_IDS = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True, slots=True)
class HeadFiles:
    """What a folder holds. `weights` by the names of `EagleHead`; `target_ids` int64 [columns] where the head knows a
    part of the vocabulary; `layers` as the target's taps number them, None for the usual ones. `trained_length` and
    `vocab_size` as its configuration says."""

    name: str
    config: HeadConfig
    weights: dict[str, Tensor]
    target_ids: Tensor | None
    layers: tuple[int, ...] | None
    trained_length: int | None
    vocab_size: int | None


def fetch_head(preset: Preset) -> HeadFiles:
    """The files of ``draft.model``, from its folder or the hub. Raises like `read_head` and `load_target`."""
    ref = preset.draft.model
    if ref is None:
        raise RequestError(f"The preset '{preset.name}' names no draft head. Add a [draft.model] with an id.")
    return read_head(Path(fetch(preset, ref, weights=True, has_tokenizer=False)), ref.id)


def read_head(folder: Path, name: str) -> HeadFiles:
    """The head in `folder`, called `name` in messages.

    Raises `ModelNotFound` for missing files, `ModelError` for damaged ones, and `UnsupportedModel` for a network that
    is not an EAGLE head as known here.
    """
    stored = _flat(read_checkpoint(folder, name))
    weights = {_own_name(key): value for key, value in stored.tensors.items()}
    weights = {key: value for key, value in weights.items() if key not in _UNUSED and "rotary_emb" not in key}
    offsets = next((weights.pop(key) for key in _TARGET_IDS if key in weights), None)
    if "lm_head.weight" not in weights and stored.flag("tie_word_embeddings") and "embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["embed_tokens.weight"]
    is_eagle3 = "layers.0.hidden_norm.weight" in weights
    if not is_eagle3:
        weights.pop("lm_head.weight", None)  # EAGLE-1 drafts with the target's
    config = stored_config(stored, is_eagle3, weights)
    _check_weights(config, weights, name)
    target_ids = None if offsets is None else torch.arange(len(offsets)) + offsets.long()
    if target_ids is not None and len(target_ids) != config.num_columns:
        raise ModelError(
            f"The head '{name}' names {len(target_ids):,} tokens for an output layer of {config.num_columns or 0:,}. "
            "Its files do not belong together: load them again, or choose another head."
        )
    length, vocab_size = stored.number_or_none("max_position_embeddings"), stored.number_or_none("vocab_size")
    return HeadFiles(name, config, weights, target_ids, _layers(stored), length, vocab_size)


def head_need(preset: Preset, device: str) -> MemoryNeed:
    """What the head of ``draft.model`` needs beside its target, from its configuration."""
    ref = preset.draft.model
    assert ref is not None, "asked for a head that the preset does not name"
    stored = _flat(load_head_config(preset, ref))
    fields = stored.config
    is_own = ref.dtype != "auto"
    dtype = pick_dtype(ref.dtype, pick_device(device), None) if is_own else target_dtype(preset, device)
    says_eagle3 = "draft_vocab_size" in fields or "eagle_config" in fields or "eagle3" in json.dumps(fields).lower()
    config = stored_config(stored, says_eagle3, None)
    with torch.device("meta"):
        num_weights = sum(parameter.numel() for parameter in EagleHead(config).parameters())
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_size * dtype.itemsize
    return MemoryNeed(num_weights * dtype.itemsize, per_token, preset.context_length, 0)


def save_head(files: HeadFiles, folder: Path, rope_theta: float) -> None:
    """Write an EAGLE-3 head of one layer as `read_head` reads it, in the dtype of its weights.

    Tensors are named as the authors name theirs. The configuration has SpecForge's keys, and the layers under both of
    theirs; see the module's docstring. Rotary embeddings are those of `rope_theta`, without scaling.
    """
    config, layers, columns = files.config, files.layers, files.config.num_columns
    assert config.is_eagle3, "EAGLE-1 is not written"
    assert config.num_layers == 1, "the authors' names are for one layer"
    assert config.rope == Rope.plain(config.head_size, rope_theta), "another rotary embedding"
    assert layers is not None, "a new head knows its layers"
    fields = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "num_hidden_layers": 1,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": rope_theta,
        "max_position_embeddings": files.trained_length,
        "vocab_size": files.vocab_size,
        "draft_vocab_size": columns,
        "tie_word_embeddings": False,
        "norm_before_residual": config.norm_before_residual,
        "eagle_config": {_LAYER_IDS: [layer - 1 for layer in layers], "use_aux_hidden_state": True},
        _LAYER_IDS: list(layers),
    }
    weights = {key.replace("layers.0.", "midlayer."): value for key, value in files.weights.items()}
    if files.target_ids is not None:
        assert files.vocab_size is not None, "a part of the vocabulary is a part of something"
        ids = files.target_ids.cpu()
        is_drafted = torch.zeros(files.vocab_size, dtype=torch.bool)
        is_drafted[ids] = True
        weights |= {"d2t": ids - torch.arange(len(ids)), "t2d": is_drafted}
    save_checkpoint(folder, fields, weights)


def _flat(stored: Checkpoint) -> Checkpoint:
    """With a nested layer's fields among the others, as speculators writes them."""
    return Checkpoint(stored.name, {**stored.table("transformer_layer_config").config, **stored.config}, stored.tensors)


def _own_name(key: str) -> str:
    """A tensor's name as `EagleHead` has it."""
    key = key.removeprefix("model.")
    return f"layers.0.{key.removeprefix('midlayer.')}" if key.startswith("midlayer.") else key


def stored_config(stored: Checkpoint, is_eagle3: bool, weights: Mapping[str, Tensor] | None) -> HeadConfig:
    """The network's shape; what the head owns is read from `weights`, or guessed from the configuration."""
    hidden, num_heads = stored.number("hidden_size"), stored.number("num_attention_heads")
    activation = stored.config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModel(f"The head '{stored.name}' uses {activation}, not silu. Choose another head.")
    feature = stored.number_or_none("target_hidden_size") or hidden
    inner = stored.table("eagle_config")
    has_fc = not is_eagle3 or inner.flag("use_aux_hidden_state", stored.flag("use_aux_hidden_state", True))
    num_taps = len(_layers(stored) or range(3)) if is_eagle3 and has_fc else 1
    num_columns = (
        (stored.number_or_none("draft_vocab_size") or stored.number_or_none("vocab_size")) if is_eagle3 else None
    )
    num_embeddings = None
    biases: Iterable[str] = ()
    width, num_layers = feature * num_taps, stored.number_or_none("num_hidden_layers") or 1
    if weights is not None:
        mixes = weights.get("fc.weight")
        has_fc = mixes is not None or not is_eagle3
        width = feature if mixes is None else mixes.shape[-1] - (0 if is_eagle3 else hidden)
        num_columns = len(weights["lm_head.weight"]) if "lm_head.weight" in weights else None
        num_embeddings = len(weights["embed_tokens.weight"]) if "embed_tokens.weight" in weights else None
        numbers = [key.split(".")[1] for key in weights if key.startswith("layers.")]
        num_layers = 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)
        biases = {key.split(".")[-2] for key in weights if key.endswith(".bias")}
    head_size = stored.number_or_none("head_dim") or hidden // num_heads
    return HeadConfig(
        is_eagle3=is_eagle3,
        hidden_size=hidden,
        feature_size=width,
        intermediate_size=stored.number("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=stored.number_or_none("num_key_value_heads") or num_heads,
        head_size=head_size,
        rope=_rope(stored, head_size),
        num_layers=num_layers,
        norm_eps=stored.decimal("rms_norm_eps", 1e-6),
        num_columns=num_columns,
        num_embeddings=num_embeddings,
        has_fc=has_fc,
        norm_before_residual=stored.flag("norm_before_residual"),
        biases=frozenset(biases),
    )


def _rope(stored: Checkpoint, head_size: int) -> Rope:
    """The rotary embedding; theta is 10,000 where nothing is said, whatever the target's is."""
    given = {key: stored.config[key] for key in _ROPE_FIELDS if stored.config.get(key) is not None}
    length = stored.number_or_none("max_position_embeddings") or 2048
    try:
        config = LlamaConfig.from_dict({**given, "head_dim": head_size, "max_position_embeddings": length})
        kind = (config.rope_parameters or {}).get("rope_type")
        if kind in _CHANGING_ROPE:
            raise UnsupportedModel(
                f"The head '{stored.name}' changes its rotary frequencies with the length ('{kind}' scaling), so "
                "cached keys would no longer fit. Choose another head."
            )
        rotary = LlamaRotaryEmbedding(config)
    except (KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"The head '{stored.name}' has an unknown rotary embedding: {error}.") from error
    return Rope(tuple(rotary.inv_freq.tolist()), rotary.attention_scaling)


def _layers(stored: Checkpoint) -> tuple[int, ...] | None:
    """The configured layers as the target's taps number them; see the module's docstring."""
    outputs, inputs = stored.table("eagle_config").layers(_LAYER_IDS), stored.layers(_LAYER_IDS)
    if outputs:
        return tuple(layer + 1 for layer in outputs)
    return inputs or None


def _check_weights(config: HeadConfig, weights: Mapping[str, Tensor], name: str) -> None:
    """Raise `UnsupportedModel` unless the tensors are those of the network, in its shapes."""
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in EagleHead(config).state_dict().items()}
    for key in sorted(wanted.keys() ^ weights.keys()):
        what = f"lacks {key}" if key in wanted else f"holds {key}, which is not known here"
        raise UnsupportedModel(f"The head '{name}' {what}. It is no EAGLE head of a known kind: choose another.")
    for key, shape in wanted.items():
        found = tuple(weights[key].shape)
        if found != shape:
            raise UnsupportedModel(
                f"The head '{name}' holds {key} of shape {found}, its configuration asks for {shape}. "
                "Its files do not belong together: load them again, or choose another head."
            )
