"""README.md: its figures are those of the result files, its commands parse, its files exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from spec_engine.bench.readme import FILES, ROOT, update
from spec_engine.cli import build_parser

TEXT = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_generated_blocks_are_up_to_date(file: Path) -> None:
    text = file.read_text("utf-8")
    assert "<!-- " in text
    assert update(text) == text, "Run: python -m spec_engine.bench.readme"


def test_a_changed_figure_would_be_seen() -> None:
    changed = re.sub(r"(\d+) tok/s", "999999 tok/s", TEXT, count=1)
    assert changed != TEXT
    assert update(changed) == TEXT


def test_it_fits_and_shows_existing_files() -> None:
    assert len(TEXT.splitlines()) <= 180
    for target in re.findall(r"!?\[[^\]]*\]\((?!https?:)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:docs|presets|spec_engine)/[\w./-]+)`", TEXT):
        assert (ROOT / path).exists(), path


def commands() -> list[str]:
    """Each ``spec-engine …`` line, optional parts left out, alternatives taken apart."""
    found = []
    written_by_hand = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", TEXT, flags=re.DOTALL)
    for line in written_by_hand.splitlines():
        for part in [line] if line.startswith("    spec-engine") else re.findall(r"`(spec-engine [^`]*)`", line):
            command = re.sub(r"\[[^\]]*\]", "", part).split("  #")[0].split("#")[0]
            words = command.split()
            if "|" in words:  # spec-engine presets | doctor
                found += [f"spec-engine {name}" for name in words[1:] if name != "|"]
            else:
                found.append(command)
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])


def test_every_documented_option_exists() -> None:
    options = {option for part in re.findall(r"\[([^\]]*--[^\]]*)\]", TEXT) for option in re.findall(r"--[\w-]+", part)}
    assert options
    source = (ROOT / "spec_engine" / "cli.py").read_text("utf-8")
    assert all(f'"{option}"' in source for option in options)


def test_an_installed_package_holds_the_presets_and_every_folder() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "spec_engine").rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(setup["packages"]) == found | {"spec_engine.presets"}
    assert setup["package-dir"]["spec_engine.presets"] == "presets"


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"`?make (\w+)", TEXT) if target not in ("and",))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(re.findall(r"'\.\[(\w+)\]'", TEXT)) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL), ids=range(2))
def test_the_library_examples_run(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sample = next((ROOT / "spec_engine" / "ui" / "sample").glob("*.txt"))
    report = tmp_path / "report.txt"
    report.write_text(sample.read_text("utf-8")[:3000], "utf-8")
    printed: list[object] = []
    exec(code.replace('"report.pdf"', repr(str(report))), {"print": lambda *values, **_: printed.extend(values)})
    assert any(len(str(value)) > 1 for value in printed)
