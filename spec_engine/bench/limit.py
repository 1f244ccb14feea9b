"""How close a pass comes to what the machine can do, by context length and by rows.

Job: the bytes that a pass must read and the operations that it must do, the time that the machine needs for them at
best, and the time that the pass took. Non-job: the machine's rates (`machine`), drafting and whole answers (`run`).

A pass reads all weights once, and of each layer the keys and values that its window lets it see, once for all rows. It
cannot be faster than the memory, nor than the arithmetic: the limit is the slower of the two, as in a roofline model.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch

from spec_engine.bench.machine import bandwidth, matrix_rate
from spec_engine.config import MAX_DRAFT_NODES
from spec_engine.model.capture import wait
from spec_engine.model.target import NO_TAPS, Target
from spec_engine.tree import DraftTree

NUM_ROWS = (1, 8, 16, 32, 64, 512)  # the last is more than a tree may have: a chunk of a prompt
_REPEATS = (5, 40)  # passes: at least, at most …
_MOST_S = 3.0  # … and no more seconds than that


@dataclass(frozen=True, slots=True)
class LimitRow:
    """Passes of `num_rows` rows behind `length` tokens: median seconds, and what they need."""

    length: int
    num_rows: int
    pass_s: float
    num_bytes: int
    num_operations: int
    bytes_per_second: float
    operations_per_second: float

    @property
    def limit_s(self) -> float:
        """Seconds that the machine needs at best."""
        return max(self.num_bytes / self.bytes_per_second, self.num_operations / self.operations_per_second)

    @property
    def is_bound_by_memory(self) -> bool:
        """Whether reading takes longer than computing."""
        return self.num_bytes / self.bytes_per_second >= self.num_operations / self.operations_per_second

    @property
    def share(self) -> float:
        """Of the limit that was reached; 1 is as fast as the machine can."""
        return self.limit_s / self.pass_s


def measure_limits(
    target: Target, lengths: Sequence[int], num_rows: Sequence[int], tell: Callable[[str], None]
) -> Iterator[LimitRow]:
    """Passes behind random keys and values: what they cost does not depend on the text. The target forgets its text."""
    for length in lengths:
        fill(target, length)
        for number in num_rows:
            seconds = _pass_seconds(target, number)
            num_bytes = pass_bytes(target, length)
            row = LimitRow(
                length,
                number,
                seconds,
                num_bytes,
                pass_operations(target, length, number),
                bandwidth(target.device, num_bytes),
                matrix_rate(target.device, target.dtype),
            )
            tell(f"{length:,} tokens, {number} rows: {1000 * seconds:.2f} ms, {100 * row.share:.0f} % of the limit")
            yield row
    target.reset()


def fill(target: Target, length: int) -> None:
    """Let the target hold `length` tokens whose keys and values are random."""
    places = target.room(length)
    generator = torch.Generator(target.device).manual_seed(0)
    for rows in places.values():
        rows.normal_(generator=generator)
    target.filled([1] * length)


def pass_bytes(target: Target, length: int) -> int:
    """Bytes that a pass must read: the weights, of an input embedding nothing, and the keys and values in view."""
    runner = target.runner
    seen = sum(
        shape.bytes_per_token * min(length, length if window is None else window)
        for shape, window in zip(runner.shapes, runner.layer_windows, strict=True)
    )
    return target.size.num_bytes + seen


def pass_operations(target: Target, length: int, num_rows: int, *, is_chunk: bool = False) -> int:
    """Multiplications and additions of a pass: matrices, and attention over the keys in view. Of a prompt's chunk, as
    more rows than a tree has are anyhow, only the last row gets logits. All experts of a layer are counted, though few
    of them may run."""
    runner, size = target.runner, target.size
    is_chunk, num_heads = is_chunk or num_rows > MAX_DRAFT_NODES, int(runner.config.num_attention_heads)
    num_keys = length + num_rows // 2 if is_chunk else length
    attended = sum(
        num_heads * (shape.key_size + shape.value_size) * min(num_keys, num_keys if window is None else window)
        for shape, window in zip(runner.shapes, runner.layer_windows, strict=True)
    )
    num_logits = 1 if is_chunk else num_rows
    return 2 * (num_rows * (size.num_in_layers + attended) + num_logits * size.num_in_output)


def _pass_seconds(target: Target, num_rows: int) -> float:
    """Median of passes over a tree of that size, or over a chunk of a prompt; nothing is kept."""
    token_ids, length = (1,) * num_rows, target.length

    def read_chunk() -> None:
        for _ in target.prefill(token_ids):
            target.truncate(length)

    is_tree = num_rows <= MAX_DRAFT_NODES
    work = partial(target.verify, DraftTree.chain(token_ids), NO_TAPS) if is_tree else read_chunk
    work()
    times: list[float] = []
    while len(times) < _REPEATS[0] or (len(times) < _REPEATS[1] and sum(times) < _MOST_S):
        wait(target.device)
        began = perf_counter()
        work()
        wait(target.device)
        times.append(perf_counter() - began)
    return statistics.median(times)


def limit_table(rows: Sequence[LimitRow]) -> str:
    """As Markdown: one line a length, one column for each number of rows."""
    numbers = list(dict.fromkeys(row.num_rows for row in rows))
    head = " | ".join(f"{number} row{'s' if number > 1 else ''}" for number in numbers)
    lines = [f"| context | {head} |", "|---" * (len(numbers) + 1) + "|"]
    for length in dict.fromkeys(row.length for row in rows):
        cells = [
            f"{1000 * row.pass_s:.2f} ms, {100 * row.share:.0f} % ({'memory' if row.is_bound_by_memory else 'compute'})"
            for row in rows
            if row.length == length
        ]
        lines.append(f"| {length:,} tokens | {' | '.join(cells)} |")
    return "\n".join(lines)
