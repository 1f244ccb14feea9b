"""The log file: what the page did and how long it took, without a word of any document, chat or file name.

Job: where the log goes and how large it grows, and how an error is written down: its kind and the lines of code that it
came through, not its message, which may quote the user.
Non-job: deciding what is worth a line (`workspace`, `job`).
"""

import logging
import platform
import traceback
from importlib.metadata import PackageNotFoundError, version
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

LOG: Final = logging.getLogger("spec_engine.page")
_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_MAX_BYTES: Final = 1 << 20
_NUM_OLD: Final = 3
_PACKAGES: Final = ("spec-engine", "torch", "transformers", "gradio")


def open_log(folder: Path) -> Path:
    """Write to ``logs/page.log`` below `folder` from now on, with three older files at most; returns the file.

    Raises `OSError` when it cannot be written.
    """
    path = folder / "logs" / "page.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_NUM_OLD, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    for old in LOG.handlers[:]:
        LOG.removeHandler(old)
        old.close()
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    LOG.info("started: %s, python %s, %s", versions, platform.python_version(), platform.platform())
    return path


def _version(name: str) -> str:
    """A package's version; of one that runs without being installed, that."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def note_error(where: str, error: BaseException) -> None:
    """An error that was not foreseen: its kind, and the way it came."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("%s: %s\n%s", where, type(error).__name__, lines)
