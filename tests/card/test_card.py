"""The GPU's path without a GPU: on a pretended card (`tensors`, `stand_ins`), in processes of their own.

Wrong devices, waits, captures that would fail, and replays that keep a number of the host show here.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

import pytest
import torch

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch looks for a driver"),
    pytest.mark.skipif(not hasattr(torch._C, "_acc"), reason="this torch cannot register a device from Python"),
    pytest.mark.skipif(sys.platform != "linux", reason="torch's library has another name here"),
]
_FOR_A_CARD = (
    "model/test_cuda",
    "model/test_graphs",
    "model/test_sliding_target",
    "test_retrieval",
    "bench/test_replay",
)
SUITE = [f"tests/{name}.py" for name in _FOR_A_CARD]
_MOST_S = 900  # of a script; most take less than a minute
KINDS = {
    "lookup": "builtin",
    "longspec": "builtin-longspec",
    "eagle3": "builtin-eagle3",
    "lm": "builtin-retrieval",
    "blend": "builtin",
}


def run(script: str, *arguments: str, **variables: str) -> str:
    """What `script` of this folder prints."""
    command = [sys.executable, str(HERE / script), *arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
    with TemporaryFile("w+") as printed:  # a file: what was printed is there, too, when time has run out
        child = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=env, cwd=PROJECT)
        try:
            status: object = child.wait(_MOST_S)
        except subprocess.TimeoutExpired:
            status = f"none within {_MOST_S} s"
        finally:
            child.kill()
            child.wait()
        printed.seek(0)
        text = printed.read()
    assert status == 0, f"exit status: {status}\n{text[-3000:]}"
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_answers_on_the_card_are_those_of_plain_decoding(kind: str) -> None:
    """Greedy and drawn, behind a document from disk too; and the host waits once a step, and once a draft."""
    assert "captured passes" in run("answers.py", KINDS[kind], kind)


def test_passes_of_every_architecture_are_captured_and_right() -> None:
    assert run("passes.py", "torch").count("2 captured passes") == 24


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
def test_passes_through_our_kernels_are_captured_and_right() -> None:
    assert run("passes.py", "kernels", TRITON_INTERPRET="1").count("2 captured passes") == 2


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
def test_our_kernels_for_the_likeliest_tokens_are_captured() -> None:
    assert run("likeliest.py", TRITON_INTERPRET="1").split()[-1] == "ok"


def test_captured_passes_find_rows_that_moved() -> None:
    found = run("passes.py", "windows")
    assert found.count("3 captured passes") == 6
    assert "first row 0" not in found


def test_graphs_outlive_others_and_what_waits_is_not_captured() -> None:
    run("captures.py")


def test_what_the_queue_measures_of_passes_runs_on_the_card() -> None:
    run("benches.py")


def test_generate_on_the_card_gives_what_it_gives_without_us() -> None:
    run("generated.py")


def test_answers_of_a_target_on_two_cards_are_those_of_plain_decoding() -> None:
    run("spread.py")


def test_training_runs_on_the_card() -> None:
    run("trained.py")


def test_tests_for_a_card_pass_on_the_pretended_one() -> None:
    """With kernels of torch; those of ours are tested on their own."""
    chosen = "bfloat16 and not 0] or card_once or scores or row"
    assert " passed" in run("suite.py", *SUITE, "-k", chosen)
