"""Attention alone: milliseconds of every backend by rows and keys, beside what the memory and the matrix units allow.

Job: each backend that runs here, first held against the float64 reference, then timed over buffers that no cache holds.
Non-job: whole passes (`limit`), how Triton's kernels are cut (`tuning`), a draft's likeliest tokens (`likeliest`).

A call is what one layer does in a verify pass: a tree of T nodes behind a prefix. On a GPU calls over several buffers
are captured together and replayed, so neither the host's work nor the GPU's cache is in the figures.
"""

import importlib
import importlib.util
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from spec_engine.attention import AttentionBackend, Scoring, TreeBias, flash, tree_bias
from spec_engine.attention.flash import FlashBackend
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.attention.sdpa import CpuBackend, CudaBackend, MatmulBackend
from spec_engine.bench.machine import bandwidth, matrix_rate, timed
from spec_engine.bench.shapes import shape_config
from spec_engine.errors import MissingDependency, RequestError
from spec_engine.model.capture import CudaCapture

NUM_ROWS = (1, 8, 16, 32, 64)
HALF = (torch.float16, torch.bfloat16)
_MOST_ERROR = 2e-2  # norm of the difference to the reference, relative: narrow types lie between 1e-3 and 1e-2
_CHECKED = (7, 1100)  # nodes and prefix of the checked call
_CACHED_BYTES = 256 << 20  # several times what any GPU's cache holds
_MOST_BUFFERS = 32
_REPEATS = (5, 50)  # timed replays: at least, at most …
_MOST_S = 0.15  # … and no more seconds than that


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, key heads and their size, and the published models that have them."""

    num_heads: int
    num_kv_heads: int
    size: int
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.num_heads}/{self.num_kv_heads} heads of {self.size}"


@dataclass(frozen=True, slots=True)
class KernelRow:
    """A call over `num_rows` nodes behind `num_keys` keys: median seconds, and what it needs."""

    heads: str
    backend: str
    num_rows: int
    num_keys: int
    seconds: float
    num_bytes: int
    num_operations: int
    bytes_per_second: float
    operations_per_second: float
    error: float

    @property
    def limit_s(self) -> float:
        """Seconds that the machine needs at best."""
        return max(self.num_bytes / self.bytes_per_second, self.num_operations / self.operations_per_second)

    @property
    def share(self) -> float:
        """Of the limit that was reached."""
        return self.limit_s / self.seconds


@dataclass(frozen=True, slots=True)
class Call:
    """The tensors of one call, as a cache and a model give them."""

    q: Tensor
    k: Tensor
    v: Tensor
    prefix_len: int
    bias: TreeBias | None
    scoring: Scoring

    def run(self, backend: AttentionBackend) -> tuple[Tensor, Tensor]:
        """Out and lse of a backend."""
        return backend.hybrid(self.q, self.k, self.v, self.prefix_len, self.bias, self.scoring)

    @property
    def num_bytes(self) -> int:
        """What must be read."""
        return sum(x.numel() * x.element_size() for x in (self.q, self.k, self.v))

    @property
    def num_operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.q.shape[1] * self.q.shape[2] * self.k.shape[2] * (self.q.shape[3] + self.v.shape[3])


def heads_of(shapes: Sequence[str]) -> list[Heads]:
    """The distinct heads of models of published sizes. Raises `RequestError` for a shape that is not known."""
    found: dict[tuple[int, int, int], list[str]] = {}
    for name in shapes:
        config = shape_config(name)
        num_heads, hidden = (int(str(config[key])) for key in ("num_attention_heads", "hidden_size"))
        size = int(str(config.get("head_dim", hidden // num_heads)))
        found.setdefault((num_heads, int(str(config["num_key_value_heads"])), size), []).append(name)
    return [Heads(*numbers, tuple(names)) for numbers, names in found.items()]


def runnable(device: torch.device, dtype: torch.dtype) -> dict[str, AttentionBackend]:
    """The backends that can run here, by name."""
    if device.type == "cpu":
        return {backend.name: backend for backend in (CpuBackend(), MatmulBackend())}
    found: dict[str, AttentionBackend] = {}
    if device.type == "cuda" and dtype in HALF:
        if importlib.util.find_spec("triton") is not None:
            found["triton"] = importlib.import_module("spec_engine.attention.triton").TritonBackend(MatmulBackend())
        found["torch-cuda-flash"] = CudaBackend()
        with suppress(MissingDependency):
            found |= {"flash-attn": FlashBackend()} if flash.is_installed() else {}
    return {**found, "matmul": MatmulBackend()}


def make_call(heads: Heads, num_rows: int, num_keys: int, dtype: torch.dtype, device: torch.device) -> Call:
    """A chain of `num_rows` nodes behind a prefix, `num_keys` keys in all, on random numbers."""
    q = torch.randn(1, num_rows, heads.num_heads, heads.size, dtype=dtype, device=device).transpose(1, 2)
    memory = torch.randn(2, 1, heads.num_kv_heads, num_keys + 64, heads.size, dtype=dtype, device=device)
    k, v = memory[0].narrow(2, 0, num_keys), memory[1].narrow(2, 0, num_keys)
    bias = None if num_rows == 1 else tree_bias(torch.ones(num_rows, num_rows).tril().bool(), dtype, device)
    prefix_len = num_keys if bias is None else num_keys - num_rows
    return Call(q, k, v, prefix_len, bias, Scoring(heads.size**-0.5))


def error_of(backend: AttentionBackend, heads: Heads, dtype: torch.dtype, device: torch.device) -> float:
    """The relative norm of a small call's difference to the float64 reference."""
    call = make_call(heads, *_CHECKED, dtype, device)
    out, _ = call.run(backend)
    wide = Call(call.q.double(), call.k.double(), call.v.double(), call.prefix_len, call.bias, call.scoring)
    want, _ = wide.run(ReferenceBackend())
    return float((out.double() - want).norm() / want.norm())


def seconds_of(backend: AttentionBackend, calls: Sequence[Call]) -> float:
    """Median seconds of a call, over `calls` in turn."""
    device = calls[0].q.device

    def work() -> tuple[Tensor, ...]:
        return tuple(call.run(backend)[0] for call in calls)

    replay = CudaCapture(device, is_brief=True)(work) if device.type == "cuda" else work
    replay()
    times: list[float] = []
    while len(times) < _REPEATS[0] or (len(times) < _REPEATS[1] and sum(times) < _MOST_S):
        times.append(timed(replay, device))
    return statistics.median(times) / len(calls)


@torch.inference_mode()
def make_calls(heads: Heads, num_rows: int, num_keys: int, dtype: torch.dtype, device: torch.device) -> list[Call]:
    """As many calls over other tensors as no GPU's cache holds; two elsewhere."""
    first = make_call(heads, num_rows, num_keys, dtype, device)
    number = min(max(_CACHED_BYTES // first.num_bytes, 2), _MOST_BUFFERS) if device.type == "cuda" else 2
    return [first, *(make_call(heads, num_rows, num_keys, dtype, device) for _ in range(number - 1))]


@torch.inference_mode()
def measure_kernels(
    every_heads: Sequence[Heads],
    num_rows: Sequence[int],
    lengths: Sequence[int],
    where: tuple[torch.dtype, torch.device],
    tell: Callable[[str], None],
) -> list[KernelRow]:
    """Every backend that gives the reference's result here, over all heads, rows and numbers of keys.

    Raises `RequestError` for trees that are no smaller than the number of keys.
    """
    found: list[KernelRow] = []
    if max(num_rows) >= min(lengths):
        raise RequestError(f"{max(num_rows)} rows need more than {min(lengths)} keys. Give larger --lengths.")
    for heads in every_heads:
        right = _right(runnable(where[1], where[0]), heads, where, tell)
        for length in lengths:
            for number in num_rows:
                calls = make_calls(heads, number, length, *where)
                rows = [row for name in right if (row := _measured(name, right[name], heads, calls, tell))]
                found += rows
                told = ", ".join(f"{row.backend} {1000 * row.seconds:.3f} ms" for row in rows)
                tell(f"{heads}, {length:,} keys, {number} rows: {told}")
    return found


def _measured(
    name: str, right: tuple[AttentionBackend, float], heads: Heads, calls: Sequence[Call], tell: Callable[[str], None]
) -> KernelRow | None:
    """A backend's figures; None where the call failed."""
    backend, error = right
    first, device = calls[0], calls[0].q.device
    try:
        seconds = seconds_of(backend, calls)
    except RuntimeError as reason:  # of CUDA, memory among them
        tell(f"FAILED: {name}, {heads}: {str(reason).splitlines()[0]}")
        return None
    return KernelRow(
        str(heads), name, first.q.shape[2], first.k.shape[2], seconds, first.num_bytes, first.num_operations,
        bandwidth(device, first.num_bytes), matrix_rate(device, first.q.dtype), error,
    )  # fmt: skip


def _right(
    backends: Mapping[str, AttentionBackend],
    heads: Heads,
    where: tuple[torch.dtype, torch.device],
    tell: Callable[[str], None],
) -> dict[str, tuple[AttentionBackend, float]]:
    """The backends whose result is right, with their errors; the others are named."""
    found = {}
    for name, backend in backends.items():
        try:
            error = error_of(backend, heads, *where)
        except RuntimeError as reason:
            tell(f"FAILED: {name}, {heads}: {str(reason).splitlines()[0]}")
            continue
        if error <= _MOST_ERROR:
            found[name] = backend, error
        else:
            tell(f"WRONG: {name}, {heads}: the difference to the reference is {error:.1e} of its norm. Not timed.")
    return found


def kernel_table(rows: Sequence[KernelRow]) -> str:
    """As Markdown: one line for heads, keys and rows, one column a backend."""
    names = list(dict.fromkeys(row.backend for row in rows))
    lines = [f"| heads | keys | rows | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for key in dict.fromkeys((row.heads, row.num_keys, row.num_rows) for row in rows):
        same = {row.backend: row for row in rows if (row.heads, row.num_keys, row.num_rows) == key}
        found = [same.get(name) for name in names]
        cells = [f"{1000 * row.seconds:.3f} ms, {row.share:.0%}" if row else "" for row in found]
        lines.append(f"| {key[0]} | {key[1]:,} | {key[2]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Shares are of the slower of memory and matrix units, as both were measured here."])


def kernel_json(
    where: str,
    rows: Sequence[KernelRow],
    tunings: Sequence[Mapping[str, object]] = (),
    products: Sequence[Mapping[str, object]] = (),
    likeliest: Sequence[Mapping[str, object]] = (),
) -> str:
    """As JSON; `tunings` of attention and `products` are those that a sweep tried, `likeliest` what a draft's likeliest
    tokens take."""
    listed = [asdict(row) | {"limit_s": row.limit_s, "share": round(row.share, 3)} for row in rows]
    table: dict[str, object] = {"where": where, "kernels": listed, "likeliest": list(likeliest)}
    return json.dumps(table | {"tunings": list(tunings), "products": list(products)}, indent=1)
