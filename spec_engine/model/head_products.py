"""The products of a draft head, whose linear layers are trained one by one and drafted with in as few pieces as can be.

Job: `Joined`, linear layers that read the same rows; `Summed`, one whose results are added to other rows; `Gated`, the
middle of a feed-forward part; `join_products`, which makes a head ready that will not be trained any more; `quicken`,
which on a GPU lets matrices of 8 bits contest its products; `DraftOutput`, a target's output layer for drafts.
Non-job: matrices (`products`), who is faster (`contest`), what a head computes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spec_engine.model.block_products import ChosenProducts, Kind, TorchProducts
from spec_engine.model.contest import Use, choose, gpu_timer, narrow_cuts, settle
from spec_engine.model.fused import kernels_for
from spec_engine.model.memory import free_bytes
from spec_engine.model.norm import swap_norms
from spec_engine.model.products import READY_LEVEL_ROWS, Matrix, join_columns, packs, warm_up_products
from spec_engine.model.target import Target

_SHARE = 8  # a copy takes no more than one part of so many of the memory that is free


class Joined:
    """Linear layers of a module that read the same rows: one product, once `join` was called.

    Until then the layers are run one by one, as training needs it; afterwards they are not to be used themselves.
    """

    kind: Kind = "plain"
    keeps_base = False

    def __init__(self, *layers: nn.Linear) -> None:
        self._layers = layers
        self._products = TorchProducts()
        self._matrix: Matrix | None = None

    @property
    def held(self) -> Matrix:
        """The matrix, once joined."""
        assert self._matrix is not None, "not joined"
        return self._matrix

    def __call__(self, x: Tensor) -> Tensor:
        """What all layers give, side by side, for x [..., in]."""
        if self._matrix is None:
            parts = [layer(x) for layer in self._layers]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return self._products.plain(self._matrix, _flat(x)).view(*x.shape[:-1], self._matrix.num_out)

    def join(self, *, is_packed: bool) -> Matrix:
        """Make it one product, for good. With `is_packed` the layers give up their weights."""
        biases: list[Tensor] = []
        if any(layer.bias is not None for layer in self._layers):
            outs = [layer.weight.new_zeros(layer.out_features) for layer in self._layers]
            biases = [out if layer.bias is None else layer.bias for layer, out in zip(self._layers, outs, strict=True)]
        bias = torch.cat(biases) if biases else None
        self._matrix = Matrix(join_columns(self._layers), bias, is_packed=is_packed)
        if is_packed:
            self._give_up()
        return self._matrix

    def use(self, products: TorchProducts) -> None:
        """Have the product done by these from now on."""
        self._products = products

    def keep_narrow(self) -> None:
        """Hold the weights in 8 bits alone, if there is memory to round them."""
        if self.held.keep_narrow():
            self._give_up()

    def _give_up(self) -> None:
        """Let the layers hold nothing."""
        for layer in self._layers:
            layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)


class Summed(Joined):
    """One whose results are added to rows. With `keeps_base` these stay as they are; else, once joined, they may be
    written to, and must lie in one piece, see `Matrix.add_to`."""

    kind: Kind = "added"

    def __init__(self, layer: nn.Linear, *, keeps_base: bool) -> None:
        super().__init__(layer)
        self.keeps_base = keeps_base

    def added_to(self, base: Tensor, x: Tensor) -> Tensor:
        """``base + self(x)``."""
        if self._matrix is None:
            return base + self(x)
        rows = _flat(base) if self.keeps_base else base.view(-1, base.shape[-1])
        return self._products.added(self._matrix, _flat(x), rows, keeps_base=self.keeps_base).view(base.shape)


class Gated(Joined):
    """Two linear layers that read the same rows: SiLU of the first one's results times the second one's."""

    kind: Kind = "gated"

    def __init__(self, gate: nn.Linear, up: nn.Linear) -> None:
        super().__init__(gate, up)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., out] of x [..., in]."""
        if self._matrix is None:
            gate, up = super().__call__(x).chunk(2, dim=-1)
            return F.silu(gate) * up
        return self._products.gated(self._matrix, _flat(x), None).view(*x.shape[:-1], -1)


class DraftOutput:
    """A target's output layer, `weight` [V, H], as drafts use it."""

    kind: Kind = "plain"
    keeps_base = False

    def __init__(self, weight: Tensor) -> None:
        self.held = Matrix(weight.detach().t(), None)
        self._products = TorchProducts()

    def __call__(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states [..., H]."""
        rows = self._products.plain(self.held, _flat(states).to(self.held.dtype))
        return rows.view(*states.shape[:-1], -1)

    def use(self, products: TorchProducts) -> None:
        """Have the product done by these from now on."""
        self._products = products


def join_products(model: nn.Module) -> None:
    """Join all products of a draft head that will not be trained any more, packed where this processor gains by it, and
    ready for levels of a tree and for the tokens that an answer adds; its norms as they are fastest."""
    swap_norms(model)
    weight = next(model.parameters())
    is_packed = packs(weight.device, weight.dtype)
    with torch.no_grad():
        warm_up_products([joined.join(is_packed=is_packed) for joined in _joined(model)], READY_LEVEL_ROWS)


def output_weight(target: Target) -> Tensor | None:
    """[V, H] of the target's output layer, where that is a plain matrix on its device; else None."""
    layer = target.model.get_output_embeddings()
    is_plain = type(layer) is nn.Linear and layer.bias is None and layer.weight.device == target.device
    return layer.weight if is_plain else None


def draft_output(weight: Tensor | None) -> DraftOutput | None:
    """The output layer of `output_weight` for drafts that are to be quickened; None without one, and where the memory
    that is free would be short of a copy in 8 bits."""
    if weight is None:
        return None
    free = free_bytes(weight.device)
    return DraftOutput(weight) if free is None or weight.numel() <= free // _SHARE else None


@torch.inference_mode()
def quicken(model: nn.Module, output: DraftOutput | None, heads: tuple[int, int, int], *, may_round: bool) -> str:
    """Let our kernels, where they can run, do the middle of the feed-forward parts of a draft head that was joined;
    with `may_round` have matrices of 8 bits contest its products and those with `output`. `heads` as in `kernels_for`.
    What the contest found, in a sentence."""
    weight = next(model.parameters())
    kernels = kernels_for(weight.device, weight.dtype, heads)
    if kernels is None:
        return ""
    parts: list[Joined | DraftOutput] = [*_joined(model), *((output,) if output else ())]
    products, note = TorchProducts(kernels.gate), ""
    timer = gpu_timer(weight.device) if may_round else None
    if timer is not None:
        uses = [Use(part.kind, ((part.held, None),), part.keeps_base) for part in parts]
        choice = choose(uses, products, timer, narrow_cuts)
        products, note = ChosenProducts(products, choice.cuts), choice.describe()
        narrow = settle(uses, choice)
        for part in parts:
            if isinstance(part, Joined) and part.held in narrow:
                part.keep_narrow()
    for part in parts:
        part.use(products)
    return note


def _joined(model: nn.Module) -> Sequence[Joined]:
    """All of a head's."""
    return [value for module in model.modules() for value in vars(module).values() if isinstance(value, Joined)]


def _flat(x: Tensor) -> Tensor:
    """[T, columns]."""
    return x.reshape(-1, x.shape[-1])
