"""The race: which lanes run, what is shown of them, and that texts are compared."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from spec_engine.config import DraftConfig, ModelRef, RetrievalConfig
from spec_engine.ui.race import LaneCompared, LaneStarted, LiveRace, lanes
from spec_engine.ui.render import race as race_markup
from tests.ui.test_workspace import ANSWER, Loader, done, preset, ready

NO_VIEW, VIEW = RetrievalConfig(enabled=False), RetrievalConfig(enabled=True)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.txt"
    path.write_text("Some text about topics. " * 100)
    return path


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        (DraftConfig("none"), [("none", None)]),
        (DraftConfig("lookup"), [("none", None), ("lookup", None)]),
        (DraftConfig("lm", ModelRef("d"), retrieval=NO_VIEW), [("none", None), ("lm", None)]),
        (DraftConfig("lm", ModelRef("d"), retrieval=VIEW), [("none", None), ("lm", False), ("lm", True)]),
    ],
)
def test_there_is_a_lane_for_what_can_differ(draft: DraftConfig, expected: list[tuple[str, bool | None]]) -> None:
    assert [(lane.kind, lane.use_retrieval) for lane in lanes(draft)] == expected
    assert len({lane.label for lane in lanes(draft)}) == len(expected)


def test_every_lane_answers_the_same_question_and_is_compared(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.001))
    done(workspace.ask("What?"))
    job = done(workspace.race())
    labels = [lane.label for lane in lanes(preset("builtin").draft)]
    assert [fact.label for fact in job.facts if isinstance(fact, LaneStarted)] == labels
    compared = [fact for fact in job.facts if isinstance(fact, LaneCompared)]
    assert [fact.label for fact in compared] == labels[1:]
    assert all(fact.comparison.difference is None and fact.comparison.num_compared == 61 for fact in compared)
    race = LiveRace(lanes(preset("builtin").draft))
    race.apply(job.facts)
    assert [lane.answer.text for lane in race.lanes] == [ANSWER] * len(labels)
    shown = race_markup(race, is_running=False)
    assert shown.count("identical text: 61 tokens") == len(labels) - 1
    assert workspace.baseline is not None
    assert "plain_tokens_per_second" in workspace.talk.path[-1].details
    assert len(workspace.turns) == 1  # a race is no turn
    done(workspace.ask("Again?"))
    assert workspace.race_job is None  # it was about the answer before


def test_a_race_can_be_stopped(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.03))
    done(workspace.ask("What?"))
    job = workspace.race()
    while not any(isinstance(fact, LaneStarted) for fact in job.facts):
        time.sleep(0.005)
    time.sleep(0.1)
    started = time.monotonic()
    workspace.stop()
    done(job)
    assert time.monotonic() - started < 0.3
    assert workspace.comparison is None


def test_what_a_lane_wrote_is_escaped(report: Path) -> None:
    workspace = ready(report, Loader())
    loader_engine = workspace._engine
    assert loader_engine is not None
    loader_engine.answer = "<img src=x onerror=alert(1)>"  # type: ignore[attr-defined]
    done(workspace.ask("What?"))
    job = done(workspace.race())
    race = LiveRace(lanes(replace(preset("builtin").draft)))
    race.apply(job.facts)
    assert "<img" not in race_markup(race, is_running=True)


def test_lanes_begin_with_the_first_letter(report: Path) -> None:
    workspace = ready(report, Loader())
    loader_engine = workspace._engine
    assert loader_engine is not None
    loader_engine.answer = " So it is."  # type: ignore[attr-defined]
    done(workspace.ask("What?"))
    race = LiveRace(lanes(preset("builtin").draft))
    race.apply(done(workspace.race()).facts)
    assert '<div class="se-lane-text">So it is.' in race_markup(race, is_running=False)


def test_a_race_does_not_outlive_its_model(report: Path) -> None:
    """Its lanes have other names with another preset; a page that is drawn from them would stay empty."""
    workspace = ready(report, Loader(step_s=0.001))
    done(workspace.ask("First?"))
    done(workspace.race())
    done(workspace.switch(preset("builtin-retrieval")))
    assert workspace.race_job is None
    race = LiveRace(lanes(preset("builtin").draft))
    race.apply([LaneStarted("A lane of another preset")])
    assert race.running is race.lanes[-1]
    assert race.running.label == "A lane of another preset"
