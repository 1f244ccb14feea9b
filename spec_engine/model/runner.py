"""One forward of a transformers model over our caches.

Job: `Forward`, the contract, and `Runner`, which makes sure at construction that the model can follow a draft tree,
learns from a one-token pass what its layers store, and then runs passes with as little Python around them as possible.
Non-job: what to run (`target`, `drafters.lm`), attention (`hf_attention`).
"""

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from spec_engine.attention import pick
from spec_engine.cache.slots import LayerShape, SlotCache
from spec_engine.errors import UnsupportedModel
from spec_engine.model.features import FeatureRecorder
from spec_engine.model.hf_attention import CURRENT, Pass, install
from spec_engine.model.hf_cache import ProbeCache, SlotAdapter, cache_argument

_KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention", "attention"}


class Forward(Protocol):
    """A model behind passes: `Runner`, or a faster form of it."""

    def run(
        self, cache: SlotAdapter, current: Pass, token_ids: Sequence[int], positions: Tensor, last: int = 0
    ) -> Tensor:
        """Logits [last, V] of the last `last` new tokens, or [T, V] of all for 0.

        `positions` [T] int64, on the CPU. The new rows are in the cache afterwards, not committed. What `current` asks
        for is put into it.
        """


class DeviceForward(Forward, Protocol):
    """One that also runs on tokens that lie on the device."""

    def forward(self, cache: SlotAdapter, current: Pass, token_ids: Tensor, positions: Tensor, last: int = 0) -> Tensor:
        """`run` with token ids and positions [T] on the device, without waiting for it: work that can be captured."""


class Runner:
    """A causal language model, ready for passes.

    Raises `UnsupportedModel`, with the reason, for a model that keeps a state which cannot follow a tree, or whose
    attention cannot be replaced.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        _check_architecture(model)
        install(model)
        model.train(False)
        self.model = model
        self.device = _first_device(model)
        self.dtype: torch.dtype = model.dtype
        self.pick = pick(self.device, self.dtype)
        self.backend = self.pick.backend
        parameters = inspect.signature(type(model).forward).parameters
        self._cache_argument = cache_argument(model)
        self._can_keep = "logits_to_keep" in parameters
        self._by_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self._mask = torch.zeros(1, 1, 1, 1, device=self.device)  # any 4-D mask keeps transformers from making one
        self._probe()

    @property
    def name(self) -> str:
        """The model's class and id, for messages."""
        return f"{type(self.model).__name__} ({self.model.name_or_path or 'unnamed'})"

    @property
    def is_spread(self) -> bool:
        """Whether layers lie on several devices, or off the GPU."""
        places = set(getattr(self.model, "hf_device_map", {}).values())
        return len({shape.device for shape in self.shapes}) > 1 or bool(places & {"cpu", "disk"})

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of the text part."""
        return self.model.config.get_text_config(decoder=True)

    def bind(self, slots: SlotCache) -> SlotAdapter:
        """`slots`, a cache of `shapes`, in the form that `run` takes."""
        return SlotAdapter(slots, self._model_layers)

    @torch.inference_mode()
    def run(
        self, cache: SlotAdapter | ProbeCache, current: Pass, token_ids: Sequence[int], positions: Tensor, last: int = 0
    ) -> Tensor:
        """See `Forward`."""
        return self.forward(cache, current, torch.tensor(token_ids, device=self.device), positions, last)

    def forward(
        self, cache: SlotAdapter | ProbeCache, current: Pass, token_ids: Tensor, positions: Tensor, last: int = 0
    ) -> Tensor:
        """`run` with token ids [T] on the device; nothing of it waits for the device if `positions` are there too."""
        positions = positions.to(self.device)
        if not current.feature_layers:
            self.release()
            return self._forward(cache, current, token_ids, positions, last)
        with self.recorder.recording(current.feature_layers) as found:
            logits = self._forward(cache, current, token_ids, positions, last)
        current.features = torch.cat([found[layer][0].to(self.device) for layer in current.feature_layers], dim=-1)
        return logits

    def release(self) -> None:
        """Take hooks off the model, where a pass placed some."""
        if "recorder" in self.__dict__:
            self.recorder.release()

    @cached_property
    def recorder(self) -> FeatureRecorder:
        """For hidden states. Raises `UnsupportedModel` for a model whose layers cannot be found."""
        return FeatureRecorder(self.model)

    def _forward(
        self, cache: SlotAdapter | ProbeCache, current: Pass, token_ids: Tensor, positions: Tensor, last: int
    ) -> Tensor:
        inputs: dict[str, object] = {
            "input_ids": token_ids.unsqueeze(0),
            "position_ids": positions.unsqueeze(0),
            "attention_mask": self._mask,
            self._cache_argument: cache,
            "use_cache": True,
        }
        if self._by_keyword:
            inputs["spec_pass"] = current
        if last and self._can_keep:
            # No tensor: on several GPUs it would lie on another one than the states. No number: gemma4 would run its
            # last layers on the last tokens alone, and trees need them all.
            inputs["logits_to_keep"] = slice(-last, None)
        if self._by_keyword:
            logits: Tensor = self.model(**inputs).logits
            return logits[0, -last:]
        token = CURRENT.set(current)
        try:
            logits = self.model(**inputs).logits
        finally:
            CURRENT.reset(token)
        return logits[0, -last:]

    def probe_keys(self, position: int, token_id: int = 1) -> dict[int, Tensor]:
        """The keys [1, Hk, 1, D] that each layer of `shapes` would store for a lone token at `position`."""
        cache = ProbeCache(self.config.num_hidden_layers)
        self.run(cache, Pass(self.backend, 0), [token_id], torch.tensor([position]))
        return {index: cache.keys[layer] for index, layer in enumerate(self._model_layers)}

    def _probe(self) -> None:
        """Run one token: what is stored, how our pass arrives, and whether the attention function is called at all."""
        cache = ProbeCache(self.config.num_hidden_layers)
        current = Pass(self.backend, 0)
        position = torch.zeros(1, dtype=torch.int64)
        try:
            logits = self._probe_run(cache, current, position)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise UnsupportedModel(
                f"{self.name} failed on a first token with this engine's cache and attention ({error}). "
                "Choose a model of another architecture."
            ) from error
        if current.num_calls == 0 or not cache.shapes:
            raise UnsupportedModel(
                f"{self.name} never calls the registered attention function, so a draft tree cannot be verified with "
                "it. Choose a model of another architecture."
            )
        self._model_layers = tuple(sorted(cache.shapes))
        self.shapes: tuple[LayerShape, ...] = tuple(cache.shapes[layer] for layer in self._model_layers)
        self.layer_windows = tuple(current.layer_windows.get(layer) for layer in self._model_layers)
        self.model_layers = self._model_layers
        self.vocab_size = int(logits.shape[-1])

    def _probe_run(self, cache: ProbeCache, current: Pass, position: Tensor) -> Tensor:
        """The first pass; switches to the context variable where the keyword does not arrive."""
        if self._by_keyword:
            token = CURRENT.set(current)  # so that a layer which drops the keyword still finds the pass
            try:
                logits = self.run(cache, current, [1], position)
            finally:
                CURRENT.reset(token)
            self._by_keyword = current.came_by_keyword
            return logits
        return self.run(cache, current, [1], position)


def check_context(runner: Runner, num_tokens: int) -> None:
    """Raise `UnsupportedModel` where `num_tokens` are more than a model has positions for.

    Learned positions end at some number. Dynamic NTK scaling and longrope recompute their frequencies from the largest
    position of a call, so keys cached before and after the change do not fit each other, and a pass over several tokens
    differs from one token at a time.
    """
    config, name = runner.config, runner.name
    learned = _num_learned_positions(runner.model)
    if learned is not None and num_tokens > learned:
        raise UnsupportedModel(
            f"{name} has learned positions for {learned:,} tokens. Set context_length to {learned:,} or less, or "
            "choose another model."
        )
    rope = getattr(config, "rope_parameters", None) or {}
    every = list(rope.values()) if rope and all(isinstance(value, dict) for value in rope.values()) else [rope]
    for parameters in every:
        kind = parameters.get("rope_type", "default")
        if kind == "dynamic":
            limit = config.max_position_embeddings
        elif kind == "longrope":
            limit = parameters.get("original_max_position_embeddings") or config.original_max_position_embeddings
        else:
            continue
        if num_tokens > limit:
            raise UnsupportedModel(
                f"{name} changes its rotary frequencies ('{kind}' scaling) beyond {limit:,} tokens, so cached keys "
                f"would no longer fit. Set context_length to {limit:,} or less, or choose another model."
            )


def _num_learned_positions(model: PreTrainedModel) -> int | None:
    """Rows of a learned position embedding that tokens can use; None for a model without one."""
    limit: int | None = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    tokens = model.get_input_embeddings()
    for module in model.modules():
        is_other = isinstance(module, torch.nn.Embedding) and module is not tokens
        if limit is not None and is_other and module.num_embeddings in (limit, limit + 2):  # OPT keeps two rows aside
            return limit
    return None


def _first_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go in, also when the layers are spread over several devices."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor), "an embedding has a weight"
    return weight.device


def _check_architecture(model: PreTrainedModel) -> None:
    """Refuse what is known to fail, before anything is changed."""
    name = f"{type(model).__name__} ({model.name_or_path or 'unnamed'})"
    config = model.config.get_text_config(decoder=True)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder. Choose a decoder-only language model.")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYER_TYPES)
    if others or getattr(model, "_is_stateful", False):
        kinds = ", ".join(others) or "recurrent layers"
        raise UnsupportedModel(
            f"{name} has layers of a kind ({kinds}) that cannot follow the branches of a draft tree. "
            "Choose a model with full or sliding-window attention only."
        )
