"""How much memory a model needs, known before anything is loaded, and how much it takes once it is.

Job: bytes of weights, of keys and values per token, and of the working tensors of a prefill chunk, computed from a
configuration; refusing models that cannot fit what is free; measuring what loaded models take.
Non-job: choosing something smaller.
"""

import copy
import gc
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from spec_engine.cache.sliding import LEAST_SLACK, num_sliding_slots
from spec_engine.config import MAX_DRAFT_NODES, ModelRef, Preset, Quantization
from spec_engine.errors import ModelError, UnsupportedModel
from spec_engine.model.fused import has_ordinary_blocks, num_packed_weights
from spec_engine.model.load import ALL_GPUS, load_config, pick_device, pick_dtype
from spec_engine.model.products import packs
from spec_engine.model.sizes import config_of_layer, layer_windows
from spec_engine.model.text_only import keep_text

_GIB = 1024**3
_SIGNS = ("not enough memory", "can't allocate memory")  # of torch's CPU allocator, whose error has no type of its own
_LEAST_CHUNK, _MOST_CHUNK = 512, 8192  # tokens of a prefill pass
_TREE_SLOTS = MAX_DRAFT_NODES + 1  # rows of a target's cache behind its context
_CHUNK_SHARE = 1 / 8  # of the free memory, for the tensors of such a pass
_QUANTIZED_BYTES = {"4bit": 0.5 + 1 / 16, "8bit": 1.0}  # per weight of a linear layer, with its scales


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes for one model."""

    weights: int
    cache_per_token: int
    num_tokens: int  # that the cache is made for
    activations: int  # the largest working tensors of one prefill chunk
    windows: int = 0  # of the cache, what layers take that hold their newest rows alone

    @property
    def cache(self) -> int:
        """The whole key/value cache."""
        return self.cache_per_token * self.num_tokens + self.windows

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations

    def __str__(self) -> str:
        parts = ("weights", self.weights), ("cache", self.cache), ("working memory", self.activations)
        listed = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in parts)
        return f"{self.total / _GIB:.1f} GiB ({listed})"


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that an engine takes, by part; `cache` is that of the target, made for `num_tokens` tokens."""

    weights: int
    cache: int
    draft: int  # the draft's weights and caches
    num_tokens: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.draft


def held_bytes(*roots: object) -> list[int]:
    """Bytes of the tensors that each of these holds; what several hold counts for the first.

    Looked into are modules, containers and objects of this package.
    """
    seen: set[int] = set()
    storages: set[int] = set()
    return [_held(root, seen, storages) for root in roots]


def _held(root: object, seen: set[int], storages: set[int]) -> int:
    num_bytes, waiting = 0, [root]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor) and item.is_mkldnn:  # has no storage to ask, and is held once
            num_bytes += item.numel() * item.element_size()
        elif isinstance(item, Tensor):
            storage = item.untyped_storage()
            if storage.data_ptr() not in storages:
                storages.add(storage.data_ptr())
                num_bytes += storage.nbytes()
        elif id(item) not in seen:
            seen.add(id(item))
            waiting.extend(_parts(item))
    return num_bytes


def _parts(item: object) -> Iterator[object]:
    """What an object holds that may hold tensors."""
    if isinstance(item, torch.nn.Module):
        yield from item.parameters()
        yield from item.buffers()
        yield from (value for part in item.modules() for value in vars(part).values() if _is_ours(value))
    elif isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, list | tuple | set | frozenset | deque):
        yield from item
    elif _is_ours(item):
        yield from vars(item).values() if hasattr(item, "__dict__") else ()
        yield from (getattr(item, name, None) for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ()))


def _is_ours(item: object) -> bool:
    return type(item).__module__.startswith("spec_engine.")


def memory_need(
    config: PretrainedConfig,
    dtype: torch.dtype,
    num_tokens: int,
    *,
    quantization: Quantization = "none",
    prefill_chunk: int = _LEAST_CHUNK,
    is_packed: bool = False,
) -> MemoryNeed:
    """What a model of this configuration needs in `dtype` as a target with a cache for `num_tokens` tokens;
    `is_packed`: its matrices are held in the processor's order (`products.packs`), some of them besides."""
    text = config.get_text_config(decoder=True)
    weights = _weight_bytes(config, dtype, quantization, is_packed=is_packed)
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    inner = max(inner) if isinstance(inner, list | tuple) else inner
    # residual, attention in and out; the gated middle of the feed-forward part
    width = 4 * text.hidden_size + 3 * inner
    activations = prefill_chunk * width * max(dtype.itemsize, 4) + 2 * text.vocab_size * 4
    by_layer = _cache_bytes(text, dtype)
    num_slots, slack = num_tokens + _TREE_SLOTS, max(LEAST_SLACK, prefill_chunk) + _TREE_SLOTS
    windows = layer_windows(text)[: len(by_layer)]
    num_rows = num_sliding_slots(windows, num_slots, slack)
    sliding = sum(size for size, window in zip(by_layer, windows, strict=False) if window and num_rows < num_slots)
    return MemoryNeed(weights, sum(by_layer) - sliding, num_tokens, activations, sliding * num_rows)


def model_need(preset: Preset, ref: ModelRef, device: str) -> MemoryNeed:
    """What a language model needs with a cache for the preset's context. Nothing but its configuration is read. Raises
    `UnsupportedModel` for what is no language model."""
    config = load_config(preset, ref)
    if config.model_type.endswith("_assistant"):
        raise UnsupportedModel(
            f"'{ref.id}' is a draft head, no language model. Name it in draft.model, with draft.kind = \"mtp\"."
        )
    checkpoint = config.dtype if isinstance(config.dtype, torch.dtype) else None
    dtype = pick_dtype(ref.dtype, pick_device(device), checkpoint)
    chunk = preset.prefill_chunk or _LEAST_CHUNK
    is_packed = ref.quantization == "none" and has_ordinary_blocks(config) and packs(pick_device(device), dtype)
    length, kind = preset.context_length, ref.quantization
    need = memory_need(config, dtype, length, quantization=kind, prefill_chunk=chunk, is_packed=is_packed)
    if ref == preset.target:
        return need
    per_token = sum(_cache_bytes(config.get_text_config(decoder=True), dtype))  # a draft holds all rows
    return replace(need, cache_per_token=per_token, windows=0)


def target_dtype(preset: Preset, device: str) -> torch.dtype:
    """What a preset's target is loaded in, and a draft head beside it. Nothing but its configuration is read."""
    stored = load_config(preset, preset.target).dtype
    checkpoint = stored if isinstance(stored, torch.dtype) else None
    return pick_dtype(preset.target.dtype, pick_device(device), checkpoint)


def pick_chunk(preset: Preset, device: str) -> int:
    """Tokens per prefill pass at most, once weights and caches are there: what the preset says; else as many as a part
    of the free memory holds on a GPU, whose matrix units want long chunks. Layers with a window take memory by the
    chunk."""
    where, free = pick_device(device), free_on(device)
    if preset.prefill_chunk or where.type == "cpu" or free is None:
        return preset.prefill_chunk or _LEAST_CHUNK
    need = model_need(preset, preset.target, device)
    num_times = max(1, int(free * _CHUNK_SHARE / need.activations))  # of the least chunk
    return min(LEAST_SLACK if need.windows else _MOST_CHUNK, _LEAST_CHUNK << num_times.bit_length() - 1)


def fits(needs: Sequence[tuple[str, MemoryNeed]], device: str) -> bool:
    """Whether these models with all they need fit what is free on the device now; True where nobody knows."""
    free = free_on(device)
    return free is None or sum(need.total for _, need in needs) <= free


def check_memory(preset: Preset, needs: Sequence[tuple[str, MemoryNeed]], device: str, reclaimable: int = 0) -> None:
    """Raise `ModelError` when weights and full caches of these models, by name, are more than is free on the device.

    What a pass needs on top is not counted, so what this refuses cannot work. `reclaimable` bytes count as free.
    """
    where, free = pick_device(device), free_on(device)
    free = None if free is None else free + reclaimable
    total = sum(need.weights + need.cache for _, need in needs)
    if free is not None and total > free:
        listed = "; ".join(f"{name} {need}" for name, need in needs)
        raise ModelError(
            f"'{preset.name}' needs at least {total / _GIB:.1f} GiB on {where}, {free / _GIB:.1f} GiB are free: "
            f"{listed}. Close other programs, lower context_length ({preset.context_length:,} tokens now), or choose a "
            "smaller or 4-bit preset."
        )


def free_on(device: str) -> int | None:
    """`free_bytes` by a device's name; of `ALL_GPUS` together."""
    if device == ALL_GPUS and pick_device(device).type == "cuda":
        return sum(int(torch.cuda.mem_get_info(number)[0]) for number in range(torch.cuda.device_count()))
    return free_bytes(pick_device(device))


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be taken on a device now; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def reclaim() -> None:
    """Give memory back that nobody uses: models refer to themselves in circles, and torch keeps freed GPU memory."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def allocating(name: str) -> Iterator[None]:
    """Say in words that the memory did not suffice for `name`, as a `ModelError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
            sign in str(error) for sign in _SIGNS
        )
        if not is_memory:
            raise
        raise ModelError(
            f"The memory does not suffice for '{name}'. Lower context_length, or choose a smaller or 4-bit preset."
        ) from error


def _cache_bytes(config: PretrainedConfig, dtype: torch.dtype) -> list[int]:
    """Bytes of keys and values that each layer stores for a token. Layers that share those of an earlier one store
    none, and are left out."""
    num_shared: int = getattr(config, "num_kv_shared_layers", None) or 0
    found = []
    for layer in range(config.num_hidden_layers - num_shared):
        own = config_of_layer(config, layer)
        num_kv_heads: int = getattr(own, "num_key_value_heads", None) or own.num_attention_heads
        size: int = getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads
        found.append(2 * num_kv_heads * size * dtype.itemsize)
    return found


def _weight_bytes(config: PretrainedConfig, dtype: torch.dtype, quantization: Quantization, *, is_packed: bool) -> int:
    """Exact for plain weights: the model is built without memory and counted.

    Its configuration says no dtype, because transformers builds a model in one by changing the default of the whole
    process: beside a load in another thread, that load would get the wrong one, and the process might keep it.
    """
    config = copy.deepcopy(config)
    config.dtype = None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    keep_text(model)
    total: int = sum(parameter.numel() for parameter in model.parameters())  # shared ones once
    total += num_packed_weights(model, dtype) if is_packed else 0
    head = model.get_output_embeddings()  # stays as it is, like the embedding
    layers = (module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head)
    linear = 0 if quantization == "none" else sum(module.weight.numel() for module in layers)
    num_bytes: float = (total - linear) * dtype.itemsize + linear * _QUANTIZED_BYTES.get(quantization, 0.0)
    return round(num_bytes)
