"""``python -m spec_engine`` is ``spec-engine``.

Job: what has to be said before torch is imported. Non-job: the commands (`cli`).
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from spec_engine.threads import wait_briefly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    wait_briefly()
    status: int = import_module("spec_engine.cli").main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
