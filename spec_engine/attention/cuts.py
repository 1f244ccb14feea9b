"""How the work of our Triton kernels is cut: blocks, warps, stages, shares of the keys.

Job: `Tuning`, what can be chosen; the options of a launch, and the `Grid` of its programs, that follow from it.
Non-job: the kernels (`triton`), trying other values (`bench.tuning`).
"""

from dataclasses import dataclass
from typing import Final

import torch

_LEAST_ROWS: Final = 16  # of a block: what the matrix units take
_TREE_KEYS: Final = 32  # of a block in the second kernel; with 64 the registers of Ampere do not suffice
# Of a block of the first kernel: from here on 8 warps. With fewer rows two groups of four would make the same scores:
# Hopper's products have 64 rows for each group (17 instructions of 20 the same work twice).
_MANY_ROWS: Final = 128
_MANY_MERGED: Final = 64  # the same of the second kernel, which mostly reads
_WIDE_BYTES: Final = 256  # a row of keys or values that is longer is taken in blocks of fewer keys
_LARGE_HEAD: Final = 256  # entries; larger ones are taken in the smallest blocks, or registers would not suffice:
_LARGE_KEYS, _LARGE_ROWS = 16, 32  # with 64 rows 376 to 1,792 bytes a thread are spilled at 512 entries


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the work is cut. Pairs are for rows of keys up to `_WIDE_BYTES` long, and for longer ones: the shared memory
    of small cards must hold the keys and values of two blocks.

    The values are right for any card and fast by reasoning alone; ``spec-engine bench --kernels`` tries others.
    """

    keys: tuple[int, int] = (64, 32)  # of a block
    stages: tuple[int, int] = (3, 2)  # blocks of keys on their way at once
    most_rows: int = 64  # of a block
    programs_per_sm: int = 2
    most_splits: int = 64
    slice: int = 32  # columns of values that a program of the second kernel makes
    merged: int = 4  # splits that it reads at once; twice as many of blocks with less than 64 rows
    is_early: bool = True  # where the card can: kernels begin while the ones before them end


USUAL: Final = Tuning()


@dataclass(frozen=True, slots=True)
class Grid:
    """Blocks of rows, rows in one, and shares of the keys."""

    num_blocks: int
    rows: int
    num_splits: int


def launch_options(
    rows: int, size: int, value_size: int, dtype: torch.dtype, tuning: Tuning, *, is_early: bool
) -> dict[str, int]:
    """Block sizes and stages of both kernels for blocks of `rows` rows and these head sizes."""
    early = {"launch_pdl": True} if is_early and tuning.is_early else {}  # not every platform knows the option
    stages = tuning.stages[_is_wide(size, value_size, dtype)]
    return {"ROWS": rows, "BLOCK_D": _padded(size), "num_stages": stages, "IS_EARLY": bool(early), **early}


def prefix_options(rows: int, size: int, value_size: int, dtype: torch.dtype, tuning: Tuning) -> dict[str, int]:
    """How the first kernel is cut besides, and its warps."""
    keys = _LARGE_KEYS if max(size, value_size) > _LARGE_HEAD else tuning.keys[_is_wide(size, value_size, dtype)]
    return {"KEYS": keys, "BLOCK_DV": _padded(value_size), "num_warps": 8 if rows >= _MANY_ROWS else 4}


def tree_options(rows: int, num_splits: int, size: int, value_size: int, tuning: Tuning) -> dict[str, int]:
    """How the second kernel is cut besides, and its warps."""
    merged = min(tuning.merged * (1 if rows >= _MANY_MERGED else 2), num_splits)
    cut = {"SLICE": min(tuning.slice, _padded(value_size)), "MERGED": merged}
    keys, most = (_LARGE_KEYS, _LARGE_ROWS) if max(size, value_size) > _LARGE_HEAD else (_TREE_KEYS, _MANY_MERGED)
    return {"KEYS": keys, "num_warps": 8 if rows >= most else 4, **cut}


def _is_wide(size: int, value_size: int, dtype: torch.dtype) -> bool:
    return max(size, value_size) * dtype.itemsize > _WIDE_BYTES


def _padded(size: int) -> int:
    """A head size as the matrix units take it."""
    return max(_power(size), _LEAST_ROWS)


def grid_of(num_rows: int, num_kv_heads: int, size: int, device: torch.device, tuning: Tuning) -> Grid:
    """As many programs as the device runs at once, whatever the length; a power of two of them for each block. `size`
    is that of the heads."""
    most = min(tuning.most_rows, _LARGE_ROWS) if size > _LARGE_HEAD else tuning.most_rows
    rows = min(max(_power(num_rows), _LEAST_ROWS), most)
    num_blocks = -(-num_rows // rows)
    at_once = tuning.programs_per_sm if rows < _MANY_ROWS else tuning.programs_per_sm // 2 or 1  # by their registers
    num_splits = max(at_once * _num_sms(device) // (num_kv_heads * num_blocks), 1)
    return Grid(num_blocks, rows, min(1 << (num_splits.bit_length() - 1), tuning.most_splits))


def _num_sms(device: torch.device) -> int:
    """Multiprocessors; a few where there are none."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()
