"""An answer that was cut is gone on with: where that is offered, what the page shows meanwhile, what is kept."""

import gc
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from spec_engine.chat.export import to_markdown
from spec_engine.chat.history import History
from spec_engine.chat.session import Session
from spec_engine.chat.store import StoredTurn
from spec_engine.errors import RequestError
from spec_engine.events import Finished, PromptReady, TokensAccepted
from spec_engine.metrics import StepRecord
from spec_engine.ui import render, text
from spec_engine.ui.going_on import Cut
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.job import Job
from spec_engine.ui.live import LiveAnswer, Stretch
from spec_engine.ui.views import Updates
from spec_engine.ui.workspace import Workspace
from tests.ui.fakes import ScriptedEngine
from tests.ui.test_following import handlers, workspace
from tests.ui.test_workspace import ANSWER, Loader, done, preset, ready, report

__all__ = ["handlers", "report", "workspace"]  # fixtures
BEGINNING = "word0 word1 word2 word3 word4 word5 word6"


def cut(workspace: Workspace, num_tokens: int = 7) -> StoredTurn:
    """Ask with a low limit, which is raised again behind it."""
    usual = workspace.settings
    workspace.settings = replace(usual, max_tokens=num_tokens)
    done(workspace.ask("What?"))
    workspace.settings = usual
    return workspace.talk.path[-1]


def engine_of(workspace: Workspace) -> ScriptedEngine:
    assert isinstance(workspace._engine, ScriptedEngine)
    return workspace._engine


def offers(handlers: Handlers, shown: Updates | None = None) -> bool:
    """Whether the page is told to show the button; without a word it stays as it is."""
    update = (shown or handlers._views.everything(None)).get(handlers._page.chat.go_on, {"visible": False})
    return bool(update["visible"])  # type: ignore[index, call-overload]


def words_of(update: object) -> list[str]:
    return [message["content"][0]["text"] for message in update]  # type: ignore[attr-defined]


def test_a_cut_answer_becomes_the_whole_one_in_its_place(workspace: Workspace, handlers: Handlers) -> None:
    before = cut(workspace)
    assert (before.answer, before.reason) == (BEGINNING, "length")
    assert offers(handlers)
    job = done(workspace.go_on())
    assert isinstance(job.facts[0], PromptReady)
    assert job.facts[0].num_reused_tokens == job.facts[0].num_prompt_tokens - 1
    (turn,) = workspace.talk.path
    assert (turn.id, turn.answer, turn.reason) == (before.id, ANSWER, "stop")
    assert len(turn.token_ids) == len(turn.is_drafted) == 60
    assert (turn.details["max_tokens"], len(turn.details["earlier"])) == (7 + 512, 1)  # type: ignore[arg-type]
    assert "".join(stretch.text for stretch in workspace.stretches(turn)) == ANSWER
    shown = handlers._views.everything(None)
    assert not offers(handlers, shown)
    assert words_of(shown[handlers._page.chat.chat]) == ["What?", ANSWER]
    assert "<td>61</td>" in str(shown[handlers._page.speed.answers])
    assert "word59" in str(shown[handlers._page.chat.authors])
    assert "54 more tokens, finished" in str(shown[handlers._page.speed.readouts])
    assert ANSWER in to_markdown("t", "", [turn])
    assert len(workspace.talk.summaries("word59")) == 1
    with pytest.raises(RequestError, match="no answer that was cut"):
        workspace.go_on()
    with pytest.raises(RequestError, match="the same word for word"):
        workspace.regenerate()


def test_a_race_is_about_all_of_an_answer_and_the_measured_gain_about_what_was_added(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.002))
    cut(workspace, 20)
    done(workspace.calibrate())
    assert workspace.talk.path[-1].details["plain_tokens_per_second"]
    job = done(workspace.go_on())
    assert "plain_tokens_per_second" not in workspace.talk.path[-1].details
    done(workspace.calibrate())
    assert workspace.talk.path[-1].details["plain_tokens_per_second"]
    done(workspace.race())
    assert workspace.comparison is not None
    assert (workspace.comparison.difference, workspace.comparison.is_whole) == (None, True)
    finished = job.facts[-1]
    assert isinstance(finished, Finished)
    assert len(finished.token_ids) == 41
    assert workspace.comparison.num_compared == len(workspace.talk.path[-1].token_ids) + 1 == 61  # and the end token


def test_while_more_is_written_the_answer_stays_and_grows(workspace: Workspace, handlers: Handlers) -> None:
    chat = handlers._page.chat
    engine_of(workspace).answer = "One.\n\nTwo. " + " ".join("so" for _ in range(60))
    cut(workspace, 6)
    engine_of(workspace).step_s = 0.05
    begun = handlers.go_on(handlers._views.everything(None)[chat.seen])  # type: ignore[arg-type]
    job = workspace.active_job
    assert job is not None
    assert words_of(begun[chat.chat]) == ["What?", "One.\n\n"]
    assert "Two. so" in str(begun[chat.live])
    assert not offers(handlers, begun)
    while not any(isinstance(fact, TokensAccepted) for fact in job.facts):
        time.sleep(0.005)
    for shown in (handlers._views.everything(None), handlers._views.catch_up(str(begun[chat.beat]), None)):
        assert "Two. so so" in str(shown[chat.live])
        assert "One." not in str(shown[chat.live])
    updates = list(handlers._views.follow(str(begun[chat.beat])))
    assert [str(each.get(chat.live)).count("Two.") for each in updates[1:]] == [1] * (len(updates) - 1)
    assert all(not offers(handlers, each) for each in updates[1:-1])
    done(job)
    shown = handlers._views.everything(None)
    assert words_of(shown[chat.chat]) == ["What?", engine_of(workspace).answer]
    assert shown[chat.live] == ""


def test_a_stop_keeps_what_was_added_and_one_at_once_changes_nothing(workspace: Workspace, handlers: Handlers) -> None:
    before, answered = cut(workspace), workspace.answer_job
    engine_of(workspace).step_s = 0.03
    engine_of(workspace).cached[0], engine_of(workspace).chunk_s = (), 0.1  # all is read again, which takes a while
    job = workspace.go_on()
    job.stop()
    done(job)
    engine_of(workspace).chunk_s = 0.0
    assert workspace.talk.path == (before,)
    assert workspace.answer_job is answered  # its figures are shown again
    assert not handlers._views.result(None, "")[handlers._page.chat.notice]
    job = workspace.go_on()
    while sum(isinstance(fact, TokensAccepted) for fact in job.facts) < 3:
        time.sleep(0.005)
    job.stop()
    done(job)
    (turn,) = workspace.talk.path
    added = "".join(fact.text for fact in job.facts if isinstance(fact, TokensAccepted))
    assert (turn.answer, turn.reason) == (BEGINNING + added, "cancelled")
    assert offers(handlers)
    done(workspace.go_on())
    assert workspace.talk.path[-1].answer == ANSWER
    shown = workspace.cut_of(workspace.answer_job)
    assert shown is not None
    engine_of(workspace).cached[0], engine_of(workspace).chunk_s = (), 0.1
    job = workspace.ask("Something else?")
    job.stop()
    done(job)
    assert workspace.cut_of(workspace.answer_job) is shown  # what was there before is still told from what was added


def test_a_failure_keeps_what_was_there(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cut(workspace)

    def fails(*arguments: object) -> None:
        raise RequestError("The machine gave up.")

    monkeypatch.setattr(engine_of(workspace), "_decode", fails)
    job = done(workspace.go_on())
    assert job.error == "The machine gave up."
    assert workspace.talk.path == (before,)


def test_after_a_crash_within_the_second_part_both_are_there_and_can_be_gone_on_with(
    report: Path, tmp_path: Path
) -> None:
    workspace = ready(report, Loader(), History(tmp_path / "data"))
    cut(workspace)
    words = engine_of(workspace).tokenizer
    engine_of(workspace).step_s = 0.02
    job = workspace.go_on()
    while sum(isinstance(fact, TokensAccepted) for fact in job.facts) < 4:
        time.sleep(0.005)
    shown = "".join(fact.text for fact in job.facts if isinstance(fact, TokensAccepted))
    left = tmp_path / "left"  # what a killed process would have left
    shutil.copytree(tmp_path / "data" / "documents", left / "documents")
    source, target = (sqlite3.connect(each / "conversations.sqlite") for each in (tmp_path / "data", left))
    source.backup(target)
    source.close()
    target.close()
    job.stop()
    done(job)
    workspace.close()

    again = ready(report, Loader(), History(left))
    again.open_conversation(again.talk.summaries()[0].id)
    (turn,) = again.talk.path
    assert turn.answer.startswith(BEGINNING + shown)
    assert turn.reason == "interrupted"
    engine_of(again).tokenizer = words
    done(again.go_on())
    (turn,) = again.talk.path
    assert (turn.answer, turn.reason, len(turn.token_ids), len(turn.is_drafted)) == (ANSWER, "stop", 60, 60)
    again.close()


def test_a_question_may_be_asked_behind_a_cut_answer_and_then_only_the_last_is_offered(
    workspace: Workspace, handlers: Handlers
) -> None:
    cut(workspace)
    done(workspace.ask("And then?"))
    assert [turn.answer for turn in workspace.turns] == [BEGINNING, ANSWER]
    assert not offers(handlers)
    last = engine_of(workspace).requests[-1].prompt_token_ids
    first = engine_of(workspace).requests[0].prompt_token_ids
    assert last[: len(first) + 7] == (*first, *(workspace.turns[0].answer_token_ids or ()))


def test_another_model_s_answer_is_not_gone_on_with(workspace: Workspace, handlers: Handlers) -> None:
    cut(workspace)
    words = engine_of(workspace).tokenizer
    done(workspace.switch(preset("other")))
    shown = handlers._views.everything(None)
    assert not offers(handlers, shown)
    assert text.OTHER_MODEL_WROTE in str(shown[handlers._page.chat.live])
    with pytest.raises(RequestError, match="Another model wrote it"):
        workspace.go_on()
    done(workspace.switch(preset("builtin")))
    engine_of(workspace).tokenizer = words  # which is that of the model, loaded again
    assert offers(handlers)


def test_a_full_context_is_not_gone_on_with_until_there_is_a_larger_one(
    workspace: Workspace, handlers: Handlers
) -> None:
    session = workspace._session
    assert session is not None
    num_free = 4096 - len(session.prompt("word " * 3000)) - 40
    done(workspace.ask("word " * (3000 + num_free)))
    assert not offers(handlers)
    with pytest.raises(RequestError, match="the context is full"):
        workspace.go_on()
    words = engine_of(workspace).tokenizer
    done(workspace.switch(preset("builtin", 8192)))
    engine_of(workspace).tokenizer = words
    assert offers(handlers)
    line = str(handlers._views.everything(None)[handlers._page.chat.live])
    assert text.FILLED_CONTEXT in line
    assert text.REACHED_CONTEXT not in line


def test_an_answer_that_ended_before_the_crash_is_whole(workspace: Workspace) -> None:
    cut(workspace)
    (stop,) = engine_of(workspace).tokenizer.stop_token_ids
    (turn,) = workspace.talk.path
    workspace.talk.path = (replace(turn, reason="interrupted"),)
    assert workspace.can_go_on
    workspace.talk.path = (replace(turn, reason="interrupted", token_ids=(*turn.token_ids, stop)),)
    assert not workspace.can_go_on


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("One line only", ""),
        ("One.\n\nTwo.\n \nThr", "One.\n\nTwo.\n \n"),
        ("One.\n\n", "One.\n\n"),
        ("List:\n- one\n- tw", "List:\n- one\n"),
        ("1. one\n2. two\nand a li", "1. one\n"),
        ("a\n-b\nc", ""),
    ],
)
def test_whole_paragraphs_and_items_stay_where_they_are(answer: str, kept: str) -> None:
    assert Cut(StoredTurn(1, None, "q", answer, (1,), (True,), "m", "p", "length")).kept == kept


def test_half_a_character_goes_when_the_rest_of_it_comes() -> None:
    record = StepRecord(0, 0, 1, 0, 0.1, 0.1)
    answer = LiveAnswer("Fünf \ufffd", [Stretch("Fünf", False, 2), Stretch(" \ufffd", True, 2)])
    assert "Fünf \ufffd" in render.live_answer(answer)
    answer.apply([PromptReady(10, 9, 0, "Fünf "), TokensAccepted((5,), (False,), "€", ("€",), record, 0.1)])
    assert (answer.text, answer.new_text) == ("Fünf €", "€")
    assert [(stretch.text, stretch.num_tokens) for stretch in answer.stretches] == [("Fünf", 2), (" ", 2), ("€", 1)]


def test_answers_hold_no_earlier_ones(workspace: Workspace) -> None:
    """Each has to know the one before for when it is stopped at once: but not a whole conversation, prompts and all."""

    def alive() -> tuple[int, int]:
        gc.collect()
        held = gc.get_objects()
        jobs = sum(type(each) is Job and each.kind == "answer" for each in held)
        return jobs - jobs_before, sum(type(each) is Session for each in held) - sessions_before

    jobs_before = sessions_before = 0
    jobs_before, sessions_before = alive()
    for _ in range(3):
        cut(workspace)
        done(workspace.go_on())
    assert alive() == (1, 0)
    done(workspace.switch(preset("other")))
    assert alive() == (0, 0)
    done(workspace.ask("And now?"))
    assert alive() == (1, 0)
    workspace.new_chat()
    assert alive() == (0, 0)
