"""Hidden states of a pass, for drafters that read the target's mind.

Job: `FeatureRecorder`: what enters chosen layers of a model, and what leaves its last norm, while a pass runs.
Non-job: which layers a head was trained on (`drafters`), running the pass (`runner`).

A layer is named by its number from 0, and its feature is its input, as EAGLE-3 has it (arXiv 2503.01840, section 3.1);
the number of layers names the normalised states that the output layer reads, which EAGLE-1 uses.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
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
        self._handles: list[RemovableHandle] = []
        self._hooked: tuple[int, ...] = ()  # layers that have a hook
        self._found: dict[int, Tensor] | None = None  # what a forward fills

    @contextmanager
    def recording(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """The dictionary, from layer to hidden states [1, T, H], that a forward inside the block fills.

        Hooks stay until other layers are asked for, or `release`: to place and remove them costs more than they do.
        """
        if self._hooked != tuple(layers):
            self._place(tuple(layers))
        found: dict[int, Tensor] = {}
        self._found = found
        try:
            yield found
        finally:
            self._found = None

    def release(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._hooked = [], ()

    def _place(self, layers: tuple[int, ...]) -> None:
        """Hooks on these layers alone."""
        self.release()

        def keep_input(layer: int) -> RemovableHandle:
            def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                if self._found is not None:
                    self._found[layer] = args[0] if args else kwargs["hidden_states"]

            return self._layers[layer].register_forward_pre_hook(hook, with_kwargs=True)

        def keep_output(module: nn.Module, args: object, output: tuple[Tensor, ...]) -> None:
            if self._found is not None:
                self._found[self.num_layers] = output[0]

        self._handles = [keep_input(layer) for layer in sorted(set(layers) - {self.num_layers})]
        if self.num_layers in layers:
            self._handles.append(self._decoder.register_forward_hook(keep_output))
        self._hooked = layers
