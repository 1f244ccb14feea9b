"""A data folder is one program's at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from spec_engine.chat.alone import alone_in
from spec_engine.errors import StoreError

HOLD = """
import sys
from pathlib import Path
from spec_engine.chat.alone import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_refused_until_the_first_has_ended_even_if_it_broke(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="--data-dir") as refused, alone_in(folder):
            pass
        assert str(folder) in str(refused.value)
        other.kill()
        other.wait(30)
        with alone_in(folder):
            pass
    with alone_in(folder):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"), alone_in(tmp_path / "file" / "data"):
        pass
    with pytest.raises(StoreError, match="a file, not a folder"), alone_in(tmp_path / "file"):
        pass
