"""Scanned documents on the page: what was recognised once is not recognised again."""

from pathlib import Path

import pytest

from spec_engine.chat.history import History
from spec_engine.ui.state import Wanted
from spec_engine.ui.workspace import Workspace
from tests.documents.test_kept_scans import DATA, OTHER_DATA, WIDTHS, Readings, readings
from tests.ui.test_workspace import Loader, done, ready

__all__ = ["readings"]  # a fixture


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.pdf"
    path.write_bytes(DATA)
    return path


def test_a_scan_is_recognised_once(scan: Path, readings: Readings, tmp_path: Path) -> None:
    workspace = ready(scan, Loader(), History(tmp_path / "data"))
    assert readings.taken() == list(WIDTHS)
    done(workspace.ask("What?"))
    conversation = workspace.talk.conversation
    assert conversation is not None
    workspace.open_documents([scan])
    workspace.open_conversation(conversation)
    assert readings.taken() == []
    other = tmp_path / "other.pdf"
    other.write_bytes(OTHER_DATA)
    done(workspace.start_adding([other]))
    assert readings.taken() == [750]
    workspace.close()

    again = Workspace(Loader(), History(tmp_path / "data"))
    again.open_conversation(conversation)
    assert again.opened is not None
    assert "wide 800" in again.opened.whole.text
    assert readings.taken() == []
    again.delete_conversation()
    done(again.start_opening(Wanted((scan, other))))
    assert readings.taken() == list(WIDTHS)
    again.close()


def test_without_a_folder_it_is_kept_until_the_end(scan: Path, readings: Readings) -> None:
    for _ in range(2):
        workspace = ready(scan, Loader())
        workspace.open_documents([scan])
        assert readings.taken() == list(WIDTHS)
        workspace.close()
