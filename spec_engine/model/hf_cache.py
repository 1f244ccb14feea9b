"""Our caches in the shape that transformers' models expect.

Job: `SlotAdapter`, a transformers `Cache` that writes to a `SlotCache`, `ProbeCache`, which stores nothing and notes
what each layer would have stored, and `cache_argument`, how a model calls its cache.
Non-job: memory (`cache.slots`), generation with transformers' own loop.

The cache API changed within version 5 of transformers (``get_max_cache_shape`` became ``get_max_length``, the argument
of ``get_mask_sizes`` a length, a forward's ``past_key_values`` ``cache``); both spellings are served, for versions from
5.0 to 5.24.
"""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from spec_engine.cache.slots import LayerShape, SlotCache


class _Layer(CacheLayerMixin):
    """One layer as far as a model asks: its length. The rows go through the adapter."""

    is_sliding = False
    is_croppable = False

    def __init__(self, slots: SlotCache | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The memory was taken when the cache was made."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        raise AssertionError("rows are written through the cache, not through a layer")

    def get_seq_length(self, *args: object) -> int:
        return 0 if self._slots is None else self._slots.length

    def get_mask_sizes(self, query_length: int | Tensor, *args: object) -> tuple[int, int]:
        num_new = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.get_seq_length() + num_new, 0

    def get_max_length(self) -> int:
        return -1 if self._slots is None else self._slots.num_slots

    def get_max_cache_shape(self) -> int:
        return self.get_max_length()


class SlotAdapter(Cache):  # type: ignore[misc]  # transformers is untyped
    """`slots` as a transformers cache. `model_layers[i]` is the model's layer whose rows are layer i of `slots`.

    Where `places` is set, two tensors int64 [T] on the device, new rows go to these slots, the second of layers that
    hold the newest rows alone, and a layer gets all its memory to see.
    """

    def __init__(self, slots: SlotCache, model_layers: Sequence[int]) -> None:
        super().__init__(layers=[_Layer(slots) for _ in range(max(model_layers) + 1)])
        self.slots = slots
        self.places: tuple[Tensor, Tensor] | None = None
        self._slot_layer = {layer: index for index, layer in enumerate(model_layers)}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new rows behind the committed ones; return all rows of the layer."""
        layer = self._slot_layer[layer_idx]
        if self.places is not None:
            return self.slots.put(layer, self.places[self.slots.slides(layer)], key_states, value_states)
        return self.slots.append(layer, key_states, value_states)

    def places_for(self, layer_idx: int, num_new: int) -> tuple[Tensor, Tensor, Tensor]:
        """For a kernel that writes by itself: the slots of the new rows, int64 on the device, and the rows to see."""
        layer = self._slot_layer[layer_idx]
        keys, values = self.slots.memory(layer)
        if self.places is not None:
            return self.places[self.slots.slides(layer)], keys, values
        start = self.slots.length - self.slots.first(layer)
        end = start + num_new
        assert end <= keys.shape[2], f"{end} rows do not fit {keys.shape[2]} slots"
        return torch.arange(start, end, device=keys.device), keys.narrow(2, 0, end), values.narrow(2, 0, end)


class ProbeCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Empty, and stays so. `shapes` and `keys` by layer are those of the last forward."""

    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[_Layer(None) for _ in range(num_layers)])
        self.shapes: dict[int, LayerShape] = {}
        self.keys: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Note the shape, return the new rows alone."""
        self.keys[layer_idx] = key_states
        self.shapes[layer_idx] = LayerShape(
            key_states.shape[1], key_states.shape[3], value_states.shape[3], key_states.dtype, key_states.device
        )
        return key_states, value_states


def cache_argument(model: PreTrainedModel) -> str:
    """The name under which `model`'s forward and ``generate`` take a cache: ``cache`` since transformers 5.24, before
    that, and in a model with code of its own that was written for it, ``past_key_values``."""
    return "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
