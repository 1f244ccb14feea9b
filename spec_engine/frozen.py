"""What the garbage collector need not look through.

Job: `freeze_imports`, for a process that is ours.
Non-job: a program that only uses the package; its memory is its own.
"""

import atexit
import gc


def freeze_imports() -> None:
    """Have the collector pass over all that was imported, until the process ends: half a million objects, which it
    would look through in the middle of an answer, for 0.2 to 0.3 s. Called before any model is loaded, as what is
    frozen is not freed; what is garbage by then stays, as looking for it would take as long."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries complain about what is never freed
