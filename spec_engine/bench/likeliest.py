"""A draft's likeliest tokens alone: microseconds of torch and of our kernels by rows and columns.

Job: `measure_likeliest`, over the vocabularies of published drafts. Non-job: which is used (`model.likeliest`).

A call is what a level of a draft does with its logits: log-softmax and the best columns. The logits lie in the cache,
as they do behind the product that made them.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

import torch

from spec_engine.bench.machine import fastest
from spec_engine.model.contest import gpu_timer
from spec_engine.model.likeliest import by_torch
from spec_engine.tree import Likeliest

_CALLS: Final = ((1, 50), (10, 10), (16, 16))  # rows, columns looked for: a root of OPT-Tree, levels of EAGLE-2 and it
_COLUMNS: Final = (32000, 128256, 262144)  # of EAGLE-3's head for Llama 3.1, of Llama 3 itself, of Gemma 4
_NUM_CALLS = 8  # that are timed together


@dataclass(frozen=True, slots=True)
class LikeliestRow:
    """Seconds of one call by `way`."""

    way: str
    num_rows: int
    num_columns: int
    num: int
    seconds: float


@torch.inference_mode()
def measure_likeliest(where: tuple[torch.dtype, torch.device], tell: Callable[[str], None]) -> list[LikeliestRow]:
    """All ways that run here over all sizes; without a GPU over the least."""
    dtype, device = where
    found, ways = list[LikeliestRow](), _ways(device)
    timer = gpu_timer(device) or (lambda work: fastest(work, device))
    for num_columns in _COLUMNS if device.type == "cuda" else _COLUMNS[:1]:
        for num_rows, num in _CALLS:
            logits = torch.randn(num_rows, num_columns, dtype=dtype, device=device)
            for name, way in ways.items():
                try:
                    seconds = timer(partial(_calls, way, logits, num)) / _NUM_CALLS
                except RuntimeError as reason:  # of Triton or CUDA
                    tell(f"FAILED: {name}, {num} of {num_columns:,} columns: {str(reason).splitlines()[0]}")
                    continue
                found.append(LikeliestRow(name, num_rows, num_columns, num, seconds))
    return found


def likeliest_table(rows: Sequence[LikeliestRow]) -> str:
    """As Markdown: one line for a call, one column a way."""
    names = list(dict.fromkeys(row.way for row in rows))
    lines = [f"| likeliest tokens | rows | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for key in dict.fromkeys((row.num, row.num_columns, row.num_rows) for row in rows):
        same = {row.way: row for row in rows if (row.num, row.num_columns, row.num_rows) == key}
        cells = [f"{1e6 * same[name].seconds:.1f} µs" if name in same else "" for name in names]
        lines.append(f"| {key[0]} of {key[1]:,} | {key[2]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def likeliest_values(rows: Sequence[LikeliestRow]) -> list[dict[str, object]]:
    """For JSON."""
    return [asdict(row) for row in rows]


def _ways(device: torch.device) -> dict[str, Likeliest]:
    """Those that can run on the device, by name."""
    ways: dict[str, Likeliest] = {"torch": by_torch}
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        ways["ours"] = importlib.import_module("spec_engine.model.likeliest_kernels").likeliest
    return ways


def _calls(way: Likeliest, logits: torch.Tensor, num: int) -> tuple[torch.Tensor, ...]:
    """The same call several times."""
    return tuple(found for _ in range(_NUM_CALLS) for found in way(logits, num))
