"""What reading a text costs, what looking where the target looks costs, and what our forward of ordinary blocks saves.

Job: prompts read from the beginning, in tokens a second and as a share of the matrix units' rate; the attention row
with the choice of chunks beside a verify pass; a captured pass of the same weights through transformers' modules.
Non-job: passes as shares of the machine's limit (`limit`), decoding (`against`).
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import torch

from spec_engine.bench.limit import fill, pass_operations
from spec_engine.bench.machine import matrix_rate
from spec_engine.cache.slots import SlotCache
from spec_engine.config import RetrievalConfig
from spec_engine.model.capture import wait
from spec_engine.model.graphs import graphed
from spec_engine.model.hf_attention import Pass
from spec_engine.model.products import Part
from spec_engine.model.target import Taps, Target
from spec_engine.retrieval import Retriever
from spec_engine.tree import DraftTree

NUM_NODES = 51  # of the tree whose pass is one step: the published presets' 50 and the root
_NUM_STEPS = 24
_NUM_UNTIMED = 6
_EVERY = 4  # steps between two looks, as in the published presets
_MODULE_PASSES = (8, 40)  # until one is captured, and timed


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """A text of `length` tokens read from the beginning, the second time."""

    length: int
    seconds: float
    num_operations: int
    operations_per_second: float  # that the matrix units can do

    @property
    def share(self) -> float:
        """Of the matrix units' rate."""
        return self.num_operations / self.seconds / self.operations_per_second


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """Seconds of a step without drafting and retrieval, and of one look: the row, the chunks, the choice."""

    length: int
    step_s: float
    look_s: float

    @property
    def share(self) -> float:
        """Of a step, with a look in every fourth."""
        return self.look_s / _EVERY / self.step_s


def measure_reading(target: Target, lengths: Sequence[int], tell: Callable[[str], None]) -> Iterator[ReadingRow]:
    """How fast prompts are read, in the target's chunks. The target forgets its text."""
    chunk = target.prefill_chunk
    for length in lengths:
        seconds = min(_read(target, length) for _ in range(2))
        sizes = [(start, min(chunk, length - start)) for start in range(0, length, chunk)]
        operations = sum(pass_operations(target, start, size, is_chunk=True) for start, size in sizes)
        row = ReadingRow(length, seconds, operations, matrix_rate(target.device, target.dtype))
        tell(f"{length:,} tokens read in {seconds:.2f} s, {row.share:.0%} of the matrix units' rate")
        yield row
    target.reset()


def _read(target: Target, length: int) -> float:
    target.reset()
    wait(target.device)
    began = perf_counter()
    for _ in target.prefill([1] * length):
        pass
    wait(target.device)
    return perf_counter() - began


def measure_retrieval(target: Target, lengths: Sequence[int], tell: Callable[[str], None]) -> Iterator[RetrievalRow]:
    """What a look costs behind random keys. The target forgets its text."""
    for length in lengths:
        fill(target, length)
        steps, looks = _steps(target, length)
        row = RetrievalRow(length, statistics.median(steps), statistics.median(looks))
        tell(f"{length:,} tokens: a look takes {1000 * row.look_s:.3f} ms, {row.share:.2%} of a step of four")
        yield row
    target.reset()


def _steps(target: Target, length: int) -> tuple[list[float], list[float]]:
    """Seconds of passes with their commit, and of looks."""
    tree = DraftTree.chain((1,) * NUM_NODES)
    config = RetrievalConfig(top_k=min(32, max(length // 128, 1)), num_recent=32)
    steps, looks = list[float](), list[float]()
    for _ in range(_NUM_STEPS):
        wait(target.device)
        times = [perf_counter()]
        outputs = target.verify(tree, Taps(attention_row=True))
        target.commit(outputs, (0,), with_row=False)
        wait(target.device)
        times.append(perf_counter())
        target.truncate(length)
        outputs = target.verify(tree, Taps(attention_row=True))
        wait(target.device)
        times.append(perf_counter())
        step = target.commit(outputs, (0,))
        Retriever(config).update(step)
        wait(target.device)
        times.append(perf_counter())
        target.truncate(length)
        steps.append(times[1] - times[0])
        looks.append(times[3] - times[2])
    return steps[_NUM_UNTIMED:], looks[_NUM_UNTIMED:]


@torch.inference_mode()
def measure_modules(
    target: Target, lengths: Sequence[int], graph_bytes: int, tell: Callable[[str], None]
) -> Iterator[tuple[int, float]]:
    """A length and the seconds of a pass over one row behind it through transformers' own modules, captured on a GPU.
    None for a target that runs them anyway, and for one whose modules gave their weights up (`model.products`)."""
    runner = target.runner
    gave_up = any(isinstance(module, Part) for module in target.model.modules())
    if gave_up or not target.is_joined:
        return
    for length in lengths:
        forward = graphed(runner, runner, graph_bytes, is_brief=True)
        slots = SlotCache(runner.shapes, length + NUM_NODES)
        for rows in slots.room(length).values():
            rows.normal_()
        slots.advance(length)
        cache, position = runner.bind(slots), torch.tensor([length])
        times = list[float]()
        for _ in range(sum(_MODULE_PASSES)):
            wait(target.device)
            began = perf_counter()
            forward.run(cache, Pass(runner.backend, length), [1], position)
            wait(target.device)
            times.append(perf_counter() - began)
        seconds = statistics.median(times[_MODULE_PASSES[0] :])
        tell(f"{length:,} tokens, 1 row, through transformers' modules: {1000 * seconds:.2f} ms")
        yield length, seconds


def reading_table(reading: Sequence[ReadingRow], looks: Sequence[RetrievalRow], modules: Mapping[int, float]) -> str:
    """As Markdown: one line a length; empty where nothing was measured."""
    read = {row.length: row for row in reading}
    looked = {row.length: row for row in looks}
    lines = [
        "| context | read | tokens/s | of the matrix rate | a look | of a step | 1 row, modules |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in sorted({*read, *looked, *modules}):
        cells = [f"{length:,} tokens"]
        row, look = read.get(length), looked.get(length)
        cells += [f"{row.seconds:.2f} s", f"{length / row.seconds:,.0f}", f"{row.share:.0%}"] if row else [""] * 3
        cells += [f"{1000 * look.look_s:.3f} ms", f"{look.share:.2%}"] if look else [""] * 2
        cells.append(f"{1000 * modules[length]:.2f} ms" if length in modules else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def reading_values(
    reading: Sequence[ReadingRow], looks: Sequence[RetrievalRow], modules: Mapping[int, float]
) -> dict[str, object]:
    """For JSON, with what follows from the figures written out."""
    return {
        "reading": [asdict(row) | {"share": round(row.share, 3)} for row in reading],
        "retrieval": [asdict(row) | {"share": round(row.share, 5)} for row in looks],
        "modules": [{"length": length, "pass_s": seconds} for length, seconds in modules.items()],
    }
