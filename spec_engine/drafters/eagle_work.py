"""An EAGLE head's rows as device work, so that a whole draft can be captured.

Job: `EagleWork`: the rows that wait and the root, and the levels of a tree behind the view.
Non-job: when to draft (`eagle3`), what is in view (`cache.working`), the tree (`drafters.whole`).

Beside the products a level is many small kernels, each of which takes a microsecond or two also within a graph. So what
does not depend on the tokens is computed for all levels before the first one, on the host where it can be: slots,
positions, and what positions turn rows by. Our kernels (`model.kernels`) turn rows and put them into their slots.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from spec_engine.attention import BoundedAttention, Bounds, Scoring
from spec_engine.cache.slots import SlotCache
from spec_engine.drafters.eagle_head import FittedHead, Projected, Turns
from spec_engine.drafters.whole import WholeDrafts
from spec_engine.model.capture import Mirror
from spec_engine.model.fused import kernels_for
from spec_engine.tree_tensors import TensorLevel


class EagleWork:
    """A `HeadWork` of `fitted` whose first pass has `num_rows` rows, on the rows of `view`; trees of `whole`."""

    def __init__(
        self,
        fitted: FittedHead,
        backend: BoundedAttention,
        view: SlotCache,
        num_rows: int,
        num_columns: int,
        whole: WholeDrafts,
    ) -> None:
        config = fitted.head.config
        self.num_rows, self.num_columns = num_rows, num_columns
        self.device, self.dtype = fitted.device, fitted.dtype
        self.vocabulary = None if fitted.target_ids is None else fitted.target_ids.to(self.device)
        self._fitted = fitted
        self._backend = backend
        self._view = view
        self._scoring = Scoring(config.head_size**-0.5)
        self._num_ahead = whole.num_tree_rows(num_columns) + 1  # rows of a tree; more than it has levels
        self._numbers = Mirror(torch.zeros(3 * num_rows + 8 + self._num_ahead, dtype=torch.int64), self.device)
        numbers = self._numbers.on_device
        self._token_ids, self._positions, self._slots = numbers[: 3 * num_rows].view(3, num_rows)
        self._bounds, self._level_bounds = numbers[3 * num_rows :][:6].view(2, 3)
        self._root = numbers[3 * num_rows + 6 :][:1]
        self._ahead = numbers[-self._num_ahead :]  # slots of a tree's rows, and the positions of its levels
        self._features = torch.zeros(num_rows, config.feature_size, dtype=self.dtype, device=self.device)
        # Rows see those before them and themselves; what the others see, behind them, is nobody's.
        seen = torch.ones(num_rows, num_rows, dtype=torch.bool, device=self.device).tril()
        self._open, self._shut = (torch.full((), x, dtype=self.dtype, device=self.device) for x in (0.0, -torch.inf))
        self._bias = self._bias_of(seen)
        self._states = torch.zeros(1, config.hidden_size, dtype=self.dtype, device=self.device)
        self._turns = fitted.head.turns(self._ahead)
        self._kernels = kernels_for(self.device, self.dtype, (config.num_heads, config.num_kv_heads, config.head_size))

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
        numbers[3 * self.num_rows :][:7] = torch.tensor([0, 0, start, 0, 0, base, num_new - 1])
        numbers[-self._num_ahead :] = torch.arange(base, base + self._num_ahead)
        self._numbers.send()
        self._features[:num_new].copy_(features)

    def root(self) -> Tensor:
        """See `HeadWork`."""
        head = self._fitted.head
        self._turns = head.turns(self._ahead)
        places = self._slots, head.turns(self._positions)
        states = self._run(self._token_ids, head.combine(self._features), places, self._bounds, self._bias)
        return self._logits(states.index_select(0, self._root))

    def level(self, level: TensorLevel, depth: int, first: int) -> Tensor:
        """See `HeadWork`."""
        features = self._states.index_select(0, level.parents)
        cos, sin = (turn.narrow(-2, depth - 1, 1) for turn in self._turns)
        places = self._ahead.narrow(0, first, len(level.token_ids)), (cos, sin)
        bias = self._bias_of(level.visible)
        return self._logits(self._run(level.token_ids, features, places, self._level_bounds, bias))

    def _logits(self, states: Tensor) -> Tensor:
        """[n, columns] after states [n, H], which the next level continues."""
        self._states = states
        return self._fitted.head.logits(states, self._fitted.output)

    def _run(
        self, token_ids: Tensor, features: Tensor, places: tuple[Tensor, Turns], bounds: Tensor, bias: Tensor
    ) -> Tensor:
        """States [n, H] of rows at these slots, turned so."""
        slots, turns = places

        def attend(layer: int, projected: Projected) -> Tensor:
            q, keys, values = self._placed(layer, projected, slots)
            return self._backend.bounded(q, keys, values, Bounds(bounds, 0), bias, self._scoring)[0]

        embedded = F.embedding(token_ids, self._fitted.embedding).to(features.dtype)
        return self._fitted.head.turned(embedded[None], features[None], turns, attend)[0]

    def _placed(self, layer: int, projected: Projected, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [1, Hq, n, D], and the whole memory of the layer, to which keys and values were written."""
        if self._kernels is None:
            q, k, v = projected.turned()
            return q, *self._view.put(layer, slots, k, v)
        cos, sin = (turn.reshape(-1, turn.shape[-1]) for turn in projected.turns)
        sizes = self._kernels.Heads(projected.num_heads, projected.num_kv_heads, cos.shape[-1])
        turn, memory = self._kernels.Turn(cos, sin, None, 0.0), self._view.memory(layer)
        return self._kernels.turn_and_put(projected.rows[0], sizes, turn, slots, memory), *memory

    def _bias_of(self, visible: Tensor) -> Tensor:
        """0 where a row sees a key, else -inf; [n, N]."""
        return torch.where(visible, self._open, self._shut)
