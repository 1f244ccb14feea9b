"""The document side of what the page works on: opening files, choosing parts, reading ahead.

Job: `DocumentSide`: what reads documents and kept conversations with their documents, and has the engine read the
document before the first question.
Non-job: the formats (`documents`), engines (`models`), answers (`workspace`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spec_engine.chat.history import History
from spec_engine.chat.prompt import count_document_tokens
from spec_engine.chat.session import Session
from spec_engine.config import Preset
from spec_engine.documents.anchors import Document
from spec_engine.documents.together import read_documents
from spec_engine.errors import PasswordRequired, RequestError, SpecEngineError, Stopped
from spec_engine.model.watch import LoadProgress, LoadWatch
from spec_engine.ui import text
from spec_engine.ui.apart import Apart
from spec_engine.ui.engines import EngineLoader
from spec_engine.ui.job import Job
from spec_engine.ui.models import ModelSide
from spec_engine.ui.opened import OpenedDocument
from spec_engine.ui.state import Fact, Wanted
from spec_engine.ui.whereabouts import Place, find_place, source_of


@dataclass(frozen=True, slots=True)
class _Read:
    """What was wanted, as it was read; no document for a conversation without one."""

    wanted: Wanted
    opened: OpenedDocument | None = None
    paths: tuple[Path, ...] = ()
    password: str | None = field(default=None, repr=False)


class DocumentSide(ModelSide):
    """The state, and what changes its document.

    Args:
        load, history, on_loaded: as for `ModelSide`.
        reads_ahead: whether the engine reads a document as soon as it is open, so that the first question finds it
            read. Costs nothing but the machine's time: a question stops it and goes on from where it was.
    """

    def __init__(
        self,
        load: EngineLoader,
        history: History | None = None,
        *,
        reads_ahead: bool = False,
        on_loaded: Callable[[Preset], None] = lambda preset: None,
    ) -> None:
        super().__init__(load, history, on_loaded=on_loaded)
        self._reads_ahead = reads_ahead
        self._readings = Apart()
        self._password: str | None = None  # of the open document's files
        self._waiting_password: str | None = None  # for what waits for a model

    # --- opening ------------------------------------------------------------------------------------------------------

    def open_documents(self, paths: Sequence[Path], password: str | None = None) -> None:
        """Read files and make them the document; the conversation about the old one ends.

        Raises `DocumentError`; then everything stays as it was.
        """
        self._open_now(Wanted(tuple(paths)), password)

    def open_conversation(self, conversation: int, password: str | None = None) -> None:
        """Show a kept conversation with its document. Raises `StoreError` or `DocumentError`; then all stays as is."""
        self._open_now(Wanted(conversation=conversation), password)

    def start_opening(self, wanted: Wanted, password: str | None = None) -> Job[Fact]:
        """Open files or a conversation as a job; while a model is loaded, at the end of that job. What needs a password
        is `locked` afterwards."""
        with self._lock:
            job = self.active_job
            if job is not None and job.kind == "load" and self._can_wait:
                self.waiting, self._waiting_password = wanted, password
                return job
            self._require_idle()
            self.locked = None
            return self._begin(Job("open", lambda job: self._open(job, wanted, password), after=self.read_ahead))

    def open_waiting(self, job: Job[Fact]) -> bool:
        with self._lock:
            wanted, password = self.waiting, self._waiting_password
            self.waiting, self._waiting_password = None, None
            self._can_wait = wanted is not None
        if wanted is None:
            return False
        job.rearm()  # to stop loading is not to give up the document
        before = self._trouble
        try:
            self._open(job, wanted, password)
        except SpecEngineError as error:
            self._trouble = str(error)
        self._trouble = " ".join(filter(None, (before, self._trouble if self._trouble != before else "")))
        return True

    def unlock(self, password: str) -> Job[Fact]:
        """Open what waits for a password with this one. Raises `RequestError` when nothing waits, or it is empty."""
        if self.locked is None:
            raise RequestError(text.NOTHING_LOCKED)
        if not password:
            raise RequestError(text.PASSWORD_EMPTY)
        return self.start_opening(self.locked, password)

    def choose_range(self, first: int, last: int) -> None:
        """Use parts `first` to `last` of the opened document alone. Raises `DocumentError` for an impossible range."""
        with self._lock:
            if self.opened is None:
                raise RequestError(f"{text.NO_DOCUMENT} Open one first.")
            self._require_idle()
            self.opened = self.opened.narrowed(first, last).part_measured(self._count_tokens)
            self._leave_chat()
        self.read_ahead()

    # --- places -------------------------------------------------------------------------------------------------------

    def place_at(self, token: int, num_tokens: int) -> Place | None:
        """Where tokens of the last prompt, or of the next one, stand in the document; None outside of it."""
        with self._lock:
            engine, opened = self._engine, self.opened
            session = self._session or self._new_session(0)
        if engine is None or opened is None or session is None or not (opened.budget and opened.budget.fits):
            return None
        prompt = session.last_prompt_token_ids or session.prompt(text.ASK_READY)
        return find_place(opened.used, engine.tokenizer.decode, prompt, token, num_tokens)

    def page_of(self, part: int) -> tuple[Path, int, str | None] | None:
        """File, page index and password of the page that a part was read from; None when it is no page of a PDF."""
        opened, paths = self.opened, self._document_paths
        if opened is None or not paths or not 0 <= part < len(opened.used.blocks):
            return None
        source = source_of(opened.used.blocks[part], paths)
        return (*source, self._password) if source else None

    # --- reading ahead ------------------------------------------------------------------------------------------------

    def read_ahead(self) -> Job[Fact] | None:
        """Have the engine read the document and the conversation so far; None when it cannot or has something to do."""
        with self._lock:
            if not self._reads_ahead or self._is_closing or self.why_not_ask or self.active_job:
                return None
            session = self._new_session(len(self.talk.path))
            if session is None:
                return None
            return self._begin(Job("read", lambda job: _read_ahead(job, session)), keeps_trouble=True)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _open_now(self, wanted: Wanted, password: str | None) -> None:
        """Open while the caller waits."""
        with self._lock:
            self._require_idle()
        read = self._read(wanted, password, LoadWatch())
        with self._lock:
            self._require_idle()
            self._use(read)

    def _open(self, job: Job[Fact], wanted: Wanted, password: str | None) -> None:
        """The opening job."""
        try:
            read = self._readings.run(
                lambda is_unwanted: self._read(wanted, password, LoadWatch(job.report, is_unwanted)),
                job.is_cancelled,
                discard=lambda late: None,
            )
        except PasswordRequired as error:
            self.locked = wanted
            self._trouble = str(error) if password else ""
            return
        except Stopped:
            self._trouble = text.OPENING_STOPPED
            return
        with self._lock:
            self._use(read)

    def _read(self, wanted: Wanted, password: str | None, watch: LoadWatch) -> _Read:
        """Read what is wanted and count its tokens. Changes nothing."""
        paths, chosen = wanted.paths, None
        if wanted.conversation is not None:
            ref = self.talk.document_of(wanted.conversation)
            if ref is None:
                return _Read(wanted)
            paths, chosen = tuple(self.talk.find(ref)), ref.chosen
        document: Document = read_documents(
            paths,
            password,
            lambda name, num_done, num_parts: watch.tell(
                LoadProgress(text.OPENING_FILE.format(name=name, done=num_done, all=num_parts), num_done / num_parts)
            ),
        )
        opened = OpenedDocument(document, document)
        opened = opened.narrowed(*chosen) if chosen else opened
        return _Read(wanted, self._measured(opened, watch), paths, password)

    def _count_tokens(self, texts: list[str]) -> list[int]:
        """Counted for a budget, so there is an engine."""
        assert self._engine is not None, "a document is measured for an engine"
        return count_document_tokens(self._engine.tokenizer, texts)

    def _use(self, read: _Read) -> None:
        """Put in use what was read. The lock is held."""
        self.locked = None
        if read.wanted.conversation is not None:
            self.talk.open(read.wanted.conversation)
        if read.opened is not None:
            self.opened, self._document_paths, self._password = read.opened, read.paths, read.password
        if read.wanted.conversation is None:
            self._leave_chat()
        else:
            self._forget_answer()
        self._opened_by = self._num_jobs


def _read_ahead(job: Job[Fact], session: Session) -> None:
    """The body of a reading job."""
    for event in session.read_ahead(job.is_cancelled):
        job.report(event)
    if not job.is_cancelled():
        session.keep_document(job.is_cancelled)
