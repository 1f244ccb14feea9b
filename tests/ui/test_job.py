"""Work in a thread: watched by several, stopped, failed."""

import queue
import threading
import time
import weakref

import pytest

from spec_engine.errors import ModelNotFound
from spec_engine.ui import text
from spec_engine.ui.job import Job


def count_until_stopped(job: Job[int]) -> None:
    number = 0
    while not job.is_cancelled():
        job.report(number)
        number += 1
        time.sleep(0.001)


def run_to_end(job: Job[int]) -> list[int]:
    job.start()
    return [fact for batch in job.watch(interval_s=0.01) for fact in batch]


def test_every_watcher_gets_every_fact_also_one_that_joins_late() -> None:
    gate = threading.Event()

    def work(job: Job[int]) -> None:
        for number in range(50):
            job.report(number)
            if number == 25:
                gate.wait(5)

    job: Job[int] = Job("answer", work)
    job.start()
    early = job.watch(interval_s=0.001)
    first = next(early)
    late = job.watch(interval_s=0.001)
    gate.set()
    assert first + [fact for batch in early for fact in batch] == list(range(50))
    assert [fact for batch in late for fact in batch] == list(range(50))
    assert (job.error, job.is_running) == (None, False)


def test_stop_ends_the_work_soon() -> None:
    job: Job[int] = Job("answer", count_until_stopped)
    job.start()
    time.sleep(0.02)
    started = time.monotonic()
    job.stop()
    assert job.join(1.0)
    assert time.monotonic() - started < 0.3


def test_watching_is_no_faster_than_asked() -> None:
    job: Job[int] = Job("answer", count_until_stopped)
    job.start()
    watcher = job.watch(interval_s=0.05)
    started = time.monotonic()
    sizes = [len(next(watcher)) for _ in range(5)]
    job.stop()
    assert time.monotonic() - started > 0.19  # four pauses between five looks
    assert max(sizes) > 1


def test_who_takes_long_over_a_batch_leaves_the_work_alone_for_longer() -> None:
    job: Job[int] = Job("answer", count_until_stopped)
    job.start()
    began, busy_s = time.monotonic(), 0.0
    for number, _ in enumerate(job.watch(interval_s=0.001)):
        worked = time.monotonic()
        time.sleep(0.01)
        busy_s += time.monotonic() - worked
        if number == 4:
            break
    job.stop()
    assert busy_s < 0.25 * (time.monotonic() - began)


def test_who_rests_hears_at_once_that_the_work_has_ended() -> None:
    job: Job[int] = Job("answer", count_until_stopped)
    job.start()
    for _ in job.watch(interval_s=60):
        job.stop()
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 5


def test_a_known_error_becomes_the_message() -> None:
    def work(job: Job[int]) -> None:
        raise ModelNotFound("There is no such model. Check the name.")

    job: Job[int] = Job("load", work)
    assert run_to_end(job) == []
    assert job.error == "There is no such model. Check the name."


def test_an_unknown_error_goes_to_the_terminal_not_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: queue.Queue[type[BaseException] | None] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: printed.put(arguments.exc_type))

    def work(job: Job[int]) -> None:
        job.report(1)
        raise ZeroDivisionError("secret detail")

    job: Job[int] = Job("answer", work)
    assert run_to_end(job) == [1]
    assert job.error == text.UNEXPECTED
    assert printed.get(timeout=5) is ZeroDivisionError


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_job_worked_with_is_let_go_when_it_has_ended(fails: bool) -> None:
    """The work of an answer knows what the answer before has left, for when it is stopped at once."""

    class Tool:
        """Something that takes memory."""

        def use(self) -> None:
            if fails:
                raise ModelNotFound("It is not there.")

    tool = Tool()
    kept = weakref.ref(tool)
    job: Job[int] = Job("answer", lambda _, tool=tool: tool.use())  # type: ignore[misc]
    del tool
    run_to_end(job)
    assert (job.error is None) != fails
    assert kept() is None
