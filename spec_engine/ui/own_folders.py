"""Temporary folders of this program, and those that a killed one has left.

Job: `OwnFolder`, a folder that goes with its program; `sweep`, which deletes those whose program has ended without
taking them along.
Non-job: what lies in them (`own_files`).

A program holds a lock in each of its folders. The system takes it away from one that has ended, however it did, and
never from one that lives; numbers of processes would say less, as they are given again and differ between containers.
"""

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

_PREFIX: Final = "spec-engine-"
_LOCK: Final = ".lock"
_NEW_S: Final = 60.0  # a folder so new may be about to be locked
_NO_LOCK: Final = (OSError, NotImplementedError, Timeout)  # the second where a file system has none


class OwnFolder:
    """A new folder in `above`, or where the system has its temporary files, that only this user may look into. It goes
    when it is closed or dropped, and at the end of the process. Raises `OSError` when it cannot be made."""

    def __init__(self, kind: str, above: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-", dir=above)).resolve()
        lock = FileLock(self.path / _LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except _NO_LOCK:
            with contextlib.suppress(OSError):
                (self.path / _LOCK).unlink()  # so nobody takes it for the folder of one that has ended
        self._goes = weakref.finalize(self, _forget, self.path, lock)

    def close(self) -> None:
        """Delete the folder."""
        self._goes()


def sweep(kind: str, above: Path | None = None) -> None:
    """Delete the folders of this kind, made by this user, whose programs have ended."""
    with contextlib.suppress(OSError):
        for folder in Path(above or tempfile.gettempdir()).glob(f"{_PREFIX}{kind}-*"):
            if _is_old(folder):
                lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
                with contextlib.suppress(*_NO_LOCK):
                    lock.acquire()
                    _forget(folder, lock)


def _is_old(folder: Path) -> bool:
    """Whether a folder is no link, this user's, and was locked some time ago."""
    try:
        status, locked = folder.lstat(), (folder / _LOCK).lstat()
    except OSError:
        return False
    is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return folder.is_dir() and not folder.is_symlink() and is_own and time.time() - locked.st_mtime > _NEW_S


def _forget(folder: Path, lock: FileLock) -> None:
    """Delete a folder that is locked, the lock last: where a system keeps a file that is open, it is closed then."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)
