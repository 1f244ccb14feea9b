"""The built-in models through the whole engine: the same text whatever drafts, and Stop works at once."""

import threading
import time
from collections.abc import Iterator

import pytest

from spec_engine.bench.tasks import as_document, bundled_text, read_texts
from spec_engine.chat.session import Session
from spec_engine.config import DrafterKind, load_preset
from spec_engine.engine import Engine, load_engine
from spec_engine.events import Finished

QUESTION = 'What does the document say about "spectrum sharing"?'


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = load_engine(load_preset("builtin-retrieval"))
    yield engine
    engine.close()


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


def test_every_drafter_gives_the_text_of_none(engine: Engine) -> None:
    texts = {}
    kinds: tuple[DrafterKind, ...] = ("none", "lookup", "lm")
    for kind in kinds:
        *_, last = session(engine.with_drafter(kind)).ask(QUESTION, max_tokens=80)
        assert isinstance(last, Finished)
        texts[kind] = last.token_ids
        assert (last.metrics.num_accepted_draft_tokens > 0) == (kind != "none")
    assert texts["none"] == texts["lookup"] == texts["lm"]
    assert len(texts["none"]) > 5


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
