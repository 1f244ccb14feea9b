"""Options of the test command, and what holds for all tests."""

import gc
import os

import pytest
import torch

from spec_engine.drafters.guarded import GuardedSession
from spec_engine.frozen import freeze_imports


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--drafter MODULE:BUILD`` runs the drafter contract over a drafter that is not part of the project."""
    parser.addoption("--drafter", metavar="MODULE:BUILD", help="run tests/test_drafter_contract.py over this drafter")


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side take one thread each, the programs that they start too."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    gc.disable()  # what is imported stays


def pytest_collection_finish() -> None:
    """The collector passes over what was imported, as in the app, and comes less often: it took a fifth of the time."""
    freeze_imports()
    gc.set_threshold(10_000, 5, 5)
    gc.enable()


@pytest.fixture(autouse=True)
def _drafters_work(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer goes on plainly when its drafter breaks. So that no test passes that way, here the answer ends too."""
    if request.node.get_closest_marker("broken_drafter"):
        return

    def end(self: GuardedSession, error: Exception) -> None:
        raise AssertionError("the drafter broke") from error

    monkeypatch.setattr(GuardedSession, "_give_up", end)
