"""A document's keys and values on disk: the answer is the same, nothing is read again, what is wrong is refused."""

from pathlib import Path

import pytest

from spec_engine import prefixes
from spec_engine.cache.store import PrefixStore
from spec_engine.chat.prompt import Turn
from spec_engine.chat.session import Session
from spec_engine.config import load_preset
from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.documents.together import join
from spec_engine.engine import Engine, Request, StopRules
from spec_engine.errors import RequestError
from spec_engine.events import Finished, PromptReady
from spec_engine.loading import load_engine
from spec_engine.sampling import SamplingParams
from tests.fakes import pair_preset, perturbed, save_pair, tiny_lm

PLENTY = 1 << 32
NUM_KEPT = 1500
PRESETS = ("builtin", "builtin-retrieval", "builtin-eagle3", "builtin-longspec")


def answer(engine: Engine, prompt: tuple[int, ...], num_tokens: int = 40) -> tuple[PromptReady, Finished]:
    events = list(engine.generate(Request(prompt, SamplingParams(), StopRules(num_tokens))))
    ready, finished = events[0], events[-1]
    assert isinstance(ready, PromptReady)
    assert isinstance(finished, Finished)
    return ready, finished


@pytest.fixture(scope="module")
def prompt(report_text: str) -> tuple[int, ...]:
    engine = load_engine(load_preset("builtin"), drafter="none", device="cpu")
    return tuple(engine.tokenizer.encode(report_text)[:2000])


@pytest.fixture(scope="module")
def report_text() -> str:
    return (Path(__file__).parent.parent / "spec_engine/ui/sample/spectrum-policy-report.txt").read_text("utf-8")


@pytest.mark.parametrize("name", PRESETS)
def test_a_new_process_goes_on_where_the_old_one_read(name: str, prompt: tuple[int, ...], tmp_path: Path) -> None:
    preset = load_preset(name)
    first = load_engine(preset, device="cpu", adaptive=False).keeping_prefixes(PrefixStore(tmp_path, PLENTY))
    _, wanted = answer(first, prompt)
    assert first.keep_prefix(prompt[:NUM_KEPT], "doc")
    assert first.keep_prefix(prompt[:NUM_KEPT], "doc")  # nothing to do
    assert answer(first, prompt)[1].token_ids == wanted.token_ids  # keeping left the engine as it was

    second = load_engine(preset, device="cpu", adaptive=False).keeping_prefixes(PrefixStore(tmp_path, PLENTY))
    ready, again = answer(second, prompt)
    assert again.token_ids == wanted.token_ids
    assert ready.num_restored_tokens == ready.num_reused_tokens >= NUM_KEPT - 1  # a head's last feature is not kept
    assert again.metrics.mean_acceptance_length == wanted.metrics.mean_acceptance_length  # the drafter knows it too
    ready, _ = answer(second, prompt)
    assert ready.num_restored_tokens == 0  # it is in memory now


def test_what_one_drafter_kept_serves_another_one(prompt: tuple[int, ...], tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, PLENTY)
    plain = load_engine(load_preset("builtin"), drafter="none", device="cpu").keeping_prefixes(store)
    _, wanted = answer(plain, prompt)
    assert plain.keep_prefix(prompt[:NUM_KEPT], "doc")
    for name in PRESETS:
        engine = load_engine(load_preset(name), device="cpu").keeping_prefixes(store)
        ready, got = answer(engine, prompt)
        assert got.token_ids == wanted.token_ids
        is_head = engine.drafter_name == "eagle3" or load_preset(name).draft.model_kind == "eagle3"
        assert ready.num_restored_tokens == (0 if is_head else NUM_KEPT)  # a head needs the features of the tokens


def test_rows_of_other_weights_under_the_same_name_are_refused_and_made_anew(tmp_path: Path) -> None:
    prompt = tuple(token % 250 for token in range(1, 700))
    models, folder = tmp_path / "models", tmp_path / "kept"
    target = tiny_lm()
    save_pair(models, target, tiny_lm(seed=3))
    preset = pair_preset(models)
    first = load_engine(preset, device="cpu").keeping_prefixes(PrefixStore(folder, PLENTY))
    answer(first, prompt)
    assert first.keep_prefix(prompt[:600], "doc")
    files = set(folder.iterdir())

    save_pair(models, perturbed(target, 0.3), tiny_lm(seed=3))
    wanted = answer(load_engine(preset, device="cpu"), prompt)[1].token_ids
    second = load_engine(preset, device="cpu").keeping_prefixes(PrefixStore(folder, PLENTY))
    ready, got = answer(second, prompt)
    assert (ready.num_reused_tokens, ready.num_restored_tokens) == (0, 0)
    assert got.token_ids == wanted
    assert len(set(folder.iterdir()) & files) == 1  # the draft's file stays, it cannot change a text
    assert second.keep_prefix(prompt[:600], "doc")
    third = load_engine(preset, device="cpu").keeping_prefixes(PrefixStore(folder, PLENTY))
    ready, got = answer(third, prompt)
    assert (ready.num_restored_tokens, got.token_ids) == (600, wanted)


def test_a_damaged_file_costs_the_reading_and_nothing_else(prompt: tuple[int, ...], tmp_path: Path) -> None:
    engine = load_engine(load_preset("builtin"), device="cpu").keeping_prefixes(PrefixStore(tmp_path, PLENTY))
    _, wanted = answer(engine, prompt)
    assert engine.keep_prefix(prompt[:NUM_KEPT], "doc")
    for path in tmp_path.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
    again = load_engine(load_preset("builtin"), device="cpu").keeping_prefixes(PrefixStore(tmp_path, PLENTY))
    ready, got = answer(again, prompt)
    assert ready.num_restored_tokens == 0
    assert got.token_ids == wanted.token_ids


def test_only_what_was_read_and_is_long_enough_is_kept(prompt: tuple[int, ...], tmp_path: Path) -> None:
    engine = load_engine(load_preset("builtin"), device="cpu").keeping_prefixes(PrefixStore(tmp_path, PLENTY))
    answer(engine, prompt)
    assert not engine.keep_prefix(prompt[: prefixes.LEAST_TOKENS - 1], "doc")
    assert not engine.keep_prefix((*prompt[:1000], 5), "doc")
    assert not engine.keep_prefix(prompt[:NUM_KEPT], "doc", lambda: True)
    assert list(tmp_path.iterdir()) == []
    assert not load_engine(load_preset("builtin"), device="cpu").keep_prefix(prompt, "doc")  # no store
    running = engine.generate(Request(prompt, SamplingParams(), StopRules(9)))
    next(running)
    with pytest.raises(RequestError, match="Another answer"):
        engine.keep_prefix(prompt[:NUM_KEPT], "doc")


def read(session: Session) -> PromptReady:
    """The first event of reading ahead."""
    first, *_ = session.read_ahead()
    assert isinstance(first, PromptReady)
    return first


@pytest.mark.parametrize("name", ["builtin", "builtin-longspec"])
def test_a_file_that_is_added_leaves_what_was_read(name: str, report_text: str, tmp_path: Path) -> None:
    """In memory, also behind a long conversation, and on disk."""
    kept = PrefixStore(tmp_path, PLENTY)
    one, other = (
        Document("", title, (Block(Anchor("line", "line 1", 0), words.strip()),))
        for title, words in (("one.txt", report_text[:9000]), ("other.txt", report_text[9000:15000]))
    )
    engine = load_engine(load_preset(name), device="cpu").keeping_prefixes(kept)
    session = Session(engine, one)
    num_read = read(session).num_prompt_tokens
    assert session.keep_document()
    turns = [Turn("And this?", report_text[:12000], None)]
    read(Session(engine, one, turns=turns))
    ready = read(Session(engine, join([one, other])))
    assert num_read - 20 < ready.num_reused_tokens < num_read
    assert ready.num_restored_tokens == 0

    engine = load_engine(load_preset(name), device="cpu").keeping_prefixes(kept)
    ready = read(Session(engine, join([one, other])))
    assert num_read - 20 < ready.num_restored_tokens < num_read


def test_a_document_is_kept_before_a_long_conversation_about_it_is_read(report_text: str, tmp_path: Path) -> None:
    """Behind it, layers with a window have forgotten what belongs to the document."""
    document = Document("", "one.txt", (Block(Anchor("line", "line 1", 0), report_text[:9000].strip()),))
    turns = [Turn("And this?", report_text[:12000], None)]
    for keeps in (False, True):
        kept = PrefixStore(tmp_path / str(keeps), PLENTY)
        engine = load_engine(load_preset("builtin"), device="cpu").keeping_prefixes(kept)
        session = Session(engine, document, turns=turns)
        events = list(session.read_ahead(keeps_document=keeps))
        assert isinstance(events[0], PromptReady)
        assert keeps or not session.keep_document()
        assert (kept.num_bytes > 0) == keeps
        again = session.read_ahead(keeps_document=keeps)  # as behind each answer: nothing is read once more
        ready = [event for event in again if isinstance(event, PromptReady)]
        assert all(event.num_prompt_tokens - event.num_reused_tokens < 20 for event in ready)
        assert engine.target.length > 5000 - 2000


def test_a_session_keeps_what_all_questions_have_in_common(report_text: str, tmp_path: Path) -> None:
    block = Block(Anchor("page", "page 1", 0), report_text[:9000])
    document = Document("Report", "report.txt", (block,), ())
    kept = PrefixStore(tmp_path, PLENTY)
    engine = load_engine(load_preset("builtin"), device="cpu").keeping_prefixes(kept)
    session = Session(engine, document)
    assert not session.keep_document()  # not read yet
    read(session)
    assert session.keep_document()

    engine = load_engine(load_preset("builtin"), device="cpu").keeping_prefixes(kept)
    for question in ("Who wrote this?", "0 or 1?"):
        session = Session(engine, document)
        ready = next(event for event in session.ask(question, max_tokens=8) if isinstance(event, PromptReady))
        assert ready.num_prompt_tokens - ready.num_reused_tokens < 40
    engine.forget_prefix(document.sha256)
    assert kept.num_bytes == 0


def test_of_a_locked_document_nothing_is_kept(report_text: str, tmp_path: Path) -> None:
    document = Document("", "one.pdf", (Block(Anchor("page", "p. 1", 0), report_text[:9000]),), is_locked=True)
    engine = load_engine(load_preset("builtin"), device="cpu").keeping_prefixes(PrefixStore(tmp_path, PLENTY))
    list(Session(engine, document).read_ahead(keeps_document=True))
    assert not Session(engine, document).keep_document()
    assert list(tmp_path.iterdir()) == []
    ready = read(Session(engine, document))
    assert ready.num_prompt_tokens - ready.num_reused_tokens < 20  # in memory it is
