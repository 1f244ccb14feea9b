"""Tiny random models of the architectures that the suites run over.

Weights are scaled so that attention is peaky and logits are of order 1: with transformers' own initialisation attention
is nearly uniform and a wrong mask goes unnoticed.
"""

import math

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

VOCAB_SIZE = 256

_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
_MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 48,
}
_GEMMA4 = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 40,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 260,
    "final_logit_softcapping": 30.0,
}
_NOPE = {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0]}

# name: (class stem, what differs from the common shape)
_MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {}),
    "llama-mha": ("Llama", {"num_key_value_heads": 4}),
    "llama-linear": ("Llama", {"rope_parameters": _LINEAR}),
    "llama-llama3": ("Llama", {"rope_parameters": _LLAMA3}),
    "llama-yarn": ("Llama", {"rope_parameters": _YARN}),
    "llama-dynamic": ("Llama", {"rope_parameters": _DYNAMIC, "max_position_embeddings": 512}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-sliding": ("Mistral", {"sliding_window": 40}),
    "smollm3": ("SmolLM3", _NOPE),
    "smollm3-sliding": ("SmolLM3", {**_NOPE, "use_sliding_window": True, "sliding_window": 40}),
    "gemma2": ("Gemma2", {"head_dim": 16, "sliding_window": 40, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 40, "query_pre_attn_scalar": 16}),
    "gemma4": ("Gemma4Text", _GEMMA4),
    "gpt_oss": (
        "GptOss",
        {"head_dim": 16, "sliding_window": 40, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "cohere2": ("Cohere2", {"sliding_window": 40, "num_hidden_layers": 4}),
    "phi3": ("Phi3", {"sliding_window": None}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "olmo3": ("Olmo3", {"sliding_window": 40, "num_hidden_layers": 4}),
    "granite": ("Granite", {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "deepseek_v3": ("DeepseekV3", _MLA),
    "glm4": ("Glm4", {"head_dim": 16}),
    "stablelm": ("StableLm", {}),
    "gpt2": ("GPT2", {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 16384}),
    "falcon": ("Falcon", {}),
    "bloom": ("Bloom", {"n_head": 4, "n_layer": 2}),
    "mamba": ("Mamba", {"state_size": 4}),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
}
_MODEL_CLASSES = {"Gemma3Text": "Gemma3ForCausalLM", "Gemma4Text": "Gemma4ForCausalLM", "GPT2": "GPT2LMHeadModel"}

MAIN = ("llama", "qwen2", "qwen3", "mistral", "smollm3")
"""The architectures that exactness is promised for; all have full attention only."""

ALL_SERVED = tuple(name for name in _MODELS if name not in ("falcon", "bloom", "mamba", "lfm2", "llama-dynamic"))


def tiny_config(name: str, **changes: object) -> PretrainedConfig:
    """The configuration of a tiny model; `changes` overwrite fields."""
    stem, fields = _MODELS[name]
    config: PretrainedConfig = getattr(transformers, f"{stem}Config")(**{**_COMMON, **fields, **changes})
    return config


def tiny_model(name: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
    """A tiny random model in eval mode, the same for the same arguments; `changes` overwrite configuration fields."""
    config = tiny_config(name, **changes)
    stem = _MODELS[name][0]
    model_class = getattr(transformers, _MODEL_CLASSES.get(stem, f"{stem}ForCausalLM"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            _fill(parameter_name, parameter, generator)
    for module in model.modules():  # as from_pretrained does: parameters are cast, rotary frequencies stay float32
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = torch.nn.Parameter(parameter.to(dtype), requires_grad=False)
    model.tie_weights()
    model.config.dtype = dtype
    if dtype == torch.float64:  # torch's grouped product has no double precision
        model.set_experts_implementation("eager")
    return model.eval()


def _fill(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim >= 2:
        is_peaky = any(part in name for part in ("q_proj", "k_proj", "qkv", "c_attn"))
        parameter.copy_(noise * (2.0 if is_peaky else 1.0) / math.sqrt(parameter.shape[-1]))
    elif "sinks" in name:
        parameter.copy_(noise)
    elif "norm" in name and "bias" not in name:
        parameter.copy_(0.1 * noise + (1.0 if parameter.mean() > 0.5 else 0.0))


def random_ids(num_tokens: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> tuple[int, ...]:
    """Random token ids without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, vocab_size, (num_tokens,), generator=generator).tolist())
