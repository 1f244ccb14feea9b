"""What the page works on, and what can be done with it now.

Job: `PageState`: the engine, the document, the conversation of those kept, the running job, and questions about them.
Non-job: changing them (`workspace`), widgets and markup.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from spec_engine.chat.compare import Comparison
from spec_engine.chat.history import History
from spec_engine.chat.prompt import Turn
from spec_engine.chat.session import Session
from spec_engine.chat.store import StoredTurn
from spec_engine.config import GenerationDefaults, Preset
from spec_engine.errors import RequestError
from spec_engine.events import Event
from spec_engine.model.memory import MemoryUse
from spec_engine.model.watch import LoadProgress, LoadWatch
from spec_engine.ui import text
from spec_engine.ui.engines import PageEngine
from spec_engine.ui.going_on import Cut, is_cut, obstacle
from spec_engine.ui.job import Job
from spec_engine.ui.live import Stretch, stretches_of
from spec_engine.ui.opened import OpenedDocument, measured_for
from spec_engine.ui.race import RaceFact
from spec_engine.ui.readouts import DraftingState
from spec_engine.ui.shelf import Fit
from spec_engine.ui.speed import MeasuredSpeed
from spec_engine.ui.talk import Talk

BACKGROUND: Final = ("calibrate", "read")  # jobs that give way to any other


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be opened.

    Attributes:
        paths: files.
        conversation: or a kept conversation with its document.
        added: files that come behind those of `paths`, of the conversation's document, or of the open document if
            there is neither. A new conversation begins about all of them.
        passwords: what was typed for the locked ones.
    """

    paths: tuple[Path, ...] = ()
    conversation: int | None = None
    added: tuple[Path, ...] = ()
    passwords: tuple[str, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page shows: the conversation and document with this number, soon what the job that it began has opened."""

    view: int
    opening: int = 0  # number of that job; 0: none

    @property
    def now(self) -> "Seen":
        """Without what it will show soon: for an action on what is shown."""
        return Seen(self.view)


Fact = Event | LoadProgress | RaceFact


class PageState:
    """What is there, and what can be done with it now.

    Args:
        history: where conversations are kept; None forgets them when the process ends.
    """

    def __init__(self, history: History | None = None) -> None:
        self._history = history or History(None)
        self.talk = Talk(self._history)
        self._lock = threading.RLock()
        self._is_closing = False
        self._engine: PageEngine | None = None
        self._session: Session | None = None
        self.memory: MemoryUse | None = None  # of the engine, measured when it was loaded
        self.reuse_trouble = ""  # why the engine's model has to read the document again for each question
        self.opened: OpenedDocument | None = None
        self.locked: Wanted | None = None  # what waits for its password
        self.waiting: Wanted | None = None  # what is opened once the model is loaded
        self.offered: Fit | None = None  # a preset that was picked and does not fit, with what would
        self._document_paths: tuple[Path, ...] = ()  # its files, until a conversation keeps copies
        self.preset: Preset | None = None
        self.settings = GenerationDefaults()  # the preset's until the user changes them
        self.job: Job[Fact] | None = None
        self.answer_job: Job[Fact] | None = None  # the last answer, finished or not
        self.pending_question = ""
        self._unanswered = ""  # the question whose answer ended before its first word
        self.is_edited = False  # the last question took the place of another
        self.search = ""  # what the list of conversations is searched for
        self.baseline: MeasuredSpeed | None = None  # the last that was measured, perhaps behind an earlier question
        self._going_on: tuple[Job[Fact], Cut] | None = None  # the last job that wrote more of an answer
        self._measured_behind: Job[Fact] | None = None  # the answer that a baseline was looked for behind
        self.comparison: Comparison | None = None
        self.race_job: Job[Fact] | None = None  # the last race, finished or not
        self._trouble = ""  # why the last engine could not be loaded
        self.remark = ""  # what the last job did besides what was asked for, until another one begins
        self.view = 0  # counts the conversations and documents that were shown
        self._num_jobs = 0  # that somebody waits for
        self._opened_by = 0  # which of them opened what is shown; 0: none
        self.told = ("", "")  # the trouble and the remark that an open page has shown

    # --- questions about the state ------------------------------------------------------------------------------------

    @property
    def active_job(self) -> Job[Fact] | None:
        """The job that is running."""
        job = self.job
        return job if job is not None and job.is_running else None

    @property
    def is_busy(self) -> bool:
        """Whether a job runs that somebody waits for."""
        job = self.active_job
        return job is not None and job.kind not in BACKGROUND

    @property
    def is_answering(self) -> bool:
        """Whether an answer or a race is running: a document that comes meanwhile is refused."""
        job = self.active_job
        return job is not None and job.kind in ("answer", "compare")

    @property
    def moment(self) -> str:
        """How many jobs there were that somebody waited for and how many conversations and documents were shown, and
        whether the last job is running. One that begins or ends meanwhile makes it a moment that has passed, never one
        to come."""
        past = f"{self._num_jobs}.{self.view}"
        job = self.active_job
        return f"{past}{'+' if job is not None and job.kind not in BACKGROUND else '-'}"

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation as it is shown; of a running answer only the question."""
        return tuple(self.talk.turns(self._model))

    @property
    def _model(self) -> str:
        """Whose token ids an answer's are."""
        target = self.preset.target if self.preset else None
        return f"{target.id}@{target.revision or ''}" if target else ""

    @property
    def kept_answer(self) -> StoredTurn | None:
        """The last answer that is shown, where the model and preset in use gave it, but before it was shown again."""
        path, preset = self.talk.path, self.preset
        if self.answer_job is not None or not path or preset is None:
            return None
        return path[-1] if (path[-1].model, path[-1].preset) == (self._model, preset.name) else None

    @property
    def can_compare(self) -> bool:
        """Whether there is an answer that this model can repeat with and without its drafter, and nothing runs that
        does not give way."""
        session, job = self._session, self.active_job
        is_free = job is None or job.kind in BACKGROUND
        return is_free and session is not None and session.can_replay and bool(self.talk.path) and not self.why_not_race

    @property
    def why_not_race(self) -> str:
        """Why the answer that is shown cannot be raced; "" when it can, when there is none, or while something runs."""
        session, path = self._session, self.talk.path
        if self.is_busy or session is None or not path:
            return ""
        if not self.drafting.is_on:
            return text.IS_PLAIN_ALREADY
        if not session.can_replay:
            return text.RACE_NOT_KEPT if path[-1].model == self._model else text.RACE_OTHER_MODEL
        opened = self.opened
        if opened is not None and not opened.was_read_for(path[-1].details):
            return text.RACE_OTHER_DOCUMENT
        return self.why_not_ask and f"{self.why_not_ask}."

    @property
    def trouble(self) -> str:
        """Why the last job failed; "" when it did not."""
        job = self.job
        return self._trouble or (job.error or "" if job else "")

    @property
    def news(self) -> str:
        """The trouble that a page opened now should show: what no page has shown yet, or why there is no model."""
        return self.trouble if self._engine is None or self.trouble != self.told[0] else ""

    def forget_told(self) -> None:
        """A page is opened: a remark that another one, or this one before it was reloaded, has shown is no news."""
        self.remark = "" if self.remark == self.told[1] else self.remark

    @property
    def why_not_ask(self) -> str:
        """Why a question cannot be asked now; "" when it can."""
        job = self.active_job
        if self._engine is None or (job and job.kind == "load"):
            return text.ASK_NEEDS_ENGINE
        if job and job.kind == "open":
            return text.ASK_NEEDS_OPENING
        if self.opened is None:
            return text.ASK_NEEDS_DOCUMENT
        budget = self.opened.budget
        return "" if budget is not None and budget.fits else text.ASK_NEEDS_FIT

    def cut_of(self, job: Job[Fact] | None) -> Cut | None:
        """The answer that a job goes on with, as it was before; None for a job that does something else."""
        return self._going_on[1] if self._going_on and self._going_on[0] is job else None

    @property
    def can_go_on(self) -> bool:
        """Whether the last answer was cut and more of it can be written now."""
        engine, path = self._engine, self.talk.path
        if engine is None or not path or self.why_not_ask or self.why_not_go_on:
            return False
        return is_cut(path[-1], engine.tokenizer.stop_token_ids)

    @property
    def why_not_go_on(self) -> str:
        """What stands in the way of going on with the last answer; "" if nothing does, or no model is there."""
        engine, path = self._engine, self.talk.path
        return obstacle(path[-1], self._model, engine.capacity) if engine and path else ""

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
        question, self._unanswered = self._unanswered, ""
        return question

    def stretches(self, turn: StoredTurn) -> list[Stretch]:
        """Who wrote which token of a kept answer; nothing for one of another model."""
        engine = self._engine
        if engine is None or turn.model != self._model or len(turn.is_drafted) < len(turn.token_ids):
            return []
        return stretches_of(engine.tokenizer.decode, turn.token_ids, turn.is_drafted, turn.answer)

    def locate(self, token: int) -> str:
        """The part of the document that holds a token of the prompt; "" when it lies behind the document."""
        return self.opened.locate(token) if self.opened else ""

    # --- for the actions ----------------------------------------------------------------------------------------------

    def soon_seen(self, shown: object) -> Seen:
        """What a page will show that has just begun to open something, where it is `shown` this."""
        return Seen(shown.view if isinstance(shown, Seen) else self.view, self._num_jobs)

    def require_seen(self, seen: Seen | None, otherwise: str = text.OTHER_VIEW) -> None:
        """Raise `RequestError`, with the sentence `otherwise`, when a page shows another conversation or document than
        the one that is open now. A page that has opened it may ask before it is shown it."""
        with self._lock:  # not while what was opened is being put in use
            if seen is None or (seen.opening and seen.opening == self._opened_by):
                return
            if seen.view != self.view:
                raise RequestError(otherwise)
            job = self.active_job
            if seen.opening and (job is None or job.kind in BACKGROUND):
                raise RequestError(self.trouble or text.NOT_OPENED)

    def _require_idle(self) -> None:
        """Raise `RequestError` unless no job runs; measuring and reading ahead give way."""
        job = self.active_job
        if job is not None and job.kind in BACKGROUND:
            job.stop()
            job.join(2.0)
            job = self.active_job
        if job is not None:
            raise RequestError(
                {"load": text.BUSY_LOADING, "open": text.BUSY_OPENING, "compare": text.BUSY_RACING}.get(
                    job.kind, text.BUSY
                )
            )

    def _begin(self, job: Job[Fact], *, keeps_trouble: bool = False) -> Job[Fact]:
        """Make a job the running one."""
        with self._lock:
            if self.active_job is not None or self._is_closing:
                raise RequestError(text.BUSY)
            self._trouble = self.trouble if keeps_trouble else ""
            self.remark = self.remark if job.kind in BACKGROUND else ""
            self.job = job
            job.start()
            self._num_jobs += job.kind not in BACKGROUND
        return job

    def _leave_chat(self) -> None:
        self.talk.leave()
        self._forget_answer()

    def _forget_answer(self) -> None:
        """Another conversation is shown, or none: figures and messages of the last answer are not about it."""
        self._trouble, self.remark, self.job = "", "", None
        self.answer_job = self.comparison = self.baseline = self._measured_behind = self.race_job = None
        self._going_on = None
        self.pending_question = self._unanswered = ""
        self._session = self._new_session(len(self.talk.path))
        self._opened_by = 0
        self.view += 1  # last: a page that is put together meanwhile has not come so far

    def _new_session(self, num_turns: int) -> Session | None:
        """A session over the present engine and document, with the first turns of the conversation."""
        if self._engine is None or self.preset is None:
            return None
        document = self.opened.used if self.opened else None
        turns = self.turns[:num_turns]
        return Session(self._engine, document, instruction=self.preset.instruction, turns=turns)

    def _measured(self, opened: OpenedDocument, watch: LoadWatch | None = None) -> OpenedDocument:
        """The document with its tokens counted, if there is an engine to count with. `watch` may stop it."""
        engine, preset = self._engine, self.preset
        return opened if engine is None or preset is None else measured_for(opened, engine, preset, watch)


def events_of(facts: Sequence[Fact]) -> list[Event]:
    """The engine's events among a job's facts."""
    return [fact for fact in facts if isinstance(fact, Event)]
