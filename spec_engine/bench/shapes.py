"""Models of published sizes with random weights: what a pass costs does not depend on what the weights say.

Job: the sizes of the presets' models, from their published configurations on the Hugging Face hub; `random_model`, and
`echoing`, which makes one of which it is known what it will say.
Non-job: anything about the text that such a model writes.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from spec_engine.errors import RequestError

_QUIET: Final = 1e-2  # of what the layers of an echoing model add to its residual stream
_LAST_NORMS: Final = ("post_feedforward_layernorm", "post_attention_layernorm", "post_per_layer_input_norm")
_LLAMA3: Final = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
    "dtype": "bfloat16",
}  # fmt: skip
_VICUNA_7B: Final = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False,
    "dtype": "float16",
}  # fmt: skip


def _qwen3(hidden: int, layers: int, heads: int, inner: int, *, tied: bool) -> dict[str, object]:
    return {
        "model_type": "qwen3", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": inner, "vocab_size": 151936,
        "tie_word_embeddings": tied, "dtype": "bfloat16",
    }  # fmt: skip


_EAGLE3: Final = {**_LLAMA3, "num_hidden_layers": 1, "draft_vocab_size": 32000, "dtype": "float16"}


def _longspec(target: Mapping[str, object]) -> dict[str, object]:
    """LongSpec's heads have their target's widths (arXiv 2502.17421, section 3)."""
    return {**target, "num_hidden_layers": 1}


_VICUNA_13B: Final = {
    **_VICUNA_7B,
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "intermediate_size": 13824,
}
_QWQ: Final = {
    "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False,
    "dtype": "bfloat16",
}  # fmt: skip


def _gemma4(
    hidden: int, layers: tuple[int, int], heads: tuple[int, int, int], inner: int, **more: object
) -> dict[str, object]:
    """The text model. `layers` in groups, of which the last of each sees everything; `heads` with queries, and with
    keys in layers with a window and without."""
    num_groups, in_group = layers
    return {
        "model_type": "gemma4_text", "hidden_size": hidden, "num_hidden_layers": num_groups * in_group,
        "layer_types": [*["sliding_attention"] * (in_group - 1), "full_attention"] * num_groups,
        "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "num_global_key_value_heads": heads[2],
        "head_dim": 256, "global_head_dim": 512, "intermediate_size": inner, "vocab_size": 262144,
        "vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 0, "sliding_window": 1024,
        "attention_k_eq_v": True, "final_logit_softcapping": 30.0, "tie_word_embeddings": True, "dtype": "bfloat16",
        **more,
    }  # fmt: skip


def _gemma4_head(target: Mapping[str, object], hidden: int, heads: int, inner: int) -> dict[str, object]:
    """Its multi-token prediction head; a narrow one gives logits to 32 of 2,048 clusters of the vocabulary."""
    text = {key: target[key] for key in ("head_dim", "global_head_dim", "vocab_size", "sliding_window")}
    text |= {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": inner}
    return {
        "model_type": "gemma4_assistant", "backbone_hidden_size": target["hidden_size"],
        "use_ordered_embeddings": hidden < 1024, "num_centroids": 2048, "centroid_intermediate_top_k": 32,
        "text_config": {**text, "layer_types": [*["sliding_attention"] * 3, "full_attention"]},
    }  # fmt: skip


_BY_LAYER: Final = {"hidden_size_per_layer_input": 256, "attention_k_eq_v": False, "sliding_window": 512}
_GEMMA4_E2B: Final = _gemma4(
    1536, (7, 5), (8, 1, 1), 6144, num_kv_shared_layers=20, use_double_wide_mlp=True, **_BY_LAYER
)
_GEMMA4_E4B: Final = _gemma4(2560, (7, 6), (8, 2, 2), 10240, num_kv_shared_layers=18, **_BY_LAYER)
_GEMMA4_12B: Final = _gemma4(3840, (8, 6), (16, 8, 1), 15360)
_GEMMA4_31B: Final = _gemma4(5376, (10, 6), (32, 16, 4), 21504)

_TINY: Final = {  # no published model: what the scripts of the GPU queue are rehearsed with on a CPU
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 4096, "tie_word_embeddings": False,
}  # fmt: skip

_TINY_GEMMA4: Final = {
    **_gemma4(64, (2, 2), (4, 2, 2), 96, num_kv_shared_layers=2, **_BY_LAYER), "vocab_size": 4096,
    "vocab_size_per_layer_input": 4096, "head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 8,
}  # fmt: skip

CONFIGS: Final[dict[str, Mapping[str, object]]] = {
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA3,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _LLAMA3,
    "gradientai/Llama-3-8B-Instruct-262k": _LLAMA3,
    "lmsys/vicuna-7b-v1.5-16k": _VICUNA_7B,
    "lmsys/longchat-7b-v1.5-32k": _VICUNA_7B,
    "lmsys/vicuna-13b-v1.5-16k": _VICUNA_13B,
    "Qwen/QwQ-32B-Preview": _QWQ,
    "meta-llama/Llama-3.2-1B-Instruct": {
        **_LLAMA3, "hidden_size": 2048, "num_hidden_layers": 16, "head_dim": 64, "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12288, tied=False),
    "Qwen/Qwen3-14B": _qwen3(5120, 40, 40, 17408, tied=False),
    "Qwen/Qwen3-32B": _qwen3(5120, 64, 64, 25600, tied=False),
    "double7/vicuna-68m": {
        "model_type": "llama", "hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12,
        "num_key_value_heads": 12, "intermediate_size": 3072, "vocab_size": 32000, "tie_word_embeddings": False,
        "dtype": "float32",
    },
    "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B": _EAGLE3,
    "yuhuili/EAGLE3-DeepSeek-R1-Distill-LLaMA-8B": _EAGLE3,
    "sail/longspec-Llama-3-8B-Instruct-262k": _longspec(_LLAMA3),
    "sail/longspec-longchat-7b-v1.5-32k": _longspec(_VICUNA_7B),
    "sail/longspec-vicuna-7b-v1.5-16k": _longspec(_VICUNA_7B),
    "sail/longspec-vicuna-13b-v1.5-16k": _longspec(_VICUNA_13B),
    "sail/longspec-QwQ-32B-Preview": _longspec(_QWQ),
    "google/gemma-4-E2B-it": _GEMMA4_E2B,
    "google/gemma-4-E4B-it": _GEMMA4_E4B,
    "google/gemma-4-12B-it": _GEMMA4_12B,
    "google/gemma-4-31B-it": _GEMMA4_31B,
    "google/gemma-4-E2B-it-assistant": _gemma4_head(_GEMMA4_E2B, 256, 4, 2048),
    "google/gemma-4-E4B-it-assistant": _gemma4_head(_GEMMA4_E4B, 256, 4, 2048),
    "google/gemma-4-12B-it-assistant": _gemma4_head(_GEMMA4_12B, 1024, 16, 8192),
    "google/gemma-4-31B-it-assistant": _gemma4_head(_GEMMA4_31B, 1024, 32, 8192),
    "rehearsal/tiny": _TINY,
    "rehearsal/tiny-draft": {**_TINY, "num_hidden_layers": 2, "hidden_size": 32, "tie_word_embeddings": True},
    "rehearsal/tiny-EAGLE3": {**_TINY, "num_hidden_layers": 1, "draft_vocab_size": 512},
    "rehearsal/tiny-longspec": _longspec(_TINY),
    "rehearsal/tiny-gemma4": _TINY_GEMMA4,
    "rehearsal/tiny-gemma4-assistant": _gemma4_head(_TINY_GEMMA4, 32, 4, 64),
}  # fmt: skip


def random_model(shape: str, num_positions: int, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model of a published size for `num_positions` tokens; its weights are random and the same every time.

    `shape` is a key of `CONFIGS`, or its end, as in ``Qwen3-0.6B``. Raises `RequestError` for any other.
    """
    values: dict[str, Any] = dict(shape_config(shape))
    kind = values.pop("model_type")
    values |= {"max_position_embeddings": num_positions, "attn_implementation": "sdpa"}
    config = AutoConfig.for_model(kind, **values)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    return cast(PreTrainedModel, model.eval())


def shape_config(shape: str) -> Mapping[str, object]:
    """The configuration of a published size, a key of `CONFIGS` or its end. Raises `RequestError` for any other."""
    found = [config for name, config in CONFIGS.items() if shape in (name, name.rpartition("/")[2])]
    if not found:
        names = ", ".join(name.rpartition("/")[2] for name in CONFIGS if "/" in name)
        raise RequestError(f"There is no shape '{shape}'. Valid: {names}.")
    return found[0]


@torch.no_grad()
def echoing(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, changed so that it says its newest token again. It costs what it cost before.

    Its layers add next to nothing, so the embedding of the newest token reaches the output layer, which becomes the
    embedding too.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("o_proj", "down_proj")):
            module.weight.mul_(_QUIET)
        if name.endswith(_LAST_NORMS) and hasattr(model.get_submodule(name.rpartition(".")[0]), _LAST_NORMS[0]):
            module.weight.mul_(_QUIET)  # type: ignore[operator]  # it would undo what was just done
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output.weight is not embedding.weight:  # type: ignore[union-attr]
        output.weight.copy_(embedding.weight)  # type: ignore[union-attr, operator, arg-type]
    return model
