"""What is typed into the settings is used, and is not written over; what is only passed by changes nothing."""

import time
from dataclasses import replace
from pathlib import Path

from spec_engine.config import GenerationDefaults, Preset
from spec_engine.loading import Room
from spec_engine.model.watch import LoadWatch
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.job import Job
from spec_engine.ui.state import Fact, Wanted
from spec_engine.ui.workspace import Workspace
from tests.ui.fakes import ScriptedEngine
from tests.ui.test_following import handlers, workspace
from tests.ui.test_workspace import Loader, done, preset, report

__all__ = ["handlers", "report", "workspace"]  # fixtures


def given(handlers: Handlers) -> tuple[int, float, int]:
    """What a page that is opened now knows of its settings."""
    known = handlers.open_page()[handlers._page.document.settings_known]
    assert isinstance(known, tuple)
    return known


def test_a_field_that_is_passed_by_keeps_what_another_tab_has_set(workspace: Workspace, handlers: Handlers) -> None:
    doc, known = handlers._page.document, given(handlers)
    workspace.settings = replace(workspace.settings, temperature=0.8)
    shown = handlers.set_settings(*known, known)
    assert workspace.settings.temperature == 0.8
    assert shown[doc.temperature] == 0.8
    shown = handlers.set_settings(100, 0.0, 0, known)  # only the first was changed here
    assert (workspace.settings.max_tokens, workspace.settings.temperature) == (100, 0.8)
    assert shown[doc.settings_known] == (100, 0.8, 0)


def test_a_setting_that_is_being_typed_is_not_written_over_by_a_model_that_was_loaded(
    workspace: Workspace, handlers: Handlers
) -> None:
    doc, known = handlers._page.document, given(handlers)
    changed = replace(preset("other"), generation=GenerationDefaults(max_tokens=77, temperature=0.3))
    done(workspace.switch(changed))
    shown = handlers.show_result("", None, "", known[0], 0.7, None, known)  # two fields are being typed in
    assert shown[doc.max_tokens] == 77
    assert not {doc.temperature, doc.seed} & set(shown)
    known = shown[doc.settings_known]  # type: ignore[assignment]
    handlers.set_settings(77, 0.7, 5, known)
    assert workspace.settings == replace(changed.generation, temperature=0.7, seed=5)


def test_another_model_brings_its_settings_but_for_those_that_were_set_here_and_says_so(
    workspace: Workspace, handlers: Handlers
) -> None:
    doc, notice, known = handlers._page.document, handlers._page.chat.notice, given(handlers)
    handlers.set_settings(77, *known[1:], known)
    done(workspace.ask("What?"))
    own = GenerationDefaults(max_tokens=2000, temperature=0.6, top_p=0.95)
    done(workspace.switch(replace(preset("other"), title="Other", generation=own)))
    assert workspace.settings == replace(own, max_tokens=77)
    shown = handlers.show_result("", None, "", 77, 0.0, 0, (77, 0.0, 0))
    assert shown[doc.temperature] == 0.6
    assert doc.max_tokens not in shown
    words = "temperature 0.6 (it was 0), top-p 0.95 (it was 1). Your own stay: at most 77 tokens."
    assert f"Other brings settings of its own for answers: {words}" in str(shown[notice])
    assert "se-notice--error" not in str(shown[notice])

    done(workspace.switch(preset("builtin")))  # draws nothing, so what drawing would go by is no matter
    assert workspace.settings == GenerationDefaults(max_tokens=77)
    assert "answers: temperature 0 (it was 0.6). Your own stay" in workspace.remark
    done(workspace.switch(preset("third")))
    assert (workspace.settings, workspace.remark) == (GenerationDefaults(max_tokens=77), "")


def test_the_first_model_says_nothing_about_its_settings(report: Path) -> None:
    workspace = Workspace(Loader())
    done(workspace.switch(replace(preset("other"), generation=GenerationDefaults(temperature=0.6))))
    assert (workspace.settings.temperature, workspace.remark) == (0.6, "")


def test_what_a_model_says_of_its_settings_stays_beside_what_a_document_that_waited_for_it_says(
    workspace: Workspace, report: Path, tmp_path: Path
) -> None:
    class Slow(Loader):
        def __call__(self, preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
            time.sleep(0.2)
            return super().__call__(preset, watch, room)

    workspace._load_engine = Slow()
    other = tmp_path / "other.txt"
    other.write_text("Others.")
    job = workspace.switch(replace(preset("other"), generation=GenerationDefaults(temperature=0.6)))
    workspace.start_opening(Wanted((report,), added=(report, other)))
    done(job)
    assert "temperature 0.6" in workspace.remark
    assert "report.txt was in the document already" in workspace.remark


def test_that_more_of_an_answer_is_drawn_otherwise_is_said(workspace: Workspace, handlers: Handlers) -> None:
    known, notice = given(handlers), handlers._page.chat.notice
    handlers.set_settings(5, *known[1:], known)
    done(workspace.ask("What?"))
    assert notice in handlers.go_on(None)
    done(workspace.answer_job)
    assert workspace.remark == ""
    shown = handlers.go_on(None, 5, 0.7, 3, (5, 0.0, 0))
    words = "The answer goes on with temperature 0.7; what was there was written with temperature 0."
    assert words in str(shown[notice])
    done(workspace.answer_job)
    assert words in str(handlers.show_result("", None)[notice])
    shown = handlers.go_on(None, 5, 0.7, 4, (5, 0.7, 3))
    done(workspace.answer_job)
    assert "goes on with seed 4; what was there was written with seed 3." in str(shown[notice])


def test_a_new_chat_leaves_the_settings_alone(workspace: Workspace, handlers: Handlers) -> None:
    doc = handlers._page.document
    done(workspace.ask("What?"))
    assert not {doc.max_tokens, doc.temperature, doc.seed, doc.settings_known} & set(handlers.new_chat(None))


def test_an_answer_uses_the_settings_that_its_page_shows(workspace: Workspace, handlers: Handlers) -> None:
    doc, known = handlers._page.document, given(handlers)
    shown = handlers.ask("What?", None, 7, 0.0, -3, known)
    done(workspace.answer_job)
    assert workspace.talk.path[-1].details["max_tokens"] == 7
    assert shown[doc.seed] == 0
    assert "at most 7 tokens" in str(shown[doc.settings_note])

    class Pressed:
        index = 0

    known = shown[doc.settings_known]  # type: ignore[assignment]
    handlers.regenerate(None, Pressed(), 5, 0.5, 0, known)  # type: ignore[arg-type]
    done(workspace.answer_job)
    assert len(workspace.talk.path[-1].token_ids) == 5
    assert workspace.talk.path[-1].details["temperature"] == 0.5


def test_a_refused_question_uses_its_settings_nevertheless(workspace: Workspace, handlers: Handlers) -> None:
    known = given(handlers)
    handlers.ask(" ", None, 9, *known[1:], known)
    assert workspace.settings.max_tokens == 9


def test_a_page_that_is_behind_is_told_what_is_in_force(workspace: Workspace, handlers: Handlers) -> None:
    doc, known = handlers._page.document, given(handlers)
    workspace.settings = replace(workspace.settings, seed=4)
    workspace._begin(Job[Fact]("answer", lambda job: None))
    done(workspace.job)
    shown = handlers._views.catch_up("", None, "", *known, known)
    assert shown[doc.seed] == 4
    assert shown[doc.settings_known] == (known[0], known[1], 4)
    assert not {doc.max_tokens, doc.temperature} & set(shown)
