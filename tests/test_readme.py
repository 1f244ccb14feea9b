"""README.md: its figures are those of the result files, its commands parse, its files exist."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from spec_engine.bench.readme import FILES, ROOT, update
from spec_engine.cli import build_parser
from spec_engine.drafters.none import NoDrafter
from spec_engine.engine import Engine, EngineConfig, Request, StopRules
from spec_engine.model.target import Target
from spec_engine.model.tokenizer import Tokenizer
from spec_engine.sampling import SamplingParams
from tests.fakes import byte_tokenizer, tiny_lm

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
    source = "".join(
        (ROOT / "spec_engine" / name).read_text("utf-8") for name in ("cli.py", "cli_bench.py", "cli_options.py")
    )
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
    assert "'.[dev]'" in next(part for part in TEXT.split("\n\n") if "--drafter repeat:build" in part)


def test_an_installation_says_that_it_takes_its_time() -> None:
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    before = [lines[number - 1] for number, line in enumerate(lines) if "pip install --quiet" in line]
    assert len(before) == 2
    assert all(line.startswith('\t@echo "Installing') and "minute" in line for line in before)


PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
EXAMPLES = [code for code in PYTHON if not code.startswith("# repeat.py")]


@pytest.mark.slow
def test_the_drafter_that_is_shown_passes_the_contract_and_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = set(PYTHON) - set(EXAMPLES)
    (tmp_path / "repeat.py").write_text(code, "utf-8")
    command = [sys.executable, "-m", "pytest", "tests/test_drafter_contract.py", "--drafter", "repeat:build"]
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= 20
    monkeypatch.syspath_prepend(str(tmp_path))
    drafter = importlib.import_module("repeat").Repeat(260)
    target, tokenizer = Target(tiny_lm(), 256, 64), Tokenizer(byte_tokenizer())
    request = Request((5, 6, 7), SamplingParams(), StopRules(60))
    texts = [
        list(Engine(target, made, tokenizer, EngineConfig(max_nodes=3, adaptive=False)).generate(request))[-1]
        for made in (drafter, NoDrafter(260))
    ]
    assert texts[0].token_ids == texts[1].token_ids
    assert texts[0].metrics.num_draft_tokens > 0


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_library_examples_run(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sample = next((ROOT / "spec_engine" / "ui" / "sample").glob("*.txt"))
    report = tmp_path / "report.txt"
    report.write_text(sample.read_text("utf-8")[:3000], "utf-8")
    printed: list[object] = []
    exec(code.replace('"report.pdf"', repr(str(report))), {"print": lambda *values, **_: printed.extend(values)})
    assert any(len(str(value)) > 1 for value in printed)
    if "generate_with" in code:
        (answer,) = printed
        assert "comparative hearings" in str(answer)
        assert str(answer).strip() in sample.read_text("utf-8")
