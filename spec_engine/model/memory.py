"""How much memory a model needs, known before anything is loaded.

Job: bytes of weights, of keys and values per token, and of the working tensors of a prefill chunk, computed from a
configuration.
Non-job: measuring (`doctor`), deciding what to do about it.
"""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from spec_engine.config import Quantization

_GIB = 1024**3
_QUANTIZED_BYTES = {"4bit": 0.5 + 1 / 16, "8bit": 1.0}  # per weight of a linear layer, with its scales


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes for one model."""

    weights: int
    cache_per_token: int
    num_tokens: int  # that the cache is made for
    activations: int  # the largest working tensors of one prefill chunk

    @property
    def cache(self) -> int:
        """The whole key/value cache."""
        return self.cache_per_token * self.num_tokens

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations

    def __str__(self) -> str:
        parts = ("weights", self.weights), ("cache", self.cache), ("working memory", self.activations)
        listed = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in parts)
        return f"{self.total / _GIB:.1f} GiB ({listed})"


def memory_need(
    config: PretrainedConfig,
    dtype: torch.dtype,
    num_tokens: int,
    *,
    quantization: Quantization = "none",
    prefill_chunk: int = 512,
) -> MemoryNeed:
    """What a model of this configuration needs in `dtype` with a cache for `num_tokens` tokens."""
    text = config.get_text_config(decoder=True)
    weights = _weight_bytes(config, dtype, quantization)
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    # residual, attention in and out; the gated middle of the feed-forward part
    width = 4 * text.hidden_size + 3 * inner
    activations = prefill_chunk * width * max(dtype.itemsize, 4) + 2 * text.vocab_size * 4
    return MemoryNeed(weights, cache_bytes_per_token(text, dtype), num_tokens, activations)


def cache_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that all layers store for one token, at full length also in sliding layers."""
    num_heads: int = config.num_attention_heads
    num_kv_heads: int = getattr(config, "num_key_value_heads", None) or num_heads
    size: int = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    num_layers: int = config.num_hidden_layers
    return 2 * num_layers * num_kv_heads * size * dtype.itemsize


def _weight_bytes(config: PretrainedConfig, dtype: torch.dtype, quantization: Quantization) -> int:
    """Exact for plain weights: the model is built without memory and counted."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    total: int = sum(parameter.numel() for parameter in model.parameters())  # shared ones once
    head = model.get_output_embeddings()  # stays as it is, like the embedding
    layers = (module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head)
    linear = 0 if quantization == "none" else sum(module.weight.numel() for module in layers)
    num_bytes: float = (total - linear) * dtype.itemsize + linear * _QUANTIZED_BYTES.get(quantization, 0.0)
    return round(num_bytes)
