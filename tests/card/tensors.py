"""Pretended CUDA cards: tensors that say they lie on ``cuda:0`` or another, and are computed by the CPU.

What only a card tells otherwise is told here: an operator that is given tensors of two devices, what the host waits
for, what a captured pass must not do, and whether a replay reads all that changes from device memory. What it does not
tell: whether kernels are right and fast on a card, and how much memory they take.

`Card` is a tensor around another one; `CardMode` sees every operator, also those that make tensors. torch's CPU builds
refuse to name a CUDA device as long as none has registered how it is switched to (a device guard), so `_let_in`
registers one that switches nothing. All of it changes the process: scripts that use it run in one of their own.
"""

import ctypes
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

HOST = torch.device("cpu")
PROJECT = Path(__file__).resolve().parents[2]
_OURS, _NUM_LINES = str(PROJECT / "spec_engine"), 4  # what is told of a place

_aten = torch.ops.aten
_CUDA, _PRIVATE = 1, 20  # torch's numbers of device types
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_INDEXED = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default)
_READS = (  # operators whose result the host needs before it can go on
    _aten._local_scalar_dense.default, _aten.nonzero.default, _aten.masked_select.default, _aten.equal.default,
    _aten.is_nonzero.default, _aten._unique2.default, _aten.repeat_interleave.Tensor,
)  # fmt: skip
_SCALARS = (  # operators whose kernels take a number from the host
    "add sub mul div maximum minimum where pow lt gt le ge eq ne masked_fill clamp fill rsub copy"
).split()


class WrongDevice(RuntimeError):
    """Tensors of two devices met."""


class NotCapturable(RuntimeError):
    """Something that CUDA does not allow while a graph is captured."""


class Card(Tensor):
    """A tensor on a card; `inner` holds the numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> "Card":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=device
        )

    def __init__(self, inner: Tensor, device: torch.device) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise AssertionError(f"{func} outside the mode")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Card({self.inner})"

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor.__getitem__(self, torch.tensor(key) if isinstance(key, list) else key)

    def __setitem__(self, key: Any, value: Any) -> None:
        Tensor.__setitem__(self, torch.tensor(key) if isinstance(key, list) else key, value)

    def __format__(self, form: str) -> str:
        return format(self.item(), form)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **options: object) -> Any:
        raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu() first.")

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()


def inner(value: Tensor) -> Tensor:
    """The tensor that holds the numbers of `value`."""
    return value.inner if isinstance(value, Card) else value


class CardMode(TorchDispatchMode):
    """While it is on, there is a card. `waits` counts by place what the host waited for; `recorded` is the capture that
    runs, of what is to be repeated."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # which lets constructors name devices that are not there

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.sync_debug = 0  # what a wait does besides: 1 warns, 2 raises
        self.recorded: list[Callable[[], None]] | None = None
        self._pinned: dict[int, Tensor] = {}  # by address, held so that no other memory takes it
        self._late: list[tuple[Tensor, Tensor]] = []

    def arrive(self) -> None:
        """What was sent to the host is there."""
        for there, numbers in self._late:
            there.copy_(numbers)
        self._late.clear()

    def _sent(self, found: Tensor) -> Tensor:
        """`found` without its numbers, which come with the next wait."""
        self._late.append((found, found.clone()))
        return found.fill_(7)

    def wait(self, why: str) -> None:
        """The host waits for the device."""
        self.arrive()
        if self.recorded is not None:
            raise NotCapturable(f"operation not permitted when stream is capturing: {why} at {_place()}")
        told = f"called a synchronizing CUDA operation: {why} at {_place()}"
        if self.sync_debug == 2:
            raise RuntimeError(told)
        if self.sync_debug:
            warnings.warn(told, stacklevel=2)
        self.waits[f"{why} at {_place()}"] += 1

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy in memory from which the device reads by itself."""
        if isinstance(tensor, Card):
            raise WrongDevice(f"cannot pin memory of the card at {_place()}")
        pinned = tensor.clone()
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned
        return pinned

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        if _is_composed(func):
            with self:
                return func.decompose(*args, **kwargs)
        if func in (_aten._pin_memory.default, _aten.pin_memory.default):
            return self.pin(args[0])
        if func is _aten.is_pinned.default:
            return args[0].untyped_storage().data_ptr() in self._pinned
        tensors = [*_tensors(args), *_tensors(kwargs)]
        cards = [tensor for tensor in tensors if isinstance(tensor, Card)]
        is_late, device = False, cards[0].device if cards else HOST
        if kwargs.get("device") is not None:
            device = torch.device(kwargs["device"])
            kwargs["device"] = HOST
        if func in _COPIES:
            device = args[0].device if func is _aten.copy_.default else device
            args, is_late = self._check_copy(func, args, kwargs, device)
        elif cards:
            if len({card.device for card in cards}) > 1:
                raise WrongDevice(
                    f"{func} with tensors of {', '.join(str(card.device) for card in cards)} at {_place()}"
                )
            self._check(func, args, [tensor for tensor in tensors if not isinstance(tensor, Card)])
        if device.type != "cuda":
            found = func(*_inners(args), **_inners(kwargs))
            return self._sent(found) if is_late else found
        if self.recorded is not None:  # a capture keeps what the host has as it is now
            args, kwargs = _mapped(_kept, args), _mapped(_kept, kwargs)
        work = partial(_OTHERWISE.get(func, func._op), *_inners(args), **_inners(kwargs))
        device = torch.device("cuda", device.index or 0)
        return self._run(work, cards, device, is_mutable=func._schema.is_mutable)

    def launch(self, kernel: Callable[..., Any], *args: Any) -> Any:
        """A kernel of ours, one operator for a card: all tensors lie there, and none is changed."""
        cards = [tensor for tensor in _tensors(args) if isinstance(tensor, Card)]
        if len(cards) < len(list(_tensors(args))) or len({card.device for card in cards}) > 1:
            raise WrongDevice(f"a kernel was given memory of the host or of two cards at {_place()}")
        with on_host():
            return self._run(partial(kernel, *_inners(args)), cards, cards[0].device, is_mutable=False)

    def _run(self, work: Callable[[], Any], cards: list[Card], device: torch.device, *, is_mutable: bool) -> Any:
        """What a card does with the tensors in `cards`, which a capture repeats."""
        found = work()
        if self.recorded is not None and (again := _repeated(work, cards, found, is_mutable=is_mutable)):
            self.recorded.append(again)
        known = {id(card.inner): card for card in cards}
        with torch.inference_mode(False):  # or a view could not be told from what it is a view of
            return _mapped(lambda one: known[id(one)] if id(one) in known else Card(one, device), found)

    def _check(self, func: Any, args: Any, others: list[Tensor]) -> None:
        """What CUDA would refuse or wait for, in an operator that is given `others` from the host."""
        if func in _INDEXED:
            indices = [index for index in args[1] if index is not None]
            is_moved = all(any(other is index for index in indices) for other in others if other.dim())
            if others and is_moved:
                return self.wait("an index or a number from the host")
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.wait("a mask as index")
        name = func.name().removeprefix("aten::").split(".")[0].rstrip("_")
        if any(other.dim() for other in others) or (others and name not in _SCALARS):
            raise WrongDevice(f"{func} with tensors of a card and the host at {_place()}")
        if func in _READS:
            self.wait(str(func))
        return None

    def _check_copy(self, func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
        """A copy between devices waits unless it is told not to, and reads memory that is not pinned at once; the
        arguments for a copy on the host, and whether the host gets its numbers later."""
        is_in_place = func is _aten.copy_.default
        is_patient = kwargs.pop("non_blocking", False) or (is_in_place and len(args) > 2 and args[2])
        target_is_card, source = device.type == "cuda", args[1] if is_in_place else args[0]
        is_between = isinstance(source, Card) != target_is_card
        if is_between:
            is_read = target_is_card and source.untyped_storage().data_ptr() not in self._pinned
            if not is_patient or is_read:
                self.wait("a copy to the device" if target_is_card else "a copy to the host")
            elif self.recorded is not None:
                raise NotCapturable(f"a copy between devices at {_place()}")
        return args[:2] if is_in_place else args, bool(is_between and is_patient and not target_is_card)


@contextmanager
def on_host() -> Iterator[None]:
    """Tensors are made on the CPU inside the block, as if there were no card."""
    with _disable_current_modes():  # type: ignore[no-untyped-call]
        yield


@cache
def _is_composed(func: Any) -> bool:
    """Whether an operator is made of others, which are what a device sees."""
    key = "CompositeImplicitAutograd"
    has_parts = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    return has_parts and func.namespace == "aten" and func not in _OTHERWISE


def _mapped(change: Callable[[Tensor], Tensor], values: Any) -> Any:
    """Arguments or results with other tensors. torch's own walk knows more kinds and takes most of a test's time."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, (tuple, list)):
        return type(values)([_mapped(change, value) for value in values])
    if isinstance(values, dict):
        return {name: _mapped(change, value) for name, value in values.items()}
    return values


def _tensors(values: Any) -> Iterator[Tensor]:
    """Those among arguments or results."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


def _inners(values: Any) -> Any:
    return _mapped(inner, values)


def _kept(value: Tensor) -> Tensor:
    return value if isinstance(value, Card) else value.clone()


def _repeated(
    work: Callable[[], Any], cards: list[Card], found: Any, *, is_mutable: bool
) -> Callable[[], object] | None:
    """What does `work` once more and leaves the results where they were; None for views, which need nothing. A test
    runs some 100,000 of these a second."""
    held = {card.untyped_storage().data_ptr() for card in cards}
    results = list(_tensors(found))
    are_new = [tensor.untyped_storage().data_ptr() not in held for tensor in results]
    if not any(are_new):
        return work if is_mutable else None
    if not isinstance(found, Tensor):
        return partial(_repeat, work, results, are_new)
    copy = found.copy_
    return lambda: copy(work())


def _repeat(work: Callable[[], Any], results: list[Tensor], are_new: list[bool]) -> None:
    """Do it once more, for several results."""
    for there, here, is_new in zip(results, _tensors(work()), are_new, strict=True):
        if is_new:
            there.copy_(here)


def _place() -> str:
    """The innermost lines of the project."""
    frame: FrameType | None = sys._getframe()
    places: list[str] = []
    while frame is not None and len(places) < _NUM_LINES:
        if frame.f_code.co_filename.startswith(_OURS):
            places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(places)


def _flash(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, is_causal: bool = False, mask: bool = False, *, scale: float
) -> tuple[Tensor, ...]:
    """CUDA's flash operator, with what it refuses."""
    assert q.dtype in (torch.float16, torch.bfloat16), "only half precision"
    assert q.shape[-1] % 8 == 0, "head sizes are multiples of eight"
    assert q.shape[-1] <= 256, "larger heads are not served"
    assert all(x.stride(-1) == 1 for x in (q, k, v)), "columns lie side by side"
    num_groups = q.shape[1] // k.shape[1]
    keys, values = (x.float().repeat_interleave(num_groups, 1) for x in (k, v))
    logits = q.float() @ keys.transpose(-1, -2) * scale
    if is_causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    lse = logits.logsumexp(-1)
    return ((logits - lse[..., None]).exp() @ values).to(q.dtype), lse


_OTHERWISE: dict[Any, Callable[..., Any]] = {  # what the CPU cannot do
    _aten._scaled_dot_product_flash_attention.default: _flash,
    _aten.bmm.dtype: lambda left, right, dtype: torch.bmm(left.to(dtype), right.to(dtype)),
    _aten.histc.default: lambda x, *options: torch.histc(x.float(), *options),
}


class _Guard(torch._C._acc.DeviceGuard):  # type: ignore[misc, name-defined]
    """How the card is switched to: not at all."""

    def type_(self) -> object:
        return torch._C._autograd.DeviceType.CUDA  # type: ignore[attr-defined]


_GUARD = _Guard()


def _let_in() -> None:
    """Register a device guard for CUDA, by torch's own registration for private devices."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (_PRIVATE + 1)).in_dll(library, _GUARDS)
    if not guards[_CUDA]:
        torch._C._acc.register_python_privateuseone_device_guard(_GUARD)  # type: ignore[attr-defined]
        guards[_CUDA] = guards[_PRIVATE]


_let_in()
