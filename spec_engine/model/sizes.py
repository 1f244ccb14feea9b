"""How large a model is, counted before its weights are put in another order.

Job: `ModelSize` and `model_size`; `config_of_layer` and `layer_windows`, for models whose layers differ.
Non-job: bytes of memory that it will take (`memory`), counting attention (`bench`).
"""

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class ModelSize:
    """`num_bytes` of weights that a pass reads: all, but for an input embedding that is nothing else. Products: so many
    weights take part for each row in the layers, and in the output layer. Experts of a mixture all count."""

    num_bytes: int
    num_in_layers: int
    num_in_output: int


def model_size(model: PreTrainedModel) -> ModelSize:
    """Of a model with an input embedding and an output layer."""
    weights = {parameter.data_ptr(): parameter for parameter in model.parameters()}
    looked_up, output = (_weight(layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    if output.data_ptr() != looked_up.data_ptr():
        weights.pop(looked_up.data_ptr(), None)
    layers = {module.weight.data_ptr(): module for module in model.modules() if isinstance(module, nn.Linear)}
    layers.pop(output.data_ptr(), None)
    return ModelSize(
        sum(weight.nbytes for weight in weights.values()),
        sum(layer.in_features * layer.out_features for layer in layers.values()),
        output.numel(),
    )


def config_of_layer(config: PretrainedConfig, layer: int) -> PretrainedConfig:
    """The configuration of one layer of the text model `config`: numbers and sizes of heads may differ by layer, and
    then transformers refuses to give one for all."""
    by_layer = getattr(config, "per_layer_config", None)
    own: PretrainedConfig = config if by_layer is None else by_layer[layer]
    return own


def layer_windows(config: PretrainedConfig) -> list[int | None]:
    """How far the layers of the text model `config` see, in tokens; None: everything. Empty where its layers do not
    differ."""
    kinds: list[str] = getattr(config, "layer_types", None) or []
    window: int | None = getattr(config, "sliding_window", None)
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _weight(layer: nn.Module | None) -> Tensor:
    assert layer is not None, "a causal language model has both ends"
    return layer.get_parameter("weight")
