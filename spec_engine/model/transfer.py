"""Bytes of a file from a server to the disk, counted, stoppable and taken up again.

Job: `Meter`, which tells how far all files of a download are, and `receive`, which appends what a file lacks.
Non-job: which files, where they belong, what a refusal means (`hub`).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from spec_engine.errors import ModelDownloadError
from spec_engine.model.watch import FileProgress, LoadProgress, LoadWatch

TIMEOUT_S: Final = 10.0  # without a byte
_CHUNK: Final = 1 << 18  # bytes between two looks at the wish to stop
_MAX_TRIES: Final = 4  # without a byte gained
_SPEED_WINDOW_S: Final = 5.0
_REPORT_EVERY_S: Final = 0.1


class _Busy(Exception):
    """The server asks to try again."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository that is wanted."""

    name: str
    num_bytes: int


class Meter:
    """How far a download is, file by file and in all."""

    def __init__(self, message: str, files: Sequence[RemoteFile], watch: LoadWatch) -> None:
        self._message = message
        self._sizes = {file.name: file.num_bytes for file in files}
        self._done = {file.name: 0 for file in files}
        self._watch = watch
        self._told_at = 0.0
        self._recent: deque[tuple[float, int]] = deque()

    def begin(self, name: str, num_here: int, num_bytes: int) -> None:
        """A file begins, some of it here already."""
        self._done[name], self._sizes[name] = num_here, num_bytes
        self._recent.clear()
        self._tell(time.monotonic())

    def add(self, name: str, num_new: int) -> None:
        """Bytes came in. Raises `Stopped`."""
        self._done[name] += num_new
        now = time.monotonic()
        self._recent.append((now, num_new))
        while now - self._recent[0][0] > _SPEED_WINDOW_S:
            self._recent.popleft()
        if now - self._told_at >= _REPORT_EVERY_S or self._done[name] >= self._sizes[name]:
            self._tell(now)
        else:
            self._watch.check()

    def _tell(self, now: float) -> None:
        self._told_at = now
        total = sum(self._sizes.values())
        files = tuple(FileProgress(name, self._done[name], size) for name, size in self._sizes.items())
        share = sum(self._done.values()) / total if total else None
        self._watch.tell(LoadProgress(self._message, share, files, self._speed(now)))

    def _speed(self, now: float) -> float:
        """Bytes per second of the last seconds; 0 while unknown."""
        if len(self._recent) < 2:
            return 0.0
        return sum(number for _, number in list(self._recent)[1:]) / max(1e-6, now - self._recent[0][0])


def receive(url: str, headers: dict[str, str], part: Path, num_bytes: int, add: Callable[[int], None]) -> None:
    """Append what is missing to `part`, over as many requests as it takes while each brings something."""
    num_tries, was_too_long = 0, False
    while (num_here := part.stat().st_size if part.exists() else 0) != num_bytes or not part.exists():
        if num_here > num_bytes:
            part.unlink()
            add(-num_here)
            if was_too_long:
                raise ModelDownloadError(
                    f"The hub sent more than the {num_bytes:,} bytes that it announced. None are used; try again later."
                )
            was_too_long = True
            continue
        if num_tries == _MAX_TRIES:
            raise ModelDownloadError(
                f"The connection to the hub broke off {num_tries} times at {num_here / 1e6:,.0f} of "
                f"{num_bytes / 1e6:,.0f} MB. What is here is kept; choose the model again to go on."
            )
        try:
            _receive_some(url, headers, part, num_here, add)
        except (httpx2.RequestError, _Busy):
            time.sleep(min(0.2 * num_tries, 1.0))
        has_grown = part.exists() and part.stat().st_size > num_here
        num_tries = 0 if has_grown else num_tries + 1


def _receive_some(url: str, headers: dict[str, str], part: Path, num_here: int, add: Callable[[int], None]) -> None:
    """One request for what lies behind the first `num_here` bytes."""
    wanted = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={num_here}-"} if num_here else {})
    with httpx2.stream("GET", url, headers=wanted, timeout=TIMEOUT_S, follow_redirects=True) as response:
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _Busy
        if response.status_code >= 400:
            raise ModelDownloadError(
                f"The hub answered {response.status_code} instead of a file. What is here is kept; try again later."
            )
        is_partial = response.status_code == 206
        if num_here and not is_partial:
            add(-num_here)  # the server sends all of it again
        with part.open("ab" if is_partial else "wb") as out:
            for chunk in response.iter_raw(_CHUNK):
                out.write(chunk)
                add(len(chunk))
