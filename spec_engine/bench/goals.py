"""Which of the goals on a GPU the result files in a folder meet: ``python -m spec_engine.bench.goals FOLDER [FILE …]``.

Job: the goals, the figures beside them, one line each. Non-job: measuring; judging files that are not there.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_Row = Mapping[str, Any]
_Table = Mapping[str, Any]
_LONG: Final = 16_384  # tokens, of most goals
_LONGEST: Final = 131_072
_SMALL_CARD: Final = 80e9  # bytes


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure in words, what it came to, and whether that is enough; None where there is no goal for it."""

    text: str
    measured: str
    is_met: bool | None

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: "no goal"}[self.is_met]
        return f"{verdict:8} {self.text}: {self.measured}"


def limit_goals(table: _Table) -> list[Goal]:
    """Of a file that ``bench --limit`` wrote."""
    found = []
    passes: Sequence[_Row] = table["passes"]
    one = {row["length"]: row["pass_s"] for row in passes if row["num_rows"] == 1}
    for row in passes:
        length, number = row["length"], row["num_rows"]
        if number == 1:
            text = f"one row at {length:,} tokens, of the machine's limit (goal: 85 %)"
            found.append(Goal(text, f"{row['share']:.0%}, {1000 * row['pass_s']:.2f} ms", row["share"] >= 0.85))
        elif number <= 64 and length in one:
            ratio = row["pass_s"] / one[length]
            is_met = ratio <= 1.15 if (number, length) == (64, _LONG) else None
            goal = " (goal: 1.15)" if is_met is not None else ""
            found.append(
                Goal(f"{number} rows at {length:,} tokens, in passes of one row{goal}", f"{ratio:.2f}", is_met)
            )
    for row in table.get("retrieval", ()):
        text = f"looking where the target looks at {row['length']:,} tokens, of a step (goal: 0.5 %)"
        found.append(Goal(text, f"{row['share']:.2%}", row["share"] <= 0.005))
    for row in table.get("reading", ()):
        is_met = row["share"] >= 0.6 if row["length"] == _LONG else None
        text = f"reading {row['length']:,} tokens, of the matrix rate{'' if is_met is None else ' (goal: 60 %)'}"
        found.append(Goal(text, f"{row['share']:.0%}, {row['length'] / row['seconds']:,.0f} tokens/s", is_met))
    for row in table.get("modules", ()):
        text = f"one row at {row['length']:,} tokens through transformers' modules"
        found.append(Goal(text, f"{1000 * row['pass_s']:.2f} ms", None))
    for row in table.get("plain", ()):
        measured = f"{row['ratio']:.1f} x"
        if row.get("compiled_s"):
            measured += f", compiled {row['compiled_s'] / row['ours_s']:.1f} x"
        found.append(Goal(f"plain decoding at {row['length']:,} tokens against transformers", measured, None))
    return [*found, *_memory(table)]


def _memory(table: _Table) -> list[Goal]:
    """Of 131,072 tokens on a small card, and what failed."""
    found = [Goal(f"{part} was measured", reason, False) for part, reason in table.get("failed", {}).items()]
    peak, longest = table.get("peak_bytes", 0), max((row["length"] for row in table["passes"]), default=0)
    if peak:
        is_met = peak < _SMALL_CARD if longest >= _LONGEST else None
        found.append(Goal(f"memory for {longest:,} tokens (goal: 80 GB)", f"{peak / 1e9:.1f} GB", is_met))
    return found


def replay_goals(table: _Table) -> list[Goal]:
    """Of a file that ``bench --replay`` wrote: answers against plain ones, and drafting by length."""
    rows: Sequence[_Row] = table["rows"]
    found = []
    for row in rows:
        text = f"answers at {row['length']:,} tokens with {row['given_mean']:.2f} tokens a step, against plain ones"
        is_met = None
        if "eagle3" in table["where"] and row["given_mean"] == 3.8 and row["length"] == _LONG:
            text, is_met = f"{text} (goal: 2.8 x)", row["speedup"] >= 2.8
        captured = row.get("num_captured", 0)
        meanwhile = f", though {captured} passes were captured meanwhile" if captured else ""
        found.append(Goal(text, f"{row['speedup']:.2f} x{meanwhile}", is_met))
    if len(rows) > 1 and len({row["given_mean"] for row in rows}) == 1:
        first, last = rows[0], rows[-1]
        ratio = last["draft_s"] / first["draft_s"]
        is_met = ratio <= 1.05 if last["length"] >= _LONGEST else None
        text = f"drafting at {last['length']:,} tokens, in times of {first['length']:,} (goal: 1.05 at {_LONGEST:,})"
        found.append(Goal(text, f"{ratio:.2f}, {1000 * last['draft_s']:.2f} ms a step", is_met))
    return found


def kernel_goals(table: _Table) -> list[Goal]:
    """Of a file that ``bench --kernels`` wrote: the fastest backend by heads, rows and keys; the best cut of ours;
    the fastest products."""
    rows: Sequence[_Row] = table["kernels"]
    found = []
    for key in dict.fromkeys((row["heads"], row["num_keys"], row["num_rows"]) for row in rows):
        best = min(
            (row for row in rows if (row["heads"], row["num_keys"], row["num_rows"]) == key), key=lambda x: x["seconds"]
        )
        text = f"fastest for {key[0]}, {key[1]:,} keys, {key[2]} rows"
        found.append(Goal(text, f"{best['backend']}, {1000 * best['seconds']:.3f} ms, {best['share']:.0%}", None))
    if table["tunings"]:
        best_cut = min(table["tunings"], key=lambda row: float(row["ratio"]))
        fields = {name: value for name, value in best_cut.items() if name not in ("milliseconds", "ratio")}
        found.append(Goal("best cut of our kernels, in the default's time", f"{best_cut['ratio']}: {fields}", None))
    slowest_first = sorted(table["products"], key=lambda row: -float(row["seconds"]))
    fastest = {row["title"]: f"{row['cut']}, {row['share']:.0%}" for row in slowest_first}
    return found + [Goal(f"fastest product, {title}", told, None) for title, told in fastest.items()]


_KINDS: Final[dict[str, Callable[[_Table], list[Goal]]]] = {
    "passes": limit_goals,
    "acceptance": replay_goals,
    "kernels": kernel_goals,
}


def goals_of(file: Path) -> list[Goal]:
    """Those that a result file says something about; a file that is missing is a goal that was missed."""
    if not file.is_file():
        return [Goal(file.name, "was not written", False)]
    table = json.loads(file.read_text("utf-8"))
    kind = next((kind for kind in _KINDS if isinstance(table, dict) and kind in table), None)
    return _KINDS[kind](table) if kind else []


def main(folder: str, names: Sequence[str]) -> None:
    """Write a line for every goal."""
    for name in names or sorted(path.name for path in Path(folder).glob("*.json")):
        lines = [f"-- {name}", *(str(goal) for goal in goals_of(Path(folder) / name))]
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
