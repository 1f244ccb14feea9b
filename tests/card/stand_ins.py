"""What stands in for ``torch.cuda`` beside a pretended card: streams, events, graphs, and moving models there.

Graphs repeat, operator by operator and kernel by kernel, what ran while they were captured, with the same tensors: so
a number that the host gave stays as it was, as it does on a card.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spec_engine import doctor
from spec_engine.attention import AttentionBackend, Bounds, Pick, Scoring, TreeBias
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.attention.sdpa import CudaBackend
from spec_engine.drafters import eagle_memory, eagle_work, lm, whole
from spec_engine.model import fused, head_products, likeliest, runner
from tests.card.tensors import HOST, Card, CardMode, inner, on_host

GIB = 1 << 30
SYNC_DEBUG = {"default": 0, "warn": 1, "error": 2}
PROPERTIES = SimpleNamespace(name="pretended", multi_processor_count=1, total_memory=80 * GIB, major=8, minor=0)


@contextmanager
def card(number: int = 1, *, has_kernels: bool = False) -> Iterator[CardMode]:
    """Inside the block there are so many cards. With `has_kernels` ours run in Triton's interpreter, in seconds
    where torch takes milliseconds; without, torch does what they do. Their contest with torch's products is left out,
    as what it measures is not a card's time."""
    mode = CardMode()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _cuda(mode, number).items():
            patch.setattr(torch.cuda, name, value)
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, _made_on_host(getattr(torch, name)))
        patch.setattr(torch, "Generator", lambda device=None, make=torch.Generator: make())
        patch.setattr(nn.Module, "to", _move)
        patch.setattr(nn.Module, "cuda", lambda self: self.to("cuda"))
        read = transformers.AutoModelForCausalLM.from_pretrained
        patch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", _on_host(read))
        make = transformers.AutoModelForCausalLM.from_config
        patch.setattr(transformers.AutoModelForCausalLM, "from_config", _on_host(make))
        for module in (fused, head_products, likeliest):
            patch.setattr(module, "gpu_timer", lambda device: None)
        if has_kernels:
            _interpret(mode, patch)
        else:
            for module in (fused, head_products, eagle_work):
                patch.setattr(module, "kernels_for", lambda device, dtype, heads: None)
            for module in (lm, whole):
                patch.setattr(module, "likeliest_for", lambda device: likeliest.by_torch)
        picked = Pick(_triton_backend() if has_kernels else TorchBackend(mode), "in float32 too")
        for module in (runner, eagle_memory, doctor):
            patch.setattr(module, "pick", lambda device, dtype: picked)
        with mode:
            yield mode


class TorchBackend(CudaBackend):
    """Prompts as without our kernels; what these do on a card, by the definition."""

    name = "torch"

    def __init__(self, mode: CardMode) -> None:
        super().__init__()
        self._mode = mode

    def hybrid(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_len: int, bias: TreeBias | None, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        def kernel(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, sink: Tensor | None) -> tuple[Tensor, Tensor]:
            tree = None if seen is None else TreeBias(seen, None)
            return ReferenceBackend().hybrid(q, k, v, prefix_len, tree, replace(scoring, sink=sink))

        return self._mode.launch(kernel, q, k, v, None if bias is None else bias.values, scoring.sink)

    def bounded(
        self, q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, bias: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        def kernel(
            q: Tensor, k: Tensor, v: Tensor, values: Tensor, bias: Tensor, sink: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            seen = Bounds(values, bounds.num_edge)
            return ReferenceBackend().bounded(q, k, v, seen, bias, replace(scoring, sink=sink))

        return self._mode.launch(kernel, q, k, v, bounds.values, bias, scoring.sink)

    def can_bound(self, dtype: torch.dtype, size: int, value_size: int) -> bool:
        return True


class Graph:
    """What ran while it was captured on `stream`, whose workspace it needs and frees."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.stream: Stream | None = None
        self._num_freed = 0

    def captured(self, stream: "Stream") -> None:
        """The capture is over."""
        self.stream, self._num_freed = stream, stream.num_freed

    def __del__(self) -> None:
        if self.stream is not None:
            self.stream.num_freed += 1

    def replay(self) -> None:
        """Do it again."""
        assert self.stream is not None, "not captured"
        assert self.stream.num_freed == self._num_freed, "another graph freed the workspace of this stream"
        with on_host(), torch.inference_mode():
            for step in self.steps:
                step()


class Event:
    """A moment; nothing lies between the host and this device."""

    def __init__(self, mode: CardMode) -> None:
        self._mode = mode
        self._at = 0.0

    def record(self, stream: object = None) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        self._mode.arrive()

    def elapsed_time(self, end: "Event") -> float:
        return (end._at - self._at) * 1000


class Stream:
    """Nothing but a name; `num_freed` counts how often its workspace was freed."""

    def __init__(self) -> None:
        self.num_freed = 0

    def wait_stream(self, stream: object) -> None: ...


@contextmanager
def _anything(*_: object, **__: object) -> Iterator[None]:
    yield


def _cuda(mode: CardMode, number: int) -> dict[str, object]:
    """By name what takes the place of ``torch.cuda``'s own."""

    @contextmanager
    def capturing(graph: Graph, pool: object, stream: Stream, **_: object) -> Iterator[None]:
        mode.recorded = graph.steps
        try:
            yield
            graph.captured(stream)
        finally:
            mode.recorded = None

    streams = {priority: cycle([Stream() for _ in range(32)]) for priority in (0, -1)}

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: number,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: PROPERTIES.name,
        "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
        "get_device_properties": lambda device=None: PROPERTIES,
        "mem_get_info": lambda device=None: (60 * GIB, PROPERTIES.total_memory),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 1,
        "max_memory_reserved": lambda device=None: 1,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.zeros(1),
        "set_rng_state": lambda state, device=None: None,
        "get_sync_debug_mode": lambda: mode.sync_debug,
        "set_sync_debug_mode": lambda wanted: setattr(mode, "sync_debug", SYNC_DEBUG.get(wanted, wanted)),
        "synchronize": lambda device=None: mode.wait("for the device"),
        "device": _anything,
        "device_of": _anything,
        "stream": _anything,
        "current_stream": lambda device=None: Stream(),
        "set_stream": lambda stream: None,
        "graph_pool_handle": lambda: 0,
        "graph": capturing,
        "CUDAGraph": Graph,
        "Event": lambda enable_timing=False: Event(mode),
        "Stream": lambda device=None, priority=0: next(streams[priority]),
    }


def _made_on_host(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A constructor that copies what the host has to the card, where it is asked to."""

    def made(data: object, *args: Any, device: Any = None, **options: Any) -> Tensor:
        contexts = reversed(torch.overrides._get_current_function_mode_stack())  # type: ignore[no-untyped-call]
        usual = next((mode.device for mode in contexts if hasattr(mode, "device")), HOST)
        device = torch.device(usual if device is None else device)
        if device.type != "cuda":
            return make(data, *args, device=device, **options)
        return make(data, *args, device=HOST, **options).to(device)

    return made


def _on_host(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Models are made there, and go to the device that the caller's block names."""

    def made(*args: Any, **options: Any) -> nn.Module:
        contexts = reversed(torch.overrides._get_current_function_mode_stack())  # type: ignore[no-untyped-call]
        usual = next((mode.device for mode in contexts if hasattr(mode, "device")), HOST)
        with on_host(), HOST:
            model = make(*args, **options)
        return model.to(usual) if usual.type == "cuda" else model

    return made


def _move(self: nn.Module, *args: Any, **options: Any) -> nn.Module:
    """``Module.to``, with new parameters for the old ones; what was shared still is."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **options)  # type: ignore[attr-defined]
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    for module in self.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    new = tensor.detach().to(device or tensor.device, dtype if tensor.is_floating_point() else None)
                    is_weight = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = (nn.Parameter(new, tensor.requires_grad) if is_weight else new), tensor
                held[name] = moved[id(tensor)][0]
    return self


def _triton_backend() -> AttentionBackend:
    """Our kernels, which cannot be imported without Triton."""
    from spec_engine.attention.triton import TritonBackend

    return TritonBackend(CudaBackend())


def _interpret(mode: CardMode, patch: pytest.MonkeyPatch) -> None:
    """Kernels of Triton, in its interpreter, on the tensors inside."""
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    def launched(self: object, *args: Any, **options: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        assert all(isinstance(tensor, Card) for tensor in tensors), "a kernel was given memory of the host"
        args = tuple(inner(arg) if isinstance(arg, Tensor) else arg for arg in args)
        options = {name: inner(arg) if isinstance(arg, Tensor) else arg for name, arg in options.items()}

        def work() -> None:
            with on_host():
                launch(self, *args, **options)

        work()
        if mode.recorded is not None:
            mode.recorded.append(work)

    patch.setattr(interpreter.GridExecutor, "__call__", launched)
