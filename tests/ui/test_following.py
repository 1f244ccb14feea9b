"""A page that has lost what it should have been told finds out, and gets it; one that is where it should be is left
alone."""

import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from spec_engine.errors import RequestError
from spec_engine.ui import following, layout
from spec_engine.ui.components import Page
from spec_engine.ui.following import Following
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.job import Job
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.state import Fact
from spec_engine.ui.workspace import Workspace
from tests.ui.test_workspace import Loader, done, preset, ready, report

__all__ = ["report"]  # a fixture


@pytest.fixture
def workspace(report: Path) -> Workspace:
    return ready(report, Loader())


@pytest.fixture
def handlers(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handlers]:
    made: list[Handlers] = []

    class Noted(Handlers):
        def __init__(self, page: Page, workspace: Workspace, shelf: PresetShelf) -> None:
            super().__init__(page, workspace, shelf)
            made.append(self)

    monkeypatch.setattr(layout, "Handlers", Noted)
    blocks = layout.build_page(workspace, PresetShelf([preset("builtin")]))
    yield made[0]
    blocks.close()


@pytest.fixture
def views(handlers: Handlers) -> Following:
    return handlers._views


def held(workspace: Workspace) -> threading.Event:
    """A job that somebody waits for, running until the event is set."""
    goes_on = threading.Event()
    workspace._begin(Job[Fact]("answer", lambda job: bool(goes_on.wait(10))))
    return goes_on


def test_a_page_that_is_where_the_workspace_is_gets_nothing(workspace: Workspace, views: Following) -> None:
    chat = views._chat
    beat = views.everything(None)[chat.beat]
    assert beat == workspace.moment
    for _ in range(3):
        assert views.look(str(beat), "") == {chat.doubt: ""}


def test_a_page_is_behind_when_it_was_so_twice(workspace: Workspace, views: Following) -> None:
    chat = views._chat
    first = views.look("0.1-", "")
    assert set(first) == {chat.doubt}  # what it lacks may be on its way
    second = views.look("0.1-", str(first[chat.doubt]))
    assert second[chat.doubt] == ""
    assert second[chat.stale]
    done(workspace.ask("What?"))
    moved_on = views.look("0.1-", str(first[chat.doubt]))
    assert chat.stale not in moved_on  # behind again, but what it lacks is new


def test_what_is_sent_while_a_job_runs_is_in_doubt_until_it_is_followed(workspace: Workspace, views: Following) -> None:
    chat = views._chat
    goes_on = held(workspace)
    assert workspace.moment == "2.1+"
    assert views.everything(None)[chat.beat] == "2.1?"
    stream = views.follow("2.1?")
    next(stream)
    assert next(stream)[chat.beat] == "2.1+"
    assert chat.beat not in next(stream)  # or it would hide that another event has shown what is older
    goes_on.set()
    done(workspace.job)
    assert workspace.moment == "2.1-"
    *_, last = stream
    assert last[chat.beat] == "2.1+"  # the result is still to come


def test_a_page_that_another_event_has_set_back_stays_in_doubt_while_it_follows(
    workspace: Workspace, views: Following
) -> None:
    """The result of an earlier job that comes after the question of the next one."""
    chat = views._chat
    goes_on = held(workspace)
    stream = views.follow("1.1-")
    next(stream)
    for _ in range(2):
        assert chat.beat not in next(stream)
    goes_on.set()


def test_who_follows_a_job_can_always_stop_it(
    workspace: Workspace, views: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another event has shown of the buttons from before the job, and came too late, does not last."""
    monkeypatch.setattr(following, "BUTTONS_INTERVAL_S", 0.05)
    chat = views._chat
    goes_on = held(workspace)
    stream = views.follow("2.1?")
    next(stream)
    for _ in range(2):
        shown = next(updates for updates in stream if chat.ask in updates)
        assert shown[chat.ask] == gr.update(visible=False)
        assert shown[chat.stop] == gr.update(visible=True, interactive=True)
    workspace.stop()
    assert next(stream)[chat.stop] == gr.update(visible=True, interactive=False)  # it was pressed
    goes_on.set()


def test_figures_and_buttons_are_not_told_in_every_update(
    workspace: Workspace, views: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio builds each of them anew."""
    monkeypatch.setattr(following, "BUTTONS_INTERVAL_S", 60.0)
    monkeypatch.setattr(following, "READOUTS_INTERVAL_S", 60.0)
    goes_on = held(workspace)
    stream = views.follow("2.1?")
    next(stream)
    updates = [next(stream) for _ in range(3)]
    assert [views._chat.stop in shown for shown in updates] == [True, False, False]
    assert workspace.job
    answer = views._follow_answer(workspace.job)
    assert [views._speed.readouts in next(answer) for _ in range(3)] == [True, False, False]
    goes_on.set()


def test_a_page_that_hears_nothing_of_a_running_answer_is_shown_it(workspace: Workspace, views: Following) -> None:
    chat = views._chat
    goes_on = held(workspace)
    learned = views.catch_up("1.1-", None)
    assert learned[chat.beat] == "2.1?"
    assert chat.chat in learned
    workspace.answer_job = workspace.job
    again = views.catch_up("2.1?", None)  # only what grows, and still in doubt
    assert chat.live in again
    assert not {chat.chat, chat.beat} & set(again)
    goes_on.set()
    done(workspace.job)
    assert views.catch_up("2.1?", None)[chat.beat] == "2.1-"


def test_a_result_is_shown_once(workspace: Workspace, handlers: Handlers) -> None:
    chat = handlers._page.chat
    done(workspace.ask("What?"))
    shown = handlers.show_result("2.1+", None)
    assert shown[chat.beat] == "2.1-"
    assert handlers.show_result("2.1-", None) == {chat.live: gr.skip()}
    goes_on = held(workspace)
    assert handlers.show_result("2.1-", None) == {chat.live: gr.skip()}  # the next job's own events show it
    goes_on.set()
    done(workspace.job)


def test_a_job_that_ends_while_the_page_is_put_together_is_not_taken_for_shown(
    workspace: Workspace, views: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is opened in a moment: its card may be from before, so the page must not say that it came further."""
    goes_on = held(workspace)
    document = views._document

    def slow() -> dict[object, object]:
        shown = document()
        goes_on.set()
        done(workspace.job)
        return dict(shown)

    monkeypatch.setattr(views, "_document", slow)
    assert views.everything(None)[views._chat.beat] == "2.1?" != workspace.moment


def test_measuring_and_reading_ahead_are_no_moments(workspace: Workspace) -> None:
    before = workspace.moment
    goes_on = threading.Event()
    workspace._begin(Job[Fact]("read", lambda job: bool(goes_on.wait(10))))
    assert workspace.moment == before
    goes_on.set()
    done(workspace.job)
    assert workspace.moment == before


def test_a_page_that_lost_sight_of_reading_ahead_finds_out(workspace: Workspace, views: Following) -> None:
    """Its Stop button and the line about it would stay."""
    chat, goes_on = views._chat, threading.Event()
    workspace._begin(Job[Fact]("read", lambda job: bool(goes_on.wait(10))))
    stream = views.follow(workspace.moment)
    next(stream)
    aside = str(next(stream)[chat.aside])
    beat = workspace.moment
    assert aside
    assert views.look(beat, "", aside) == {chat.doubt: ""}  # it still runs
    goes_on.set()
    done(workspace.job)
    first = views.look(beat, "", aside)
    assert chat.stale in views.look(beat, str(first[chat.doubt]), aside)
    assert chat.doubt in views.look(beat, "", "calibrate")  # and one that followed what was before that
    shown = views.catch_up(beat, None)
    assert (shown[chat.aside], shown[chat.live]) == ("", "")
    assert shown[chat.stop] == gr.update(visible=False, interactive=True)
    *_, last = stream
    assert last[chat.aside] == ""


def test_who_reads_the_last_of_a_job_is_not_told_its_buttons(workspace: Workspace, views: Following) -> None:
    """The result may have been shown by another stream already."""
    goes_on = held(workspace)
    stream = views.follow("2.1?")
    next(stream), next(stream)
    goes_on.set()
    done(workspace.job)
    *_, last = stream
    assert not {views._chat.ask, views._chat.stop} & set(last)


def test_a_page_learns_that_another_one_left_the_conversation(workspace: Workspace, views: Following) -> None:
    chat = views._chat
    done(workspace.ask("What?"))
    beat = str(views.everything(None)[chat.beat])
    workspace.new_chat()
    first = views.look(beat, "")
    assert chat.stale in views.look(beat, str(first[chat.doubt]))
    assert views.catch_up(beat, None)[chat.chat] == []


def test_a_job_that_fails_at_once_is_told(workspace: Workspace, handlers: Handlers) -> None:
    """It has ended before the page that began it is put together."""

    def fail(job: Job[Fact]) -> None:
        raise RequestError("This cannot be.")

    chat = handlers._page.chat
    begun = handlers._begin(lambda: workspace._begin(Job[Fact]("open", fail)).join(5))
    assert workspace.moment == "2.1-"
    assert begun[chat.beat] == "2.1?"
    shown = handlers.show_result(str(begun[chat.beat]), None)
    assert "This cannot be." in str(shown[chat.notice])


def test_a_page_that_catches_up_gets_back_its_question(workspace: Workspace, views: Following) -> None:
    """Stopped before the first word, and the news of it lost."""
    chat = views._chat
    workspace._unanswered = "What was it?"
    learned = views.catch_up("1.1+", None)
    assert learned[chat.box]["value"] == "What was it?"  # type: ignore[index]
