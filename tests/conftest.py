"""Options of the test command, and what holds for all tests."""

import os

import pytest
import torch

from spec_engine.drafters.guarded import GuardedSession


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--drafter MODULE:BUILD`` runs the drafter contract over a drafter that is not part of the project."""
    parser.addoption("--drafter", metavar="MODULE:BUILD", help="run tests/test_drafter_contract.py over this drafter")


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side take one thread each, the programs that they start too."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _drafters_work(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer goes on plainly when its drafter breaks. So that no test passes that way, here the answer ends too."""
    if request.node.get_closest_marker("broken_drafter"):
        return

    def end(self: GuardedSession, error: Exception) -> None:
        raise AssertionError("the drafter broke") from error

    monkeypatch.setattr(GuardedSession, "_give_up", end)
