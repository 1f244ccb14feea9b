"""What the page works on: one engine, one document, one conversation, at most one job.

Job: the state behind all open tabs, and the rules about it. Loading, answering and measuring run as jobs in their own
thread, so no page holds them and a reloaded page finds them again. Two jobs never run at once.
Non-job: widgets and markup.

The conversation belongs to the process, not to a tab: this is an application of one person on their own machine.
"""

import gc
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spec_engine.chat.compare import Comparison, compare
from spec_engine.chat.prompt import Turn, count_document_tokens
from spec_engine.chat.session import Session
from spec_engine.config import GenerationDefaults, Preset
from spec_engine.documents.read import read_document
from spec_engine.errors import RequestError, SpecEngineError
from spec_engine.events import Event, Finished, TokensAccepted
from spec_engine.sampling import SamplingParams
from spec_engine.ui import text
from spec_engine.ui.engines import EngineLoader, PageEngine
from spec_engine.ui.job import Job
from spec_engine.ui.opened import OpenedDocument
from spec_engine.ui.readouts import DraftingState
from spec_engine.ui.speed import PlainBaseline, baseline_of

RESERVE_FOR_CHAT: Final = 256  # tokens kept free for template, question and a short conversation
CALIBRATION_TOKENS: Final = 32
CALIBRATION_S: Final = 8.0  # a slow machine measures fewer tokens


@dataclass(frozen=True, slots=True)
class Progress:
    """A sentence about a job that writes no answer."""

    message: str


Fact = Event | Progress


class Workspace:
    """The state behind the page; every method may be called from any thread.

    Args:
        load: loads an engine.
    """

    def __init__(self, load: EngineLoader) -> None:
        self._load = load
        self._lock = threading.RLock()
        self._engine: PageEngine | None = None
        self._session: Session | None = None
        self._turns: tuple[Turn, ...] = ()  # the conversation while no session exists
        self.opened: OpenedDocument | None = None
        self.preset: Preset | None = None
        self.settings = GenerationDefaults()  # the preset's until the user changes them
        self.job: Job[Fact] | None = None
        self.answer_job: Job[Fact] | None = None  # the last answer, finished or not
        self.pending_question = ""
        self.baseline: PlainBaseline | None = None  # the last that was measured, perhaps behind an earlier question
        self._measured: Job[Fact] | None = None  # the answer that a baseline was looked for behind
        self.comparison: Comparison | None = None
        self._trouble = ""  # why the last engine could not be loaded

    # --- questions about the state ------------------------------------------------------------------------------------

    @property
    def active_job(self) -> Job[Fact] | None:
        """The job that is running."""
        job = self.job
        return job if job is not None and job.is_running else None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation so far."""
        session = self._session
        return session.turns if session else self._turns

    @property
    def was_stopped_early(self) -> bool:
        """Whether the last answer ended before anything of it was shown."""
        job = self.answer_job
        return (
            job is not None and not job.is_running and not any(isinstance(fact, TokensAccepted) for fact in job.facts)
        )

    @property
    def can_compare(self) -> bool:
        """Whether there is a finished answer by a drafter, and nothing runs but a calibration."""
        session, job = self._session, self.active_job
        is_free = job is None or job.kind == "calibrate"
        last = session.last_finished if session else None
        return is_free and self.drafting.is_on and last is not None and bool(last.token_ids)

    @property
    def trouble(self) -> str:
        """Why the last job failed; "" when it did not."""
        job = self.job
        return self._trouble or (job.error or "" if job else "")

    @property
    def why_not_ask(self) -> str:
        """Why a question cannot be asked now; "" when it can."""
        if self._engine is None or ((job := self.active_job) and job.kind == "load"):
            return text.ASK_NEEDS_ENGINE
        if self.opened is None:
            return text.ASK_NEEDS_DOCUMENT
        budget = self.opened.budget
        return "" if budget is not None and budget.fits else text.ASK_NEEDS_FIT

    @property
    def drafting(self) -> DraftingState:
        """Whether drafting is on, and with what."""
        if self._engine is None or self.preset is None:
            return DraftingState(False, "No model")
        draft = self.preset.draft
        if draft.kind == "none":
            return DraftingState(False, "Drafting off (this model is set up for plain decoding)")
        retrieval = " + retrieval" if draft.retrieves else ""
        return DraftingState(True, f"Drafting on: {text.DRAFTER_NAMES.get(draft.kind, draft.kind)}{retrieval}")

    def take_back_question(self) -> str:
        """The question whose answer was stopped before its first word, once; "" when there is none."""
        if not self.was_stopped_early:
            return ""
        question, self.pending_question = self.pending_question, ""
        return question

    def locate(self, token: int) -> str:
        """The part of the document that holds a token of the prompt; "" when it lies behind the document."""
        return self.opened.locate(token) if self.opened else ""

    # --- the document -------------------------------------------------------------------------------------------------

    def open_document(self, path: Path, password: str | None = None) -> None:
        """Read a file and make it the document; the conversation about the old one ends.

        Raises `DocumentError`; then everything stays as it was.
        """
        document = read_document(path, password)
        with self._lock:
            self._require_idle()
            self._use(OpenedDocument(document, document))

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

    def ask(self, question: str) -> Job[Fact]:
        """Begin to answer. Raises `RequestError` when that is impossible now."""
        question = question.strip()
        with self._lock:
            self._require_idle()
            if not question:
                raise RequestError(text.EMPTY_QUESTION)
            session = self._session
            if self.why_not_ask or session is None:
                raise RequestError(self.why_not_ask)
            self.pending_question, self.comparison = question, None
            self.answer_job = Job("answer", lambda job: self._answer(job, session, question))
            return self._begin(self.answer_job)

    def compare_with_plain(self) -> Job[Fact]:
        """Answer the last question again without drafting. Raises `RequestError` when there is nothing to compare."""
        with self._lock:
            self._require_idle()
            session, engine = self._session, self._engine
            if not self.drafting.is_on:
                raise RequestError(text.IS_PLAIN_ALREADY)
            if session is None or engine is None or not self.can_compare:
                raise RequestError(text.NO_ANSWER_TO_COMPARE)
            return self._begin(Job("compare", lambda job: self._measure_plain(job, session, engine, None)))

    def stop(self) -> None:
        """Wish that the running job ends."""
        job = self.active_job
        if job:
            job.stop()

    def new_chat(self) -> None:
        """Forget the conversation; the document and its computed prefix stay."""
        with self._lock:
            self._require_idle()
            self._forget_chat()

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

    def _forget_chat(self) -> None:
        self._turns, self._trouble, self.job = (), "", None
        self.answer_job, self.comparison, self.baseline, self.pending_question = None, None, None, ""
        self._measured = None
        self._renew_session()

    def _renew_session(self) -> None:
        """A session over the present engine and document, with the conversation so far."""
        if self._engine is None or self.preset is None:
            self._session = None
            return
        document = self.opened.used if self.opened else None
        self._session = Session(self._engine, document, instruction=self.preset.instruction, turns=self._turns)

    def _use(self, opened: OpenedDocument) -> None:
        """Make a document the one to talk about; the conversation about another one ends. The lock is held."""
        self.opened = self._measured_by_engine(opened)
        self._forget_chat()

    def _measured_by_engine(self, opened: OpenedDocument) -> OpenedDocument:
        """The document with its tokens counted, if there is an engine to count with."""
        engine, preset = self._engine, self.preset
        if engine is None or preset is None:
            return opened
        tokenizer = engine.tokenizer
        reserved = min(preset.generation.max_tokens, engine.capacity // 4) + RESERVE_FOR_CHAT
        return opened.measured(lambda texts: count_document_tokens(tokenizer, texts), engine.capacity, reserved)

    def _load_engine(self, job: Job[Fact], preset: Preset) -> None:
        """Free, load, and on failure go back to the preset before."""
        before = self.preset if self._engine else None
        with self._lock:
            self._turns = tuple(Turn(turn.question, turn.answer) for turn in self.turns)
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
            self._renew_session()
            self.opened = self._measured_by_engine(self.opened) if self.opened else None

    def _answer(self, job: Job[Fact], session: Session, question: str) -> None:
        """The answer job."""
        given = self.settings
        sampling = SamplingParams(
            given.temperature, given.top_k, given.top_p, given.min_p, given.repetition_penalty, given.seed
        )
        for event in session.ask(question, sampling=sampling, max_tokens=given.max_tokens, cancelled=job.is_cancelled):
            job.report(event)

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
            measure = Job[Fact]("calibrate", lambda job: self._measure_plain(job, session, engine, CALIBRATION_TOKENS))
            return self._begin(measure)

    def _measure_plain(self, job: Job[Fact], session: Session, engine: PageEngine, num_tokens: int | None) -> None:
        """Replay the last request without drafting; a calibration ends after `CALIBRATION_S`."""
        deadline = time.monotonic() + CALIBRATION_S if num_tokens else float("inf")
        drafted, plain = session.last_finished, None
        for event in session.replay(
            engine.with_drafter("none"),
            max_tokens=num_tokens,
            cancelled=lambda: job.is_cancelled() or time.monotonic() > deadline,
        ):
            job.report(event)
            if isinstance(event, Finished):
                plain = event
        if plain is None or drafted is None:
            return
        self.baseline = baseline_of(plain) or self.baseline
        if num_tokens is None and plain.token_ids and not job.is_cancelled():
            self.comparison = compare(drafted, plain, session.last_prompt_token_ids, engine.logits_after)


def events_of(facts: Sequence[Fact]) -> list[Event]:
    """The engine's events among a job's facts."""
    return [fact for fact in facts if not isinstance(fact, Progress)]
