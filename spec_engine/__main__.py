"""The command ``spec-engine``, and ``python -m spec_engine``, which is the same.

Job: end without a word when it is interrupted before the modules are loaded, which takes seconds, or while a model is.
Non-job: the commands (`cli`).
"""

import os
import signal
import sys
import threading
from importlib import import_module
from typing import Final

_AT_WORK: Final = ("apart", "job-")  # how threads of the page are called that load, read or answer


def main() -> int:
    """Load the command line and run it; its exit status."""
    return run("spec_engine.cli")


def run(module: str) -> int:
    """Load a module and run its ``main``; its exit status."""
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    loaded = import_module(module)
    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 0
    try:
        status = loaded.main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        status = end.code or 0
    if any(thread.name.startswith(_AT_WORK) for thread in threading.enumerate()):
        # Libraries that are in the middle of a file would be torn apart, and abort the process with words of their own.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
