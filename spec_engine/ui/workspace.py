"""What the page works on: one engine, one document, one conversation of those kept, at most one job.

Job: the state behind all open tabs, and the rules about it. Loading, answering and measuring run as jobs in their own
thread, so no page holds them and a reloaded page finds them again. Two jobs never run at once.
Non-job: widgets and markup.

The conversation belongs to the process, not to a tab: this is an application of one person on their own machine.
"""

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from spec_engine.chat.compare import compare
from spec_engine.chat.history import AnswerKeeper
from spec_engine.chat.session import Session
from spec_engine.config import Preset
from spec_engine.documents.together import read_documents
from spec_engine.errors import RequestError, SpecEngineError, StoreError
from spec_engine.events import Finished
from spec_engine.sampling import SamplingParams
from spec_engine.ui import text
from spec_engine.ui.answering import AnswerWork
from spec_engine.ui.engines import PageEngine
from spec_engine.ui.job import Job
from spec_engine.ui.opened import OpenedDocument
from spec_engine.ui.race import LaneCompared, LaneStarted, lanes
from spec_engine.ui.speed import baseline_of
from spec_engine.ui.state import Fact, PageState, Progress

CALIBRATION_TOKENS: Final = 32
CALIBRATION_S: Final = 8.0  # a slow machine measures fewer tokens


class Workspace(PageState):
    """The state behind the page, and what changes it; every method may be called from any thread."""

    # --- the document -------------------------------------------------------------------------------------------------

    def open_documents(self, paths: Sequence[Path], password: str | None = None) -> None:
        """Read files and make them the document; the conversation about the old one ends.

        Raises `DocumentError`; then everything stays as it was.
        """
        document = read_documents(paths, password)
        with self._lock:
            self._require_idle()
            self._use(OpenedDocument(document, document))
            self._document_paths = tuple(paths)

    def choose_range(self, first: int, last: int) -> None:
        """Use parts `first` to `last` of the opened document alone. Raises `DocumentError` for an impossible range."""
        with self._lock:
            if self.opened is None:
                raise RequestError(f"{text.NO_DOCUMENT} Open one first.")
            self._require_idle()
            self._use(self.opened.narrowed(first, last))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def switch(self, preset: Preset) -> Job[Fact]:
        """Load a preset's engine in place of the present one, which is freed first. Document and chat are kept."""
        with self._lock:
            self._require_idle()
            return self._begin(Job("load", lambda job: self._load_engine(job, preset)))

    def ask(self, question: str, num_kept: int | None = None) -> Job[Fact]:
        """Begin to answer a question behind the first `num_kept` turns; None: behind all of them. What came after
        those stays as a branch. Raises `RequestError` when that is impossible now."""
        question = question.strip()
        with self._lock:
            self._require_idle()
            if not question:
                raise RequestError(text.EMPTY_QUESTION)
            num_kept = len(self.talk.path) if num_kept is None else num_kept
            session = self._new_session(num_kept)
            if self.why_not_ask or session is None or self.preset is None:
                raise RequestError(self.why_not_ask)
            preset, self._session = self.preset, session
            keeper = self.talk.begin(question, num_kept, model=self._model, preset=preset.name)
            self.pending_question, self.comparison, self.race_job = question, None, None
            self.answer_job = Job("answer", lambda job: self._answer(job, session, keeper, question))
            return self._begin(self.answer_job)

    def regenerate(self, number: int | None = None) -> Job[Fact]:
        """Answer a question of this conversation again, the last one for None; the old answer stays as a branch.

        Raises `RequestError` when there is none, or the answer would be the same.
        """
        path = self.talk.path
        number = len(path) - 1 if number is None else number
        if not 0 <= number < len(path):
            raise RequestError(text.NOTHING_TO_REPEAT)
        old = path[number]
        is_greedy = self.settings.temperature == 0 and old.details.get("temperature") == 0
        if is_greedy and old.model == self._model and old.reason in ("stop", "length"):
            raise RequestError(text.SAME_ANSWER)
        if self.settings.temperature > 0 and old.details.get("seed") == self.settings.seed:
            self.settings = replace(self.settings, seed=self.settings.seed + 1)
        return self.ask(old.question, number)

    def race(self) -> Job[Fact]:
        """Answer the last question again in every lane. Raises `RequestError` when there is nothing to compare."""
        with self._lock:
            self._require_idle()
            session, engine = self._session, self._engine
            if not self.drafting.is_on:
                raise RequestError(text.IS_PLAIN_ALREADY)
            if session is None or engine is None or not self.can_compare:
                raise RequestError(text.NO_ANSWER_TO_COMPARE)
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

    def open_conversation(self, conversation: int, password: str | None = None) -> None:
        """Show a kept conversation with its document. Raises `StoreError` or `DocumentError`; then all stays as is."""
        with self._lock:
            self._require_idle()
            before = self.talk.conversation
            self.talk.open(conversation)
            ref = self.talk.document
            try:
                if ref is not None:
                    paths = self.talk.find(ref)
                    document = read_documents(paths, password)
                    opened = OpenedDocument(document, document)
                    opened = opened.narrowed(*ref.chosen) if ref.chosen else opened
                    self.opened, self._document_paths = self._measured_by_engine(opened), tuple(paths)
            except SpecEngineError:
                self.talk.leave() if before is None else self.talk.open(before)
                raise
            self._forget_answer()

    def show_branch(self, last_turn: int) -> None:
        """Show another branch of the conversation. Raises `StoreError` when it does not exist."""
        with self._lock:
            self._require_idle()
            self.talk.show_branch(last_turn)
            self._forget_answer()

    def rename_conversation(self, title: str) -> None:
        """Give the conversation another title. Raises `StoreError` for a blank one."""
        self.talk.rename(title)

    def delete_conversation(self) -> None:
        """Forget the conversation for good. Its document stays open unless the copy that was deleted was its file."""
        with self._lock:
            self._require_idle()
            self.talk.delete()
            if not all(path.is_file() for path in self._document_paths):
                self.opened, self._document_paths = None, ()
            self._leave_chat()

    def close(self) -> None:
        """Stop what runs and free the engine."""
        job = self.active_job
        if job:
            job.stop()
            job.join(5.0)
        with self._lock:
            engine, self._engine, self._session = self._engine, None, None
        if engine:
            engine.close()
        self._history.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _require_idle(self) -> None:
        """Raise `RequestError` unless no job runs; a mere calibration gives way."""
        job = self.active_job
        if job is not None and job.kind == "calibrate":
            job.stop()
            job.join(2.0)
            job = self.active_job
        if job is not None:
            raise RequestError(text.BUSY_LOADING if job.kind == "load" else text.BUSY)

    def _begin(self, job: Job[Fact]) -> Job[Fact]:
        """Make a job the running one."""
        with self._lock:
            if self.active_job is not None:
                raise RequestError(text.BUSY)
            self.job, self._trouble = job, ""
            job.start()
        return job

    def _use(self, opened: OpenedDocument) -> None:
        """Make a document the one to talk about; the conversation about another one ends. The lock is held."""
        self.opened = self._measured_by_engine(opened)
        self._leave_chat()

    def _load_engine(self, job: Job[Fact], preset: Preset) -> None:
        """Free, load, and on failure go back to the preset before."""
        before = self.preset if self._engine else None
        with self._lock:
            engine, self._engine, self._session = self._engine, None, None
            self.opened = self.opened.unmeasured() if self.opened else None
        if engine:
            engine.close()
        reason = self._try_install(job, preset)
        if reason is None:
            return
        self._trouble, self.preset = f"{preset.title} could not be loaded. {reason}", None
        if before is None:
            return
        gc.collect()  # what was loaded of the failed model
        again = self._try_install(job, before)
        end = f"{before.title} is loaded again." if again is None else f"Nor could {before.title} be loaded. {again}"
        self._trouble += f" {end}"

    def _try_install(self, job: Job[Fact], preset: Preset) -> str | None:
        """Load a preset's engine; the reason when that is impossible. No part of a failed engine stays in memory."""
        try:
            self._install(job, preset)
            return None
        except SpecEngineError as error:
            return str(error)
        except (RuntimeError, OSError, MemoryError) as error:  # torch runs out of memory by RuntimeError
            return text.LOADING_BROKE.format(reason=str(error).partition("\n")[0])

    def _install(self, job: Job[Fact], preset: Preset) -> None:
        """Load a preset's engine and measure the document with its tokenizer."""
        job.report(Progress(f"Loading {preset.title}"))
        engine = self._load(preset, lambda message: job.report(Progress(message)))
        with self._lock:
            self._engine, self.preset, self.settings = engine, preset, preset.generation
            self.baseline, self.comparison, self.answer_job, self._measured = None, None, None, None
            self._session = self._new_session(len(self.talk.path))
            self.opened = self._measured_by_engine(self.opened) if self.opened else None

    def _answer(self, job: Job[Fact], session: Session, keeper: AnswerKeeper, question: str) -> None:
        """The answer job."""
        given = self.settings
        sampling = SamplingParams(
            given.temperature, given.top_k, given.top_p, given.min_p, given.repetition_penalty, given.seed
        )
        trouble = ""
        if self._document_paths:
            try:
                self.talk.keep_document(self._document_paths, self.opened.chosen if self.opened else None)
            except StoreError as error:
                trouble = str(error)
        read = self.opened.extent if self.opened else ""
        work = AnswerWork(session, self.talk, keeper, self.locate, read)
        self._trouble = work.run(question, sampling, given.max_tokens, job.is_cancelled, job.report) or trouble

    def calibrate(self) -> Job[Fact] | None:
        """Measure plain decoding briefly behind the last prompt; None when that was done or makes no sense."""
        with self._lock:
            session, engine, answered = self._session, self._engine, self.answer_job
            is_done = answered is None or answered is self._measured
            if session is None or engine is None or is_done or not self.drafting.is_on or self.active_job:
                return None
            last = session.last_finished
            if last is None or last.reason == "cancelled" or len(last.token_ids) < CALIBRATION_TOKENS // 2:
                return None
            self._measured = answered
            measure = Job[Fact]("calibrate", lambda job: self._calibrate(job, session, engine))
            return self._begin(measure)

    def _calibrate(self, job: Job[Fact], session: Session, engine: PageEngine) -> None:
        """Replay the beginning of the last answer without drafting, for at most `CALIBRATION_S`."""
        deadline = time.monotonic() + CALIBRATION_S
        plain = engine.with_drafter("none")
        for event in session.replay(
            plain, max_tokens=CALIBRATION_TOKENS, cancelled=lambda: job.is_cancelled() or time.monotonic() > deadline
        ):
            job.report(event)
            if isinstance(event, Finished):
                self._note_plain(event)

    def _race(self, job: Job[Fact], session: Session, engine: PageEngine) -> None:
        """Replay the last request in each lane, and compare every text with the plain one."""
        plain: Finished | None = None
        for lane in lanes(self.preset.draft) if self.preset else ():
            if job.is_cancelled():
                return
            job.report(LaneStarted(lane.label))
            finished: Finished | None = None
            runner = engine.with_drafter(lane.kind, use_retrieval=lane.use_retrieval)
            for event in session.replay(runner, cancelled=job.is_cancelled):
                job.report(event)
                finished = event if isinstance(event, Finished) else finished
            if finished is None or job.is_cancelled():
                return
            if plain is None:
                plain = finished
                self._note_plain(plain)
            elif plain.token_ids:
                self.comparison = compare(finished, plain, session.last_prompt_token_ids, engine.logits_after)
                job.report(LaneCompared(lane.label, self.comparison))

    def _note_plain(self, plain: Finished) -> None:
        """Keep the speed of a plain run, with the answer that it is about."""
        self.baseline = baseline_of(plain) or self.baseline
        if self.baseline and self.talk.path:
            plain_rate = {"plain_tokens_per_second": self.baseline.tokens_per_second}
            self.talk.annotate(self.talk.path[-1].id, plain_rate)
