"""Options of the test command."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--drafter MODULE:BUILD`` runs the drafter contract over a drafter that is not part of the project."""
    parser.addoption("--drafter", metavar="MODULE:BUILD", help="run tests/test_drafter_contract.py over this drafter")
