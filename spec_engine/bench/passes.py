"""All that ``bench --limit`` measures of one target, part by part, so that a part that fails costs its figures alone,
and row by row, so that one that is stopped keeps those it had.

Job: the order of the parts, what failed, the peak of memory, the table and the JSON as far as they have come.
Non-job: measuring (`limit`, `reading`, `against`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import torch

from spec_engine.bench.against import AgainstRow, against_table, limit_json, measure_against
from spec_engine.bench.limit import LimitRow, limit_table, measure_limits
from spec_engine.bench.peers import PeerModel
from spec_engine.bench.reading import (
    ReadingRow,
    RetrievalRow,
    measure_modules,
    measure_reading,
    measure_retrieval,
    reading_table,
    reading_values,
)
from spec_engine.errors import RequestError
from spec_engine.model.target import Target

PARTS: Final = ("passes", "retrieval", "reading", "generate", "compiled", "modules")
USUAL: Final = ("passes", "retrieval", "generate", "compiled")  # what takes no text, and a minute on most machines
_OURS: Final = ("passes", "retrieval", "reading")  # before transformers takes memory
_TOKENS: Final = 16  # continued by this engine and by transformers
_MODULE_LENGTHS: Final = 2  # the first ones: what modules cost does not depend on the length

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """What is measured, behind how many tokens, over how many rows; captured passes may take `graph_bytes`."""

    lengths: Sequence[int]
    num_rows: Sequence[int]
    parts: Sequence[str]
    graph_bytes: int


@dataclass(slots=True)
class LimitReport:
    """What was measured so far."""

    where: str
    passes: list[LimitRow] = field(default_factory=list)
    plain: list[AgainstRow] = field(default_factory=list)
    reading: list[ReadingRow] = field(default_factory=list)
    looks: list[RetrievalRow] = field(default_factory=list)
    modules: dict[int, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    peak_bytes: int = 0  # of this engine alone, weights and cache included; 0: not known
    graphs: str = ""

    def to_json(self) -> str:
        """As `limit_json`."""
        others = reading_values(self.reading, self.looks, self.modules)
        others |= {"peak_bytes": self.peak_bytes, "graphs": self.graphs, "failed": dict(self.failed)}
        return limit_json(self.where, self.passes, self.plain, others)

    def table(self) -> str:
        """As Markdown."""
        line = f"{self.where} {self.graphs}"
        if self.peak_bytes:
            line += f" At most {self.peak_bytes / 1e9:.1f} GB were taken before transformers ran."
        failed = "\n".join(f"NOT MEASURED: {part}: {reason}" for part, reason in self.failed.items())
        tables = (limit_table(self.passes), reading_table(self.reading, self.looks, self.modules))
        return "\n\n".join(filter(None, (*tables, against_table(self.plain) if self.plain else "", line, failed)))


def parse_parts(spelling: str) -> tuple[str, ...]:
    """``passes,reading`` as parts. Raises `RequestError` for any other name."""
    parts = tuple(spelling.split(","))
    if strange := [part for part in parts if part not in PARTS]:
        raise RequestError(f"There is no part '{strange[0]}'. Valid: {', '.join(PARTS)}.")
    return parts


def measure_parts(
    target: Target,
    peer: PeerModel,
    plan: LimitPlan,
    where: str,
    tell: Callable[[str], None],
    save: Callable[[str], None],
) -> LimitReport:
    """All parts of the plan in their order; after each row, `save` gets the JSON of what is there. `peer` is the model
    that transformers runs: the target's, where its weights are as transformers left them."""
    report, lengths = LimitReport(where), plan.lengths
    compiled = lengths if "compiled" in plan.parts else ()

    def modules() -> Iterator[None]:
        for length, seconds in measure_modules(target, lengths[:_MODULE_LENGTHS], plan.graph_bytes, tell):
            report.modules[length] = seconds
            yield

    def keep(part: str) -> None:
        if target.device.type == "cuda" and part in _OURS:
            report.peak_bytes = int(torch.cuda.max_memory_allocated(target.device))
        report.graphs = target.passes_note
        save(report.to_json())

    works: dict[str, Callable[[], Iterator[None]]] = {
        "passes": lambda: _added(report.passes, measure_limits(target, lengths, plan.num_rows, tell)),
        "retrieval": lambda: _added(report.looks, measure_retrieval(target, lengths, tell)),
        "reading": lambda: _added(report.reading, measure_reading(target, lengths, tell)),
        "generate": lambda: _added(report.plain, measure_against(target, peer, (lengths, compiled), _TOKENS, tell)),
        "modules": modules,
    }
    for part in (part for part in works if part in plan.parts or (part == "generate" and compiled)):
        try:
            for _ in works[part]():
                keep(part)
        except RuntimeError as error:  # of CUDA, memory among them
            report.failed[part] = str(error).splitlines()[0]
            tell(f"{part} failed: {report.failed[part]}")
        keep(part)
    return report


def _added(rows: list[_Row], found: Iterable[_Row]) -> Iterator[None]:
    """Each row found, when it is there, to the others."""
    for row in found:
        rows.append(row)
        yield
