"""A conversation: what is sent, what is stored."""

from collections.abc import Iterator

import pytest

from spec_engine.chat.prompt import Message, Turn
from spec_engine.chat.session import MIN_ANSWER_TOKENS, Session
from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.errors import ContextOverflow, RequestError
from spec_engine.events import Event, Finished, PromptReady, TokensAccepted
from spec_engine.sampling import SamplingParams
from tests.ui.fakes import ScriptedEngine

REPORT = Document(
    "report", "report.txt", (Block(Anchor("line", "lines 1-9", 0), "The fund was closed in 2014. " * 20),)
)
ANSWER = "The fund was closed in 2014 by the second board."


def session(engine: ScriptedEngine) -> Session:
    return Session(engine, REPORT)


def shown(events: Iterator[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TokensAccepted))


def test_an_answer_is_stored_as_it_was_shown() -> None:
    engine = ScriptedEngine(ANSWER)
    talk = session(engine)
    assert shown(talk.ask("When?")) == ANSWER
    assert talk.messages == (Message("user", "When?"), Message("assistant", ANSWER))
    token_ids = talk.turns[0].answer_token_ids
    assert token_ids is not None
    assert not set(token_ids) & engine.tokenizer.stop_token_ids


def test_the_second_question_reads_only_what_is_new() -> None:
    engine = ScriptedEngine(ANSWER)
    talk = session(engine)
    list(talk.ask("When?"))
    first, ready = engine.requests[0], next(talk.ask("Why was it closed?"))
    assert isinstance(ready, PromptReady)
    num_answer = len(engine.tokenizer.encode(ANSWER))
    assert ready.num_reused_tokens == len(first.prompt_token_ids) + num_answer


def test_a_new_chat_keeps_the_documents_prefix() -> None:
    engine = ScriptedEngine(ANSWER)
    talk = session(engine)
    list(talk.ask("When?"))
    talk.clear()
    assert talk.messages == ()
    ready = next(talk.ask("Why was it closed?"))
    assert isinstance(ready, PromptReady)
    assert ready.num_reused_tokens >= len(engine.tokenizer.encode(REPORT.text))


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_a_stopped_answer_is_stored_as_shown(how: str) -> None:
    talk = session(ScriptedEngine(ANSWER))
    pieces: list[str] = []
    events = talk.ask("When?", cancelled=lambda: how == "cancelled" and len(pieces) >= 2)
    for event in events:
        if isinstance(event, TokensAccepted):
            pieces.append(event.text)
        if how == "closed" and len(pieces) == 2:
            events.close()
    assert [turn.answer for turn in talk.turns] == ["".join(pieces)]
    assert ANSWER.startswith(talk.turns[0].answer)


def test_nothing_shown_leaves_no_trace() -> None:
    talk = session(ScriptedEngine(ANSWER))
    list(talk.ask("When?", cancelled=lambda: True))
    assert talk.turns == ()


def test_asking_again_replaces_the_last_answer() -> None:
    engine = ScriptedEngine(ANSWER)
    talk = session(engine)
    list(talk.ask("When?"))
    list(talk.ask("Why?"))
    engine.answer = "Another answer."
    assert shown(talk.regenerate()) == "Another answer."
    assert [(turn.question, turn.answer) for turn in talk.turns] == [("When?", ANSWER), ("Why?", "Another answer.")]
    assert engine.requests[1].prompt_token_ids == engine.requests[2].prompt_token_ids


def test_asking_again_in_vain_keeps_the_old_answer() -> None:
    talk = session(ScriptedEngine(ANSWER))
    list(talk.ask("When?"))
    list(talk.regenerate(cancelled=lambda: True))
    assert [turn.answer for turn in talk.turns] == [ANSWER]


def test_a_replay_asks_the_same_and_stores_nothing() -> None:
    engine = ScriptedEngine(ANSWER)
    talk = session(engine)
    list(talk.ask("When?", sampling=SamplingParams(temperature=0.7, seed=3)))
    plain = engine.with_drafter("none")
    events = list(talk.replay(plain, max_tokens=4))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert len(finished.token_ids) == 4
    assert plain.requests[0].prompt_token_ids == engine.requests[0].prompt_token_ids
    assert plain.requests[0].sampling == engine.requests[0].sampling
    assert len(talk.turns) == 1


def test_settings_reach_the_engine() -> None:
    engine = ScriptedEngine(ANSWER)
    list(session(engine).ask("When?", sampling=SamplingParams(temperature=0.5, seed=7), max_tokens=40))
    request = engine.requests[0]
    assert (request.sampling.temperature, request.sampling.seed, request.stop.max_tokens) == (0.5, 7, 40)
    assert request.stop.stop_token_ids == engine.tokenizer.stop_token_ids


def test_a_full_context_is_refused_before_anything_runs() -> None:
    engine = ScriptedEngine(ANSWER)
    num_prompt = len(Session(engine, REPORT).prompt("When?"))
    talk = Session(engine, REPORT, context_length=num_prompt + MIN_ANSWER_TOKENS - 1)
    with pytest.raises(ContextOverflow, match="Nothing was cut"):
        list(talk.ask("When?"))
    assert engine.requests == []


def test_a_nearly_full_context_shortens_the_longest_answer() -> None:
    engine = ScriptedEngine(ANSWER)
    engine.capacity = len(Session(engine, REPORT).prompt("When?")) + 50
    list(Session(engine, REPORT).ask("When?", max_tokens=512))
    assert engine.requests[0].stop.max_tokens == 50


@pytest.mark.parametrize("question", ["", "  \n "])
def test_a_blank_question_is_refused(question: str) -> None:
    with pytest.raises(RequestError, match="empty"):
        list(session(ScriptedEngine(ANSWER)).ask(question))


def test_there_is_nothing_to_repeat_at_the_start() -> None:
    engine = ScriptedEngine(ANSWER)
    with pytest.raises(RequestError):
        list(session(engine).regenerate())
    with pytest.raises(RequestError):
        list(session(engine).replay(engine))


def test_a_closing_stop_token_of_a_kept_answer_is_left_out() -> None:
    engine = ScriptedEngine("An answer.")
    (stop,) = engine.tokenizer.stop_token_ids
    ids = tuple(engine.tokenizer.encode("An answer."))
    session = Session(engine, turns=[Turn("What?", "An answer.", (*ids, stop))])
    assert session.turns[0].answer_token_ids == ids
