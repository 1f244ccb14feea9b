"""What is typed into the settings is used, and is not written over; what is only passed by changes nothing."""

from dataclasses import replace

from spec_engine.config import GenerationDefaults
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.job import Job
from spec_engine.ui.state import Fact
from spec_engine.ui.workspace import Workspace
from tests.ui.test_following import handlers, workspace
from tests.ui.test_workspace import done, preset, report

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
