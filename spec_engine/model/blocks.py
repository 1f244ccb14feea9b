"""The weights of an ordinary decoder block, and the modules that they were taken from.

Job: `Block`; `block_of`, which joins the projections of a layer; `packed_block`, in the processor's own order.
Non-job: which models have such blocks, and running them (`fused`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spec_engine.model.norm import Norm
from spec_engine.model.products import Matrix, Part, join_columns

_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")


@dataclass(frozen=True, slots=True)
class Block:
    """The weights of one layer. `head_norms` are those of queries and keys, `head_weights` [2, D] both in one."""

    input_norm: Norm
    qkv: Matrix
    head_norms: tuple[Norm, ...]
    head_weights: Tensor | None
    out: Matrix
    mlp_norm: Norm
    gate_up: Matrix
    down: Matrix
    window: int | None
    is_rotated: bool


def block_of(layer: nn.Module, window: int | None, eps: float) -> Block:
    """The weights of `layer`, whose projections become views of the joined ones; norms with this `eps`."""
    linears = {name.split(".")[1]: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
    weights = dict(layer.named_parameters())
    qkv = [linears[name] for name in ("q_proj", "k_proj", "v_proj")]
    biases: list[Tensor] = [module.bias for module in qkv if module.bias is not None]
    norms = tuple(Norm(weights[name], eps) for name in _HEAD_NORMS if name in weights)
    return Block(
        input_norm=Norm(weights["input_layernorm.weight"], eps),
        qkv=Matrix(join_columns(qkv), torch.cat(biases) if biases else None),
        head_norms=norms,
        head_weights=torch.stack([norm.weight for norm in norms]) if norms else None,
        out=Matrix(linears["o_proj"].weight.t(), linears["o_proj"].bias),
        mlp_norm=Norm(weights["post_attention_layernorm.weight"], eps),
        gate_up=Matrix(join_columns([linears["gate_proj"], linears["up_proj"]]), None),
        down=Matrix(linears["down_proj"].weight.t(), None),
        window=window,
        is_rotated=bool(getattr(layer.get_submodule("self_attn"), "use_rope", True)),
    )


def packed_block(layer: nn.Module, block: Block, *, keeps_modules: bool) -> Block:
    """`block` with packed matrices; without `keeps_modules` those of `layer` give up their weights and use these."""
    packed = replace(
        block,
        qkv=block.qkv.packed(),
        out=block.out.packed(),
        gate_up=block.gate_up.packed(),
        down=block.down.packed(),
    )
    if not keeps_modules:
        for owner, matrix, names in modules_of(layer, packed):
            replace_modules(owner, matrix, names)
    return packed


def modules_of(layer: nn.Module, block: Block) -> list[tuple[nn.Module, Matrix, Sequence[str]]]:
    """The matrices of a block, with the modules of `layer` that they are made of: their owner and names."""
    attention, middle = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    return [
        (attention, block.qkv, ("q_proj", "k_proj", "v_proj")),
        (attention, block.out, ("o_proj",)),
        (middle, block.gate_up, ("gate_proj", "up_proj")),
        (middle, block.down, ("down_proj",)),
    ]


def replace_modules(owner: nn.Module, matrix: Matrix, names: Sequence[str]) -> None:
    """Let these linear layers, side by side in `matrix`, compute by it and hold nothing themselves."""
    start = 0
    for name in names:
        module = owner.get_submodule(name)
        assert isinstance(module, nn.Linear), "an ordinary block is made of linear layers"
        setattr(owner, name, Part(matrix, start, start + module.out_features))
        start += module.out_features
