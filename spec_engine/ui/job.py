"""Work that runs in its own thread and is watched from the page.

Job: one thread, its growing list of facts, the wish to stop, and how it ended. Any number of pages may watch; a page
that was reloaded reads the list from its start, so nothing of a running answer is lost.
Non-job: what the work is (`workspace`), what the facts look like (`live`, `render`).
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, Literal, TypeVar

from spec_engine.errors import SpecEngineError
from spec_engine.ui import text
from spec_engine.ui.logbook import LOG, note_error

JobKind = Literal["load", "open", "read", "answer", "calibrate", "compare"]
Fact = TypeVar("Fact")
MIN_INTERVAL_S: Final = 1 / 14  # between two looks of one watcher: faster than an eye, slower than a browser minds
_REST: Final = 15.0  # a watcher rests so many times as long as it worked: while it works, what it watches waits
_LONGEST_REST_S: Final = 0.4


class Job(Generic[Fact]):
    """A thread that reports facts.

    Args:
        kind: what is being done, for the pages that join later.
        work: gets the job, reports through `report`, looks at `is_cancelled` often. A `SpecEngineError` becomes the
            job's `error`; any other exception leaves a general sentence there and goes to the terminal.
        after: called when the work has ended without an error; may begin the next job.
    """

    def __init__(
        self, kind: JobKind, work: "Callable[[Job[Fact]], None]", after: Callable[[], object] = lambda: None
    ) -> None:
        self.kind = kind
        self._after = after
        self.error: str | None = None
        self._work = work
        self._facts: list[Fact] = []
        self._changed = threading.Condition()
        self._cancelled = threading.Event()
        self._ended = threading.Event()
        self._is_running = False

    def start(self) -> None:
        """Begin. Once."""
        self._is_running = True
        threading.Thread(target=self._run, name=f"job-{self.kind}", daemon=True).start()

    def stop(self) -> None:
        """Wish that the work ends; returns at once."""
        self._cancelled.set()

    def rearm(self) -> None:
        """Forget the wish: the work goes on with something that a later `stop` ends."""
        self._cancelled.clear()

    def is_cancelled(self) -> bool:
        """Whether `stop` was called."""
        return self._cancelled.is_set()

    @property
    def is_running(self) -> bool:
        """Whether the thread has work left."""
        return self._is_running

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts so far, oldest first."""
        with self._changed:
            return tuple(self._facts)

    def report(self, fact: Fact) -> None:
        """Add a fact and wake the watchers."""
        with self._changed:
            self._facts.append(fact)
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait until the work has ended; False when it had not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_running, timeout)

    def watch(self, interval_s: float = MIN_INTERVAL_S) -> Iterator[list[Fact]]:
        """Batches of new facts from the first one on, at most one in `interval_s`, until the work has ended.

        An empty batch comes about twice a second while nothing happens, so that a watcher can show passing time. One
        that takes long over a batch gets the next one later: Python runs one thread at a time, so what it takes is
        taken from the work.
        """
        num_seen, is_running = 0, True
        while is_running:
            batch, is_running = self._await_more(num_seen)
            num_seen += len(batch)
            shown = time.monotonic()
            yield batch
            if is_running:
                took = time.monotonic() - shown
                self._ended.wait(max(interval_s - took, min(_REST * took, _LONGEST_REST_S)))

    def _await_more(self, num_seen: int) -> tuple[list[Fact], bool]:
        """The facts behind the first `num_seen`, waited for a while, and whether work goes on."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._facts) > num_seen or not self._is_running, timeout=0.5)
            return self._facts[num_seen:], self._is_running

    def _run(self) -> None:
        """The thread: the work, and how it ended."""
        error: str | None = text.UNEXPECTED
        started = time.monotonic()
        try:
            self._work(self)
            error = None
            LOG.info("%s: done in %.1f s", self.kind, time.monotonic() - started)
        except SpecEngineError as failure:
            error = str(failure)
            LOG.info("%s: %s after %.1f s", self.kind, type(failure).__name__, time.monotonic() - started)
        finally:
            if (unforeseen := sys.exc_info()[1]) is not None:
                note_error(self.kind, unforeseen)
            with self._changed:
                self.error, self._is_running = error, False
                self._work = _done  # and what it was done with: an answer's work knows the answer before, and so on
                self._changed.notify_all()
            self._ended.set()
        if error is None:
            self._after()


def _done(_: Job[Any]) -> None:
    """What is left of the work of a job that has ended."""
