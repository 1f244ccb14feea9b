"""The picture of the README."""

from pathlib import Path

from spec_engine.bench.plot import PICTURE, draw, title
from spec_engine.bench.readme import SPEED
from spec_engine.bench.run import BenchPlan, BenchReport, BenchRow


def test_the_committed_picture_belongs_to_the_committed_result() -> None:
    assert title(BenchReport.load(SPEED)) in PICTURE.read_text("utf-8")


def test_a_line_needs_two_lengths(tmp_path: Path) -> None:
    rows = [BenchRow(length, "none", num_tokens=10, decode_s=length / 1000) for length in (1000, 2000)]
    rows.append(BenchRow(1000, "lookup", num_tokens=10, decode_s=0.1))
    report = BenchReport("tiny", "2026-11-24", "a machine", {}, BenchPlan(), tuple(rows))
    draw(report, tmp_path / "costs.svg")
    drawn = (tmp_path / "costs.svg").read_text("utf-8")
    assert "plain decoding" in drawn
    assert "copies from the context" not in drawn
