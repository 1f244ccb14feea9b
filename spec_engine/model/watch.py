"""How a load says what it does, and how it is stopped.

Job: `LoadProgress`, and `LoadWatch`, which takes it and ends a load that is not wanted any more.
Non-job: loading (`load`), downloading (`hub`).

A load goes through many hands (hub, transformers, drafters), so the watch is not passed along: `watching` sets it for
the thread that loads, `current_watch` finds it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from spec_engine.errors import Stopped


@dataclass(frozen=True, slots=True)
class FileProgress:
    """A file that is downloaded. Sizes in bytes."""

    name: str
    num_done: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """What is being done.

    Attributes:
        message: in a few words.
        share: how much of it is done, 0 to 1; None when that is not known.
        files: while downloading, all files that are missing.
        bytes_per_second: while downloading, the speed of the last seconds.
    """

    message: str
    share: float | None = None
    files: tuple[FileProgress, ...] = ()
    bytes_per_second: float = 0.0

    @property
    def num_done(self) -> int:
        """Bytes of all files that are here."""
        return sum(file.num_done for file in self.files)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def seconds_left(self) -> float | None:
        """Until all files are here, at the present speed; None while that is unknown."""
        return (self.num_bytes - self.num_done) / self.bytes_per_second if self.bytes_per_second > 0 else None


def _nobody(progress: LoadProgress) -> None:
    """Progress that nobody wants to see."""


def _never() -> bool:
    return False


class LoadWatch:
    """Takes the progress of a load, and asks whether it is still wanted.

    Args:
        report: gets each progress.
        cancelled: a yes ends the load at the next `tell` or `check`.
    """

    def __init__(
        self, report: Callable[[LoadProgress], None] = _nobody, cancelled: Callable[[], bool] = _never
    ) -> None:
        self._report = report
        self._cancelled = cancelled

    def tell(self, progress: LoadProgress) -> None:
        """Report. Raises `Stopped` when the load is not wanted any more."""
        self.check()
        self._report(progress)

    def check(self) -> None:
        """Raise `Stopped` when the load is not wanted any more."""
        if self._cancelled():
            raise Stopped("Loading was stopped. What was downloaded is kept; choose the model again to go on.")


def spoken(tell: Callable[[str], None], every_s: float = 5.0) -> LoadWatch:
    """A watch that tells each new message once, and how far a download is every few seconds."""
    last = ""
    told_at = 0.0

    def report(progress: LoadProgress) -> None:
        nonlocal last, told_at
        is_due = bool(progress.files) and time.monotonic() - told_at >= every_s
        if progress.message != last or is_due:
            last, told_at = progress.message, time.monotonic()
            tell(progress.message + amounts(progress))

    return LoadWatch(report)


def amounts(progress: LoadProgress) -> str:
    """How far a download is: " · 3.2 of 16.1 GB · 41 MB/s"; "" for other work."""
    if not progress.files or not progress.num_bytes:
        return ""
    unit, name = (1e9, "GB") if progress.num_bytes >= 1e9 else (1e6, "MB")
    speed = f" · {progress.bytes_per_second / 1e6:,.1f} MB/s" if progress.bytes_per_second > 0 else ""
    return f" · {progress.num_done / unit:,.1f} of {progress.num_bytes / unit:,.1f} {name}{speed}"


_CURRENT: ContextVar[LoadWatch] = ContextVar("load_watch", default=LoadWatch())  # noqa: B039 - it has no state


def current_watch() -> LoadWatch:
    """The watch over the load that runs in this thread; one that nobody listens to when there is none."""
    return _CURRENT.get()


@contextmanager
def watching(watch: LoadWatch) -> Iterator[None]:
    """Loads of this thread are watched until the block is left."""
    token = _CURRENT.set(watch)
    try:
        yield
    finally:
        _CURRENT.reset(token)
