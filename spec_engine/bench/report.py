"""Measurements as tables: for the terminal, for README and docs. The one place in bench that prints."""

from collections.abc import Sequence

from spec_engine.bench.needle import NeedleRow
from spec_engine.bench.peers import ASSISTED_PEER, LOOKUP_PEER, PLAIN_PEER
from spec_engine.bench.quality import QualityRow
from spec_engine.bench.run import PLAIN, BenchReport, BenchRow, speed_up, summed

LABELS = {
    PLAIN_PEER: "transformers `generate`",
    LOOKUP_PEER: "transformers prompt lookup",
    ASSISTED_PEER: "transformers assisted generation",
    PLAIN: "plain (`none`)",
    "lm": "`lm` with retrieval",
    "lm, no retrieval": "`lm` without retrieval",
    "eagle3": "`eagle3` with retrieval",
    "eagle3, no retrieval": "`eagle3` without retrieval",
    "lookup": "`lookup`",
    "blend": "`blend` with retrieval",
    "longspec": "`longspec`",
    "mtp": "`mtp`",
}


_Cells = dict[tuple[str, object], str]


def say(line: str) -> None:
    """Print one line at once."""
    print(line, flush=True)


def speed_table(report: BenchReport) -> str:
    """Markdown: tokens per second, speed-up against plain decoding and mean acceptance length, by length."""
    rows = report.by_length()
    lengths = sorted({row.length for row in rows})
    cells: _Cells = {(row.method, row.length): _speed(row, _plain_of(rows, row)) for row in rows}
    return _table("decoding", [f"{length:,} tokens" for length in lengths], rows, cells, lengths)


def work_table(report: BenchReport) -> str:
    """Markdown: the same by kind of work, all lengths together; "" where only one kind was measured."""
    rows = report.by_work()
    works = list(dict.fromkeys(row.work for row in rows))
    cells: _Cells = {(row.method, row.work): _speed(row, _plain_of(rows, row)) for row in rows}
    return _table("decoding", [str(work) for work in works], rows, cells, works) if len(works) > 1 else ""


def time_table(report: BenchReport) -> str:
    """Markdown: where the time of a step goes, all lengths and kinds of work together."""
    parts = ("pass", "choosing", "drafting", "retrieval", "rest")
    lines = ["| decoding | ms a step | " + " | ".join(parts) + " |", "|---" * (len(parts) + 2) + "|"]
    for row in summed(report.rows, lambda row: row.method):
        if not row.num_steps or not row.decode_s:
            continue
        known = (row.verify_s - row.sample_s, row.sample_s, row.draft_s, row.other_s)
        shares = [seconds / row.decode_s for seconds in (*known, max(0.0, row.decode_s - sum(known)))]
        cells = " | ".join(f"{share:.0%}" for share in shares)
        lines.append(f"| {LABELS.get(row.method, row.method)} | {1000 * row.decode_s / row.num_steps:.2f} | {cells} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _plain_of(rows: Sequence[BenchRow], row: BenchRow) -> BenchRow | None:
    alike = (other for other in rows if (other.length, other.work) == (row.length, row.work))
    return next((other for other in alike if other.method == PLAIN), None)


def _speed(row: BenchRow, plain: BenchRow | None) -> str:
    acceptance = f" · τ {row.mean_acceptance_length:.2f}" if row.num_drafted else ""
    return f"{row.tokens_per_second:.0f} tok/s · {speed_up(row, plain):.2f}×{acceptance}"


def _table(
    corner: str,
    heads: Sequence[str],
    rows: Sequence[BenchRow],
    found: _Cells,
    columns: Sequence[object],
) -> str:
    """One line a method, one column each of `columns`."""
    lines = [f"| {corner} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in dict.fromkeys(row.method for row in rows):
        cells = [found.get((method, column), "") for column in columns]
        lines.append(f"| {LABELS.get(method, method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_caption(report: BenchReport) -> str:
    """One line: where, with what, and whether the texts were the same."""
    answers = [row for row in report.rows if row.method not in (PLAIN, PLAIN_PEER, LOOKUP_PEER, ASSISTED_PEER)]
    identical, total = sum(row.num_identical for row in answers), sum(row.num_answers for row in answers)
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return (
        f"Preset `{report.preset}`, {report.hardware}, {versions}, {report.date}. {identical} of {total} speculative "
        f"answers have the token ids of plain decoding. τ = mean acceptance length, bonus token included."
    )


def needle_table(rows: Sequence[NeedleRow]) -> str:
    """Markdown: accuracy on needle tokens by view and length."""
    lengths, views = sorted({row.length for row in rows}), list(dict.fromkeys(row.view for row in rows))
    lines = [
        "| the draft sees | " + " | ".join(f"{length:,} tokens" for length in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for view in views:
        found = {row.length: row for row in rows if row.view == view}
        lines.append(f"| {view} | " + " | ".join(f"{found[length].accuracy:.3f}" for length in lengths) + " |")
    quoted, asked = (sum(getattr(row, name) for row in rows) for name in ("num_quoted", "num_needles"))
    return "\n".join([*lines, "", f"{quoted // len(views)} of {asked // len(views)} needles were quoted."])


def quality_line(rows: Sequence[QualityRow]) -> str:
    """How often answers are right, as a sentence."""
    lengths = list(dict.fromkeys(row.length for row in rows))
    found = {(row.length, row.kind): row.right_share for row in rows}
    shares = (
        " / ".join(f"{found[length, kind]:.0%}" for kind in ("continue", "phrase", "words")) for length in lengths
    )
    parts = ", ".join(f"{length:,} tokens {share}" for length, share in zip(lengths, shares, strict=True))
    return (
        f"Right answers, of {rows[0].num_questions} each, when a text is to be continued / a passage found by a phrase "
        f"/ a sentence by three words: {parts}."
    )


def quality_table(rows: Sequence[QualityRow]) -> str:
    """Markdown: share of right answers by kind of question and length."""
    lines = ["| length | question | asked | right | verbatim | τ |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.length:,} | {row.kind} | {row.num_questions} | {row.right_share:.0%} | {row.verbatim_share:.0%} | "
            f"{row.mean_acceptance_length:.2f} |"
        )
    return "\n".join(lines)
