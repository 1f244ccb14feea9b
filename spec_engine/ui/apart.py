"""Work that is let go of at once when it is not wanted any more.

Job: `Apart` runs a piece of work in a thread of its own and waits for it only as long as it is wanted. What was let go
of ends at its next look at the wish to stop, and its result is thrown away; the next piece begins when it has ended.
`aside` keeps arithmetic out of threads that stay.
Non-job: what the work is (`models`, `papers`), telling anybody about it (`job`).
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from spec_engine.errors import SpecEngineError, Stopped

Result = TypeVar("Result")
_LOOK_EVERY_S: Final = 0.05
_FORESEEN: Final = (SpecEngineError, RuntimeError, OSError, MemoryError)  # what whoever waits can say in words


def aside(work: Callable[[], Result]) -> Result:
    """The result of `work`, which is done in a thread that ends with it.

    On a CPU whatever torch divides among cores leaves helpers with the thread that asked for it, until that one ends.
    With the helpers of two threads there are more threads than cores, and OpenMP (libgomp) has all of them sleep where
    they would wait awake for each other: a plain step of the built-in model took three times as long. So no thread that
    stays computes, such as the main one or those that answer requests.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


class _Piece(Generic[Result]):
    """A piece of work in its thread."""

    def __init__(
        self,
        work: Callable[[Callable[[], bool]], Result],
        cancelled: Callable[[], bool],
        discard: Callable[[Result], None],
    ) -> None:
        self._work = work
        self._cancelled = cancelled
        self._discard = discard
        self._lock = threading.Lock()
        self._is_wanted = True
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="apart", daemon=True)

    def is_unwanted(self) -> bool:
        """Whether the result will be thrown away; once it is let go of, for good."""
        return not self._is_wanted or self._cancelled()

    def let_go(self) -> None:
        """The result is not wanted any more."""
        with self._lock:
            self._is_wanted = False
            for result in self._results:
                self._discard(result)
            self._results = []

    def result(self) -> Result:
        """What came of it. Raises what the work raised."""
        error, self._error = self._error, None  # an error holds the frames of the work, and all that was in them
        if error is not None:
            raise error
        return self._results.pop()

    def _run(self) -> None:
        try:
            result = self._work(self.is_unwanted)
        except _FORESEEN as error:
            self._error = error
            return
        finally:
            self._error = (self._error or sys.exc_info()[1]) if self._is_wanted else None  # others are printed too
        with self._lock:
            if self._is_wanted:
                self._results.append(result)
            else:
                self._discard(result)


class Apart:
    """Runs one piece of work at a time."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    def run(
        self,
        work: Callable[[Callable[[], bool]], Result],
        cancelled: Callable[[], bool],
        discard: Callable[[Result], None],
        on_wait: Callable[[], None] = lambda: None,
    ) -> Result:
        """The result of `work`. Raises what it raises, and `Stopped` as soon as `cancelled` says yes.

        `work` is handed the question whether it is unwanted by now, which stays answered once it was let go of.
        `discard` gets a result that came too late; `on_wait` is called once if an earlier piece has to end first.
        """
        if self._last is not None and self._last.is_alive():
            on_wait()
            self._wait(self._last, cancelled)
        piece = _Piece(work, cancelled, discard)
        self._last = piece.thread
        piece.thread.start()
        try:
            self._wait(piece.thread, cancelled)
        except Stopped:
            piece.let_go()
            raise
        return piece.result()

    def _wait(self, thread: threading.Thread, cancelled: Callable[[], bool]) -> None:
        while thread.is_alive():
            thread.join(_LOOK_EVERY_S)
            if cancelled() and thread.is_alive():
                raise Stopped("Stopped.")
