"""One program at a time works with a data folder.

Job: `alone_in`, a lock that the system takes away from a program that has ended, also from one that broke.
Non-job: what lies in the folder (`history`, `cache.store`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from spec_engine.errors import StoreError

LOCK_NAME: Final = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a data folder, which is made if need be, to this program. Raises `StoreError` while another one has it, or
    when it cannot be used."""
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"The data folder {folder} is in use by a page that is already open: two would write over each other's "
            "conversations. Use that page, end its program, or give this one another folder with --data-dir."
        ) from error
    except FileExistsError as error:
        raise StoreError(f"{folder} is a file, not a folder. Give a folder with --data-dir.") from error
    except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
        raise StoreError(
            f"The data folder {folder} cannot be used: {error}. Check the disk and the folder's rights, or use another "
            "folder with --data-dir."
        ) from error
    try:
        yield
    finally:
        lock.release()
