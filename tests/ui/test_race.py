"""The race: which lanes run, what is shown of them, and that texts are compared."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from spec_engine.chat.compare import Difference
from spec_engine.chat.history import History
from spec_engine.config import DraftConfig, ModelRef, RetrievalConfig
from spec_engine.documents.anchors import Anchor, Block
from spec_engine.errors import RequestError
from spec_engine.events import Finished, TokensAccepted
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.ui.race import LaneCompared, LanesRunAgain, LaneStarted, LaneTimed, LiveRace, lanes
from spec_engine.ui.recalled import kept_speed, recalled, recalled_race, recalled_speed
from spec_engine.ui.render import race as race_markup
from spec_engine.ui.speed import MeasuredSpeed
from spec_engine.ui.state import Wanted
from spec_engine.ui.text import (
    ASK_NEEDS_FIT,
    RACE_AGAIN,
    RACE_NOT_RUN,
    RACE_OTHER_DOCUMENT,
    RACE_OTHER_MODEL,
    RACE_PLAIN,
    RACE_STOPPED,
    RACE_TIMED,
    RACE_TIMED_TWICE,
    RACE_UNTIMED,
    RACE_WAITING,
)
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
        (DraftConfig("lm", ModelRef("d"), retrieval=VIEW), [("none", None), ("lm", False), ("lm", None)]),
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
    assert '<div class="se-lane-text"><p>So it is.' in race_markup(race, is_running=False)


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


def test_the_speeds_of_a_short_answer_are_those_of_several_runs(report: Path) -> None:
    """One run of a few tokens is an accident: of four races over 130 tokens one said 6 times and another 13."""
    workspace = ready(report, Loader(step_s=0.001))
    done(workspace.ask("What?"))
    job = done(workspace.race())
    race = LiveRace(lanes(preset("builtin").draft))
    *seen, again = [fact for fact in job.facts if not isinstance(fact, LaneTimed)]
    assert isinstance(again, LanesRunAgain)
    race.apply(seen)
    assert race.comparison is None
    assert "plain</" not in race_markup(race, is_running=True).replace(RACE_PLAIN, "")  # no gain yet
    race.apply([again])
    assert RACE_AGAIN in race_markup(race, is_running=True)
    assert RACE_UNTIMED in race_markup(race, is_running=False)
    race.apply(job.facts[len(seen) + 1 :])
    timed = [lane.timed for lane in race.lanes]
    assert all(lane is not None and lane.num_runs >= 2 for lane in timed)
    for lane in timed:
        assert lane is not None
        assert lane.speed.num_tokens == 61 * lane.num_runs
    comparison = workspace.comparison
    assert comparison == race.comparison
    assert comparison is not None
    assert comparison.drafted_rate > 1.5 * comparison.plain_rate  # the scripted drafter brings three tokens a step
    assert RACE_TIMED.format(runs=max(lane.num_runs for lane in timed if lane)) in race_markup(race, is_running=False)


def test_a_long_answer_runs_once(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.03))
    done(workspace.ask("What?"))
    job = done(workspace.race())
    assert not any(isinstance(fact, LanesRunAgain | LaneTimed) for fact in job.facts)
    assert workspace.comparison is not None
    assert workspace.comparison.plain_rate == pytest.approx(
        workspace.baseline.tokens_per_second if workspace.baseline else 0
    )


def test_a_stopped_race_says_so_in_every_lane(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.03))
    done(workspace.ask("What?"))
    job = workspace.race()
    while not any(isinstance(fact, TokensAccepted) for fact in job.facts):
        time.sleep(0.005)
    running = LiveRace(lanes(preset("builtin").draft))
    running.apply(job.facts)
    assert RACE_WAITING in race_markup(running, is_running=True)
    workspace.stop()
    done(job)
    race = LiveRace(lanes(preset("builtin").draft))
    race.apply(job.facts)
    shown = race_markup(race, is_running=False)
    assert shown.index(RACE_STOPPED) < shown.index(RACE_NOT_RUN)
    assert RACE_WAITING not in shown
    assert "×" not in shown


def test_the_lane_that_is_set_up_so_is_the_engine_itself(report: Path) -> None:
    """It has read the prompt, and its draft model need not be loaded once more."""
    workspace = ready(report, Loader(step_s=0.001))
    engine = workspace._engine
    assert engine is not None
    done(workspace.ask("What?"))
    num_asked = len(engine.requests)  # type: ignore[attr-defined]
    done(workspace.race())
    assert len(engine.requests) > num_asked  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["a branch", "another conversation", "a new start"])
def test_what_one_comes_back_to_has_its_figures_and_can_be_raced(report: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "kept"
    workspace = ready(report, Loader(step_s=0.001), History(folder))
    done(workspace.ask("What?"))
    done(workspace.race())
    first, metrics, plain = workspace.talk.path[-1].id, workspace.talk.path[-1].details["metrics"], workspace.baseline
    raced = workspace.comparison
    assert plain is not None
    assert raced is not None
    conversation = workspace.talk.conversation
    assert conversation is not None
    if how == "a branch":
        done(workspace.ask("What else?", 0))
        workspace.show_branch(first)
    elif how == "another conversation":
        workspace.new_chat()
        assert workspace.kept_answer is None
        done(workspace.ask("Something else?"))
        done(workspace.start_opening(Wanted(conversation=conversation)))
    else:
        workspace.close()
        workspace = ready(report, Loader(step_s=0.001), History(folder))
        done(workspace.start_opening(Wanted(conversation=conversation)))
    turn = workspace.kept_answer
    assert turn is not None
    assert turn.id == first
    answer = recalled(turn)
    assert answer is not None
    assert answer.metrics.as_dict() == metrics
    assert answer.text == ANSWER
    assert recalled_speed(turn) == plain
    assert recalled_race(turn) == raced
    assert workspace.can_compare
    assert not workspace.why_not_race
    job = done(workspace.race())
    assert workspace.trouble == ""
    race = LiveRace(lanes(preset("builtin").draft))
    race.apply(job.facts)
    assert [lane.answer.text.strip() for lane in race.lanes] == [ANSWER.strip()] * len(race.lanes)
    assert len(workspace.turns) == 1


def test_an_answer_of_another_model_cannot_be_raced(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.001))
    done(workspace.ask("What?"))
    other = replace(preset("other"), target=ModelRef("another"))
    done(workspace.switch(other))
    assert workspace.kept_answer is None
    assert not workspace.can_compare
    assert workspace.why_not_race == RACE_OTHER_MODEL
    with pytest.raises(RequestError):
        workspace.race()


def test_a_race_over_a_kept_answer_draws_as_it_was_drawn(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader(step_s=0.001), History(tmp_path / "kept"))
    workspace.settings = replace(workspace.settings, temperature=0.8, seed=5, top_k=7, top_p=0.5)
    done(workspace.ask("What?"))
    conversation = workspace.talk.conversation
    assert conversation is not None
    workspace.new_chat()
    workspace.settings = replace(workspace.settings, temperature=0.0, seed=9, top_k=0, top_p=1.0)
    done(workspace.start_opening(Wanted(conversation=conversation)))
    done(workspace.race())
    assert workspace.trouble == ""
    drawn = workspace._engine.requests[-1].sampling  # type: ignore[union-attr]
    assert (drawn.temperature, drawn.seed, drawn.top_k, drawn.top_p) == (0.8, 5, 7, 0.5)


def test_a_race_is_kept_with_an_answer_of_its_own_preset_alone(report: Path) -> None:
    """The target may be the same with another draft, or in another precision."""
    workspace = ready(report, Loader(step_s=0.001))
    done(workspace.ask("What?"))
    own, other = workspace.preset, replace(preset("other"), target=preset("builtin").target)
    assert own is not None
    done(workspace.switch(other))
    assert workspace.can_compare
    done(workspace.race())
    assert workspace.comparison is not None
    done(workspace.switch(own))
    turn = workspace.kept_answer
    assert turn is not None
    assert (recalled_race(turn), recalled_speed(turn)) == (None, None)
    done(workspace.race())
    turn = workspace.talk.path[-1]
    assert recalled_race(turn) is not None
    assert recalled_race(replace(turn, details={**turn.details, "race": {"num_compared": 9}})) is None
    assert workspace.baseline is not None
    assert workspace.comparison is not None
    apart = replace(workspace.comparison, difference=Difference(1, 2, 3, 0.5, 0.5))
    workspace.talk.annotate(turn.id, kept_speed(workspace.baseline, apart))
    assert recalled_race(workspace.talk.path[-1]) is None  # texts that differ take an earlier race's place


def test_an_answer_about_another_document_cannot_be_raced(report: Path, tmp_path: Path) -> None:
    """Its prompt cannot be made again: where its document could not be kept, what was open before stays open."""
    workspace = ready(report, Loader(), History(tmp_path / "kept"))
    done(workspace.ask("What?"))
    assert workspace.can_compare
    assert workspace.opened is not None
    whole = workspace.opened
    changed = replace(whole.used, blocks=(*whole.used.blocks, Block(Anchor("line", "last", 0), "One more.")))
    workspace.opened = replace(whole, whole=changed, used=changed)  # of the same name
    assert not workspace.can_compare
    assert workspace.why_not_race == RACE_OTHER_DOCUMENT
    turn = workspace.talk.path[-1]
    workspace.talk.annotate(turn.id, {"text_hash": ""})  # as an earlier version kept it: by its name alone
    assert workspace.can_compare
    workspace.opened = replace(whole, whole=replace(whole.whole, source_name="other.txt"))
    assert workspace.why_not_race == RACE_OTHER_DOCUMENT
    with pytest.raises(RequestError, match="is about another document"):
        workspace.race()
    assert whole.budget is not None
    workspace.opened = replace(whole, budget=replace(whole.budget, fits=False, num_over=9))
    assert not workspace.can_compare
    assert workspace.why_not_race == f"{ASK_NEEDS_FIT}."


def test_a_race_that_is_stopped_takes_no_result_back(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.03))
    done(workspace.ask("What?"))
    done(workspace.race())
    before = workspace.comparison
    assert before is not None
    job = workspace.race()
    while not any(isinstance(fact, TokensAccepted) for fact in job.facts):
        time.sleep(0.005)
    workspace.stop()
    done(job)
    assert workspace.comparison == before


def test_a_speed_that_was_not_measured_to_the_end_is_not_shown(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.001))
    done(workspace.ask("What?"))
    facts = done(workspace.race()).facts
    again = next(number for number, fact in enumerate(facts) if isinstance(fact, LanesRunAgain))
    race = LiveRace(lanes(preset("builtin").draft))
    race.apply(facts[: again + 1])
    assert "tokens/s" in race_markup(race, is_running=True)
    over = race_markup(race, is_running=False)
    assert "tokens/s" not in over
    assert RACE_WAITING not in over
    assert (race.plain_speed, race.comparison) == (None, None)


def test_the_speed_of_the_run_that_was_seen_is_none_once_lanes_run_again() -> None:
    """Also where it took long enough: lanes are compared over the same rounds."""
    race = LiveRace(lanes(DraftConfig("lookup")))
    recorder = MetricsRecorder(10, 0)
    recorder.add(StepRecord(0, 0, 20, 0, 0.0, 0.9))
    race.apply([LaneStarted(RACE_PLAIN), Finished("stop", tuple(range(20)), "", recorder.summary(0.9))])
    assert race.plain_speed is not None
    assert race.lanes[0].is_told
    assert "aria-busy" in race_markup(race, is_running=True)
    race.apply([LanesRunAgain()])
    assert race.plain_speed is None
    assert not race.lanes[0].is_told
    assert "aria-busy" in race_markup(race, is_running=True)
    assert "aria-busy" not in race_markup(race, is_running=False)


@pytest.mark.parametrize(("num_runs", "words"), [(2, RACE_TIMED_TWICE), (3, RACE_TIMED.format(runs=3))])
def test_it_is_told_which_run_speeds_are_of(num_runs: int, words: str) -> None:
    race = LiveRace(lanes(DraftConfig("lookup")))
    speed = MeasuredSpeed(20.0, 40, 10)
    race.apply([LanesRunAgain(), *(LaneTimed(lane.label, speed, num_runs) for lane in race.lanes)])
    assert words in race_markup(race, is_running=False)
