"""From rows of tasks to the tensors of one step.

Job: which predictions count and how much, and samples of the alignments that attention is guided by.
Non-job: making rows (objectives.py), the losses (loop.py, forward.py).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spec_engine.train.forward import Guide, Guides

NUM_GUIDED = 2  # heads: one of each pair that shares keys
PREVIOUS = (1, 2, 1, 3)  # how many tokens back each head of the guided layer looks
HARD_SHARE = 0.5  # how far copies behind a token that stands in the row several times come first in the sample

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class GuidedLayers:
    """Which layer is guided by which alignment; None: no layer."""

    previous: int | None = None  # from every token to the three before
    mark: int | None = None  # from every token of a passage to its mark
    match: int | None = None  # from words of the question to the document
    gather: int | None = None  # from the beginning of an answer to the matched words of its question
    copy: int | None = None  # from each copied token's predecessor to its source


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one step: `rows` index predictions in the flattened [B * L]."""

    ids: Tensor  # [B, L]
    rows: Tensor  # [n]
    labels: Tensor  # [n]
    weights: Tensor  # [n]
    is_answer: Tensor  # [n]
    guides: Guides

    @property
    def is_first(self) -> Tensor:
        """[n]: the first two tokens of an answer, which decide what is quoted."""
        return self.is_answer & (self.weights > 1)


class BatchMaker:
    """Turns the arrays of `QuoteTasks.batch` into batches on `device`. Deterministic for a seed."""

    def __init__(self, layers: GuidedLayers, text_weight: float, device: torch.device, seed: int = 0) -> None:
        self._layers = layers
        self._text_weight = text_weight
        self._device = device
        self._generator = np.random.default_rng(seed)

    def make(self, arrays: Arrays) -> Batch:
        """All predictions of the answers that fit three eighths of the batch, then some of document text."""
        ids, weight = arrays["ids"], arrays["weight"]
        num_rows, length = ids.shape
        following = weight[:, 1:].reshape(-1)
        flat = (np.arange(num_rows)[:, None] * length + np.arange(length - 1)[None]).reshape(-1)
        room = num_rows * length * 3 // 8
        answers = self._generator.permutation(np.flatnonzero(following > 0))[:room]
        text = self._generator.permutation(np.flatnonzero(following < 0))[: min(room - len(answers), room // 2)]
        chosen = np.concatenate([answers, text])
        weights = np.where(following[chosen] > 0, following[chosen], self._text_weight).astype(np.float32)
        pad = room - len(chosen)
        chosen = np.concatenate([chosen, np.zeros(pad, np.int64)])
        weights = np.concatenate([weights, np.zeros(pad, np.float32)])
        labels = ids[:, 1:].reshape(-1)[chosen]
        is_answer = np.arange(room) < len(answers)
        return Batch(
            ids=self._tensor(ids),
            rows=self._tensor(flat[chosen]),
            labels=self._tensor(labels),
            weights=self._tensor(weights),
            is_answer=self._tensor(is_answer),
            guides=self._guides(arrays),
        )

    def _guides(self, arrays: Arrays) -> Guides:
        """Samples of every alignment, by the layer that they guide."""
        layers, ids, length = self._layers, arrays["ids"], arrays["ids"].shape[1]
        few, many = max(32, length // 16), max(64, length // 8)
        guides: Guides = {}
        if layers.previous is not None:
            rows, own = self._pick(np.where(ids > 0, np.arange(length)[None], -1), few)
            guides[layers.previous] = Guide(rows, own[:, None] - torch.tensor(PREVIOUS, device=self._device)[:, None])
        if layers.mark is not None:
            guides[layers.mark] = _for_pairs(*self._pick(arrays["mark"], many))
        if layers.match is not None:
            guides[layers.match] = _for_pairs(*self._pick(arrays["match"], few))
        if layers.gather is not None:
            rows, goals = self._tensor(arrays["gather"]).unbind(-1)
            guides[layers.gather] = _for_pairs(rows.clamp_min(0), goals)
        if layers.copy is not None:
            ahead = np.full_like(arrays["source"], -1)
            ahead[:, :-1] = arrays["source"][:, 1:]
            often = np.stack([np.bincount(row)[row] for row in ids]) > 3  # beyond the source, the copy and one more
            guides[layers.copy] = _for_pairs(*self._pick(ahead, many, HARD_SHARE * often))
        return guides

    def _pick(self, targets: np.ndarray, num: int, favour: np.ndarray | float = 0.0) -> tuple[Tensor, Tensor]:
        """`num` random rows with a target in each sequence, padded by rows without one, and the targets.

        `favour`, 0 to 1, puts some rows ahead of others.
        """
        order = np.where(targets >= 0, self._generator.random(targets.shape) - favour, 2.0)
        picked = np.argsort(order, axis=1)[:, :num]
        return self._tensor(picked), self._tensor(np.take_along_axis(targets, picked, 1))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _for_pairs(rows: Tensor, targets: Tensor) -> Guide:
    """The same targets [B, n] for all guided heads."""
    return Guide(rows, targets[:, None].expand(-1, NUM_GUIDED, -1))
