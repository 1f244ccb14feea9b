"""The scripts of the GPU queue, with tiny sizes on the CPU: time on a GPU is not spent on what could fail here."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spec_engine.bench.goals import Goal, goals_of
from tests import zygote
from tests.train.conftest import document

QUEUE = zygote.ROOT / "docs" / "gpu-queue"
SCRIPTS = {  # script: the result files that it promises
    "0-goals": ["limit-llama-8b", "replay-eagle3", "drafting-eagle3"],
    "b-llama-8b": ["limit-llama-8b", "limit-llama-8b-compiled", "limit-llama-8b-no-graphs", "limit-qwen3-32b"],
    "c-drafting": ["replay-eagle3", "drafting-eagle3", "drafting-longspec", "drafting-lm-1b", "replay-vicuna"],
    "d-train": ["quality-builtin-gpu"],
    "e-kernels": ["kernels"],
    "f-builtin": ["bench-builtin-gpu"],
    "g-gemma4": ["limit-gemma4-e4b", "replay-gemma4-e4b", "drafting-gemma4-e4b", "replay-gemma4-12b"],
}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What takes the interpreter's place."""
    folder = tmp_path_factory.mktemp("queue")
    address = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, zygote.__file__, str(address)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        for _ in range(600):
            if address.exists():
                break
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
        yield zygote.client(folder / "python", address)
    finally:
        server.terminate()
        server.wait()


def run(script: str, python: Path | str, out: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "REHEARSAL": "1", "PYTHON": str(python), "OUT": str(out), "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        ["bash", str(QUEUE / f"{script}.sh")], env=env, capture_output=True, text=True, timeout=240, check=False
    )


@needs_bash
@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_to_its_end_and_writes_what_it_promises(script: str, python: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": document(seed).text}) + "\n" for seed in range(60)), "utf-8")
    out = tmp_path / "out"
    more = {"CORPUS": str(corpus), "RUN": str(tmp_path / "run"), "PARTS": "target draft heads"}
    done = run(script, python, out, **(more if script == "d-train" else {}))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "all parts done" in done.stdout
    for name in SCRIPTS[script]:
        file = out / f"{name}.json"
        assert json.loads(file.read_text("utf-8"))
        assert not [goal for goal in goals_of(file) if "was not written" in goal.measured]
    if script == "d-train":
        weights = {path.stem for path in out.glob("*.safetensors")}
        assert weights == {f"builtin-{part}" for part in ("target", "draft", "longspec", "eagle3")}


def test_all_parts_of_the_first_script_have_their_time() -> None:
    """Within the seconds of all together, so that none is cut short for those before it."""
    parts = re.findall(r"^(?:tests|bench) \S+ (\d+) ", (QUEUE / "0-goals.sh").read_text("utf-8"), re.MULTILINE)
    limit = re.search(r"^LIMIT=\$\{LIMIT:-(\d+)\}", (QUEUE / "common.sh").read_text("utf-8"), re.MULTILINE)
    assert limit is not None
    assert len(parts) == 4
    assert sum(map(int, parts)) <= int(limit[1]) < 600


@needs_bash
@pytest.mark.slow
def test_what_is_tested_on_a_card_is_found(python: Path, tmp_path: Path) -> None:
    done = run("a-correctness", python, tmp_path, LIMIT="200")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.stdout.count("status 0") == 3


@needs_bash
def test_a_failing_part_does_not_stop_the_others_and_is_told(tmp_path: Path) -> None:
    """With an interpreter that refuses every command of this package."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nif [ "$1" = - ]; then exit 0; fi\necho "no such thing"\nexit 3\n', "utf-8")
    fake.chmod(0o755)
    done = run("c-drafting", fake, tmp_path / "out")
    assert done.returncode != 0
    assert done.stdout.count("status 3") == 5
    assert "no such thing" in (tmp_path / "out" / "c-drafting.log").read_text("utf-8")
    late = run("c-drafting", fake, tmp_path / "out", LIMIT="5")
    assert late.stdout.count("no time left") == 5


@needs_bash
@pytest.mark.slow
def test_a_part_whose_time_is_up_may_say_what_it_found(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    lines = (
        "#!/bin/bash",
        'if [ "$1" = - ] || [ "$2" = spec_engine.bench.goals ]; then exit 0; fi',
        "trap 'echo so far; exit 3' INT",
        "sleep 60 > /dev/null 2>&1 & wait",  # it outlives its parent, and would hold its output open
    )
    fake.write_text("\n".join(lines) + "\n", "utf-8")
    fake.chmod(0o755)
    done = run("e-kernels", fake, tmp_path / "out", LIMIT="11")
    assert "so far" in done.stdout
    assert "FAILED: kernels" in done.stdout


@needs_bash
def test_what_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n', "utf-8")
    bare.chmod(0o755)
    done = run("e-kernels", bare, tmp_path / "out")
    assert done.returncode == 2
    assert "lacks: torch, transformers" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_goals_are_judged_from_files_as_the_benches_write_them(tmp_path: Path) -> None:
    def told(table: object) -> list[Goal]:
        (tmp_path / "made.json").write_text(json.dumps(table), "utf-8")
        return goals_of(tmp_path / "made.json")

    def verdicts(table: object) -> list[bool | None]:
        return [goal.is_met for goal in told(table)]

    passes = [
        {"length": length, "num_rows": rows, "pass_s": seconds, "share": share}
        for length, rows, seconds, share in (
            (16384, 1, 0.005, 0.9), (16384, 64, 0.0057, 0.8), (131072, 1, 0.01, 0.84), (131072, 64, 0.02, 0.5)
        )
    ]  # fmt: skip
    assert verdicts({"passes": passes}) == [True, True, False, None]
    looks = [{"length": 16384, "share": 0.004}, {"length": 131072, "share": 0.006}]
    reading = [{"length": 16384, "share": 0.59, "seconds": 1.0}, {"length": 2048, "share": 0.1, "seconds": 1.0}]
    rest = {"passes": passes[3:], "retrieval": looks, "reading": reading, "peak_bytes": 79e9}
    assert verdicts(rest) == [True, False, False, None, True]
    assert verdicts({"passes": [], "failed": {"generate": "out of memory"}}) == [False]
    eagle = {"length": 16384, "given_mean": 3.8, "speedup": 2.81, "draft_s": 0.001}
    longest = {**eagle, "length": 131072, "speedup": 1.0, "draft_s": 0.0011}
    replayed = {"acceptance": "replayed", "where": "Sizes of llama31-8b-eagle3"}
    assert verdicts({**replayed, "rows": [eagle, longest]}) == [True, None, False]
    assert verdicts({**replayed, "where": "Sizes of vicuna", "rows": [eagle]}) == [None]
    late = told({**replayed, "rows": [{**eagle, "num_captured": 2}]})
    assert late[0].measured == "2.81 x, though 2 passes were captured meanwhile"
    cut = {"ratio": 0.9, "keys": [32, 32]}
    product = {"title": "normed 64 x 96, 1 rows", "cut": "cuBLAS", "seconds": 2, "share": 0.7}
    products = [product, {**product, "cut": "Cut(8)", "seconds": 1, "share": 0.9}]
    kernels = told({"where": "", "kernels": [], "tunings": [cut], "products": products})
    assert kernels[0].measured.startswith("0.9")
    assert [goal.measured for goal in kernels[1:]] == ["Cut(8), 90%"]
    assert [goal.is_met for goal in goals_of(tmp_path / "absent.json")] == [False]
