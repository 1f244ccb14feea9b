"""What is refused when the page starts, before anything is made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spec_engine.chat.alone import alone_in
from spec_engine.ui.__main__ import main


@pytest.mark.parametrize("size", ["inf", "nan", "-1", "much"])
def test_a_size_that_there_is_not_is_refused(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--kept-gb={size}", "--no-browser", "--data-dir", str(tmp_path)])
    assert f"{size} is no size; give a number of GB" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "0", "-1", "http"])
def test_a_port_that_there_is_not_is_refused(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([f"--port={port}", "--no-browser", "--data-dir", str(tmp_path / "data")])
    assert end.value.code == 2
    assert f"{port} is no port; give a number from 1 to 65535" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_missing_document_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing.pdf")
    assert main(["--document", missing, "--no-browser", "--data-dir", str(tmp_path / "data")]) == 2
    assert f"There is no file {missing}" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_another_page_works_with_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(tmp_path):
        assert main(["--no-browser", "--data-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"The data folder {tmp_path} is in use" in said
    assert "--data-dir" in said
    assert not (tmp_path / "conversations.sqlite").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_in_the_temporary_folder(number: signal.Signals, tmp_path: Path) -> None:
    """What was sent to the page goes with the process, however it is ended."""
    held = tmp_path / "tmp"
    held.mkdir()
    command = [sys.executable, "app.py", "--no-browser", "--data-dir", str(tmp_path / "data"), "--port", "7960"]
    own = {**os.environ, "TMPDIR": str(held), "GRADIO_TEMP_DIR": ""}
    project = Path(__file__).parents[2]
    running = subprocess.Popen(command, cwd=project, env=own, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        assert any("Open http" in line for line in running.stdout)
        assert [path.name for path in held.iterdir() if path.name.startswith("spec-engine-uploads-")]
        running.send_signal(number)
        assert running.wait(60) in (0, 130, -number)
    finally:
        running.kill()
    assert [path.name for path in held.iterdir() if path.name.startswith("spec-engine-")] == []
