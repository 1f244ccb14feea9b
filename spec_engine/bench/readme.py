"""The generated parts of README.md and of the model card: result tables, preset table, file tree.

Job: make each block from the committed result files, the presets and the modules' own first lines.
``python -m spec_engine.bench.readme`` writes them between their markers; a test says when they are out of date.
Non-job: measuring.
"""

import ast
import json
import re
from pathlib import Path

from spec_engine.bench.quality import QualityRow
from spec_engine.bench.report import quality_line, quality_table, speed_caption, speed_table
from spec_engine.bench.run import BenchReport
from spec_engine.config import MODEL_DRAFTERS, load_preset, preset_names

ROOT = Path(__file__).resolve().parent.parent.parent
SPEED = ROOT / "docs" / "results" / "bench-builtin.json"
QUALITY = ROOT / "docs" / "results" / "quality-builtin.json"

_CORE = ("engine", "answer", "tree", "verify", "sampling", "retrieval", "controller", "dropin")
FILES = (ROOT / "README.md", ROOT / "presets" / "README.md", ROOT / "presets" / "builtin" / "README.md")


def blocks() -> dict[str, str]:
    """Text of each block by the name of its marker."""
    report = BenchReport.load(SPEED)
    quality = json.loads(QUALITY.read_text("utf-8"))
    names = QualityRow.__dataclass_fields__
    rows = [QualityRow(**{key: value for key, value in row.items() if key in names}) for row in quality]
    results = [speed_table(report), speed_caption(report), quality_line(rows)]
    return {
        "results": "\n\n".join(results),
        "quality": quality_table(rows),
        "presets": _presets(),
        "tree": _tree(),
    }


def update(text: str) -> str:
    """A file's text with every block made anew. Raises `KeyError` for a marker without a block."""
    made = blocks()

    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"<!-- {name} -->\n{made[name]}\n<!-- /{name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", fill, text, flags=re.DOTALL)


def _presets() -> str:
    lines = ["| preset | target | drafts | context | reliable to | memory |", "|---|---|---|---|---|---|"]
    for name in preset_names():
        preset = load_preset(name)
        model = f"`{preset.draft.model.id}`" if preset.draft.model else ""
        kind = preset.draft.kind
        draft = model if kind in MODEL_DRAFTERS else " or ".join(filter(None, (f"`{kind}`", model)))
        memory = f"{preset.memory.total:.0f} GB" if preset.memory.total else "any machine"
        suffix = "" if preset.target.quantization == "none" else f", {preset.target.quantization}"
        reliable = f"{preset.reliable_length:,}" if preset.reliable_length else "not measured"
        lines.append(
            f"| `{name}` | `{preset.target.id}`{suffix} | {draft} | {preset.context_length:,} | {reliable} | {memory} |"
        )
    return "\n".join(lines)


def _tree() -> str:
    """Folders and the files that decode, with the first line of their docstring; the names of the other files."""
    lines, others = ["```"], []
    entries = sorted((ROOT / "spec_engine").iterdir(), key=lambda path: (path.is_dir(), path.name))
    for path in entries:
        module = path / "__init__.py" if path.is_dir() else path
        if module.suffix != ".py" or path.name.startswith("__") or not module.is_file():
            continue
        if path.is_file() and path.stem not in _CORE:
            others.append(path.name)
            continue
        doc = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
        first = doc.splitlines()[0].rstrip(".") if doc else ""
        lines.append(f"{path.name + ('/' if path.is_dir() else ''):14} {first}")
    return "\n".join([*lines, f"{'and':14} {', '.join(others)}", "```"])


if __name__ == "__main__":
    for file in FILES:
        file.write_text(update(file.read_text("utf-8")), "utf-8")
