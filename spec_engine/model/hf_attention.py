"""The one bridge into transformers' attention: our passes go to a backend, everybody else's calls to sdpa.

Job: `Pass` and `BoundedPass` (what one forward of ours needs to know), and the attention and mask functions that
`install` registers under `NAME` and switches a model to.
Non-job: kernels (`attention`), memory (`cache`), calling the model (`runner`).

A `Pass` reaches the function as the keyword ``spec_pass`` of ``model(...)``. A few architectures drop keywords on the
way; for them the runner sets `CURRENT`. An ordinary call carries neither and is answered by transformers' own sdpa or,
where sdpa cannot (soft caps, sinks), by the architecture's eager function; the mask function is sdpa's, so padding and
windows work as always.
"""

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from spec_engine.attention import AttentionBackend, BoundedAttention, Bounds, Scoring, TreeBias, tree_bias
from spec_engine.errors import UnsupportedModel

NAME = "spec_engine"
_SDPA: Callable[..., tuple[Tensor, Tensor | None]] = sdpa_attention_forward
_QUERY_BLOCK = 256  # rows of a windowed prefill that share one masked part
_FEW_KEYS = 1024  # up to so many keys one masked kernel costs less than two and a merge
_REFUSED = {
    "position_bias": "it adds a bias per position to its attention",
    "indices": "it attends to a sparse selection of keys",
    "block_indices": "it attends to a sparse selection of keys",
    "sinks": "its attention sinks are passed in a way that is not known here",
}


class Pass:
    """One forward over T new tokens behind `prefix_len` cached ones; made for it, dropped after it.

    Prefill is causal. A tree pass has `visible` [T, N], a bool mask on the CPU over the N newer rows, of which the last
    T are the new tokens and the others earlier levels, and `offsets` [N], int64, their distances from the first
    position behind the prefix. Without a mask every new row sees all rows, so it is for single tokens. `window` limits
    all layers of the pass; a layer's own window applies too. The query of `tap_layer` is recorded.

    A layer's keys may begin later than the text, as those of a window's layer do (`cache.sliding`): what is no newer
    row is prefix.
    """

    def __init__(
        self,
        backend: AttentionBackend,
        prefix_len: int,
        *,
        is_causal: bool = False,
        visible: Tensor | None = None,
        offsets: Tensor | None = None,
        window: int | None = None,
    ) -> None:
        self.backend = backend
        self.prefix_len = prefix_len
        self.is_causal = is_causal
        self.visible = visible
        self.offsets = offsets
        self.window = window
        self.tap_layer = -1
        self.tapped: tuple[Tensor, Scoring] | None = None  # query [1, Hq, T, D] as the keys are: rotated
        self.feature_layers: tuple[int, ...] = ()  # whose hidden states the runner records
        self.features: Tensor | None = None  # [T, F]
        self.num_calls = 0
        self.came_by_keyword = False
        self.layer_windows: dict[int, int | None] = {}  # by layer
        self._biases: dict[tuple[int, ...], tuple[int, TreeBias | None]] = {}

    def run(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, scoring: Scoring) -> Tensor:
        """Attention of one layer; `k`, `v` hold the prefix, as far as it is there, and the newer rows. Returns
        [1, Hq, T, Dv]."""
        if self.window is not None:
            window = self.window if window is None else min(window, self.window)
        if not self.is_causal:
            return self._tree(q, k, v, window, scoring)
        if window is None or k.shape[2] <= window:
            return self.backend.causal(q, k, v, k.shape[2] - q.shape[2], scoring)[0]
        return self._windowed_prefill(q, k, v, window, scoring)

    def reach(self, window: int, num_new: int, prefix_len: int) -> tuple[Tensor, int, int]:
        """What the `num_new` new rows of a tree see through a window behind `prefix_len` rows: the first row of each,
        int64 [T]; the first prefix row that some of them sees, and the one from which on all see the prefix."""
        offsets = torch.zeros(1, dtype=torch.int64) if self.offsets is None else self.offsets
        lowest = prefix_len + offsets[-num_new:] - window + 1
        first, all_seen = (min(max(int(x), 0), prefix_len) for x in (lowest.min(), lowest.max()))
        return lowest, first, all_seen

    def _tree(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, scoring: Scoring) -> Tensor:
        """Every node sees the prefix, its ancestors and itself, as far as the window reaches."""
        prefix_len = k.shape[2] - (1 if self.visible is None else self.visible.shape[1])
        key = (window or 0, q.get_device(), prefix_len)
        if key not in self._biases:
            self._biases[key] = self._tree_part(q, k.shape[2], prefix_len, window)
        first, bias = self._biases[key]
        if first:
            k, v = k.narrow(2, first, k.shape[2] - first), v.narrow(2, first, v.shape[2] - first)
        return self.backend.hybrid(q, k, v, prefix_len - first, bias, scoring)[0]

    def _tree_part(self, q: Tensor, num_rows: int, prefix_len: int, window: int | None) -> tuple[int, TreeBias | None]:
        """The first prefix row that some node sees, and the bias from there on.

        Nodes at different depths see windows that begin at different rows. Rows that all of them see stay in the
        unmasked part; the few in between join the masked part, and all do where there are only few rows.
        """
        if window is None or window >= num_rows:  # every node sees the whole prefix
            if self.visible is None:
                return 0, None
            num_joined = prefix_len if num_rows <= _FEW_KEYS else 0
            return 0, tree_bias(pad(self.visible, (num_joined, 0), value=True), q.dtype, q.device)
        lowest, first, all_seen = self.reach(window, q.shape[2], prefix_len)
        if self.visible is None or self.offsets is None:
            return first, None
        if num_rows - first <= _FEW_KEYS:
            all_seen = prefix_len
        edge = torch.arange(first, all_seen)[None] >= lowest[:, None]
        newer = self.visible & (prefix_len + self.offsets[None] >= lowest[:, None])
        return first, tree_bias(torch.cat((edge, newer), dim=1), q.dtype, q.device)

    def _windowed_prefill(self, q: Tensor, k: Tensor, v: Tensor, window: int, scoring: Scoring) -> Tensor:
        """Causal attention over the last `window` positions, block by block, so that no mask grows with the context."""
        num_new, prefix_len = q.shape[2], k.shape[2] - q.shape[2]
        outs = []
        for start in range(0, num_new, _QUERY_BLOCK):
            length = min(_QUERY_BLOCK, num_new - start)
            end = prefix_len + start  # rows before this block
            num_before = min(window - 1, end)
            key = (window, q.get_device(), length, num_before)
            if key not in self._biases:
                self._biases[key] = 0, _band(length, num_before, window, q)
            block_k = k.narrow(2, end - num_before, num_before + length)
            block_v = v.narrow(2, end - num_before, num_before + length)
            block_q = q.narrow(2, start, length)
            outs.append(self.backend.hybrid(block_q, block_k, block_v, num_before, self._biases[key][1], scoring)[0])
        return torch.cat(outs, dim=2)


class BoundedPass(Pass):
    """A pass whose numbers lie on the device: `parts` are bounds and bias of the layers, by window (0: none)."""

    def __init__(self, backend: BoundedAttention, parts: Mapping[int, tuple[Bounds, Tensor]]) -> None:
        super().__init__(backend, 0)
        self._bounded = backend
        self._parts = parts

    def run(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, scoring: Scoring) -> Tensor:
        """Attention of one layer over all its memory."""
        bounds, bias = self._parts[window or 0]
        return self._bounded.bounded(q, k, v, bounds, bias, scoring)[0]


CURRENT: ContextVar[Pass | None] = ContextVar("spec_pass", default=None)


def _band(length: int, num_before: int, window: int, q: Tensor) -> TreeBias:
    """Bias of `length` consecutive rows with `num_before` rows before them: each sees the last `window` positions."""
    rows = torch.arange(length)[:, None]
    lowest = rows - window + 1  # relative to the first row of the block
    edge = torch.arange(-num_before, min(max(length - window, -num_before), 0))[None] >= lowest
    own = torch.arange(length)[None]
    return tree_bias(torch.cat((edge, (own <= rows) & (own >= lowest)), dim=1), q.dtype, q.device)


def install(model: PreTrainedModel) -> None:
    """Register the functions and switch `model` to them. Raises `UnsupportedModel` if it has attention of its own."""
    name = type(model).__name__
    if not model._can_set_attn_implementation():
        raise UnsupportedModel(
            f"{name} computes attention with code of its own instead of transformers' attention interface, so a draft "
            "tree cannot be verified with it. Choose another model, or a newer transformers."
        )
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    spec_pass: Pass | None = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """The function that transformers calls in every attention layer.

    query [B, Hq, T, D], key and value [B, Hk, rows, D or Dv]; returns [B, T, Hq, Dv] and no weights. Its signature is
    transformers': what a model adds beyond it arrives in `kwargs`.
    """
    current = spec_pass if spec_pass is not None else CURRENT.get()
    if current is None:
        options = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, "s_aux": s_aux, **kwargs}
        return _delegate(module, (query, key, value), attention_mask, options)
    if current.num_calls == 0:
        current.came_by_keyword = spec_pass is not None
    current.num_calls += 1
    if not _REFUSED.keys().isdisjoint(kwargs):
        _refuse(module, kwargs)
    scoring = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    layer: int = module.layer_idx  # type: ignore[assignment]  # every attention module of transformers has it
    if layer == current.tap_layer:
        current.tapped = query, scoring
    current.layer_windows[layer] = sliding_window
    return current.run(query, key, value, sliding_window, scoring).transpose(1, 2), None


def _refuse(module: nn.Module, kwargs: dict[str, object]) -> None:
    """Raise for keywords that change attention in a way that no backend can follow."""
    for name, reason in _REFUSED.items():
        if kwargs.get(name) is not None:
            raise UnsupportedModel(
                f"{type(module).__name__} cannot verify draft trees: {reason}. Choose a model of another architecture."
            )


def _delegate(
    module: nn.Module, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, options: dict[str, object]
) -> tuple[Tensor, Tensor | None]:
    """An ordinary call: sdpa, or the architecture's eager function where a soft cap or a sink is in play."""
    given = {name: value for name, value in options.items() if value is not None}
    if "softcap" not in given and "s_aux" not in given:
        return _SDPA(module, *qkv, mask, **given)
    eager = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    query, key, _ = qkv
    if mask is None:
        visible = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        mask = visible.tril(key.shape[2] - query.shape[2])[None, None]
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    weighted: tuple[Tensor, Tensor | None] = eager(module, *qkv, mask, **given)
    return weighted
