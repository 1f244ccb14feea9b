"""What a multi-token prediction head sees: the target's keys and values, in place.

Job: `MtpSight`, which of the target's layers each layer of a head reads, and its rows; `MtpWork`, the same as device
work, so that a whole draft can be captured.
Non-job: the layers (`mtp_head`), when to draft (`mtp`), the tree (`drafters.whole`).

A head writes no rows: drafted tokens do not see one another, they only hand a state on. So a level of a tree is any
number of rows that see the same keys, those of verified tokens, and nothing has to be masked or kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spec_engine.attention import BoundedAttention, Bounds, Scoring
from spec_engine.drafters.mtp_head import SLIDING, MtpHead
from spec_engine.drafters.whole import why_not_whole
from spec_engine.errors import ModelError
from spec_engine.model.capture import Mirror
from spec_engine.model.rope import Angles, Rotary, find_rotary
from spec_engine.model.target import Target
from spec_engine.tree_tensors import TensorLevel

_UNSCALED = Scoring(1.0)  # queries and keys are normalised


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a layer of the head looks: a layer of the target's cache, the window, and how queries are turned, if its
    keys are."""

    layer: int
    window: int | None
    rotary: Rotary | None


class MtpSight:
    """`head` beside `target`. Raises `ModelError` when they do not fit each other."""

    def __init__(self, head: MtpHead, target: Target) -> None:
        self.head, self.target = head, target
        self._backend = target.runner.backend
        self._embed = target.model.get_input_embeddings()
        self.state_layer = int(target.runner.config.num_hidden_layers)  # names what the target's last norm gives
        self.device, self.dtype = head.norm.weight.device, head.norm.weight.dtype
        by_kind = {kind: _source(head, target, kind) for kind in head.config.layer_types}
        self.sources = tuple(by_kind[kind] for kind in head.config.layer_types)
        _check_fits(head, target, self.sources)

    @property
    def why_not_whole(self) -> str:
        """Why drafts of this head cannot be captured; "" where they can."""
        places = {self.target.device, self.device} | {self.target.memory(one.layer)[0].device for one in self.sources}
        if len(places) > 1:
            return "the target is spread over several devices"
        sizes = self.head.config.head_sizes
        return next(filter(None, (why_not_whole(self.device, self.dtype, self._backend, size) for size in sizes)), "")

    @torch.inference_mode()
    def warm_up(self, num_rows: int) -> None:
        """Run the head once on so many rows, which see nothing."""
        token_ids = torch.zeros(num_rows, dtype=torch.int64)
        states = torch.zeros(num_rows, self.head.config.state_size, device=self.device, dtype=self.dtype)
        angles = self.angles(torch.zeros(1, dtype=torch.int64, device=self.device))
        hidden = self.head(self.embedded(token_ids), states, angles, lambda number, query: query)
        self.head.logits(hidden), self.head.state(hidden)

    @torch.inference_mode()
    def run(self, token_ids: Tensor, states: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Logits [n, V] after tokens int64 [n] with states [n, S], for a root at `position`, and the states [n, S] that
        their children go on from."""
        assert self.target.length == position, "the target holds another text than this answer's"
        angles = self.angles(torch.tensor([position], device=self.device))
        hidden = self.head(self.embedded(token_ids), states.to(self.device, self.dtype), angles, self._see)
        return self.head.logits(hidden), self.head.state(hidden)

    def angles(self, position: Tensor) -> list[Angles | None]:
        """By layer, of one position int64 [1]."""
        known: dict[int, Angles | None] = {}
        for one in self.sources:
            if one.layer not in known:
                known[one.layer] = None if one.rotary is None else one.rotary.at(position)
        return [known[one.layer] for one in self.sources]

    def embedded(self, token_ids: Tensor) -> Tensor:
        """The target's embeddings [n, S], as it reads them itself."""
        embeds: Tensor = self._embed(token_ids.to(self.target.device))
        return embeds.to(self.device, self.dtype)

    def _see(self, number: int, query: Tensor) -> Tensor:
        """Attention [1, Hq, n, D] to verified tokens, those in the window for a layer that has one."""
        source = self.sources[number]
        length = self.target.length - self.target.first_row(source.layer)
        first = 0 if source.window is None else max(length - source.window, 0)
        keys, values = (rows.narrow(2, first, length - first) for rows in self.target.memory(source.layer))
        seen, _ = self._backend.hybrid(query.to(keys.device), keys, values, length - first, None, _UNSCALED)
        return seen.to(query.device)


class MtpWork:
    """A `HeadWork` of `sight`, whose first pass is the root alone."""

    num_rows = 1
    vocabulary: Tensor | None = None

    def __init__(self, sight: MtpSight, num_columns: int) -> None:
        backend = sight.target.runner.backend
        assert isinstance(backend, BoundedAttention), "asked for before"
        self.device, self.dtype, self.num_columns = sight.device, sight.dtype, num_columns
        self._sight = sight
        self._backend = backend
        # Rows of four, so that all of them are equally aligned: Triton compiles a kernel for each alignment.
        self._numbers = Mirror(torch.zeros(1 + len(sight.sources), 4, dtype=torch.int64), self.device)
        numbers = self._numbers.on_device
        self._root, self._position = numbers[0, :1], numbers[0, 1:2]
        self._bounds = numbers[1:, :3]  # by layer
        self._feature = torch.zeros(1, sight.head.config.state_size, dtype=self.dtype, device=self.device)
        self._states = self._feature  # of the newest level
        self._angles = sight.angles(self._position)

    @torch.inference_mode()
    def fill(self, root: int, feature: Tensor, position: int) -> None:
        """The root, at `position`, and the target's state [1, S] before it."""
        bounds = []
        for source in self._sight.sources:
            length = position - self._sight.target.first_row(source.layer)
            first = 0 if source.window is None else max(length - source.window, 0)
            bounds.append([first, first, length, 0])
        self._numbers.host.copy_(torch.tensor([[root, position, 0, 0], *bounds]))
        self._numbers.send()
        self._feature.copy_(feature)

    def root(self) -> Tensor:
        """See `HeadWork`."""
        self._angles = self._sight.angles(self._position)  # of all levels: they draft from the root's position
        return self._run(self._root, self._feature)

    def level(self, level: TensorLevel, depth: int, first: int) -> Tensor:
        """See `HeadWork`."""
        return self._run(level.token_ids, self._states.index_select(0, level.parents))

    def _run(self, token_ids: Tensor, states: Tensor) -> Tensor:
        """Logits [n, V] after tokens int64 [n] with states [n, S]."""
        sight = self._sight
        hidden = sight.head(sight.embedded(token_ids), states, self._angles, self._see)
        self._states = sight.head.state(hidden)
        return sight.head.logits(hidden)[:, : self.num_columns]

    def _see(self, number: int, query: Tensor) -> Tensor:
        keys, values = self._sight.target.memory(self._sight.sources[number].layer)
        nothing = query.new_zeros(query.shape[2], 0)
        return self._backend.bounded(query, keys, values, Bounds(self._bounds[number], 0), nothing, _UNSCALED)[0]


def _source(head: MtpHead, target: Target, kind: str) -> _Source:
    """Where the head's layers of a kind look: at the target's last layer of that kind that has keys. Raises
    `ModelError` where there is none."""
    windows = target.runner.layer_windows
    fitting = [layer for layer, window in enumerate(windows) if (window is not None) == (kind == SLIDING)]
    if not fitting:
        raise ModelError(
            f"The draft head was made for another target: it reads a layer with {kind.replace('_', ' ')}, and "
            f"{target.runner.name} has none. Set draft.model to a head that was trained for this target."
        )
    _, rotary = find_rotary(target.runner, fitting[-1])
    window = head.config.window + 1 if kind == SLIDING else None  # rows before the root, which stands behind them
    return _Source(fitting[-1], window, rotary)


def _check_fits(head: MtpHead, target: Target, sources: tuple[_Source, ...]) -> None:
    """Raise `ModelError` where the sizes of head and target differ, with both numbers."""
    weight = target.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor), "an embedding has a weight"
    pairs = [("states of the size", head.config.state_size, weight.shape[1])]
    for size, source in zip(head.config.head_sizes, sources, strict=True):
        keys, _ = target.memory(source.layer)
        pairs.append(("a head size", size, keys.shape[3]))
        whole = -(-head.config.num_heads // keys.shape[1]) * keys.shape[1]
        pairs.append(("query heads, which key heads share evenly, in a number", head.config.num_heads, whole))
    for what, own, wanted in pairs:
        if own != wanted:
            raise ModelError(
                f"The draft head was made for another target: it has {what} of {own}, and {target.runner.name} one of "
                f"{wanted}. Set draft.model to a head that was trained for this target."
            )
