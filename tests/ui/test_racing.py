"""How often the lanes of a race run, on a clock of their own."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from spec_engine.chat.session import Session
from spec_engine.config import DraftConfig
from spec_engine.events import Finished
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.ui import racing
from spec_engine.ui.engines import PageEngine
from spec_engine.ui.race import LanesRunAgain, LaneTimed, lanes
from spec_engine.ui.speed import MIN_BASELINE_TOKENS


class Paced:
    """A lane whose runs decode for so many seconds."""

    def __init__(self, name: str, plain_s: float, drafted_s: float) -> None:
        self.name, self.plain_s, self.drafted_s = name, plain_s, drafted_s

    def with_drafter(self, kind: str, **_: object) -> "Paced":
        assert kind == "none"
        return Paced("p", self.plain_s, self.drafted_s)

    def logits_after(self, token_ids: object) -> list[float]:
        raise AssertionError("the texts agree")


class Repeating:
    """A session whose lanes read the prompt for so many seconds, then decode."""

    last_question_token_ids = ()

    def __init__(self, read_s: float, num_tokens: int = 20) -> None:
        self.read_s, self.num_tokens, self.now, self.runs = read_s, num_tokens, 0.0, ""

    def replay(self, engine: Paced, **_: object) -> Iterator[Finished]:
        decode_s = engine.plain_s if engine.name == "p" else engine.drafted_s
        self.runs += engine.name
        self.now += self.read_s + decode_s
        recorder = MetricsRecorder(10, 0)
        for _step in range(self.num_tokens):
            recorder.add(StepRecord(0, 0, 1, 0, 0.0, decode_s / self.num_tokens))
        yield Finished("stop", tuple(range(self.num_tokens)), "", recorder.summary(decode_s))


@pytest.mark.parametrize(
    ("plain_s", "drafted_s", "read_s", "runs"),
    [
        (1.5, 0.5, 0.0, "pd"),  # both are known
        (0.75, 0.25, 0.0, "pd pd dp"),  # the plain one is known after one more run, and runs beside the other
        (0.25, 0.125, 0.0, "pd pd dp pd dp"),  # in rounds, every second one in the other order
        (3.0, 0.25, 0.0, "pd pd d"),  # a long one runs again once
        (0.25, 0.125, 1.5, "pd pd dp"),  # too late for more
        (0.25, 0.125, 60.0, "pd pd"),  # but each once more
    ],
)
def test_lanes_run_in_turn_until_each_is_known(
    plain_s: float, drafted_s: float, read_s: float, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Any = Repeating(read_s)
    monkeypatch.setattr(racing.time, "monotonic", lambda: session.now)
    engine = cast(PageEngine, Paced("d", plain_s, drafted_s))
    planned = lanes(DraftConfig("lookup"))
    facts = list(racing.raced(cast(Session, session), engine, "lookup", planned, lambda: False))
    assert session.runs == runs.replace(" ", "")
    timed = {fact.label: fact for fact in facts if isinstance(fact, LaneTimed)}
    assert any(isinstance(fact, LanesRunAgain) for fact in facts) == bool(timed) == (" " in runs)
    for lane, name, seconds in zip(planned, "pd", (plain_s, drafted_s), strict=True):
        if timed:
            assert timed[lane.label].speed.tokens_per_second == pytest.approx(20 / seconds)
            assert timed[lane.label].num_runs == max(session.runs.count(name) - 1, 2)  # without the first, or with it


def test_an_answer_of_a_few_tokens_runs_until_they_say_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine takes long enough over three tokens, but three of them say nothing of a speed."""
    session: Any = Repeating(0.0, num_tokens=3)
    monkeypatch.setattr(racing.time, "monotonic", lambda: session.now)
    engine = cast(PageEngine, Paced("d", 0.4, 0.3))
    facts = list(racing.raced(cast(Session, session), engine, "lookup", lanes(DraftConfig("lookup")), lambda: False))
    timed = [fact for fact in facts if isinstance(fact, LaneTimed)]
    assert len(timed) == 2
    assert all(fact.speed.num_tokens >= MIN_BASELINE_TOKENS for fact in timed)


def test_a_long_run_of_a_few_tokens_says_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Repeating(0.0, num_tokens=3)
    monkeypatch.setattr(racing.time, "monotonic", lambda: session.now)
    monkeypatch.setattr(racing, "AGAIN_S", 60.0)
    engine = cast(PageEngine, Paced("d", 2.5, 0.3))
    facts = list(racing.raced(cast(Session, session), engine, "lookup", lanes(DraftConfig("lookup")), lambda: False))
    assert session.runs == "pd" + "pd" + "dp" + "pd"  # until there are eight tokens
    assert len([fact for fact in facts if isinstance(fact, LaneTimed)]) == 2


@pytest.mark.parametrize(("plain_s", "drafted_s"), [(0.25, 0.1), (0.9, 0.3), (3.0, 0.3)])
@pytest.mark.parametrize("slow_lane", "pd")
@pytest.mark.parametrize("slow_run", range(6))
def test_a_moment_in_which_the_machine_was_busy_speaks_for_no_lane(
    slow_lane: str, slow_run: int, plain_s: float, drafted_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of a lane takes ten times as long, perhaps the one that is seen, which may make all lanes run no more."""
    session: Any = Repeating(0.0)
    monkeypatch.setattr(racing.time, "monotonic", lambda: session.now)
    undisturbed = session.replay

    def replay(engine: Paced, **told: object) -> Iterator[Finished]:
        is_slow = engine.name == slow_lane and session.runs.count(slow_lane) == slow_run
        factor = 10 if is_slow else 1
        return undisturbed(Paced(engine.name, factor * engine.plain_s, factor * engine.drafted_s), **told)

    monkeypatch.setattr(session, "replay", replay)
    engine = cast(PageEngine, Paced("d", plain_s, drafted_s))
    planned = lanes(DraftConfig("lookup"))
    facts = list(racing.raced(cast(Session, session), engine, "lookup", planned, lambda: False))
    speeds = {fact.label: fact.speed.tokens_per_second for fact in facts if isinstance(fact, LaneTimed)}
    if not speeds:  # both took long enough to be told, as it seemed
        assert slow_run == 0
        assert session.runs == "pd"
        return
    assert speeds[planned[0].label] == pytest.approx(20 / plain_s)
    assert speeds[planned[1].label] == pytest.approx(20 / drafted_s)


def test_of_several_runs_the_middle_one_tells_and_of_two_the_faster() -> None:
    session = Repeating(0.0)
    runs = [next(session.replay(Paced("p", seconds, 0.0))) for seconds in (0.4, 0.1, 0.2)]
    speeds = [racing._middle(runs[:number]) for number in (1, 2, 3)]
    assert [speed and round(speed.tokens_per_second) for speed in speeds] == [50, 200, 100]
