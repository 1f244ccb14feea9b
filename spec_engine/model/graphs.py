"""Passes of a few rows as CUDA graphs: captured once for each shape, replayed with other numbers.

Job: `Graphed`, a forward that answers like `Runner` and replays what it captured where it can.
Non-job: recording and its limits (`capture`), the forward itself (`runner`), attention with numbers on the device
(`attention`), longer passes, drafts of several passes in one graph (`drafters.whole`).

A pass of an 8B model over few rows starts hundreds of kernels, which takes the host longer than the GPU takes to run
them. A graph is started with one call. All that differs between two passes of a shape lies in device memory: tokens,
positions, the slots that new rows go to, where the prefix begins and ends, and the bias over the newer rows. Shapes are
few: rows are padded to `NUM_ROWS`, with rows that nobody sees and that write to the cache's last slot. As our kernels
share the keys out on the device, one graph serves every length of the text.

What is captured is a model's own eager forward (`fused`, or transformers'). The first replay of each graph is compared
with the same pass run plainly; a graph that differs, or a model that cannot be captured, is left alone, and `note` says
why.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from spec_engine.attention import BoundedAttention, Bounds
from spec_engine.cache.slots import SlotCache
from spec_engine.model.capture import Captures, CudaCapture, Mirror, Work
from spec_engine.model.hf_attention import BoundedPass, Pass
from spec_engine.model.hf_cache import SlotAdapter
from spec_engine.model.runner import DeviceForward, Forward, Runner

NUM_ROWS = (1, 4, 8, 16, 32, 64)
_FEW_ROWS = 64  # newer rows, those of earlier levels included, that a graph has columns for at least …
_MOST_ROWS = 1024  # … and at most
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative norm of the difference between graph and plain pass
_HALF_TOLERANCE = 0.1


def graphed(runner: Runner, plain: DeviceForward, num_bytes: int, *, is_brief: bool = False) -> Forward:
    """`plain`, with passes of `runner` captured where the device and the attention backend allow it. `num_bytes` is
    what graphs may take; 0: none. `is_brief`: see `CudaCapture`."""
    if num_bytes <= 0 or why_not(runner):
        return plain
    return Graphed(runner, plain, Captures(CudaCapture(runner.device, is_brief=is_brief), num_bytes))


def why_not(runner: Runner) -> str:
    """Why passes of this model cannot be captured; "" where they can."""
    if runner.device.type != "cuda":
        return f"there are none on a device of type '{runner.device.type}'"
    if not isinstance(runner.backend, BoundedAttention):
        return f"the attention backend '{runner.backend.name}' needs lengths on the host"
    if not all(runner.backend.can_bound(s.dtype, s.key_size, s.value_size) for s in runner.shapes):
        return "our Triton kernels cannot run this model's heads"
    if runner.is_spread:
        return "the model is spread over several devices"
    return ""


def graphs_note(forward: Forward, runner: Runner) -> str:
    """Which passes were captured, or why none are, in a sentence."""
    if isinstance(forward, Graphed):
        return f"CUDA graphs: {forward.note}."
    return f"No CUDA graphs: {why_not(runner) or 'they are switched off'}."


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a graph is captured for: padded rows, columns for newer rows, and what is recorded."""

    num_rows: int
    num_newer: int
    tap_layer: int
    feature_layers: tuple[int, ...]


class Graphed:
    """A forward that replays graphs of passes it has seen before, and runs `plain` for all others."""

    def __init__(self, runner: Runner, plain: DeviceForward, captures: Captures) -> None:
        self._runner = runner
        self._plain = plain
        self._captures = captures
        self._graphs: dict[tuple[int, _Shape], _Graph] = {}

    @property
    def note(self) -> str:
        """What was captured, or why nothing is."""
        return self._captures.note

    @torch.inference_mode()
    def run(
        self, cache: SlotAdapter, current: Pass, token_ids: Sequence[int], positions: Tensor, last: int = 0
    ) -> Tensor:
        """See `Forward.run`. Logits stay as they are until the next call."""
        shape = _shape(cache.slots, current, len(token_ids))
        if shape is None:
            return self._plain.run(cache, current, token_ids, positions, last)
        key = (id(cache), shape)
        graph = self._graphs.get(key)
        if graph is not None and graph.inputs.fill(cache.slots, current, token_ids, positions):
            return graph.replay(current, len(token_ids))[-last:]
        logits = self._plain.run(cache, current, token_ids, positions, last)
        if graph is None and self._captures.is_due(key):
            self._add(key, cache, (current, token_ids, positions), logits)
        return logits

    def _add(
        self,
        key: tuple[int, _Shape],
        cache: SlotAdapter,
        given: tuple[Pass, Sequence[int], Tensor],
        logits: Tensor,
    ) -> None:
        """Capture the pass that was just run plainly and gave `logits`, its last ones."""
        current, token_ids, _ = given
        inputs = _Inputs(self._runner, cache.slots, key[1])
        if not inputs.fill(cache.slots, *given):
            return
        graph = _Graph(self._plain, cache, inputs)
        limit = _TOLERANCE.get(logits.dtype, _HALF_TOLERANCE)

        def is_right(replay: Work) -> bool:
            graph.keep(replay)
            again = graph.replay(_like(current), len(token_ids))[-len(logits) :]
            return bool((again - logits).norm() <= limit * logits.norm())

        if self._captures.record(graph.work, is_right) is not None:
            self._graphs[key] = graph


class _Graph:
    """A captured pass: its numbers, and what it leaves."""

    def __init__(self, forward: DeviceForward, cache: SlotAdapter, inputs: "_Inputs") -> None:
        self.inputs = inputs
        self._forward = forward
        self._cache = cache
        self._current = BoundedPass(inputs.backend, inputs.parts)
        self._current.tap_layer, self._current.feature_layers = inputs.shape.tap_layer, inputs.shape.feature_layers
        self._replay: Work = self.work

    def work(self) -> tuple[Tensor, ...]:
        """The pass: logits, and what is recorded."""
        inputs, current = self.inputs, self._current
        with _placed(self._cache, inputs.slots, inputs.sliding_slots):
            found = [self._forward.forward(self._cache, current, inputs.token_ids, inputs.positions)]
        if current.tapped is not None:
            found.append(current.tapped[0])
        if current.features is not None:
            found.append(current.features)
        return tuple(found)

    def keep(self, replay: Work) -> None:
        """Run this from now on."""
        self._replay = replay

    def replay(self, current: Pass, num_rows: int) -> Tensor:
        """Run it; logits [num_rows, V]. `current` gets what it asked to be recorded."""
        logits, *others = self._replay()
        if current.tap_layer >= 0 and self._current.tapped is not None:
            query = others.pop(0)
            current.tapped = query[:, :, :num_rows], self._current.tapped[1]
        if current.feature_layers:
            current.features = others.pop(0)[:num_rows].clone()  # drafters keep them beyond the next replay
        return logits[:num_rows]


class _Inputs:
    """The device memory that a graph of `shape` reads, and its image on the host."""

    def __init__(self, runner: Runner, slots: SlotCache, shape: _Shape) -> None:
        backend = runner.backend
        assert isinstance(backend, BoundedAttention), "asked of a backend that cannot be captured"
        self.backend = backend
        self.shape = shape
        windows = sorted({window or 0 for window in runner.layer_windows})
        edges = [shape.num_rows if window and shape.num_rows > 1 else 0 for window in windows]
        starts = [0]
        for num_edge in edges:
            starts.append(starts[-1] + num_edge + shape.num_newer)
        num_rows = shape.num_rows
        self._numbers = Mirror(torch.zeros(4 * num_rows + 3 * len(windows), dtype=torch.int64), runner.device)
        self._bias = Mirror(torch.full((num_rows, starts[-1]), -torch.inf, dtype=runner.dtype), runner.device)
        numbers, bias = self._numbers.on_device, self._bias.on_device
        self.token_ids, self.positions, self.slots, self.sliding_slots = numbers[: 4 * num_rows].view(4, num_rows)
        self._windows = [(window, *pair) for window, pair in zip(windows, pairwise(starts), strict=True)]
        bounds = numbers[4 * num_rows :].view(-1, 3)
        self.parts = {
            window: (Bounds(bounds[row], edges[row]), bias[:, start:end])
            for row, (window, start, end) in enumerate(self._windows)
        }
        self._scraps = slots.num_slots - 1, slots.num_sliding_slots - 1

    def fill(self, slots: SlotCache, current: Pass, token_ids: Sequence[int], positions: Tensor) -> bool:
        """Write the numbers of a pass; whether they fit this shape."""
        num_new, num_rows = len(token_ids), self.shape.num_rows
        visible = torch.ones(1, 1, dtype=torch.bool) if current.visible is None else current.visible
        offsets = torch.zeros(1, dtype=torch.int64) if current.visible is None else current.offsets
        assert offsets is not None, "a mask comes with offsets"
        numbers, bias = self._numbers.host, self._bias.host
        table = numbers[: 4 * num_rows].view(4, num_rows)
        table[:2].zero_()
        table[0, :num_new] = torch.tensor(token_ids)
        table[1, :num_new] = positions
        for row, scrap, gone in zip((2, 3), self._scraps, (0, slots.first_sliding), strict=True):
            table[row].fill_(scrap)
            table[row, :num_new] = torch.arange(slots.length - gone, slots.length - gone + num_new)
        bias.fill_(-torch.inf)
        bounds = numbers[4 * num_rows :].view(-1, 3)
        for row, (window, start, end) in enumerate(self._windows):
            num_edge, num_newer = end - start - self.shape.num_newer, visible.shape[1]
            newer, first, all_seen, prefix_len = visible, 0, 0, current.prefix_len
            if window:
                prefix_len -= slots.first_sliding
                lowest, first, all_seen = current.reach(window, num_new, prefix_len)
                if all_seen - first > num_edge:
                    return False
                edge = torch.arange(first, all_seen)[None] >= lowest[:, None]
                newer = visible & (prefix_len + offsets[None] >= lowest[:, None])
                bias[:num_new, start : start + all_seen - first].masked_fill_(edge, 0.0)
            bounds[row] = torch.tensor([first, all_seen, prefix_len])
            begin = start + num_edge
            bias[:num_new, begin : begin + num_newer].masked_fill_(newer, 0.0)
        self._numbers.send()
        self._bias.send()
        return True


@contextmanager
def _placed(cache: SlotAdapter, slots: Tensor, sliding_slots: Tensor) -> Iterator[None]:
    """New rows go to the slots that these device tensors name, until the block is left."""
    cache.places = slots, sliding_slots
    try:
        yield
    finally:
        cache.places = None


def _shape(slots: SlotCache, current: Pass, num_new: int) -> _Shape | None:
    """The shape of a pass; None where none fits."""
    if current.is_causal or current.window is not None or num_new > NUM_ROWS[-1]:
        return None
    num_newer = 1 if current.visible is None else current.visible.shape[1]
    num_rows = next(rows for rows in NUM_ROWS if rows >= num_new)
    columns = num_rows if num_newer <= num_rows else max(_FEW_ROWS, 1 << (num_newer - 1).bit_length())
    num_sliding = slots.num_sliding_slots + slots.first_sliding
    if columns > _MOST_ROWS or current.prefix_len + columns >= min(slots.num_slots, num_sliding):
        return None
    return _Shape(num_rows, columns, current.tap_layer, current.feature_layers)


def _like(current: Pass) -> Pass:
    """A pass that records the same."""
    other = Pass(current.backend, current.prefix_len)
    other.tap_layer, other.feature_layers = current.tap_layer, current.feature_layers
    return other
