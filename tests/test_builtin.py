"""The built-in models through the whole engine: the same text whatever drafts, and Stop works at once."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from spec_engine.bench.tasks import as_document, bundled_text, read_texts
from spec_engine.chat.session import Session
from spec_engine.config import DrafterKind, load_preset
from spec_engine.documents.read import read_document
from spec_engine.drafters import available_drafters
from spec_engine.engine import Engine
from spec_engine.events import Finished
from spec_engine.loading import load_engine
from spec_engine.ui.intake import SAMPLE

QUESTION = 'What does the document say about "spectrum sharing"?'


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """With more than one thread, as users have it, where other tests run beside and have one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(max(num_threads, 2))
    try:
        engine = load_engine(load_preset("builtin-retrieval"))
        yield engine
        engine.close()
    finally:
        torch.set_num_threads(num_threads)


class Button:
    """Stop, pressed at some time; called, it says whether it was."""

    pressed_at = 0.0

    def press(self) -> None:
        self.pressed_at = time.perf_counter()

    def __call__(self) -> bool:
        return self.pressed_at > 0


def session(engine: Engine) -> Session:
    document = as_document(read_texts(bundled_text())[0])
    return Session(engine, document, context_length=engine.capacity, instruction="")


DRAFTERS = [
    (name, kind)
    for name in ("builtin-retrieval", "builtin-eagle3", "builtin-longspec")
    for kind in available_drafters(load_preset(name))
    if kind != "none"
]


@pytest.fixture(scope="module")
def plain(engine: Engine) -> Finished:
    """The answer by plain decoding."""
    *_, last = session(engine.with_drafter("none")).ask(QUESTION, max_tokens=80)
    assert isinstance(last, Finished)
    assert len(last.token_ids) > 5
    return last


@pytest.mark.parametrize(("name", "kind"), DRAFTERS)
def test_every_drafter_gives_the_text_of_none(engine: Engine, plain: Finished, name: str, kind: DrafterKind) -> None:
    """And each of them is good enough for half a draft to be kept: the shipped heads belong to the shipped target."""
    always = replace(engine.config, adaptive=False, preset=load_preset(name))
    drafting = Engine(engine.target, engine.with_drafter(kind, preset=always.preset).drafter, engine.tokenizer, always)
    *_, last = session(drafting).ask(QUESTION, max_tokens=80)
    assert isinstance(last, Finished)
    assert last.token_ids == plain.token_ids
    assert last.metrics.mean_acceptance_length > 3


def test_the_built_in_files_are_few_megabytes() -> None:
    folder = load_preset("builtin").folder
    assert folder is not None
    assert sum(file.stat().st_size for file in (folder / "builtin").rglob("*") if file.is_file()) < 36e6


@pytest.mark.parametrize("kind", ["lookup", "lm"])
def test_stop_takes_less_than_a_third_of_a_second(engine: Engine, kind: DrafterKind) -> None:
    """Through prefill and decoding; the median, because a busy machine delays anything now and then."""
    stopping = engine.with_drafter(kind)
    waits = []
    for delay in (0.02, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2):
        engine.target.reset()
        button = Button()
        timer = threading.Timer(delay, button.press)
        timer.start()
        *_, last = session(stopping).ask("Summarize the document.", max_tokens=4000, cancelled=button)
        timer.cancel()
        assert isinstance(last, Finished)
        if last.reason == "cancelled":
            waits.append(time.perf_counter() - button.pressed_at)
    assert len(waits) >= 3  # the answer was not over before
    assert sorted(waits)[len(waits) // 2] <= 0.3


def test_the_sample_is_no_longer_than_the_built_in_model_can_be_trusted(engine: Engine) -> None:
    """The first thing that a person tries must not begin with a warning, nor after some questions."""
    num_tokens = len(engine.tokenizer.encode(read_document(SAMPLE).text))
    assert num_tokens < load_preset("builtin").reliable_length - 400
