"""Loading, opening and reading ahead as jobs: stopped at once, nothing lost, what was in use stays in use."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spec_engine.chat.history import History
from spec_engine.config import Preset
from spec_engine.documents.anchors import Document
from spec_engine.errors import ModelError, RequestError, Stopped, UnreadableDocument
from spec_engine.events import Prefilled, PromptReady
from spec_engine.loading import Room
from spec_engine.model.watch import LoadProgress, LoadWatch
from spec_engine.ui import papers, text
from spec_engine.ui.apart import Apart
from spec_engine.ui.job import Job
from spec_engine.ui.render_document import document_card
from spec_engine.ui.state import Fact, Wanted
from spec_engine.ui.workspace import Workspace
from tests.documents.files import make_pdf, paragraph, show
from tests.ui.fakes import ScriptedEngine
from tests.ui.test_workspace import Loader, done, preset, ready, report

__all__ = ["report"]  # a fixture

PROMPT_S = 0.3  # from the wish to stop to the end


class SlowLoader(Loader):
    """The preset 'slow' takes seconds, during which nothing looks at the wish to stop."""

    def __init__(self, slow_s: float = 1.2) -> None:
        super().__init__()
        self.slow_s = slow_s

    def __call__(self, preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
        engine = super().__call__(preset, watch, room)
        if preset.name == "slow":
            time.sleep(self.slow_s)
        return engine


def begun(job: Job[Fact]) -> None:
    """Wait until the loader of 'slow' is at work."""
    deadline = time.monotonic() + 5
    while "Loading slow" not in [fact.message for fact in job.facts if isinstance(fact, LoadProgress)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)


def stop_soon(workspace: Workspace, job: Job[Fact]) -> float:
    """Seconds from the wish to the end."""
    time.sleep(0.15)
    started = time.monotonic()
    workspace.stop()
    assert job.join(5.0)
    return time.monotonic() - started


def test_loading_stops_at_once_and_the_engine_in_use_stays(report: Path) -> None:
    loader = SlowLoader()
    loader.has_room_for_two = True
    workspace = ready(report, loader)
    job = workspace.switch(preset("slow"))
    begun(job)
    assert stop_soon(workspace, job) < PROMPT_S
    assert workspace.preset is not None
    assert workspace.preset.name == "builtin"
    assert workspace.trouble == "Loading was stopped. The builtin model stays loaded."  # which is no failure
    assert workspace.why_not_ask == ""
    done(workspace.ask("What?"))
    assert len(workspace.turns) == 1
    deadline = time.monotonic() + 5
    while not loader.engines[-1].is_closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [engine.is_closed for engine in loader.engines] == [False, True]  # what came too late was freed


def test_a_stopped_load_that_freed_the_engine_brings_it_back(report: Path) -> None:
    loader = SlowLoader(0.8)
    workspace = ready(report, loader)
    job = workspace.switch(preset("slow"))
    begun(job)
    workspace.stop()
    done(job)
    assert text.LETTING_GO in [fact.message for fact in job.facts if isinstance(fact, LoadProgress)]
    assert "The builtin model is loaded again." in workspace.trouble
    assert workspace.why_not_ask == ""


def test_a_second_stop_ends_the_way_back_too(report: Path) -> None:
    loader = SlowLoader(2.0)
    workspace = ready(report, loader)
    job = workspace.switch(preset("slow"))
    begun(job)
    workspace.stop()
    time.sleep(0.3)
    assert job.is_running
    started = time.monotonic()
    workspace.stop()
    assert job.join(5.0)
    assert time.monotonic() - started < PROMPT_S
    assert workspace.preset is None
    assert "Nor could The builtin model be loaded." in workspace.trouble
    done(workspace.switch(preset("other")))  # waits until the abandoned load has ended
    assert workspace.preset is not None
    assert sum(not engine.is_closed for engine in loader.engines) == 1


def test_with_room_for_both_the_old_engine_goes_last(report: Path) -> None:
    loader = Loader()
    loader.has_room_for_two = True
    workspace = ready(report, loader)
    done(workspace.switch(preset("broken")))
    assert "The builtin model stays loaded." in workspace.trouble
    assert len(loader.engines) == 1
    done(workspace.switch(preset("other")))
    assert [engine.is_closed for engine in loader.engines] == [True, False]
    assert workspace.memory is not None


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_document_that_is_dropped_while_a_model_loads_is_opened_then(report: Path, is_stopped: bool) -> None:
    workspace = Workspace(SlowLoader(0.6))
    job = workspace.switch(preset("slow"))
    begun(job)
    assert workspace.start_opening(Wanted((report.with_name("gone.txt"),))) is job
    assert workspace.start_opening(Wanted((report,))) is job  # the last one counts
    assert workspace.opened is None
    if is_stopped:
        workspace.stop()
    done(job)
    assert workspace.waiting is None
    assert workspace.opened is not None
    assert workspace.opened.used.source_name == report.name
    assert (workspace.opened.budget is None) == is_stopped  # nothing to count with
    assert ("was stopped" in workspace.trouble) == is_stopped
    assert workspace.why_not_ask == (text.ASK_NEEDS_ENGINE if is_stopped else "")


def test_what_cannot_be_opened_after_loading_is_told_beside_why_loading_failed(report: Path) -> None:
    workspace = Workspace(SlowLoader(0.6))
    job = workspace.switch(preset("slow"))
    begun(job)
    workspace.start_opening(Wanted((report.with_name("gone.txt"),)))
    workspace.stop()
    done(job)
    assert workspace.trouble.startswith("Loading was stopped. ")
    assert "gone.txt" in workspace.trouble
    with pytest.raises(RequestError, match="Open one first"):
        workspace.choose_range(0, 1)


def test_a_load_that_was_stopped_frees_nothing_any_more(report: Path) -> None:
    """The wish to stop comes while the loader is about to free the engine in use."""
    reached, may_go_on, refused = threading.Event(), threading.Event(), []

    def load(preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
        if preset.name == "slow":
            reached.set()
            may_go_on.wait(5)
            assert room.num_bytes == 7_000_000
            try:
                room.free()
            except Stopped as error:
                refused.append(error)
                raise
        return ScriptedEngine("answer")

    workspace = Workspace(load)
    done(workspace.switch(preset("builtin")))
    job = workspace.switch(preset("slow"))
    assert reached.wait(5)
    workspace.stop()
    done(job)
    may_go_on.set()
    deadline = time.monotonic() + 5
    while not refused and time.monotonic() < deadline:
        time.sleep(0.01)
    assert refused
    assert workspace.preset is not None
    assert workspace.preset.name == "builtin"


# --- opening ----------------------------------------------------------------------------------------------------------


def test_opening_tells_its_pages(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader())
    path = tmp_path / "long.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, ["Some words on a page."]))] * 6))
    job = done(workspace.start_opening(Wanted((path,))))
    messages = [fact.message for fact in job.facts if isinstance(fact, LoadProgress)]
    assert messages[:6] == [f"Reading long.pdf: {number} of 6 parts" for number in range(1, 7)]
    assert messages[-1] == text.COUNTING_TOKENS
    assert workspace.opened is not None
    assert workspace.opened.whole.source_name == "long.pdf"


def test_opening_stops_at_once_and_changes_nothing(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = ready(report, Loader())
    done(workspace.ask("What?"))
    before = workspace.opened

    def slowly(*arguments: object) -> Document:
        time.sleep(1)
        raise UnreadableDocument("too late to matter")

    monkeypatch.setattr(papers, "read_documents", slowly)
    job = workspace.start_opening(Wanted((report,)))
    assert workspace.why_not_ask == text.ASK_NEEDS_OPENING
    with pytest.raises(RequestError, match="still being opened; the question is kept"):
        workspace.ask("Now?")
    assert stop_soon(workspace, job) < PROMPT_S
    assert workspace.trouble == text.OPENING_STOPPED
    assert workspace.opened is before
    assert len(workspace.turns) == 1


def test_a_locked_file_waits_for_its_password(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader())
    path = tmp_path / "locked.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, ["Some words on a page."]))], password="sesame"))
    done(workspace.start_opening(Wanted((path,))))
    assert (workspace.locked, workspace.trouble) == (Wanted((path,)), "")
    done(workspace.unlock("wrong"))
    assert workspace.locked == Wanted((path,))
    assert "does not open with this password" in workspace.trouble
    done(workspace.unlock("sesame"))
    assert workspace.locked is None
    assert workspace.opened is not None
    assert workspace.opened.whole.source_name == "locked.pdf"
    with pytest.raises(RequestError, match="No file waits"):
        workspace.unlock("sesame")


# --- reading ahead ----------------------------------------------------------------------------------------------------


def eager(report: Path, loader: Loader, history: History | None = None) -> Workspace:
    workspace = Workspace(loader, history, reads_ahead=True)
    done(workspace.switch(preset("builtin", 16384)))
    done(workspace.start_opening(Wanted((report,))))
    return workspace


def reading(workspace: Workspace) -> Job[Fact]:
    deadline = time.monotonic() + 5
    while (job := workspace.job) is None or job.kind != "read":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return job


def test_a_document_is_read_before_the_first_question(report: Path) -> None:
    workspace = eager(report, Loader())
    job = done(reading(workspace))
    assert isinstance(job.facts[-1], Prefilled)
    answer = done(workspace.ask("What?"))
    ready_event = next(fact for fact in answer.facts if isinstance(fact, PromptReady))
    assert ready_event.num_prompt_tokens - ready_event.num_reused_tokens < 20
    assert len(workspace.turns) == 1


def test_what_was_read_is_kept_until_the_last_conversation_about_it_is_deleted(report: Path) -> None:
    loader, forgotten = Loader(), list[str]()
    workspace = eager(report, loader, History(None, forget_computed=forgotten.append))
    done(reading(workspace))
    done(workspace.ask("What?"))
    engine, opened = loader.engines[0], workspace.opened
    assert opened is not None
    kept = engine.kept[opened.used.sha256]
    assert engine.requests[-1].prompt_token_ids[: len(kept)] == kept
    workspace.new_chat()
    done(workspace.ask("And what else?"))
    workspace.choose_range(0, 1)
    done(workspace.ask("In this part?"))
    part = workspace.opened.used.sha256 if workspace.opened else ""
    workspace.delete_conversation()
    assert forgotten == [part]
    for left in ([part], [part, opened.used.sha256]):
        workspace.open_conversation(workspace.talk.summaries()[0].id)
        workspace.delete_conversation()
        assert forgotten == left


def test_what_was_computed_goes_with_the_conversation_without_a_model_too(report: Path, tmp_path: Path) -> None:
    forgotten: list[str] = []
    workspace = eager(report, Loader(), History(tmp_path / "data"))
    done(workspace.ask("What?"))
    opened = workspace.opened
    workspace.close()
    again = Workspace(Loader(), History(tmp_path / "data", forget_computed=forgotten.append))
    again.open_conversation(again.talk.summaries()[0].id)
    again.delete_conversation()
    assert opened is not None
    assert forgotten == [opened.used.sha256]
    again.close()


def test_nothing_computed_of_a_locked_document_is_kept_and_its_card_says_so(report: Path, tmp_path: Path) -> None:
    loader, forgotten = Loader(), list[str]()
    history = History(None, forget_computed=forgotten.append)
    workspace, path = eager(report, loader, history), tmp_path / "locked.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, ["Some words on a page."]))], password="sesame"))
    done(reading(workspace))
    before = dict(loader.engines[0].kept)
    done(workspace.start_opening(Wanted((path,), passwords=("sesame",))))
    assert done(reading(workspace)).facts
    done(workspace.ask("What?"))
    assert loader.engines[0].kept == before != {}
    assert workspace.opened is not None
    assert forgotten == [workspace.opened.used.sha256]  # what an earlier version kept
    assert text.LOCKED_KEPT in document_card(workspace.opened.used, workspace.opened.budget)


def test_a_document_whose_reading_a_question_broke_off_is_kept_later(report: Path) -> None:
    loader = Loader(chunk_s=0.1)
    workspace = eager(report, loader)
    reading(workspace)
    done(workspace.ask("What?"))
    assert loader.engines[0].kept == {}
    measured = workspace.calibrate()
    assert measured is not None
    done(measured)
    done(reading(workspace))
    assert len(loader.engines[0].kept) == 1


def test_a_question_does_not_wait_for_reading_ahead(report: Path) -> None:
    workspace = eager(report, Loader(chunk_s=0.1))
    job = reading(workspace)
    while not any(isinstance(fact, Prefilled) for fact in job.facts):
        time.sleep(0.01)
    assert workspace.why_not_ask == ""
    started = time.monotonic()
    answer = workspace.ask("What?")
    assert time.monotonic() - started < PROMPT_S
    done(answer)
    ready_event = next(fact for fact in answer.facts if isinstance(fact, PromptReady))
    assert 0 < ready_event.num_reused_tokens < ready_event.num_prompt_tokens - 100


def test_reading_ahead_can_be_stopped_and_what_was_read_is_used(report: Path) -> None:
    workspace = eager(report, Loader(chunk_s=0.1))
    job = reading(workspace)
    while not any(isinstance(fact, Prefilled) for fact in job.facts):
        time.sleep(0.01)
    assert stop_soon(workspace, job) < PROMPT_S
    assert (workspace.trouble, workspace.why_not_ask) == ("", "")
    answer = done(workspace.ask("What?"))
    ready_event = next(fact for fact in answer.facts if isinstance(fact, PromptReady))
    assert ready_event.num_reused_tokens > 0


def test_another_model_reads_the_document_again(report: Path) -> None:
    loader = Loader()
    workspace = eager(report, loader)
    done(reading(workspace))
    done(workspace.switch(preset("other", 16384)))
    done(reading(workspace))
    assert len(loader.engines[-1].requests) == 1
    done(workspace.switch(preset("broken")))
    assert "is loaded again" in workspace.trouble
    done(reading(workspace))
    assert "is loaded again" in workspace.trouble  # reading ahead does not take the message away


# --- work apart -------------------------------------------------------------------------------------------------------


def test_apart_gives_results_and_errors() -> None:
    apart = Apart()
    assert apart.run(lambda is_unwanted: 7, lambda: False, lambda result: None) == 7

    def fail(is_unwanted: Callable[[], bool]) -> int:
        raise ModelError("It broke.")

    with pytest.raises(ModelError, match="It broke"):
        apart.run(fail, lambda: False, lambda result: None)


def test_apart_waits_for_what_was_let_go_of() -> None:
    apart, discarded, waits, is_done = Apart(), [], [], threading.Event()

    def slow(is_unwanted: Callable[[], bool]) -> int:
        time.sleep(0.3)
        is_done.set()
        return 1

    with pytest.raises(Stopped):
        apart.run(slow, lambda: True, discarded.append)
    assert not is_done.is_set()
    assert (
        apart.run(
            lambda is_unwanted: is_done.is_set(), lambda: False, lambda result: None, lambda: waits.append("wait")
        )
        is True
    )
    assert (discarded, waits) == ([1], ["wait"])


def test_the_first_load_has_a_way_out(report: Path) -> None:
    loaded: list[str] = []
    workspace = Workspace(Loader(), on_loaded=lambda preset: loaded.append(preset.name))
    done(workspace.switch(preset("broken"), otherwise=preset("builtin")))
    assert workspace.preset is not None
    assert workspace.preset.name == "builtin"
    assert "The broken model could not be loaded." in workspace.trouble
    assert "The builtin model is loaded instead." in workspace.trouble
    done(workspace.switch(preset("other")))
    assert loaded == ["builtin", "other"]


def test_what_was_let_go_of_is_not_revived(report: Path) -> None:
    """The way back clears the wish to stop; a load that was let go of must not take that for its own."""
    reached, looked, is_over = threading.Event(), [], threading.Event()

    def load(preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
        if preset.name == "slow":
            room.free()
            reached.set()
            time.sleep(0.8)
            try:
                watch.check()
                looked.append("goes on")
            except Stopped:
                looked.append("stopped")
            finally:
                is_over.set()
        return ScriptedEngine("answer")

    workspace = Workspace(load)
    done(workspace.switch(preset("builtin")))
    job = workspace.switch(preset("slow"))
    assert reached.wait(5)
    workspace.stop()
    done(job)
    assert is_over.wait(5)
    assert looked == ["stopped"]
    assert workspace.why_not_ask == text.ASK_NEEDS_DOCUMENT  # the old one is back


def test_closing_loads_nothing_any_more() -> None:
    engines: list[ScriptedEngine] = []
    reached = threading.Event()

    def load(preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
        if preset.name == "slow":
            room.free()
            reached.set()
            while True:
                time.sleep(0.02)
                watch.check()
        engines.append(ScriptedEngine("answer"))
        return engines[-1]

    workspace = Workspace(load)
    done(workspace.switch(preset("builtin")))
    workspace.switch(preset("slow"))
    assert reached.wait(5)
    workspace.close()
    time.sleep(0.3)
    assert [engine.is_closed for engine in engines] == [True]
    with pytest.raises(RequestError):
        workspace.switch(preset("builtin"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unforeseen_error_brings_the_old_engine_back(report: Path) -> None:
    def load(preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
        if preset.name == "odd":
            room.free()
            raise KeyError("weight_map")
        return ScriptedEngine("answer")

    workspace = Workspace(load)
    done(workspace.switch(preset("builtin")))
    done(workspace.switch(preset("odd")))
    assert workspace.preset is not None
    assert workspace.preset.name == "builtin"
    assert "The odd model could not be loaded." in workspace.trouble
    assert "The builtin model is loaded again." in workspace.trouble
