"""An EAGLE head's rows as device work, so that a whole draft can be captured.

Job: `EagleWork`: the rows that wait and the root, and the levels of a tree behind the view.
Non-job: when to draft (`eagle3`), what is in view (`cache.working`), the tree (`drafters.whole`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from spec_engine.attention import BoundedAttention, Bounds, Scoring
from spec_engine.cache.slots import SlotCache
from spec_engine.drafters.eagle_head import FittedHead
from spec_engine.model.capture import Mirror
from spec_engine.tree_tensors import TensorLevel


class EagleWork:
    """A `HeadWork` of `fitted` whose first pass has `num_rows` rows, on the rows of `view`."""

    def __init__(
        self, fitted: FittedHead, backend: BoundedAttention, view: SlotCache, num_rows: int, num_columns: int
    ) -> None:
        config = fitted.head.config
        self.num_rows, self.num_columns = num_rows, num_columns
        self.device, self.dtype = fitted.device, fitted.dtype
        self.vocabulary = None if fitted.target_ids is None else fitted.target_ids.to(self.device)
        self._fitted = fitted
        self._backend = backend
        self._view = view
        self._scoring = Scoring(config.head_size**-0.5)
        self._numbers = Mirror(torch.zeros(3 * num_rows + 8, dtype=torch.int64), self.device)
        numbers = self._numbers.on_device
        self._token_ids, self._positions, self._slots = numbers[: 3 * num_rows].view(3, num_rows)
        self._bounds, self._level_bounds = numbers[3 * num_rows :][:6].view(2, 3)
        self._root, self._base = numbers[-2:-1], numbers[-1:]
        self._features = torch.zeros(num_rows, config.feature_size, dtype=self.dtype, device=self.device)
        # Rows see those before them and themselves; what the others see, behind them, is nobody's.
        seen = torch.ones(num_rows, num_rows, dtype=torch.bool, device=self.device).tril()
        self._bias = _bias(seen, self.dtype)
        self._states = torch.zeros(1, config.hidden_size, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def fill(self, token_ids: Sequence[int], features: Tensor) -> None:
        """The rows of the first pass, at most `num_rows`, the root's last, with the target's features [n, F]; they go
        behind the view."""
        num_new, start = len(token_ids), self._view.length
        numbers = self._numbers.host
        numbers.zero_()
        table = numbers[: 3 * self.num_rows].view(3, -1)
        table[2].fill_(self._view.num_slots - 1)
        table[0, :num_new] = torch.tensor(token_ids)
        table[1:, :num_new] = torch.arange(start, start + num_new)
        base = start + num_new
        numbers[3 * self.num_rows :] = torch.tensor([0, 0, start, 0, 0, base, num_new - 1, base])
        self._numbers.send()
        self._features[:num_new].copy_(features)

    def root(self) -> Tensor:
        """See `HeadWork`."""
        features = self._fitted.head.combine(self._features)
        places = self._slots, self._positions
        states = self._run(self._token_ids, features, places, self._bounds, self._bias)
        return self._logits(states.index_select(0, self._root))

    def level(self, level: TensorLevel, depth: int, first: int) -> Tensor:
        """See `HeadWork`."""
        features = self._states.index_select(0, level.parents)
        num_new = len(level.token_ids)
        slots = self._base + torch.arange(first, first + num_new, device=self.device)
        places = slots, (self._base + depth - 1).expand(num_new)
        bias = _bias(level.visible, self.dtype)
        return self._logits(self._run(level.token_ids, features, places, self._level_bounds, bias))

    def _logits(self, states: Tensor) -> Tensor:
        """[n, columns] after states [n, H], which the next level continues."""
        self._states = states
        return self._fitted.head.logits(states, self._fitted.output)

    def _run(
        self, token_ids: Tensor, features: Tensor, places: tuple[Tensor, Tensor], bounds: Tensor, bias: Tensor
    ) -> Tensor:
        """States [n, H] of rows at these slots and positions."""
        slots, positions = places

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._view.put(layer, slots, k, v)
            return self._backend.bounded(q, keys, values, Bounds(bounds, 0), bias, self._scoring)[0]

        embedded = F.embedding(token_ids, self._fitted.embedding).to(features.dtype)
        states: Tensor = self._fitted.head(embedded[None], features[None], positions, attend)
        return states[0]


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a row sees a key, else -inf; [n, N]."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
