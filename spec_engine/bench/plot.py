"""Cost against context length as a picture: ``python -m spec_engine.bench.plot``; needs matplotlib (extra ``dev``).

Job: milliseconds a token by length, from the committed result of the speed bench, as ``docs/cost-by-length.svg``.
Non-job: measuring.
"""

from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from spec_engine.bench.peers import PLAIN_PEER
from spec_engine.bench.readme import ROOT, SPEED
from spec_engine.bench.run import PLAIN, BenchReport

PICTURE: Final = ROOT / "docs" / "cost-by-length.svg"
_LINES: Final = {  # method: its name in the picture, colour, style
    PLAIN_PEER: ("transformers generate", "#8a94a6", "--"),
    PLAIN: ("plain decoding", "#b07a1a", "-"),
    "lm, no retrieval": ("small model, no retrieval", "#d2691e", ":"),
    "lm": ("small model, with retrieval", "#4f74e8", "-"),
    "lookup": ("copies from the context", "#159a6b", "-"),
}
_GREY: Final = "#7d8590"  # legible on white and on black


def draw(report: BenchReport, path: Path) -> None:
    """Write the picture; a line for each known way of decoding that was measured at two lengths at least."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for method, (label, colour, style) in _LINES.items():
        rows = [row for row in report.by_length() if row.method == method and row.tokens_per_second]
        if len(rows) > 1:
            costs = [1000 / row.tokens_per_second for row in rows]
            axes.plot([row.length for row in rows], costs, style, color=colour, label=label, marker="o", markersize=3.5)
    axes.set(xlabel="tokens of document", ylabel="ms a token", ylim=(0, None))
    axes.xaxis.label.set_color(_GREY)
    axes.yaxis.label.set_color(_GREY)
    axes.tick_params(colors=_GREY)
    axes.grid(color=_GREY, alpha=0.25)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    axes.legend(frameon=False, labelcolor=_GREY, fontsize=9)
    with mpl.rc_context({"svg.hashsalt": "spec_engine", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Title": title(report)})


def title(report: BenchReport) -> str:
    """What the picture shows; a committed one with another title is out of date."""
    return f"Cost of a token by context length, preset {report.preset}, {report.date}"


if __name__ == "__main__":
    draw(BenchReport.load(SPEED), PICTURE)
