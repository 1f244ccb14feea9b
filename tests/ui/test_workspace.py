"""The rules behind the page: one job at a time, nothing lost when something fails."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from spec_engine.chat.history import History
from spec_engine.config import DraftConfig, GenerationDefaults, ModelRef, Preset
from spec_engine.errors import DocumentError, ModelNotFound, RequestError, StoreError
from spec_engine.events import Finished, Prefilled, TokensAccepted
from spec_engine.loading import Room
from spec_engine.model.watch import LoadProgress, LoadWatch
from spec_engine.sampling import SamplingParams
from spec_engine.ui import text
from spec_engine.ui.job import Job
from spec_engine.ui.state import Fact
from spec_engine.ui.workspace import Workspace
from tests.ui.fakes import ScriptedEngine

ANSWER = " ".join(f"word{number}" for number in range(60))


def preset(name: str, context_length: int = 4096) -> Preset:
    return Preset(name, f"The {name} model", "", ModelRef(name), context_length, draft=DraftConfig("lm", ModelRef("d")))


class Loader:
    """Makes scripted engines and remembers them; 'broken' and everything in `failing` cannot be loaded."""

    def __init__(self, step_s: float = 0.0, chunk_s: float = 0.0) -> None:
        self.engines: list[ScriptedEngine] = []
        self.failing = {"broken"}
        self.has_room_for_two = False
        self.step_s, self.chunk_s = step_s, chunk_s

    def __call__(self, preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
        watch.tell(LoadProgress(f"Loading {preset.target.id}"))
        if not self.has_room_for_two:
            room.free()
            assert all(engine.is_closed for engine in self.engines), "the old engine must be freed first"
        if preset.name == "huge":
            raise RuntimeError("out of memory\nTried to allocate 40 GiB")
        if preset.name in self.failing:
            raise ModelNotFound("There is no such model. Check the name.")
        engine = ScriptedEngine(ANSWER, capacity=preset.context_length, step_s=self.step_s, chunk_s=self.chunk_s)
        self.engines.append(engine)
        return engine


def done(job: Job[Fact] | None) -> Job[Fact]:
    assert job is not None
    assert job.join(10.0)
    return job


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.txt"
    path.write_text("\n\n".join(f"Paragraph {number} about topic{number}." * 20 for number in range(30)))
    return path


def ready(report: Path, loader: Loader, history: History | None = None) -> Workspace:
    workspace = Workspace(loader, history)
    done(workspace.switch(preset("builtin")))
    workspace.open_documents([report])
    return workspace


def test_a_question_becomes_a_turn(report: Path) -> None:
    workspace = ready(report, Loader())
    assert workspace.why_not_ask == ""
    job = done(workspace.ask("What?"))
    assert isinstance(job.facts[-1], Finished)
    assert [(turn.question, turn.answer) for turn in workspace.turns] == [("What?", ANSWER)]


@pytest.mark.parametrize("missing", ["engine", "document"])
def test_asking_needs_an_engine_and_a_document(report: Path, missing: str) -> None:
    workspace = Workspace(Loader())
    if missing == "document":
        done(workspace.switch(preset("builtin")))
        reason = text.ASK_NEEDS_DOCUMENT
    else:
        workspace.open_documents([report])
        reason = text.ASK_NEEDS_ENGINE
    assert workspace.why_not_ask == reason
    with pytest.raises(RequestError, match=reason):
        workspace.ask("What?")


def test_a_second_question_waits_for_the_first(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.02))
    job = workspace.ask("First?")
    for action in (lambda: workspace.ask("Second?"), workspace.new_chat, workspace.race):
        with pytest.raises(RequestError, match="An answer is still being written"):
            action()
    with pytest.raises(RequestError, match="An answer is still being written"):
        workspace.switch(preset("other"))
    done(job)
    assert [turn.question for turn in workspace.turns] == ["First?"]


@pytest.mark.parametrize(("step_s", "chunk_s", "seen"), [(0.05, 0.0, TokensAccepted), (0.0, 0.1, Prefilled)])
def test_stop_is_prompt_while_writing_and_while_reading(
    report: Path, step_s: float, chunk_s: float, seen: type[Fact]
) -> None:
    workspace = ready(report, Loader(step_s, chunk_s))
    job = workspace.ask("What?")
    while not any(isinstance(fact, seen) for fact in job.facts):
        time.sleep(0.005)
    started = time.monotonic()
    workspace.stop()
    done(job)
    assert time.monotonic() - started < 0.3


def test_a_stopped_answer_is_kept_as_it_was_shown(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.03))
    job = workspace.ask("What?")
    while sum(isinstance(fact, TokensAccepted) for fact in job.facts) < 3:
        time.sleep(0.005)
    workspace.stop()
    done(job)
    shown = "".join(fact.text for fact in job.facts if isinstance(fact, TokensAccepted))
    assert [turn.answer for turn in workspace.turns] == [shown]
    assert workspace.take_back_question() == ""


def test_stopped_before_the_first_word_gives_the_question_back(report: Path) -> None:
    workspace = ready(report, Loader(chunk_s=0.2))
    job = workspace.ask("What?")
    workspace.stop()
    done(job)
    assert workspace.turns == ()
    assert not workspace.can_compare  # nothing was written
    assert (workspace.take_back_question(), workspace.take_back_question()) == ("What?", "")
    job = workspace.ask("What?")  # stopped again, and no page is there to take it
    workspace.stop()
    done(job)
    done(workspace.ask("What else?"))
    assert workspace.take_back_question() == ""


def test_the_plain_run_gives_baseline_and_comparison(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.002))
    done(workspace.ask("What?"))
    assert workspace.comparison is None
    done(workspace.race())
    assert workspace.comparison is not None
    assert workspace.comparison.difference is None
    assert workspace.comparison.is_whole
    assert workspace.baseline is not None
    assert workspace.comparison.plain_rate == pytest.approx(workspace.baseline.tokens_per_second)
    assert [turn.question for turn in workspace.turns] == ["What?"]  # a measurement is no turn


def test_calibration_runs_once_an_answer_and_gives_way_to_a_question(report: Path) -> None:
    workspace = ready(report, Loader(step_s=0.02))
    done(workspace.ask("What?"))
    calibration = workspace.calibrate()
    assert calibration is not None
    time.sleep(0.25)
    answer = workspace.ask("And then?")
    assert not calibration.is_running
    before = workspace.baseline
    assert before is not None  # what was measured until then counts
    done(answer)
    again = workspace.calibrate()
    assert again is not None
    done(again)
    assert workspace.baseline is not before  # each answer is compared behind its own prompt
    assert workspace.calibrate() is None


def test_without_drafting_there_is_nothing_to_compare(report: Path) -> None:
    workspace = Workspace(Loader())
    done(workspace.switch(Preset("plain", "Plain", "", ModelRef("m"), 4096)))
    workspace.open_documents([report])
    done(workspace.ask("What?"))
    assert not workspace.drafting.is_on
    assert not workspace.can_compare
    assert workspace.calibrate() is None
    with pytest.raises(RequestError, match="Drafting is off"):
        workspace.race()


def test_switching_frees_the_old_engine_and_keeps_document_and_chat(report: Path) -> None:
    loader = Loader()
    workspace = ready(report, loader)
    done(workspace.ask("What?"))
    job = done(workspace.switch(preset("other", 8192)))
    assert [fact.message for fact in job.facts if isinstance(fact, LoadProgress)][-1] == "Loading other"
    assert [engine.is_closed for engine in loader.engines] == [True, False]
    assert workspace.opened is not None
    assert workspace.opened.budget is not None
    assert workspace.opened.budget.context_length == 8192
    assert [(turn.question, turn.answer) for turn in workspace.turns] == [("What?", ANSWER)]
    assert workspace.turns[0].answer_token_ids is None  # another tokenizer's ids mean nothing
    done(workspace.ask("More?"))
    assert len(workspace.turns) == 2


def test_a_failed_switch_goes_back_and_says_why(report: Path) -> None:
    loader = Loader()
    workspace = ready(report, loader)
    done(workspace.ask("What?"))
    done(workspace.switch(preset("broken")))
    assert workspace.preset is not None
    assert workspace.preset.name == "builtin"
    assert "The broken model could not be loaded" in workspace.trouble
    assert "There is no such model" in workspace.trouble
    assert "The builtin model is loaded again" in workspace.trouble
    assert workspace.why_not_ask == ""
    assert len(workspace.turns) == 1


def test_running_out_of_memory_goes_back_too(report: Path) -> None:
    workspace = ready(report, Loader())
    done(workspace.switch(preset("huge")))
    assert workspace.preset is not None
    assert workspace.preset.name == "builtin"
    assert "The machine gave up: out of memory. It may lack the memory" in workspace.trouble


def test_a_switch_that_leaves_nothing_says_so_and_can_be_tried_again(report: Path) -> None:
    loader = Loader()
    workspace = ready(report, loader)
    loader.failing |= {"builtin"}
    done(workspace.switch(preset("broken")))
    assert "The broken model could not be loaded" in workspace.trouble
    assert "Nor could The builtin model be loaded." in workspace.trouble
    assert workspace.preset is None  # so that any can be picked
    assert workspace.why_not_ask == text.ASK_NEEDS_ENGINE
    loader.failing.clear()
    done(workspace.switch(preset("builtin")))
    assert (workspace.why_not_ask, workspace.trouble) == ("", "")


def test_a_document_that_does_not_fit_is_not_cut(report: Path) -> None:
    workspace = Workspace(Loader())
    done(workspace.switch(preset("small", 600)))
    workspace.open_documents([report])
    assert workspace.opened is not None
    assert workspace.opened.budget is not None
    assert workspace.opened.budget.num_over > 0
    assert workspace.why_not_ask == text.ASK_NEEDS_FIT
    with pytest.raises(RequestError):
        workspace.ask("What?")


def test_a_conversation_that_outgrows_the_context_is_refused_in_words(report: Path) -> None:
    workspace = ready(report, Loader())
    done(workspace.ask("What? " * 4000))
    assert "Nothing was cut" in workspace.trouble
    assert workspace.turns == ()
    done(workspace.ask("What?"))
    assert workspace.trouble == ""


def test_a_chosen_part_is_what_the_model_reads(report: Path) -> None:
    loader = Loader()
    workspace = ready(report, loader)
    assert workspace.opened is not None
    num_parts = len(workspace.opened.whole.blocks)
    assert num_parts > 1
    workspace.choose_range(1, 1)
    done(workspace.ask("What?"))
    prompt = loader.engines[0].tokenizer.decode(loader.engines[0].requests[-1].prompt_token_ids)
    assert workspace.opened.whole.blocks[1].text in prompt
    assert prompt.startswith(f"<|doc|>{preset('builtin').instruction}\n\n")
    assert workspace.opened.whole.blocks[0].text not in prompt
    workspace.choose_range(0, num_parts - 1)
    assert workspace.opened.used is workspace.opened.whole
    with pytest.raises(DocumentError):
        workspace.choose_range(3, 2)


def test_a_file_that_cannot_be_read_changes_nothing(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader())
    done(workspace.ask("What?"))
    with pytest.raises(DocumentError):
        workspace.open_documents([tmp_path / "missing.pdf"])
    assert workspace.opened is not None
    assert workspace.opened.used.source_name == "report.txt"
    assert len(workspace.turns) == 1


def test_a_document_opened_before_the_model_is_measured_when_it_is_loaded(report: Path) -> None:
    workspace = Workspace(Loader())
    workspace.open_documents([report])
    assert workspace.opened is not None
    assert workspace.opened.budget is None
    done(workspace.switch(preset("builtin")))
    assert workspace.opened.budget is not None
    assert workspace.why_not_ask == ""


def test_tokens_are_located_in_the_document(report: Path) -> None:
    workspace = ready(report, Loader())
    assert workspace.opened is not None
    assert workspace.opened.budget is not None
    first, second = workspace.opened.budget.num_tokens_by_block[:2]
    labels = workspace.opened.budget.labels
    assert workspace.locate(0) == workspace.locate(first - 1) == labels[0]
    assert workspace.locate(first) == workspace.locate(first + second - 1) == labels[1]
    assert workspace.locate(10**9) == ""


def test_closing_frees_the_engine(report: Path) -> None:
    loader = Loader(step_s=0.02)
    workspace = ready(report, loader)
    job = workspace.ask("What?")
    workspace.close()
    assert not job.is_running
    assert loader.engines[0].is_closed


def test_settings_come_from_the_preset_until_they_are_changed(report: Path) -> None:
    loader = Loader()
    workspace = ready(report, loader)
    done(workspace.ask("What?"))
    workspace.settings = replace(workspace.settings, max_tokens=7, temperature=0.5, seed=3)
    done(workspace.ask("What?"))
    first, second = (request for request in loader.engines[0].requests)
    assert (first.stop.max_tokens, first.sampling) == (512, SamplingParams())
    assert (second.stop.max_tokens, second.sampling) == (7, SamplingParams(temperature=0.5, seed=3))


# --- the history ------------------------------------------------------------------------------------------------------


def questions(workspace: Workspace) -> list[str]:
    return [turn.question for turn in workspace.turns]


def test_settings_that_were_changed_while_a_model_loaded_stay(report: Path) -> None:
    class Slow(Loader):
        def __call__(self, preset: Preset, watch: LoadWatch, room: Room, /) -> ScriptedEngine:
            workspace.settings = replace(workspace.settings, max_tokens=77, seed=5)
            return super().__call__(preset, watch, room)

    workspace = Workspace(Slow())
    usual = replace(preset("builtin"), generation=GenerationDefaults(max_tokens=8192, temperature=0.6, top_p=0.95))
    done(workspace.switch(usual))
    assert workspace.settings == GenerationDefaults(max_tokens=77, temperature=0.6, top_p=0.95, seed=5)


def test_a_conversation_is_there_after_a_restart_with_its_document(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader(), History(tmp_path / "data"))
    done(workspace.ask("First?"))
    done(workspace.ask("Second?"))
    conversation = workspace.talk.conversation
    assert conversation is not None
    workspace.close()
    report.unlink()

    again = Workspace(Loader(), History(tmp_path / "data"))
    again.open_conversation(conversation)
    assert questions(again) == ["First?", "Second?"]
    assert again.opened is not None
    assert again.opened.whole.source_name == report.name
    done(again.switch(preset("builtin")))
    done(again.ask("Third?"))
    assert questions(again) == ["First?", "Second?", "Third?"]
    details = again.talk.path[-1].details
    assert details["metrics"]["num_generated_tokens"] == 61  # type: ignore[index]


def test_an_answer_that_a_crash_broke_off_is_there_as_it_was_shown(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader(step_s=0.02), History(tmp_path / "data"))
    job = workspace.ask("What?")
    while sum(isinstance(fact, TokensAccepted) for fact in job.facts) < 4:
        time.sleep(0.005)
    shown = "".join(fact.text for fact in job.facts if isinstance(fact, TokensAccepted))
    other = History(tmp_path / "data")  # as another process would find it now
    (turn,) = other.store.path(other.store.conversations()[0].id)
    assert turn.answer.startswith(shown)
    assert turn.reason == "interrupted"
    workspace.stop()
    done(job)


def test_an_edited_question_begins_a_branch_and_the_old_one_stays(report: Path) -> None:
    workspace = ready(report, Loader())
    for question in ("First?", "Second?", "Third?"):
        done(workspace.ask(question))
    done(workspace.ask("Second, otherwise?", 1))
    assert questions(workspace) == ["First?", "Second, otherwise?"]
    done(workspace.ask("And then?"))
    branches = workspace.talk.branches()
    assert [question for _, question, _ in branches] == ["Third?", "And then?"]
    workspace.show_branch(branches[0][0])
    view = workspace.view
    workspace.show_branch(branches[0][0])  # told twice
    assert workspace.view == view
    assert questions(workspace) == ["First?", "Second?", "Third?"]
    done(workspace.ask("Fourth?"))
    assert questions(workspace) == ["First?", "Second?", "Third?", "Fourth?"]


def test_regenerating_keeps_both_answers_and_draws_anew(report: Path) -> None:
    workspace = ready(report, Loader())
    with pytest.raises(RequestError, match="no answer to repeat"):
        workspace.regenerate()
    done(workspace.ask("What?"))
    with pytest.raises(RequestError, match="the same word for word"):
        workspace.regenerate()
    workspace.settings = replace(workspace.settings, temperature=0.8, seed=5)
    done(workspace.regenerate())
    done(workspace.regenerate())
    assert questions(workspace) == ["What?"]
    assert len(workspace.talk.branches()) == 3
    assert workspace.talk.path[-1].details["seed"] == 6


def test_an_answer_of_an_older_branch_is_drawn_with_a_seed_that_no_branch_has(report: Path) -> None:
    workspace = ready(report, Loader())
    workspace.settings = replace(workspace.settings, temperature=0.8, seed=5)
    done(workspace.ask("What?"))
    done(workspace.regenerate())
    done(workspace.regenerate())
    workspace.show_branch(workspace.talk.branches()[0][0])
    workspace.settings = replace(workspace.settings, seed=6)  # that of the second branch
    done(workspace.regenerate())
    assert workspace.talk.path[-1].details["seed"] == 8
    assert "seed 8" in workspace.remark
    workspace.settings = replace(workspace.settings, temperature=0.5, seed=6)  # other draws
    done(workspace.regenerate())
    assert workspace.talk.path[-1].details["seed"] == 6
    assert workspace.remark == ""


def test_a_new_answer_that_was_stopped_at_once_leaves_the_old_one(report: Path) -> None:
    loader = Loader()
    workspace = ready(report, loader)
    for question in ("First?", "Second?"):
        done(workspace.ask(question))
    loader.engines[-1].chunk_s = 0.3
    job = workspace.ask("First, otherwise? " + "word " * 600, 0)
    workspace.stop()
    done(job)
    assert questions(workspace) == ["First?", "Second?"]
    assert len(workspace.talk.branches()) == 1


@pytest.mark.parametrize("num_kept", [0, 1, 2])  # the first question edited, the second one, and a new one
def test_what_was_stopped_at_once_leaves_the_figures_and_the_race_of_what_is_shown(report: Path, num_kept: int) -> None:
    loader = Loader(step_s=0.001)
    workspace = ready(report, loader)
    engine = loader.engines[-1]
    done(workspace.ask("First?"))
    engine.answer = "An answer with other words than the first one has. " * 3
    done(workspace.ask("Second?"))
    done(workspace.race())
    shown = workspace.answer_job, workspace.comparison, workspace.race_job
    engine.chunk_s, engine.step_s, engine.cached[0] = 0.3, 0.3, ()
    job = workspace.ask("Otherwise?", num_kept)
    assert (workspace.comparison, workspace.race_job) == (None, None)
    workspace.stop()
    done(job)
    engine.chunk_s, engine.step_s = 0.0, 0.001
    assert workspace.take_back_question() == "Otherwise?"
    assert (workspace.answer_job, workspace.comparison, workspace.race_job) == shown
    assert (workspace.can_compare, workspace.why_not_race) == (True, "")
    done(workspace.race())
    prompt = engine.tokenizer.decode(engine.requests[-1].prompt_token_ids)
    assert "First?" in prompt
    assert "Second?" in prompt
    assert "Otherwise?" not in prompt


def test_a_new_chat_leaves_the_old_one_in_the_list(report: Path) -> None:
    workspace = ready(report, Loader())
    done(workspace.ask("First?"))
    workspace.new_chat()
    assert workspace.turns == ()
    done(workspace.ask("Other?"))
    assert [one.title for one in workspace.talk.summaries()] == ["Other?", "First?"]
    first = workspace.talk.summaries()[1].id
    workspace.open_conversation(first)
    assert questions(workspace) == ["First?"]
    workspace.rename_conversation("A name")
    assert [one.title for one in workspace.talk.summaries("name")] == ["A name"]
    workspace.delete_conversation()
    assert workspace.turns == ()
    assert [one.title for one in workspace.talk.summaries()] == ["Other?"]
    with pytest.raises(StoreError, match="does not exist"):
        workspace.open_conversation(first)


def test_a_deleted_copy_is_no_longer_the_open_document(report: Path, tmp_path: Path) -> None:
    """A conversation begun with it would be opened again without it."""
    workspace = ready(report, Loader(), History(tmp_path / "data"))
    done(workspace.ask("First?"))
    first = workspace.talk.conversation
    assert first is not None
    workspace.open_conversation(first)  # the kept copy is the file now
    workspace.delete_conversation()
    assert list((tmp_path / "data" / "documents").iterdir()) == []
    assert workspace.opened is None
    assert workspace.why_not_ask == text.ASK_NEEDS_DOCUMENT
    workspace.open_documents([report])
    done(workspace.ask("Second?"))
    workspace.delete_conversation()
    assert workspace.opened is not None  # the user's own file is still there


def test_a_conversation_whose_document_is_gone_leaves_everything_as_it_is(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader(), History(tmp_path / "data"))
    done(workspace.ask("First?"))
    first = workspace.talk.conversation
    assert first is not None
    workspace.new_chat()
    done(workspace.ask("Other?"))
    for kept in (tmp_path / "data" / "documents").rglob("*.txt"):
        kept.unlink()
    with pytest.raises(StoreError, match="is gone"):
        workspace.open_conversation(first)
    assert questions(workspace) == ["Other?"]


def test_the_chosen_part_of_a_document_comes_back(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader(), History(tmp_path / "data"))
    workspace.choose_range(1, 2)
    done(workspace.ask("What?"))
    conversation = workspace.talk.conversation
    assert conversation is not None
    workspace.open_documents([report])
    workspace.open_conversation(conversation)
    assert workspace.opened is not None
    assert workspace.opened.chosen == (1, 2)
    assert workspace.talk.path[0].details["read"] == "parts 2 to 3 of 15 of report.txt"


def test_another_model_s_answers_are_read_as_text(report: Path) -> None:
    workspace = ready(report, Loader())
    done(workspace.ask("What?"))
    assert workspace.turns[0].answer_token_ids is not None
    done(workspace.switch(preset("other")))
    assert workspace.turns[0].answer_token_ids is None
    done(workspace.switch(preset("builtin")))
    assert workspace.turns[0].answer_token_ids is not None  # its own again
