"""The command ``spec-engine``, and ``python -m spec_engine``, which is the same.

Job: end without a word when it is interrupted before the modules are loaded, which takes seconds. Non-job: the commands
(`cli`).
"""

import signal
import sys
from importlib import import_module


def main() -> int:
    """Load the command line and run it; its exit status."""
    return run("spec_engine.cli")


def run(module: str) -> int:
    """Load a module and run its ``main``; its exit status."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    loaded = import_module(module)
    signal.signal(signal.SIGINT, handler)
    status: int = loaded.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
