"""Where in a batch something is learned, and a model's logits there alone.

Job: `sample_places`, which bounds what output layers cost; `narrowed`, a pass that gives the logits of these places.
Non-job: what is learned from them (eagle3.py, small_lm.py).

A *place* is an index into the flattened batch [B, L]; the prediction at a place is that of the token behind it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def sample_places(weights: Tensor, first: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places int64 [n] from column `first` of each row on, and the weights [n] of what they predict.

    `weights` [B, L] belong to the tokens themselves. As many places as `share` of the tokens: those that weigh most,
    by chance among equals. The last column predicts nothing that is known.
    """
    length = weights.shape[1]
    following = weights[:, first + 1 :].reshape(-1)
    room = max(1, min(int(weights.numel() * share), len(following)))
    noise = torch.rand(following.shape, generator=generator).to(weights.device)
    chosen = torch.where(following > 0, following + noise, -1.0).topk(room).indices
    num_columns = length - 1 - first
    return chosen // num_columns * length + chosen % num_columns + first, following[chosen]


@contextmanager
def narrowed(output: nn.Module, places: Tensor) -> Iterator[None]:
    """A forward inside the block gives logits [1, n, V]: its output layer reads the rows of `places` alone.

    So whatever the model does to logits behind that layer is in them.
    """

    def narrow(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].flatten(0, 1)[places][None],)

    handle = output.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()
