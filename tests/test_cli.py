"""The command line as a user calls it, on the built-in models and the bundled report."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spec_engine import cli
from spec_engine.bench import run
from spec_engine.bench.tasks import bundled_text, read_texts
from spec_engine.cli import main
from spec_engine.config import load_preset, preset_names
from spec_engine.engine import Engine
from spec_engine.events import Finished

REPORT = read_texts(bundled_text())[0]
QUESTION = "What does the document say about spectrum?"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "report.txt"
    path.write_text(REPORT[:4000], "utf-8")
    return path


def ask(document: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    status = main(["ask", "--document", str(document), "--question", QUESTION, "--max-tokens", "40", "--json", *more])
    assert status == 0
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


def test_ask_prints_one_json_object_with_everything_in_it(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(document, capsys)
    assert set(answer) == {"text", "num_prompt_tokens", "token_ids", "finish_reason", "metrics", "model_path"}
    metrics = answer["metrics"]
    assert isinstance(metrics, dict)
    expected = """tokens_per_second time_to_first_token_s prefill_s draft_s verify_s num_prompt_tokens num_reused_tokens
        num_spec_steps num_draft_tokens num_accepted_draft_tokens mean_acceptance_length""".split()
    assert set(expected) <= set(metrics)
    assert metrics["num_prompt_tokens"] == answer["num_prompt_tokens"]
    assert metrics["num_generated_tokens"] == len(answer["token_ids"])
    assert answer["finish_reason"] in ("stop", "length")
    assert Path(str(answer["model_path"])).is_dir()
    with_ids = ask(document, capsys, "--prompt-ids")
    assert len(with_ids["prompt_token_ids"]) == answer["num_prompt_tokens"]  # type: ignore[arg-type]


def test_verify_decodes_plainly_too_and_compares(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(document, capsys, "--verify")
    found = answer["verify"]
    assert isinstance(found, dict)
    assert found["identical"] is True
    assert found["difference"] is None
    assert found["num_compared"] == len(answer["token_ids"])  # type: ignore[arg-type]
    assert main(["ask", "--document", str(document), "--question", QUESTION, "--max-tokens", "12", "--verify"]) == 0
    assert "Identical to plain decoding: 12 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("sampling", [[], ["--temperature", "0.8", "--seed", "3"]])
def test_every_drafter_gives_the_same_tokens(
    document: Path, capsys: pytest.CaptureFixture[str], sampling: list[str]
) -> None:
    answers = [ask(document, capsys, "--drafter", kind, *sampling) for kind in ("none", "lm", "lookup", "blend")]
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 1  # type: ignore[arg-type]
    assert len({str(answer["text"]) for answer in answers}) == 1


def test_ask_streams_the_text_and_sums_up(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ask(document, capsys)["text"]
    assert main(["ask", "--document", str(document), "--question", QUESTION, "--max-tokens", "40"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(text).strip()
    assert "tokens/s" in shown.err


def test_read_shows_blocks_tokens_and_problems(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(document), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_tokens"] > 500
    assert found["problems"] == []
    assert all(set(block) == {"anchor", "text"} for block in found["blocks"])
    assert main(["read", str(document)]) == 0
    shown = capsys.readouterr()
    assert REPORT[:200] in shown.out
    assert "tokens" in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--question", " "], "question"),
        (["--question", "?", "--max-tokens", "0"], "max_tokens"),
        (["--question", "?", "--temperature", "-4"], "temperature"),
        (["--question", "?", "--seed", "-4"], "seed is -4, it must be at least 0"),
        (["--question", "?", "--prompt-ids"], "--json"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(
    arguments: list[str],
    words: str,
    document: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = list[object]()
    monkeypatch.setattr(cli, "load_engine", lambda *given, **named: loaded.append(given))
    assert main(["ask", "--document", str(document), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert loaded == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["read", "absent.pdf"], "absent.pdf"),
        (["ask", "--question", "?", "--document", "absent.txt"], "absent.txt"),
        (["ask", "--question", "?", "--preset", "buildin"], "builtin"),
        (["ask", "--question", " ", "--max-tokens", "3"], "question"),
        (["ask", "--question", "?", "--max-tokens", "0"], "max_tokens"),
        (["ask", "--question", "?", "--temperature", "1e-39"], "temperature"),
        (["bench", "--lengths", "many"], "lengths"),
        (["bench", "--lengths", "1K,-5"], "lengths"),
        (["bench", "--drafters", "lm"], "none"),
        (["bench", "--work", "quote,poems"], "poems"),
        (["bench", "--looks", "--turns", "2"], "--turns"),
        (["bench", "--ask", "?", "--questions", "4", "--work", "free"], "--work"),
        (["train", "all", "--corpus", "absent.jsonl"], "absent.jsonl"),
        (["presets", "vicuna"], "vicuna-7b-16k"),
    ],
)
def test_wrong_input_ends_with_2_and_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("spec-engine: ")]
    assert len(lines) == 1
    assert words in lines[0]


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and load_preset(name).title in shown for name in preset_names())
    entries = [line for line in shown.splitlines() if line and not line.startswith((" ", "Memory"))]
    assert len(entries) == len(preset_names())
    assert all(re.fullmatch(r"\S+ +(\d+ MB|\d+ GB|\d\.\d GB)  (fits|too large|) *  \S.*", line) for line in entries)
    assert len({re.search(r" [MG]B  ", line).end() for line in entries}) == 1  # type: ignore[union-attr]
    assert "Free on this machine" in shown.splitlines()[-1]
    assert main(["presets", "builtin"]) == 0
    assert "0.0" not in capsys.readouterr().out
    assert main(["presets", "builtin", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "builtin"


def test_doctor_says_what_runs_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"device", "torch", "transformers", "attention", "attention reason", "memory"} <= set(found)
    assert "present" in found["built-in models"]
    if found["device"].startswith("CPU"):
        assert "products head by head" in found["attention in bfloat16"]
    assert main(["doctor"]) == 0
    assert "attention" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[Engine, int]]()  # by whom, and for how many tokens
    answer = run._answer

    def noted(engine: Engine, case: run.BenchCase, max_tokens: int) -> Finished:
        asked.append((engine, max_tokens))
        return answer(engine, case, max_tokens)

    monkeypatch.setattr(run, "_answer", noted)
    out = tmp_path / "bench.json"
    size = ["--lengths", "512", "--texts", "1", "--questions", "4"]
    assert main(["bench", *size, "--max-tokens", "24", "--out", str(out)]) == 0
    assert "| plain (`none`) |" in capsys.readouterr().out
    rows = json.loads(out.read_text("utf-8"))["rows"]
    ours, theirs = {"none", "lookup", "lm", "lm, no retrieval", "blend"}, {"generate", "prompt lookup", "assisted"}
    methods = ours | {f"transformers {mode}" for mode in theirs}
    assert {row["method"] for row in rows} == methods
    assert all(row["num_identical"] == row["num_answers"] == 1 for row in rows)
    num_methods = len(ours)
    behind = zip(asked[num_methods:], asked[num_methods + 1 :], strict=False)
    reads = [(before, engine) for before, (engine, max_tokens) in behind if max_tokens > 1]
    assert len(reads) == 4 * num_methods
    assert all(before == (engine, 1) for before, engine in reads)  # each reads a prompt before it is timed
    free = ["--work", "free", "--turns", "2", "--drafters", "none,lookup", "--max-tokens", "8", "--out", str(out)]
    assert main(["bench", *size, *free]) == 0
    assert "| `lookup` |" in capsys.readouterr().out
    report = run.BenchReport.load(out)
    assert report.plan.works == ("free",)
    assert [(row.method, row.work, row.num_answers) for row in report.rows if row.method in ours] == [
        ("none", "free", 2),
        ("lookup", "free", 2),
    ]
    assert main(["bench", "--quality", *size, "--json"]) == 0
    assert {row["kind"] for row in json.loads(capsys.readouterr().out)} == {"continue", "phrase", "words"}


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spec_engine", "presets"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "builtin" in done.stdout


@pytest.mark.parametrize(
    ("part", "options", "words"),
    [
        ("eagle3", ["--window", "64"], "--window is for 'train longspec'"),
        ("longspec", ["--draft-vocab", "64"], "--draft-vocab is for 'train eagle3'"),
        ("target", ["--no-noise"], "--no-noise is for 'train longspec'"),
        ("eagle3", ["--layers", "3"], "--layers is for 'train lm'"),
        ("lm", ["--init", "somewhere"], "Leave --init out"),
    ],
)
def test_training_options_of_another_part_are_refused(
    part: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", part, "--corpus", "none.txt", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--parts", "passes"], "--parts is not read where answers are timed, but with --limit"),
        (["--kernels", "--preset", "nosuch"], "--preset is not read with --kernels"),
        (
            ["--kernels", "--ask", "What?"],
            "--ask is not read with --kernels, but with a run that times answers or --traces. Leave it out.",
        ),
        (["--quality", "--drafters", "lm"], "--drafters is not read with --quality, but with a run that times answers"),
        (["--reopen", "--questions", "2"], "--questions is not read with --reopen"),
        (["--limit", "--texts", "2"], "--texts is not read with --limit"),
        (["--limit", "--shape", "tiny", "--preset", "nosuch"], "a --shape, or a --preset or --model, not both"),
        (["--limit", "--dtype", "float16"], "--dtype is read with the --shape of --limit"),
        (["--ask", "What?", "--questions", "9"], "--questions is not read with --ask"),
        (["--traces", "here.jsonl", "--json"], "--json is not read with --traces"),
        (["--replay", "2", "--data", "here"], "--data is not read with --replay"),
        (["--looks", "--dtype", "float16"], "--dtype is not read with --looks"),
    ],
)
def test_options_that_a_measurement_would_not_read_are_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options]) == 2
    assert says in capsys.readouterr().err


def test_the_collector_passes_over_what_was_imported() -> None:
    """Looking through all of torch and transformers takes a quarter of a second, in the middle of an answer."""
    code = "import gc, sys; from spec_engine.cli import main; sys.argv[1:] = ['presets', 'builtin']; main(); "
    shown = subprocess.run(
        [sys.executable, "-c", code + "print(gc.get_freeze_count())"], capture_output=True, text=True, check=True
    )
    assert int(shown.stdout.splitlines()[-1]) > 100_000
    assert "leaked" not in shown.stderr


def test_an_interruption_while_modules_are_loaded_ends_without_a_word() -> None:
    code = """
import os, signal, sys
class Interrupts:
    def find_spec(name, *more):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts)
from spec_engine.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT
    assert ended.stdout + ended.stderr == ""


def test_a_question_that_is_no_text_is_refused(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--document", str(document), "--question", "What of \udcff?"]) == 2
    assert "bytes that are no text" in capsys.readouterr().err
