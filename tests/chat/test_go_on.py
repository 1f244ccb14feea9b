"""An answer that is gone on with is the one that a longer limit would have given, over real engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spec_engine.bench.tasks import as_document, bundled_text, read_texts
from spec_engine.chat.prompt import Turn
from spec_engine.chat.session import Session
from spec_engine.config import load_preset
from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.engine import Engine
from spec_engine.errors import ContextOverflow, RequestError
from spec_engine.events import Event, Finished, PromptReady, TokensAccepted
from spec_engine.loading import load_engine
from spec_engine.sampling import SamplingParams
from tests.fakes import END_ID, byte_tokenizer, pair_preset, perturbed, save_pair, tiny_lm
from tests.ui.fakes import ScriptedEngine

REPORT = Document("report", "report.txt", (Block(Anchor("line", "lines 1-9", 0), "The fund was closed. " * 20),))
NUM_TOKENS = 40
WAYS = {
    "greedy": SamplingParams(),
    "penalty": SamplingParams(repetition_penalty=1.4),
    "drawn": SamplingParams(temperature=0.9, top_k=20, seed=11),
    "drawn with penalty": SamplingParams(temperature=0.8, top_k=30, top_p=0.95, repetition_penalty=1.2, seed=3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    target = tiny_lm()
    with torch.no_grad():
        target.get_output_embeddings().weight[END_ID] = 0.0  # answers end at their limit
    save_pair(folder, target, perturbed(target, 0.05))
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    engine = load_engine(pair_preset(folder, "lm", context_length=2048), device="cpu")
    yield engine
    engine.close()


def last(events: Iterator[Event]) -> Finished:
    *_, event = events
    assert isinstance(event, Finished)
    return event


def whole(engine: Engine, sampling: SamplingParams, num_tokens: int = NUM_TOKENS) -> Turn:
    """The answer in one piece."""
    talk = Session(engine, REPORT)
    list(talk.ask("When?", sampling=sampling, max_tokens=num_tokens))
    return talk.turns[0]


def certain(engine: Engine, token_ids: tuple[int, ...] | None) -> str:
    """The text of an answer that was cut there: without half a character at its end."""
    return engine.tokenizer.decode(token_ids or ()).rstrip("\ufffd")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["none", "lm", "lookup"])
def test_the_parts_are_the_whole_wherever_it_was_cut(engine: Engine, kind: str, way: str) -> None:
    """The tokens are bytes, mostly of no character or of half a one, so cuts lie within characters too."""
    engine = engine if kind == "lm" else engine.with_drafter(kind)  # type: ignore[arg-type]
    sampling, uncut = WAYS[way], whole(engine, WAYS[way])
    talk = Session(engine, REPORT)
    list(talk.ask("When?", sampling=sampling, max_tokens=7))
    while len(talk.turns[0].answer_token_ids or ()) < NUM_TOKENS:
        num_before = len(talk.turns[0].answer_token_ids or ())
        ready, *_ = events = list(talk.go_on(sampling=sampling, max_tokens=min(9, NUM_TOKENS - num_before)))
        assert isinstance(ready, PromptReady)
        assert ready.num_reused_tokens == ready.num_prompt_tokens - 1  # all but the root of the first pass
        pieces = "".join(event.text for event in events if isinstance(event, TokensAccepted))
        assert talk.turns[0].answer == ready.written_text + pieces
        assert talk.last_finished is not None
        assert len(talk.turns[0].answer_token_ids or ()) == num_before + len(talk.last_finished.token_ids)
    assert talk.turns == (uncut,)
    assert talk.turns[0].answer == certain(engine, uncut.answer_token_ids)


@pytest.mark.parametrize("name", ["builtin-retrieval", "builtin-eagle3"])
def test_a_trained_model_goes_on_within_words_and_to_its_end(name: str) -> None:
    engine = load_engine(load_preset(name), device="cpu")
    document = as_document(read_texts(bundled_text())[0])
    question = 'What does the document say about "spectrum sharing"?'
    uncut, talk = Session(engine, document), Session(engine, document)
    list(uncut.ask(question))
    list(talk.ask(question, max_tokens=3))
    num_parts = 1
    while talk.last_finished is not None and talk.last_finished.reason == "length":
        ready, *_ = talk.go_on(max_tokens=3)
        assert isinstance(ready, PromptReady)
        assert ready.num_reused_tokens >= ready.num_prompt_tokens - 8  # a head sees those since its last draft
        num_parts += 1
    assert num_parts > 5
    assert talk.turns == uncut.turns
    engine.close()


def test_a_character_that_was_cut_is_shown_once(engine: Engine) -> None:
    """The answer is put there as if the model had written it: three bytes of a character, of which two were shown."""
    token_ids = tuple(byte_tokenizer().encode("Fünf €", add_special_tokens=False))
    half = Turn("When?", "Fünf \ufffd", token_ids[:-1])
    talk = Session(engine, REPORT, turns=[half])
    ready, *_ = talk.go_on(max_tokens=5)
    assert isinstance(ready, PromptReady)
    assert ready.written_text == "Fünf "
    assert talk.turns[0].answer == certain(engine, talk.turns[0].answer_token_ids)


def test_no_answer_that_was_cut_ends_in_half_a_character(engine: Engine) -> None:
    """Wherever it is cut: neither what is streamed nor what is kept."""
    num_half = 0
    for num_tokens in range(1, 25):
        talk = Session(engine, REPORT)
        events = list(talk.ask("When?", sampling=WAYS["drawn"], max_tokens=num_tokens))
        assert isinstance(events[-1], Finished)
        num_half += engine.tokenizer.decode(events[-1].token_ids).endswith("\ufffd")
        shown = "".join(event.text for event in events if isinstance(event, TokensAccepted))
        assert shown == events[-1].text == talk.turns[0].answer == certain(engine, events[-1].token_ids)
    assert num_half > 0


def test_the_next_question_extends_the_longer_answer_and_both_it_and_its_last_part_can_be_repeated(
    engine: Engine,
) -> None:
    talk = Session(engine, REPORT)
    list(talk.ask("When?", max_tokens=9))
    asked = talk.last_prompt_token_ids
    drafted = last(talk.go_on(max_tokens=12))
    plain = last(talk.replay(engine.with_drafter("none")))
    assert (plain.token_ids, plain.text) == (drafted.token_ids, drafted.text)
    whole = last(talk.replay(engine.with_drafter("none"), is_whole=True))
    assert (whole.token_ids, whole.text) == (talk.turns[0].answer_token_ids, talk.turns[0].answer)
    assert talk.last_question_token_ids == asked
    num_known = len(talk.last_prompt_token_ids) + 12
    ready = next(talk.ask("Why?", max_tokens=4))
    assert isinstance(ready, PromptReady)
    assert ready.num_reused_tokens in (num_known - 1, num_known)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_what_was_added_until_a_stop_is_kept_and_can_be_gone_on_with(engine: Engine, how: str) -> None:
    talk = Session(engine, REPORT)
    list(talk.ask("When?", max_tokens=9))
    num_steps = 0
    events = talk.go_on(max_tokens=NUM_TOKENS, cancelled=lambda: how == "cancelled" and num_steps >= 2)
    for event in events:
        num_steps += isinstance(event, TokensAccepted)
        if how == "closed" and num_steps == 2:
            events.close()  # type: ignore[attr-defined]
    num_now = len(talk.turns[0].answer_token_ids or ())
    assert 9 < num_now < 9 + NUM_TOKENS
    list(talk.go_on(max_tokens=60 - num_now))
    assert talk.turns[0].answer_token_ids == whole(engine, SamplingParams(), 60).answer_token_ids


def test_an_immediate_stop_leaves_the_turn_as_it_was(engine: Engine) -> None:
    talk = Session(engine, REPORT)
    list(talk.ask("When?", max_tokens=9))
    before = talk.turns
    list(talk.go_on(cancelled=lambda: True))
    assert talk.turns == before


def test_what_cannot_be_gone_on_with_is_refused(folder: Path, engine: Engine) -> None:
    with pytest.raises(RequestError, match="no answer of this model"):
        list(Session(engine, REPORT).go_on())
    with pytest.raises(RequestError, match="no answer of this model"):
        list(Session(engine, REPORT, turns=[Turn("When?", "In 2014.", None)]).go_on())
    talk = Session(engine, REPORT)
    list(talk.ask("When?", max_tokens=40))
    num_all = len(talk.last_prompt_token_ids) + 40
    full = Session(engine, REPORT, context_length=num_all, turns=talk.turns)
    with pytest.raises(ContextOverflow, match="Nothing was cut"):
        list(full.go_on())
    nearly = Session(engine, REPORT, context_length=num_all + 3, turns=talk.turns)
    assert len(last(nearly.go_on()).token_ids) == 3  # what is left is used
    assert [len(turn.answer_token_ids or ()) for turn in talk.turns] == [40]


def test_a_word_that_was_cut_goes_on_without_a_space() -> None:
    engine = ScriptedEngine("The fund was closed.")
    talk = Session(engine, REPORT)
    list(talk.ask("When?", max_tokens=2))
    assert talk.turns[0].answer == "The fund"
    list(talk.go_on())
    assert talk.turns[0].answer == "The fund was closed."
    assert talk.last_finished is not None
    assert talk.last_finished.reason == "stop"
