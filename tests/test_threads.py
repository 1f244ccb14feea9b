"""Cores that are left to other programs."""

from collections.abc import Iterator

import pytest
import torch

from spec_engine import threads
from spec_engine.drafters.none import NoDrafter
from spec_engine.engine import Engine, EngineConfig, Request, StopRules
from spec_engine.events import Prefilled, TokensAccepted
from spec_engine.model.target import Target
from spec_engine.model.tokenizer import Tokenizer
from spec_engine.sampling import SamplingParams
from spec_engine.threads import num_cores, spared
from tests.fakes import byte_tokenizer, tiny_lm


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Three threads, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "num_spared", "left"), [(3, 0, 3), (3, 1, 2), (3, 2, 1), (3, 9, 1), (6, 1, 3), (4, 2, 2), (1, 1, 1)]
)
def test_so_many_cores_are_left(monkeypatch: pytest.MonkeyPatch, cores: int, num_spared: int, left: int) -> None:
    """Where torch takes half of the logical cores there are enough already."""
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    with spared(num_spared):
        assert torch.get_num_threads() == left
    assert torch.get_num_threads() == 3


def test_this_machine_has_cores() -> None:
    assert num_cores() >= 1


def test_decoding_spares_what_reading_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the threads come back when an answer is left in the middle."""
    monkeypatch.setattr(threads, "num_cores", lambda: 3)
    target = Target(tiny_lm(), 64, 8)
    engine = Engine(target, NoDrafter(target.vocab_size), Tokenizer(byte_tokenizer()), EngineConfig(max_nodes=0))
    request = Request(tuple(range(1, 30)), SamplingParams(), StopRules(8))
    used = {type(event): torch.get_num_threads() for event in engine.sparing_cores().generate(request)}
    assert (used[Prefilled], used[TokensAccepted], torch.get_num_threads()) == (3, 2, 3)
    events = engine.generate(request)
    for event in events:
        if isinstance(event, TokensAccepted):
            break
    assert torch.get_num_threads() == 2
    events.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 3
