"""Cost against context length as a picture: ``python -m spec_engine.bench.plot``; needs matplotlib (extra ``dev``).

Job: milliseconds a token by length as ``docs/cost-by-length.svg``: from the committed result of the speed bench, and
beside it, where they are there, from those of `GPU`.
Non-job: measuring.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spec_engine.bench.peers import PLAIN_PEER
from spec_engine.bench.readme import ROOT, SPEED
from spec_engine.bench.run import PLAIN, BenchReport

PICTURE: Final = ROOT / "docs" / "cost-by-length.svg"
GPU: Final = tuple(ROOT / "docs" / "results" / name for name in ("limit-llama-8b.json", "drafting-eagle3.json"))
_LINES: Final = {  # method: its name in the picture, colour, style
    PLAIN_PEER: ("transformers generate", "#8a94a6", "--"),
    PLAIN: ("plain decoding", "#b07a1a", "-"),
    "lm, no retrieval": ("small model, no retrieval", "#d2691e", ":"),
    "lm": ("small model, with retrieval", "#4f74e8", "-"),
    "lookup": ("copies from the context", "#159a6b", "-"),
}
_STYLES: Final = {  # of `limit_lines` and `replay_lines`
    "transformers generate": ("#8a94a6", "--"),
    "transformers, static cache, compiled": ("#8a94a6", ":"),
    "plain decoding": ("#b07a1a", "-"),
    "drafted, acceptance replayed": ("#4f74e8", "-"),
}
_GREY: Final = "#7d8590"  # legible on white and on black

Points = list[tuple[int, float]]  # tokens of context, milliseconds a token


@dataclass(frozen=True, slots=True)
class Line:
    """One way of decoding."""

    label: str
    colour: str
    style: str
    points: Points


@dataclass(frozen=True, slots=True)
class Panel:
    """One machine: lines of the same model."""

    title: str
    lines: Sequence[Line]
    is_wide: bool  # lengths far apart: each double the one before takes as much room


def bench_panel(report: BenchReport) -> Panel:
    """A line for each known way of decoding that was measured at two lengths at least."""
    lines = []
    for method, (label, colour, style) in _LINES.items():
        rows = [row for row in report.by_length() if row.method == method and row.tokens_per_second]
        lines.append(Line(label, colour, style, [(row.length, 1000 / row.tokens_per_second) for row in rows]))
    return Panel("", lines, is_wide=False)


def gpu_panel(files: Sequence[Path]) -> Panel | None:
    """The same from files of ``bench --limit`` and ``bench --replay``; None where none of them is there."""
    found: dict[str, Points] = {}
    where = ""
    for table in (json.loads(file.read_text("utf-8")) for file in files if file.is_file()):
        where = where or str(table["where"]).split(". ")[0]
        made = replay_lines(table) if "rows" in table else limit_lines(table)
        for label, points in made.items():
            found.setdefault(label, points)  # plain decoding is in both
    lines = [Line(label, *_STYLES[label], points) for label, points in found.items()]
    return Panel(where, lines, is_wide=True) if lines else None


def limit_lines(table: Mapping[str, Any]) -> dict[str, Points]:
    """Plain decoding of this engine and of transformers."""
    names = {
        "transformers generate": "theirs_s",
        "transformers, static cache, compiled": "compiled_s",
        "plain decoding": "ours_s",
    }
    return {
        label: [(row["length"], 1000 * row[name]) for row in table["plain"] if row[name]]
        for label, name in names.items()
    }


def replay_lines(table: Mapping[str, Any]) -> dict[str, Points]:
    """Plain decoding, and answers whose acceptance was given."""
    names = {"plain decoding": "plain_token_s", "drafted, acceptance replayed": "token_s"}
    return {label: [(row["length"], 1000 * row[name]) for row in table["rows"]] for label, name in names.items()}


def draw(panels: Sequence[Panel], name: str, path: Path) -> None:
    """Write the picture, a panel beside the other; a line needs two lengths at least."""
    figure = Figure(figsize=(8 if len(panels) == 1 else 11, 3.6), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        _draw_panel(panel, axes)
    with mpl.rc_context({"svg.hashsalt": "spec_engine", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Title": name})


def _draw_panel(panel: Panel, axes: Axes) -> None:
    for line in panel.lines:
        if len(line.points) > 1:
            lengths, costs = zip(*line.points, strict=True)
            axes.plot(lengths, costs, line.style, color=line.colour, label=line.label, marker="o", markersize=3.5)
    if panel.is_wide:
        ticks = sorted({length for line in panel.lines for length, _ in line.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{length // 1024}K" for length in ticks])
    axes.set(xlabel="tokens of document", ylabel="ms a token", ylim=(0, None))
    axes.set_title(panel.title, color=_GREY, fontsize=9)
    axes.xaxis.label.set_color(_GREY)
    axes.yaxis.label.set_color(_GREY)
    axes.tick_params(colors=_GREY)
    axes.grid(color=_GREY, alpha=0.25)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    axes.legend(frameon=False, labelcolor=_GREY, fontsize=9)


def title(report: BenchReport) -> str:
    """What the picture shows; a committed one with another title is out of date."""
    return f"Cost of a token by context length, preset {report.preset}, {report.date}"


def main(files: Sequence[Path] = GPU, picture: Path = PICTURE) -> None:
    """The picture of README from the committed results."""
    report, gpu = BenchReport.load(SPEED), gpu_panel(files)
    panels = [bench_panel(report), *([gpu] if gpu else [])]
    draw(panels, title(report), picture)


if __name__ == "__main__":
    main()
