"""What the page shows after something was pressed or typed, and what it says when that was refused."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from spec_engine.documents.anchors import Document
from spec_engine.errors import RequestError, UnreadableDocument
from spec_engine.ui import layout, papers, text
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.job import Job
from spec_engine.ui.listing import branch_lines
from spec_engine.ui.shelf import Fit, PresetShelf
from spec_engine.ui.state import Fact, Wanted
from spec_engine.ui.views import Updates
from spec_engine.ui.workspace import MAX_SEED, Workspace
from tests.documents.files import make_pdf, paragraph, show
from tests.ui.fakes import ScriptedEngine
from tests.ui.test_following import handlers, workspace
from tests.ui.test_workspace import ANSWER, Loader, done, preset, ready, report

__all__ = ["handlers", "report", "workspace"]  # fixtures


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_seed_is_one_that_a_browser_holds(workspace: Workspace, handlers: Handlers) -> None:
    doc = handlers._page.document
    for given, used in ((10**23, MAX_SEED), (1e300, MAX_SEED), (-3, 0), (1.5, 1), (MAX_SEED, MAX_SEED)):
        shown = handlers.set_settings(512, 0.0, given, None)
        assert workspace.settings.seed == used
        assert shown.get(doc.seed, given) == used
    shown = handlers.set_settings(512, 0.0, -3, None)
    assert "seed 0" in str(shown[doc.settings_note])


def test_a_seed_that_is_counted_on_stays_in_bounds(workspace: Workspace) -> None:
    done(workspace.ask("What?"))
    workspace.settings = replace(workspace.settings, temperature=0.8, seed=MAX_SEED)
    done(workspace.regenerate())
    done(workspace.regenerate())
    assert workspace.settings.seed == 0


def test_a_retry_says_which_seed_it_leaves_in_the_settings(workspace: Workspace, handlers: Handlers) -> None:
    class Pressed:
        index = 0

    doc, notice = handlers._page.document, handlers._page.chat.notice
    handlers.ask("What?", None, 512, 0.8, 3, (512, 0.0, 0))
    done(workspace.answer_job)
    known = (512, 0.8, 3)
    words = "Drawn with seed 4, now under Settings: with seed 3 the answer would be the same."
    assert words in str(handlers.regenerate(None, Pressed(), *known, known)[notice])  # type: ignore[arg-type]
    done(workspace.answer_job)
    shown = handlers.show_result("", None, "", *known, known)
    assert shown[doc.seed] == 4
    assert words in str(shown[notice])
    known = (512, 0.8, 9)
    handlers.regenerate(None, Pressed(), *known, (512, 0.8, 4))  # type: ignore[arg-type]
    done(workspace.answer_job)
    assert workspace.remark == ""


def test_a_retry_that_is_refused_leaves_the_seed(workspace: Workspace) -> None:
    workspace.settings = replace(workspace.settings, temperature=0.8)
    done(workspace.ask("What?"))
    ended = threading.Event()
    job = workspace._begin(Job[Fact]("open", lambda job: ended.wait(5) and None))
    with pytest.raises(RequestError):
        workspace.regenerate()
    ended.set()
    done(job)
    assert workspace.settings.seed == 0


def test_an_empty_field_leaves_its_setting_and_shows_it(workspace: Workspace, handlers: Handlers) -> None:
    doc = handlers._page.document
    workspace.settings = replace(workspace.settings, max_tokens=100, temperature=0.5, seed=7)
    before = workspace.settings
    shown = handlers.set_settings(None, None, None, None)
    assert workspace.settings == before
    assert [shown[field] for field in (doc.max_tokens, doc.temperature, doc.seed)] == [100, 0.5, 7]


def test_fields_out_of_range_show_what_is_used_and_others_are_left_alone(
    workspace: Workspace, handlers: Handlers
) -> None:
    doc = handlers._page.document
    shown = handlers.set_settings(-5, 0.7, 3, None)
    assert shown[doc.max_tokens] == 1
    assert not {doc.temperature, doc.seed} & set(shown)
    assert "at most 1 token," in str(shown[doc.settings_note])
    again = handlers.set_settings(1, 0.7, 3, None)  # the field was left, nothing was changed: the note may be read
    assert doc.settings_note not in again
    assert handlers.set_settings(9, 0.7, 3, None)[doc.settings_note] == ""


def test_settings_do_not_follow_single_keys(workspace: Workspace) -> None:
    """A field that is emptied to type another number holds small numbers on the way."""
    blocks = layout.build_page(workspace, PresetShelf([preset("builtin")]))
    fields = {one._id for one in blocks.blocks.values() if isinstance(one, gr.Number)}
    kinds = [kind for function in blocks.fns.values() for target, kind in function.targets if target in fields]
    assert sorted(kinds) == ["blur"] * 3 + ["submit"] * 3
    blocks.close()


# --- questions --------------------------------------------------------------------------------------------------------


def test_why_a_question_cannot_be_answered_is_said_and_it_comes_back(workspace: Workspace, handlers: Handlers) -> None:
    chat, question = handlers._page.chat, "word " * 9000
    begun = handlers.ask(question, None)
    done(workspace.job)
    shown = handlers.show_result(str(begun[chat.beat]), None, "")
    assert "leaves no room for an answer" in str(shown[chat.notice])
    assert shown[chat.box]["value"] == question.strip()  # type: ignore[index]


def stopped(report: Path) -> Workspace:
    """An answer was stopped before its first word."""
    workspace = ready(report, Loader(chunk_s=0.2))
    job = workspace.ask("What?")
    workspace.stop()
    done(job)
    return workspace


@pytest.mark.parametrize("typed", ["", "  ", None])
def test_a_stopped_question_comes_back_into_an_empty_box(report: Path, handlers: Handlers, typed: str | None) -> None:
    handlers._views._workspace = handlers._workspace = stopped(report)
    chat = handlers._page.chat
    shown = handlers._views.result(None, typed)
    assert shown[chat.box]["value"] == "What?"  # type: ignore[index]
    assert text.STOPPED_EARLY in str(shown[chat.notice])


def test_a_stopped_question_comes_back_into_a_page_that_was_reloaded(report: Path, handlers: Handlers) -> None:
    """It was lost where the page that it was asked on did not see the end."""
    handlers._views._workspace = handlers._workspace = stopped(report)
    box = handlers._page.chat.box
    assert handlers.open_page()[box]["value"] == "What?"  # type: ignore[index]
    assert "value" not in handlers.open_page().get(box, {})  # type: ignore[operator]


def test_a_stopped_edit_is_told_from_a_new_question(report: Path, handlers: Handlers) -> None:
    workspace = handlers._views._workspace = handlers._workspace = ready(report, Loader())
    done(workspace.ask("What?"))
    for num_kept, told in ((0, text.STOPPED_EDIT), (None, text.STOPPED_EARLY)):
        engine = workspace._engine
        assert isinstance(engine, ScriptedEngine)
        engine.chunk_s, engine.cached[0] = 0.2, ()
        job = workspace.ask("What else?", num_kept)
        workspace.stop()
        done(job)
        shown = handlers._views.result(None, "")
        assert told in str(shown[handlers._page.chat.notice])
        assert shown[handlers._page.chat.box]["value"] == "What else?"  # type: ignore[index]


def test_the_sample_is_the_first_step_until_there_is_a_document(workspace: Workspace, handlers: Handlers) -> None:
    """And nothing can be searched before."""
    doc = handlers._page.document
    shown = handlers._views.everything(None)
    assert (shown[doc.sample]["variant"], shown[doc.preview_box]["visible"]) == ("secondary", True)  # type: ignore[index]
    workspace.opened = None
    shown = handlers._views.everything(None)
    assert (shown[doc.sample]["variant"], shown[doc.preview_box]["visible"]) == ("primary", False)  # type: ignore[index]


def test_a_stopped_question_overwrites_nothing_that_is_typed(report: Path, handlers: Handlers) -> None:
    handlers._views._workspace = handlers._workspace = stopped(report)
    chat = handlers._page.chat
    shown = handlers._views.result(None, "And by wh")
    assert "value" not in shown[chat.box]  # type: ignore[operator]
    assert "The question was: What?" in str(shown[chat.notice])


def slow_reading(monkeypatch: pytest.MonkeyPatch, is_readable: bool = True) -> threading.Event:
    """Documents are read once the event is set."""
    goes_on, read = threading.Event(), papers.read_documents

    def slowly(*arguments: object) -> Document:
        goes_on.wait(10)
        if not is_readable:
            raise UnreadableDocument("The file is broken.")
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(papers, "read_documents", slowly)
    return goes_on


def opening(workspace: Workspace, handlers: Handlers, path: Path) -> tuple[Updates, Job[Fact]]:
    """What a page shows that has begun to open a file, and the job."""
    jobs: list[Job[Fact]] = []
    return handlers._open(lambda: jobs.append(workspace.start_opening(Wanted((path,))))), jobs[0]


def test_a_question_about_a_document_that_is_being_opened_is_kept(
    workspace: Workspace, handlers: Handlers, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, chat = slow_reading(monkeypatch), handlers._page.chat
    begun, job = opening(workspace, handlers, report)
    refused = handlers.ask("What?", begun[chat.seen])  # type: ignore[arg-type]
    assert "still being opened; the question is kept" in str(refused[chat.notice])
    assert "value" not in refused[chat.box]  # type: ignore[operator]
    assert refused[chat.seen] == gr.skip()  # the page goes on knowing what it has begun
    assert handlers.rename("Title")[chat.seen] == gr.skip()
    goes_on.set()
    done(job)


def test_what_is_meant_for_what_is_shown_is_not_done_to_what_was_opened_since(
    workspace: Workspace, handlers: Handlers, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(workspace.ask("First?"))
    goes_on = slow_reading(monkeypatch)
    begun, job = opening(workspace, handlers, report)
    goes_on.set()
    done(job)
    done(workspace.ask("Second?"))
    chat, seen = handlers._page.chat, begun[handlers._page.chat.seen]

    class Edited:
        index, value = 0, "Changed?"

    for refused in (
        handlers.delete(seen),  # type: ignore[arg-type]
        handlers.edit(seen, Edited()),  # type: ignore[arg-type]
        handlers.regenerate(seen, Edited()),  # type: ignore[arg-type]
    ):
        assert "Another tab" in str(refused[chat.notice])
    assert [turn.question for turn in workspace.turns] == ["Second?"]


def test_who_opened_a_document_may_ask_before_it_is_shown(
    workspace: Workspace, handlers: Handlers, report: Path
) -> None:
    chat = handlers._page.chat
    elsewhere = handlers._views.everything(None)[chat.seen]
    begun, job = opening(workspace, handlers, report)
    done(job)
    refused = handlers.ask("Which?", elsewhere)  # type: ignore[arg-type]  # another tab shows the old one
    assert "Nothing was asked" in str(refused[chat.notice])
    handlers.ask("What?", begun[chat.seen])  # type: ignore[arg-type]
    done(workspace.answer_job)
    assert [turn.question for turn in workspace.turns] == ["What?"]
    workspace.new_chat()
    refused = handlers.ask("And?", begun[chat.seen])  # type: ignore[arg-type]
    assert "Nothing was asked" in str(refused[chat.notice])


def test_a_document_that_could_not_be_opened_is_not_asked_about(
    workspace: Workspace, handlers: Handlers, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is open still is not the one that was meant."""
    goes_on, chat = slow_reading(monkeypatch, is_readable=False), handlers._page.chat
    begun, job = opening(workspace, handlers, report)
    goes_on.set()
    done(job)
    refused = handlers.ask("What?", begun[chat.seen])  # type: ignore[arg-type]
    assert "The file is broken." in str(refused[chat.notice])
    assert workspace.turns == ()


def test_an_edited_question_has_no_joiners(workspace: Workspace, handlers: Handlers) -> None:
    done(workspace.ask("Is <b> bold?"))
    shown = handlers._views.everything(None)[handlers._page.chat.chat][0]["content"][0]["text"]  # type: ignore[index]
    assert shown != "Is <b> bold?"

    class Edited:
        index, value = 0, shown

    handlers.edit(None, Edited())  # type: ignore[arg-type]
    done(workspace.answer_job)
    assert workspace.turns[0].question == "Is <b> bold?"


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_that_reached_its_limit_says_so_and_may_be_written_again(
    workspace: Workspace, handlers: Handlers
) -> None:
    chat = handlers._page.chat
    workspace.settings = replace(workspace.settings, max_tokens=7)
    done(workspace.ask("What?"))
    line = str(handlers._views.everything(None)[chat.live])
    assert "reached its limit, 7 tokens." in line
    with pytest.raises(RequestError, match="the same word for word"):
        workspace.regenerate()
    workspace.settings = replace(workspace.settings, max_tokens=500)
    done(workspace.regenerate())  # which is another answer, though the temperature is 0
    assert workspace.turns[-1].answer == ANSWER
    assert handlers._views.everything(None)[chat.live] == ""


def test_an_answer_that_filled_the_context_says_that(workspace: Workspace, handlers: Handlers) -> None:
    session = workspace._session
    assert session is not None
    num_free = 4096 - len(session.prompt("word " * 3000)) - 40
    done(workspace.ask("word " * (3000 + num_free)))
    assert workspace.talk.path[-1].reason == "length"
    assert text.REACHED_CONTEXT in str(handlers._views.everything(None)[handlers._page.chat.live])


# --- models -----------------------------------------------------------------------------------------------------------


def test_the_picker_shows_what_is_loaded_and_old_trouble_goes(
    workspace: Workspace, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc, chat = handlers._page.document, handlers._page.chat
    large = preset("large")
    monkeypatch.setattr(Fit, "is_enough", property(lambda fit: fit.preset.name != "large"))
    handlers._shelf._own["large"] = large
    shown = handlers.switch("large")
    assert workspace.offered is not None
    assert shown[doc.preset]["value"] == "builtin"  # type: ignore[index]
    assert shown[doc.fit_row]["visible"]  # type: ignore[index]
    assert shown[chat.notice] == ""


# --- documents --------------------------------------------------------------------------------------------------------


def test_unlocking_needs_a_password(workspace: Workspace, handlers: Handlers, tmp_path: Path) -> None:
    path = tmp_path / "locked.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, ["Some words on a page."]))], password="sesame"))
    done(workspace.start_opening(Wanted((path,))))
    shown = handlers._intake.unlock("", None)
    assert text.PASSWORD_EMPTY in str(shown[handlers._page.chat.notice])
    assert workspace.locked is not None


# --- conversations ----------------------------------------------------------------------------------------------------


def test_the_list_names_documents_and_says_when_nothing_is_found(workspace: Workspace, handlers: Handlers) -> None:
    history = handlers._page.history
    done(workspace.ask("What?"))
    shown = handlers._views.search("")
    ((line, _),) = shown[history.listing]["choices"]  # type: ignore[index]
    assert line.startswith("What?\nreport.txt · 1 answer · ")
    assert shown[history.found] == ""
    nothing = handlers._views.search("no <such> thing")
    assert "Nothing found for “no &lt;such&gt; thing”." in str(nothing[history.found])


def test_documents_that_look_alike_in_the_list_are_told_apart(workspace: Workspace, handlers: Handlers) -> None:
    history = handlers._page.history

    def listed() -> list[str]:
        shown = handlers._views.search("")[history.listing]
        return [line.split("\n")[1].partition(" · ")[0] for line, _ in shown["choices"]]  # type: ignore[index]

    for words in ("First words.", "Other words.", "First words."):
        workspace.open_documents([workspace.paste(words, "Minutes")])
        done(workspace.ask("What?"))
    newest, middle, oldest = listed()
    assert re.fullmatch(r"Minutes, no\. 1, of \d\d \w+ \d{4} \d\d:\d\d", oldest)
    assert newest == oldest  # the same text
    assert middle.startswith("Minutes, no. 2, of ")
    handlers._views.search("Other")  # whatever is found, names stay
    workspace.delete_conversation()
    workspace.open_conversation(workspace.talk.summaries()[0].id)
    workspace.delete_conversation()
    assert listed() == ["Minutes"]


def test_a_document_of_several_files_is_listed_with_their_number(workspace: Workspace, handlers: Handlers) -> None:
    for names in (("Minutes",), ("Minutes", "Notes"), ("Minutes", "Notes", "A name that is longer than others")):
        workspace.open_documents([workspace.paste(f"Words of {name}.", name) for name in names])
        done(workspace.ask("What?"))
    shown = handlers._views.search("")[handlers._page.history.listing]
    listed = [line.split("\n")[1].partition(" · ")[0] for line, _ in shown["choices"]]  # type: ignore[index]
    assert listed == ["Minutes + 2 files", "Minutes + 1 file", "Minutes"]


def test_a_question_that_is_no_text_is_refused(workspace: Workspace, handlers: Handlers) -> None:
    shown = handlers.ask("What of \ud800?", None)
    assert "no text" in str(shown[handlers._page.chat.notice])
    assert workspace.talk.conversation is None


def test_conversations_with_one_title_about_one_document_are_told_apart(
    workspace: Workspace, handlers: Handlers
) -> None:
    def listed(search: str = "") -> list[str]:
        shown = handlers._views.search(search)[handlers._page.history.listing]
        return [line.split("\n")[0] for line, _ in shown["choices"]]  # type: ignore[index]

    long = "What does the report say about the closing of"  # of 45 characters
    for question in ("What?", f"{long} A?", "What?", f"{long} B?", "What?"):
        workspace.new_chat()
        done(workspace.ask(question))
    assert listed() == ["What? (3)", f"{long[:40]}… (2)", "What? (2)", f"{long}…", "What?"]
    workspace.rename_conversation("Another")
    assert listed("another") == ["Another"]
    assert listed("what") == ["Another", f"{long[:40]}… (2)", "What? (2)", f"{long}…", "What?"]


def test_what_is_deleted_is_named_and_is_what_the_page_shows(workspace: Workspace, handlers: Handlers) -> None:
    history, chat = handlers._page.history, handlers._page.chat
    done(workspace.ask("What?"))
    shown = handlers._views.everything(None)
    assert "Delete the conversation “What?” for good?" in str(shown[history.confirm_words])
    workspace.new_chat()
    done(workspace.ask("Other?"))
    refused = handlers.delete(shown[chat.seen])  # type: ignore[arg-type]
    assert "Nothing was deleted" in str(refused[chat.notice])
    assert len(workspace.talk.summaries()) == 2
    handlers.delete(handlers._views.everything(None)[chat.seen])  # type: ignore[arg-type]
    assert [one.title for one in workspace.talk.summaries()] == ["What?"]


def test_a_preset_is_deleted_after_a_question(handlers: Handlers) -> None:
    handlers._shelf._own["mine"] = preset("mine")
    visible, words, verdict = handlers.editing.ask_to_delete_preset(" mine ")
    assert visible["visible"]  # type: ignore[index]
    assert ("Delete the preset “mine” for good?" in words, verdict) == (True, "")
    assert handlers._shelf.is_own("mine")
    visible, words, verdict = handlers.editing.ask_to_delete_preset("builtin")
    assert not visible["visible"]  # type: ignore[index]
    assert text.PRESET_NOT_OWN in verdict
    asked = str(handlers.editing.ask_to_delete_preset("mine")[1])
    handlers._shelf._own["mine2"] = preset("mine2")
    handlers.editing.delete_preset("mine2", asked)  # typed since
    assert handlers._shelf.is_own("mine2")
    handlers.editing.delete_preset("mine", asked)
    assert not handlers._shelf.is_own("mine")


def test_what_the_document_has_no_word_of_is_said_below_the_answer(workspace: Workspace, handlers: Handlers) -> None:
    done(workspace.ask('What does it say about "bananas"?'))
    assert "no word of “bananas”" in str(handlers._views.everything(None)[handlers._page.chat.live])
    word = workspace.opened.used.text.split()[0]  # type: ignore[union-attr]
    done(workspace.ask(f'What does it say about "{word}"?'))
    assert "no word of" not in str(handlers._views.everything(None)[handlers._page.chat.live])


def test_answers_to_one_question_are_told_apart_in_the_list_of_branches() -> None:
    assert branch_lines([(1, "What?", None), (2, "When?", None)]) == ["1: What?", "2: When?"]
    assert branch_lines([(2, "What?", 1), (3, "When?", 1), (4, "What?", None), (7, "What?", 1)]) == [
        "1: What? (answer 1)",
        "2: When?",
        "3: What?",  # asked elsewhere
        "4: What? (answer 2)",
    ]


def test_a_conversation_is_found_by_the_name_of_its_document(workspace: Workspace, handlers: Handlers) -> None:
    history = handlers._page.history
    done(workspace.ask("What?"))
    workspace.new_chat()
    done(workspace.ask("When?"))
    for words, number in (("REPORT", "2"), ("report what", "1 of 2"), ("rep ort.txt", "2"), ("parts", "0 of 2")):
        shown = handlers._views.search(words)
        assert str(shown[history.box]["label"]).endswith(f" ({number})"), words  # type: ignore[index]
