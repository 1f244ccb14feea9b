"""What the page works on: one engine, one document, one conversation of those kept, at most one job.

Job: `Workspace`: questions, the race, measuring, and the history, above the model side (`models`) and the document side
(`papers`). Whatever takes time runs as a job in its own thread, so no page holds it and a reloaded page finds it again.
Two jobs never run at once.
Non-job: widgets and markup.

The conversation belongs to the process, not to a tab: this is an application of one person on their own machine.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from spec_engine.chat.compare import Comparison
from spec_engine.chat.figures import parts_of
from spec_engine.chat.history import AnswerKeeper
from spec_engine.chat.session import Session, check_question
from spec_engine.config import GenerationDefaults
from spec_engine.errors import RequestError, StoreError
from spec_engine.events import Finished, TokensAccepted
from spec_engine.sampling import SamplingParams
from spec_engine.ui import text
from spec_engine.ui.answering import AnswerWork
from spec_engine.ui.carried import drawn, told_of_more
from spec_engine.ui.engines import PageEngine
from spec_engine.ui.going_on import Cut
from spec_engine.ui.job import Job
from spec_engine.ui.papers import DocumentSide
from spec_engine.ui.race import LiveRace, lanes
from spec_engine.ui.racing import raced
from spec_engine.ui.recalled import kept_speed
from spec_engine.ui.speed import MIN_BASELINE_TOKENS, MeasuredSpeed, speed_of
from spec_engine.ui.state import Fact, Seen

CALIBRATION_TOKENS: Final = 48  # of plain decoding; a short answer is replayed several times
MAX_SEED: Final = 2**53 - 1  # that a browser holds exactly
CALIBRATION_S: Final = 8.0  # a slow machine measures fewer tokens


# What an answer leaves for the page: its job and session, the last race over it, and what it was before it was gone on
# with.
_Shown = tuple[Job[Fact] | None, Session | None, Comparison | None, Job[Fact] | None, tuple[Job[Fact], Cut] | None]


class Workspace(DocumentSide):
    """The state behind the page, and what changes it; every method may be called from any thread."""

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def ask(self, question: str, num_kept: int | None = None) -> Job[Fact]:
        """Begin to answer a question behind the first `num_kept` turns; None: behind all of them. What came after
        those stays as a branch. Raises `RequestError` when that is impossible now."""
        question = question.strip()
        with self._lock:
            if (job := self.active_job) and job.kind == "open":
                raise RequestError(text.BUSY_OPENING_ASK)
            self._require_idle()
            if not question:
                raise RequestError(text.EMPTY_QUESTION)
            check_question(question)
            num_kept = len(self.talk.path) if num_kept is None else num_kept
            session = self._new_session(num_kept)
            if self.why_not_ask or session is None or self.preset is None:
                raise RequestError(self.why_not_ask)
            preset, shown, self.is_edited = self.preset, self._shown, num_kept < len(self.talk.path)
            keeper = self.talk.begin(question, num_kept, model=self._model, preset=preset.name)
            self.pending_question = question
            return self._begin_answer(lambda job: self._answer(job, session, keeper, question, shown), session)

    def go_on(self) -> Job[Fact]:
        """Begin to write more of the last answer, which was cut. Raises `RequestError` when that is impossible now."""
        with self._lock:
            self._require_idle()
            session, path = self._new_session(len(self.talk.path)), self.talk.path
            if session is None or not self.can_go_on:
                raise RequestError(self.why_not_ask or self.why_not_go_on or text.NOTHING_TO_CONTINUE)
            shown, keeper = self._shown, self.talk.go_on()
            self.pending_question = ""
            cut = Cut(path[-1], tuple(self.stretches(path[-1])))
            job = self._begin_answer(lambda job: self._answer(job, session, keeper, "", shown), session, cut)
            self.remark = told_of_more(path[-1].details, self.settings)
            return job

    def regenerate(self, number: int | None = None) -> Job[Fact]:
        """Answer a question of this conversation again, the last one for None; the old answer stays as a branch. A seed
        that an answer to it was drawn with, on whatever branch, is counted on.

        Raises `RequestError` when there is none, or the answer would be the same.
        """
        path = self.talk.path
        number = len(path) - 1 if number is None else number
        if not 0 <= number < len(path):
            raise RequestError(text.NOTHING_TO_REPEAT)
        old = path[number]
        was_greedy = all(part.get("temperature") == 0 for part in parts_of(old.details))
        is_greedy = self.settings.temperature == 0 and was_greedy
        limit = old.details.get("max_tokens", len(old.token_ids))
        is_cut = old.reason == "length" and isinstance(limit, int) and limit < self.settings.max_tokens
        if is_greedy and old.model == self._model and old.reason in ("stop", "length") and not is_cut:
            raise RequestError(text.SAME_ANSWER)
        with self._lock:
            self._require_idle()
            before = seed = self.settings.seed
            if self.settings.temperature > 0:
                taken = self.talk.seeds_of(old.id, self._model, self.settings.temperature)
                while seed in taken:
                    seed = (seed + 1) % (MAX_SEED + 1)
            self.settings = replace(self.settings, seed=seed)
            job = self.ask(old.question, number)
            self.remark = text.OTHER_SEED.format(seed=seed, before=before) if seed != before else ""
            return job

    def race(self) -> Job[Fact]:
        """Answer the last question again in every lane. Raises `RequestError` when there is nothing to compare."""
        with self._lock:
            self._require_idle()
            session, engine = self._session, self._engine
            if not self.drafting.is_on:
                raise RequestError(text.IS_PLAIN_ALREADY)
            if session is None or engine is None or not self.can_compare:
                raise RequestError(self.why_not_race or text.NO_ANSWER_TO_COMPARE)
            self.race_job = Job("compare", lambda job: self._race(job, session, engine))
            return self._begin(self.race_job)

    def stop(self) -> None:
        """Wish that the running job ends."""
        job = self.active_job
        if job:
            job.stop()

    def new_chat(self) -> None:
        """Leave the conversation, which stays in the history; the document and its computed prefix stay too."""
        with self._lock:
            self._require_idle()
            self._leave_chat()

    # --- the history --------------------------------------------------------------------------------------------------

    def show_branch(self, last_turn: int) -> None:
        """Show another branch of the conversation; the one that is shown stays as it is, because one choice may be
        told twice. Raises `StoreError` when it does not exist."""
        with self._lock:
            if self.talk.path and self.talk.path[-1].id == last_turn:
                return
            self._require_idle()
            self.talk.show_branch(last_turn)
            self._forget_answer()

    def rename_conversation(self, title: str) -> None:
        """Give the conversation another title. Raises `StoreError` for a blank one."""
        self.talk.rename(title)

    def delete_conversation(self, seen: Seen | None = None) -> None:
        """Forget the conversation for good. Its document stays open unless the copy that was deleted was its file.
        Raises `RequestError` while a job runs, and when another one is open than was `seen`."""
        with self._lock:
            self.require_seen(seen, text.OTHER_CONVERSATION)
            self._require_idle()
            self.talk.delete(self.opened.used.sha256 if self.opened else "")
            if not all(path.is_file() for path in self._document_paths):
                self.opened, self._document_paths = None, ()
            self._leave_chat()

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _shown(self) -> _Shown:
        """What the last answer has left for the page."""
        return self.answer_job, self._session, self.comparison, self.race_job, self._going_on

    def _begin_answer(self, work: Callable[[Job[Fact]], None], session: Session, cut: Cut | None = None) -> Job[Fact]:
        """Begin an answer job, of more of an answer with what that was before. The lock is held."""
        job = Job("answer", work)
        self.answer_job, self._session, self.comparison, self.race_job = job, session, None, None
        self._going_on, self._unanswered = (job, cut) if cut else None, ""
        return self._begin(job)

    def _answer(self, job: Job[Fact], session: Session, keeper: AnswerKeeper, question: str, shown: _Shown) -> None:
        """The answer job. Where not a token came, what the page had before is there again, and it gets the question
        back."""
        try:
            self._make_answer(job, session, keeper, question)
        finally:
            if not any(isinstance(fact, TokensAccepted) for fact in job.facts):
                self._unanswered = question
                self.answer_job, self._session, self.comparison, self.race_job, self._going_on = shown

    def _make_answer(self, job: Job[Fact], session: Session, keeper: AnswerKeeper, question: str) -> None:
        given, sampling = self.settings, sampling_by(self.settings)
        trouble = ""
        if self._document_paths and self.opened:
            try:
                self.talk.keep_document(self._document_paths, self.opened.chosen, self.opened.used.sha256)
            except StoreError as error:
                trouble = str(error)
        read = self.opened.as_read if self.opened else {}
        work = AnswerWork(session, self.talk, keeper, self.locate, read)
        self._trouble = work.run(question, sampling, given.max_tokens, job.is_cancelled, job.report) or trouble

    def calibrate(self) -> Job[Fact] | None:
        """Measure plain decoding briefly behind the last prompt; None when that was done or makes no sense."""
        with self._lock:
            session, engine, answered = self._session, self._engine, self.answer_job
            is_done = answered is None or answered is self._measured_behind
            if session is None or engine is None or is_done or not self.drafting.is_on or self.active_job:
                return None
            last = session.last_finished
            if last is None or last.reason == "cancelled" or len(last.token_ids) < MIN_BASELINE_TOKENS:
                return None
            self._measured_behind = answered
            measure = Job[Fact]("calibrate", lambda job: self._calibrate(job, session, engine), after=self.read_ahead)
            return self._begin(measure)

    def _calibrate(self, job: Job[Fact], session: Session, engine: PageEngine) -> None:
        """Replay the beginning of the last answer without drafting, for at most `CALIBRATION_S`."""
        deadline = time.monotonic() + CALIBRATION_S
        plain, runs = engine.with_drafter("none"), list[Finished]()

        def is_over() -> bool:
            return job.is_cancelled() or time.monotonic() > deadline

        while not is_over() and sum(len(run.token_ids) for run in runs) < CALIBRATION_TOKENS:
            for event in session.replay(plain, max_tokens=CALIBRATION_TOKENS, cancelled=is_over):
                if not runs:
                    job.report(event)
                if isinstance(event, Finished):
                    runs.append(event)
            if not runs or not runs[-1].token_ids:
                break
        self._note_plain(speed_of(*runs))

    def _race(self, job: Job[Fact], session: Session, engine: PageEngine) -> None:
        """Replay the last answer in each lane; afterwards the last lane is compared with the plain one."""
        assert self.preset is not None, "there is an engine"
        draft = self.preset.draft
        planned = lanes(draft)
        session.recall(sampling_by(drawn(self.talk.path[-1].details, self.settings)))
        race = LiveRace(planned)
        for fact in raced(session, engine, draft.kind, planned, job.is_cancelled):
            job.report(fact)
            race.apply([fact])
        self._note_plain(race.plain_speed, race.comparison)
        self.comparison = race.comparison or self.comparison  # one that was stopped takes nothing back

    def _note_plain(self, measured: MeasuredSpeed | None, race: Comparison | None = None) -> None:
        """Keep the speed of plain runs, if it could be told, and a race, with the answer that they are about. With one
        that another preset gave they are not kept: its target may be the same, its draft and precision are not."""
        if measured is None:
            return
        self.baseline, path = measured, self.talk.path
        if path and self.preset is not None and path[-1].preset == self.preset.name:
            self.talk.annotate(path[-1].id, kept_speed(measured, race))


def sampling_by(settings: GenerationDefaults) -> SamplingParams:
    """How answers are drawn by these settings."""
    return SamplingParams(
        settings.temperature,
        settings.top_k,
        settings.top_p,
        settings.min_p,
        settings.repetition_penalty,
        settings.seed,
    )
