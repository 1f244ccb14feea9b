"""An EAGLE head together with what it has read.

Job: `EagleMemory`: run rows of tokens and features on the whole memory or on the view of it, keep tokens and cached
rows in step.
Non-job: when to do what (`eagle3`), what is in view (`cache.working`), the network (`eagle_head`), drafts that the
device runs by itself (`eagle_work`).

Row i of the cache pairs the feature of the text's token i with token i + 1, at position i. So a text of n tokens has
n - 1 rows, and the token that a chunk of retrieval names is the row with its feature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from spec_engine.attention import BoundedAttention, Scoring, pick
from spec_engine.cache.slots import LayerShape, SlotCache, num_shared
from spec_engine.cache.working import FocusedCache, Rotation, WholeCache
from spec_engine.drafters.eagle_head import FittedHead, Projected
from spec_engine.drafters.eagle_work import EagleWork
from spec_engine.drafters.lm_memory import Level, LMSettings, check_range, num_tree_rows, view_size
from spec_engine.drafters.whole import WholeDrafts, num_rows_for, whole_drafts, why_not_whole
from spec_engine.model.head_products import draft_output, quicken
from spec_engine.model.hf_attention import Pass

_READ_CHUNK = 512  # rows of a reading pass at most


class EagleMemory:
    """The head with what it has read: the tokens of the text, and keys and values of its rows."""

    def __init__(self, fitted: FittedHead, settings: LMSettings) -> None:
        self._fitted = fitted
        self._head = fitted.head
        config = fitted.head.config
        self._device = fitted.device
        self._backend = pick(fitted.device, fitted.dtype).backend
        self._scoring = Scoring(config.head_size**-0.5)
        shape = LayerShape(config.num_kv_heads, config.head_size, config.head_size, fitted.dtype, fitted.device)
        shapes = (shape,) * config.num_layers
        num_rows = num_tree_rows(settings)
        self.cache: WholeCache | FocusedCache
        self._window: int | None = None
        if settings.retrieval.enabled:
            size = view_size(settings, num_rows)
            check_range(size, settings, fitted.trained_length, fitted.name)
            inv_freq = torch.tensor(config.rope.inv_freq, device=fitted.device)
            rotation = Rotation(tuple(range(config.num_layers)), inv_freq, is_interleaved=False)
            self.cache = FocusedCache(shapes, (rotation,), settings.num_tokens + 1, size)
            window = settings.retrieval.prefill_window
            self._window = window if fitted.trained_length is None else min(window, fitted.trained_length)
        else:
            self.cache = WholeCache(shapes, settings.num_tokens + 1, num_rows)
        self.token_ids: list[int] = []  # of the text, the first one included: one more than there are rows
        self._works: dict[int, EagleWork] = {}
        self.whole: WholeDrafts | None = None
        self.products_note = ""
        why_not = why_not_whole(self._device, fitted.dtype, self._backend, config.head_size)
        if settings.graph_bytes and not why_not and not fitted.is_apart:
            whole = whole_drafts(settings.tree, self._device, settings.graph_bytes)
            self.capture(whole, may_round=settings.may_round)

    def capture(self, whole: WholeDrafts, *, may_round: bool) -> None:
        """Draft as captured device work from now on; with `may_round` by matrices of 8 bits, where they are faster."""
        self.whole, config, output = whole, self._head.config, draft_output(self._fitted.output_weight)
        heads = config.num_heads, config.num_kv_heads, config.head_size
        self.products_note = quicken(self._head, output, heads, may_round=may_round)
        self._fitted = replace(self._fitted, output=output or self._fitted.output)

    @property
    def num_reusable(self) -> int:
        """Leading tokens of the text whose rows depend on the text alone."""
        return min(self.cache.num_read + 1, len(self.token_ids))

    def work(self, num_waiting: int, num_columns: int) -> EagleWork | None:
        """Device work for a draft whose first pass has so many rows, for which the view has room; None where that, or
        the tree, is more than fits."""
        num_rows, view = num_rows_for(num_waiting), self.cache.view
        if self.whole is None or num_rows is None or not isinstance(self._backend, BoundedAttention):
            return None
        if view.length + max(num_rows, num_waiting + self.whole.num_tree_rows(num_columns)) >= view.num_slots:
            return None
        if num_rows not in self._works:
            self._works[num_rows] = EagleWork(self._fitted, self._backend, view, num_rows, num_columns, self.whole)
        return self._works[num_rows]

    @torch.inference_mode()
    def combine(self, features: Tensor) -> Tensor:
        """The target's features [n, F] as rows take them, [n, H]."""
        return self._head.combine(features.to(self._device, self._fitted.dtype))

    def read(self, token_ids: Sequence[int], features: Tensor) -> None:
        """Take rows in at their own positions; with retrieval each sees the last `prefill_window` ones."""
        for begin in range(0, len(token_ids), _READ_CHUNK):
            chunk, start = token_ids[begin : begin + _READ_CHUNK], self.cache.full.length
            current = Pass(self._backend, start, is_causal=True, window=self._window)
            positions = torch.arange(start, start + len(chunk))
            self._run(self.cache.full, current, chunk, features[begin : begin + _READ_CHUNK], positions)
            self.cache.read(len(chunk))
            self.token_ids.extend(chunk)

    def run_on_view(self, token_ids: Sequence[int], features: Tensor) -> Tensor:
        """Run consecutive rows behind the view; states [n, H]. The rows are not committed."""
        start = self.cache.view.length
        current = Pass(self._backend, start, is_causal=len(token_ids) > 1)
        return self._run(self.cache.view, current, token_ids, features, torch.arange(start, start + len(token_ids)))

    def extend_view(self, token_ids: Sequence[int], features: Tensor) -> Tensor:
        """Run consecutive rows behind the view and keep them; the last state [1, H]. In as many passes as it takes."""
        done = 0
        while done < len(token_ids):
            num_next = self.cache.room(min(len(token_ids) - done, _READ_CHUNK))
            rows = slice(done, done + num_next)
            states = self.run_on_view(token_ids[rows], features[rows])
            self.keep_on_view(token_ids[rows])
            done += num_next
        return states[-1:]

    def keep_on_view(self, token_ids: Sequence[int]) -> None:
        """Rows of these tokens were run behind the view: they belong to the memory."""
        self.cache.keep(len(token_ids))
        self.token_ids.extend(token_ids)

    def run_level(self, level: Level, features: Tensor, base: int) -> Tensor:
        """Run the nodes of a tree level behind the view, whose first `base` rows all of them see; states [n, H]."""
        if level.visible is None:
            current = Pass(self._backend, self.cache.view.length)
        else:
            current = Pass(self._backend, base, visible=level.visible, offsets=level.offsets)
        positions = base + level.offsets[-len(level.token_ids) :]
        states = self._run(self.cache.view, current, level.token_ids, features, positions)
        self.cache.view.advance(len(level.token_ids))
        return states

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """What follows each state: [n, columns]."""
        return self._head.logits(states, self._fitted.output)

    def drop_last(self) -> None:
        """Forget the newest row, which was run on the view."""
        self.cache.drop_last()
        self.token_ids.pop()

    def share(self, prefix: Sequence[int]) -> None:
        """Keep the rows whose features belong to these tokens, of which `num_reusable` or fewer lead the text.

        That is a row for each, so the text keeps the token behind them.
        """
        assert num_shared(self.token_ids, prefix) == len(prefix), "the rows belong to another text"
        self.cache.truncate(len(prefix))
        del self.token_ids[len(prefix) + 1 if prefix else 0 :]

    def rows(self, token_ids: Sequence[int]) -> Mapping[str, Tensor] | None:
        """Rows of the text's beginning `token_ids`, one less than tokens, by name; None where they are not held."""
        is_held = self.token_ids[: self.num_reusable][: len(token_ids)] == list(token_ids)
        return self.cache.full.rows(len(token_ids) - 1) if is_held and token_ids else None

    def room(self, num_tokens: int) -> Mapping[str, Tensor]:
        """Forget everything; the places of the rows of `num_tokens` tokens, to be written to."""
        self.share(())
        return self.cache.full.room(num_tokens - 1)

    def filled(self, token_ids: Sequence[int]) -> None:
        """What `room` gave was written to: these are the tokens."""
        self.cache.filled(len(token_ids) - 1)
        self.token_ids = list(token_ids)

    @torch.inference_mode()
    def _run(
        self, slots: SlotCache, current: Pass, token_ids: Sequence[int], features: Tensor, positions: Tensor
    ) -> Tensor:
        """States [n, H] of rows whose keys and values are written behind `slots`."""

        def attend(layer: int, projected: Projected) -> Tensor:
            q, k, v = projected.turned()
            keys, values = slots.append(layer, k, v)
            return current.run(q, keys, values, None, self._scoring)

        embedded = F.embedding(torch.tensor(token_ids, device=self._device), self._fitted.embedding)
        positions = positions.to(self._device)
        states: Tensor = self._head(embedded.to(features.dtype)[None], features[None], positions, attend)
        return states[0]
