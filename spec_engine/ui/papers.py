"""The document side of what the page works on: opening files, choosing parts, reading ahead.

Job: `DocumentSide`: what reads documents and kept conversations with their documents, and has the engine read the
document before the first question.
Non-job: the formats (`documents`), engines (`models`), answers (`workspace`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spec_engine.chat.history import History
from spec_engine.chat.prompt import count_document_tokens
from spec_engine.chat.session import Session
from spec_engine.config import Preset
from spec_engine.documents.anchors import Document
from spec_engine.documents.together import new_among, read_documents
from spec_engine.errors import PasswordRequired, RequestError, SpecEngineError, Stopped
from spec_engine.model.watch import LoadProgress, LoadWatch
from spec_engine.ui import text
from spec_engine.ui.apart import Apart
from spec_engine.ui.engines import EngineLoader
from spec_engine.ui.job import Job
from spec_engine.ui.models import ModelSide
from spec_engine.ui.opened import OpenedDocument
from spec_engine.ui.own_files import OwnFiles
from spec_engine.ui.state import Fact, Seen, Wanted
from spec_engine.ui.whereabouts import Place, find_place, source_of


@dataclass(frozen=True, slots=True)
class _Files:
    """What a wanted document is read from.

    Attributes:
        chosen: the parts to use; None for all.
        passwords: those that may fit its locked files.
        remark: what is to be said once it is open.
    """

    paths: tuple[Path, ...] = ()
    chosen: tuple[int, int] | None = None
    passwords: tuple[str, ...] = field(default=(), repr=False)
    remark: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    """What was wanted, as it was read; no document for a conversation without one."""

    wanted: Wanted
    opened: OpenedDocument | None = None
    files: _Files = _Files()


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
        self._passwords: tuple[str, ...] = ()  # of the open document's files
        self._own_files = OwnFiles()

    # --- opening ------------------------------------------------------------------------------------------------------

    def open_documents(self, paths: Sequence[Path], password: str | None = None) -> None:
        """Read files and make them the document; the conversation about the old one ends.

        Raises `DocumentError`; then everything stays as it was, but that what needs a password is `locked`.
        """
        self._open_now(Wanted(tuple(paths), passwords=() if password is None else (password,)))

    def open_conversation(self, conversation: int) -> None:
        """Show a kept conversation with its document. Raises `StoreError` or `DocumentError`; then all stays as is."""
        self._open_now(Wanted(conversation=conversation))

    def start_opening(self, wanted: Wanted) -> Job[Fact]:
        """Open files or a conversation as a job; while a model is loaded, at the end of that job. What needs a password
        is `locked` afterwards."""
        with self._lock:
            job = self.active_job
            if job is not None and job.kind == "load" and self._can_wait:
                self.waiting = wanted
                return job
            self._require_idle()
            self.locked = None
            return self._begin(Job("open", lambda job: self._open(job, wanted), after=self.read_ahead))

    def start_adding(self, paths: Sequence[Path], seen: Seen | None = None) -> Job[Fact]:
        """Read the document that is open once more, or the one that waits for a model, with files behind it. The
        conversation about the old one ends. Raises `RequestError` when another one is open than was `seen`."""
        with self._lock:
            self.require_seen(seen, text.OTHER_DOCUMENT)
            before = self.waiting or Wanted()
            return self.start_opening(replace(before, added=(*before.added, *paths)))

    def paste(self, words: str, name: str) -> Path:
        """A pasted text as a file, which is there until the page ends. Raises `RequestError`."""
        return self._own_files.write(words, name)

    def open_waiting(self, job: Job[Fact]) -> bool:
        with self._lock:
            wanted, self.waiting = self.waiting, None
            self._can_wait = wanted is not None
        if wanted is None:
            return False
        job.rearm()  # to stop loading is not to give up the document
        before, remark = self._trouble, self.remark
        try:
            self._open(job, wanted)
        except SpecEngineError as error:
            self._trouble = str(error)
        self._trouble = " ".join(filter(None, (before, self._trouble if self._trouble != before else "")))
        self.remark = " ".join(filter(None, (remark, self.remark if self.remark != remark else "")))
        return True

    def unlock(self, password: str) -> Job[Fact]:
        """Open what waits for a password with this one. Raises `RequestError` when nothing waits, or it is empty."""
        if self.locked is None:
            raise RequestError(text.NOTHING_LOCKED)
        if not password:
            raise RequestError(text.PASSWORD_EMPTY)
        return self.start_opening(replace(self.locked, passwords=(*self.locked.passwords, password)))

    def choose_range(self, first: int, last: int) -> None:
        """Use parts `first` to `last` of the opened document alone. Raises `DocumentError` for an impossible range."""
        with self._lock:
            if self.opened is None:
                raise RequestError(f"{text.NO_DOCUMENT} Open one first.")
            self._require_idle()
            self.opened = self.opened.narrowed(first, last).part_measured(self._count_tokens)
            self._leave_chat()
        self.read_ahead()

    def close(self) -> None:
        """As `ModelSide.close`; files that no conversation is about are forgotten."""
        super().close()
        self._own_files.close()

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

    def page_of(self, document: Document, part: int) -> tuple[Path, int, tuple[str, ...]] | None:
        """File, page index and possible passwords of the page that a part of the document was read from; None when it
        is no page of a PDF, or the document is not the open one any more."""
        with self._lock:
            opened, paths, passwords = self.opened, self._document_paths, self._passwords
        if opened is None or opened.used is not document or not paths or not 0 <= part < len(document.blocks):
            return None
        source = source_of(document.blocks[part], paths)
        return (*source, passwords) if source else None

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

    def _open_now(self, wanted: Wanted) -> None:
        """Open while the caller waits."""
        with self._lock:
            self._require_idle()
        try:
            read = self._read(wanted, LoadWatch())
        except PasswordRequired:
            self.locked = wanted
            raise
        with self._lock:
            self._require_idle()
            self._use(read)

    def _open(self, job: Job[Fact], wanted: Wanted) -> None:
        """The opening job."""
        try:
            read = self._readings.run(
                lambda is_unwanted: self._read(wanted, LoadWatch(job.report, is_unwanted)),
                job.is_cancelled,
                discard=lambda late: None,
            )
        except PasswordRequired as error:
            self.locked = wanted
            self._trouble = str(error) if wanted.passwords else ""
            return
        except Stopped:
            self._trouble = text.OPENING_STOPPED
            return
        with self._lock:
            self._use(read)

    def _read(self, wanted: Wanted, watch: LoadWatch) -> _Read:
        """Read what is wanted and count its tokens. Changes nothing."""
        files = self._files(wanted)
        if not files.paths and wanted.conversation is not None:
            return _Read(wanted)
        document: Document = read_documents(
            files.paths,
            files.passwords,
            lambda name, num_done, num_parts: watch.tell(
                LoadProgress(text.OPENING_FILE.format(name=name, done=num_done, all=num_parts), num_done / num_parts)
            ),
            self._history.scans,
        )
        opened = OpenedDocument(document, document)
        opened = opened.narrowed(*files.chosen) if files.chosen else opened
        return _Read(wanted, self._measured(opened, watch), files)

    def _files(self, wanted: Wanted) -> _Files:
        """What is to be read. Raises `RequestError` when all that is to be added is there already."""
        files = _Files(wanted.paths, passwords=wanted.passwords)
        if wanted.conversation is not None:
            ref = self.talk.document_of(wanted.conversation)
            files = replace(files, paths=tuple(self.talk.find(ref)), chosen=ref.chosen) if ref else files
        elif wanted.added and not wanted.paths and self.opened is not None:
            passwords = (*self._passwords, *wanted.passwords)
            files = replace(files, paths=self._open_files(), chosen=self.opened.chosen, passwords=passwords)
        return _with_added(files, wanted.added) if wanted.added else files

    def _open_files(self) -> tuple[Path, ...]:
        """The open document's files; the conversation's copies where what was uploaded is gone."""
        kept = self.talk.document
        is_there = all(path.is_file() for path in self._document_paths)
        return self._document_paths if is_there or kept is None else tuple(self.talk.find(kept))

    def _count_tokens(self, texts: list[str]) -> list[int]:
        """Counted for a budget, so there is an engine."""
        assert self._engine is not None, "a document is measured for an engine"
        return count_document_tokens(self._engine.tokenizer, texts)

    def _use(self, read: _Read) -> None:
        """Put in use what was read. The lock is held."""
        self.locked = None
        conversation = None if read.wanted.added else read.wanted.conversation
        if conversation is not None:
            self.talk.open(conversation)
        if read.opened is not None:
            self.opened, self._passwords = read.opened, read.files.passwords
            self._document_paths = self._own_files.hold(read.files.paths)
            if read.opened.used.is_locked:  # an earlier version kept what it computed of such a text
                self._history.forget_computed(read.opened.used.sha256)
        if conversation is None:
            self._leave_chat()
        else:
            self._forget_answer()
        self._opened_by, self.remark = self._num_jobs, read.files.remark


def _with_added(files: _Files, added: tuple[Path, ...]) -> _Files:
    """A document's files with others behind them, all of it in use."""
    new = new_among(added, files.paths)
    known = ", ".join(path.name for path in added if path not in new)
    if not new:
        raise RequestError(text.ADDED_ALREADY.format(names=known))
    remarks = [text.ADDED_WITHOUT.format(names=known)] if known else []
    remarks += [text.ADDED_TO_PART] if files.chosen else []
    return replace(files, paths=(*files.paths, *new), chosen=None, remark=" ".join(remarks))


def _read_ahead(job: Job[Fact], session: Session) -> None:
    """The body of a reading job."""
    for event in session.read_ahead(job.is_cancelled, keeps_document=True):
        job.report(event)
