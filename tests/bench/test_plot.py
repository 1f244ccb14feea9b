"""The picture of the README."""

from pathlib import Path

from spec_engine.bench.against import AgainstRow, limit_json
from spec_engine.bench.plot import GPU, PICTURE, bench_panel, draw, gpu_panel, main, title
from spec_engine.bench.readme import SPEED
from spec_engine.bench.run import BenchPlan, BenchReport, BenchRow
from spec_engine.bench.shaped import ReplayRow, replay_json


def test_the_committed_picture_belongs_to_the_committed_result() -> None:
    assert title(BenchReport.load(SPEED)) in PICTURE.read_text("utf-8")
    has_gpu = gpu_panel(GPU) is not None
    assert ("acceptance replayed" in PICTURE.read_text("utf-8")) == has_gpu, "Run: python -m spec_engine.bench.plot"


def test_a_line_needs_two_lengths(tmp_path: Path) -> None:
    rows = [BenchRow(length, "none", num_tokens=10, decode_s=length / 1000) for length in (1000, 2000)]
    rows.append(BenchRow(1000, "lookup", num_tokens=10, decode_s=0.1))
    report = BenchReport("tiny", "2026-11-24", "a machine", {}, BenchPlan(), tuple(rows))
    draw([bench_panel(report)], "costs", tmp_path / "costs.svg")
    drawn = (tmp_path / "costs.svg").read_text("utf-8")
    assert "plain decoding" in drawn
    assert "copies from the context" not in drawn


def test_results_of_a_gpu_stand_beside_those_of_the_cpu(tmp_path: Path) -> None:
    """Files as the two benches write them; plain decoding is drawn once, from the first file that has it."""
    lengths = (2048, 16384, 131072)
    plain = [AgainstRow(length, 16, 0.006, 0.03, 16, 0.01 if length > 2048 else None) for length in lengths]
    rows = [ReplayRow(length, 3.8, 3.8, 0.009, 0.003, 0.002, 0.006, 0.0, 256, 256, 0) for length in lengths]
    files = tmp_path / "limit.json", tmp_path / "replay.json"
    files[0].write_text(limit_json("Llama-3.1-8B, torch.bfloat16, a card, torch 2. More.", [], plain), "utf-8")
    files[1].write_text(replay_json(rows, "Sizes of a preset."), "utf-8")
    panel = gpu_panel(files)
    assert panel is not None
    assert panel.title == "Llama-3.1-8B, torch.bfloat16, a card, torch 2"
    costs = {line.label: line.points for line in panel.lines}
    assert costs["plain decoding"] == [(length, 6.0) for length in lengths]
    assert costs["transformers, static cache, compiled"] == [(16384, 10.0), (131072, 10.0)]
    assert costs["drafted, acceptance replayed"] == [(length, 3.0) for length in lengths]
    main(files, tmp_path / "costs.svg")
    drawn = (tmp_path / "costs.svg").read_text("utf-8")
    for text in ("small model, with retrieval", "acceptance replayed", "128K", "a card"):
        assert text in drawn
    assert gpu_panel((tmp_path / "absent.json",)) is None
