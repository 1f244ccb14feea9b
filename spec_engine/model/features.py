"""Hidden states of a pass, for drafters that read the target's mind.

Job: `FeatureRecorder`: what enters chosen layers of a model, and what leaves its last norm, while a pass runs.
Non-job: which layers a head was trained on (`drafters`), running the pass (`runner`).

A layer is named by its number from 0, and its feature is its input, as EAGLE-3 has it (arXiv 2503.01840, section 3.1);
the number of layers names the normalised states that the output layer reads, which EAGLE-1 uses.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from spec_engine.errors import UnsupportedModel


class FeatureRecorder:
    """Records features of `model`. Raises `UnsupportedModel` if its layers cannot be told apart from outside."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.num_layers: int = model.config.get_text_config(decoder=True).num_hidden_layers
        self._decoder: nn.Module = model.get_decoder()
        stacks = [part for part in self._decoder.children() if isinstance(part, nn.ModuleList)]
        layers = next((stack for stack in stacks if len(stack) == self.num_layers), None)
        if layers is None:
            raise UnsupportedModel(
                f"{type(model).__name__} keeps its layers in a way that is not known here, so a draft head cannot read "
                "its hidden states. Choose the drafter lookup or lm, or another model."
            )
        self._layers = layers

    @contextmanager
    def recording(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """The dictionary, from layer to hidden states [1, T, H], that a forward inside the block fills."""
        found: dict[int, Tensor] = {}

        def keep_input(layer: int) -> "torch.utils.hooks.RemovableHandle":
            def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                found[layer] = args[0] if args else kwargs["hidden_states"]

            return self._layers[layer].register_forward_pre_hook(hook, with_kwargs=True)

        def keep_output(module: nn.Module, args: object, output: tuple[Tensor, ...]) -> None:
            found[self.num_layers] = output[0]

        handles = [keep_input(layer) for layer in sorted(set(layers) - {self.num_layers})]
        if self.num_layers in layers:
            handles.append(self._decoder.register_forward_hook(keep_output))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()
