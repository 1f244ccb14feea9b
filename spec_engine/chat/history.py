"""What is kept of conversations: the store, the documents that they are about, and what was recognised of those.

Job: `History`, a folder with both, and `AnswerKeeper`, which writes an answer down while it is made.
Non-job: the tables (`store`), asking (`session`).
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from spec_engine.chat.store import ConversationStore, Reason, StoredTurn
from spec_engine.documents.kept_scans import MAX_BYTES, ScanStore
from spec_engine.documents.mail import SUFFIXES as MAIL_SUFFIXES
from spec_engine.errors import StoreError
from spec_engine.events import Event, Finished, PromptReady, TokensAccepted

FLUSH_S: Final = 0.05  # between two commits of a running answer: more often than a page looks
_NO_PLAIN_TEXT: Final = frozenset((".pdf", ".docx", ".pptx", ".epub", ".html", ".htm", ".xhtml"))  # same parts as ever


@dataclass(frozen=True, slots=True)
class DocumentRef:
    """Kept files that were read as one document, each by its folder's name (its hash) and its own, the parts of the
    document in use, and the SHA-256 of their text; "" where an earlier version did not note it."""

    files: tuple[tuple[str, str], ...]
    chosen: tuple[int, int] | None = None
    text_hash: str = ""

    @property
    def name(self) -> str:
        """The files' names."""
        return ", ".join(name for _, name in self.files)

    def dump(self) -> str:
        """As one string, for the store."""
        return json.dumps({"files": self.files, "parts": self.chosen, "text": self.text_hash})

    @classmethod
    def load(cls, text: str) -> "DocumentRef | None":
        """What `dump` wrote; None for the empty string. Where it wrote "chosen", plain text had larger parts with other
        numbers: such a choice is forgotten, as the same numbers would be another text now. So is one of parts of an
        e-mail from before its text was noted, when it was read as it was stored."""
        if not text:
            return None
        table = json.loads(text)
        files = tuple((digest, name) for digest, name in table["files"])
        suffixes = {Path(name).suffix.lower() for _, name in files}
        chosen = table.get("parts") or (table.get("chosen") if suffixes <= _NO_PLAIN_TEXT else None)
        if "text" not in table and suffixes & MAIL_SUFFIXES:
            chosen = None
        return cls(files, tuple(chosen) if chosen else None, table.get("text", ""))

    def is_same_text(self, other: "DocumentRef") -> bool:
        """Whether both are about the same text, as far as that is known."""
        if self.text_hash and other.text_hash:
            return self.text_hash == other.text_hash
        return (self.files, self.chosen) == (other.files, other.chosen)


class History:
    """Conversations and their documents in a folder.

    Args:
        folder: made when it does not exist. None: everything is forgotten when the process ends.
        scan_bytes: what the text of scanned pages may take.
        forget_computed: deletes what was computed of a text, told its SHA-256.

    Attributes:
        store: the conversations.
        scans: the text of scanned pages, also of documents that no conversation is about yet.

    Raises `StoreError` when the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path | None,
        scan_bytes: int = MAX_BYTES,
        forget_computed: Callable[[str], None] = lambda text_hash: None,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="spec-engine-") if folder is None else None
        above = Path(self._temporary.name if self._temporary else folder or "")
        self._documents = above / "documents"
        self.store = ConversationStore(folder / "conversations.sqlite" if folder else None, _names)
        self.forget_computed = forget_computed
        self.scans = ScanStore(above / "scans", min(scan_bytes, MAX_BYTES))

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()
        if self._temporary:
            self._temporary.cleanup()

    def keep(self, paths: Sequence[Path], chosen: tuple[int, int] | None = None, text_hash: str = "") -> DocumentRef:
        """Copy a document's files to the folder, once for the same content. `text_hash` is the SHA-256 of the text in
        use. Raises `StoreError`."""
        return DocumentRef(tuple((self._copy(path), path.name) for path in paths), chosen, text_hash)

    def _copy(self, path: Path) -> str:
        """Copy a file; the name of its folder."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
            kept = self._documents / digest / path.name
            if not kept.is_file():
                kept.parent.mkdir(parents=True, exist_ok=True)
                partial = kept.with_name(f".{kept.name}.part")
                shutil.copyfile(path, partial)
                partial.replace(kept)
        except OSError as error:
            raise StoreError(
                f"{path.name} could not be kept for this conversation: {error}. The conversation goes on, but opened "
                "again later it will lack its document. Free some space or check the folder's rights."
            ) from error
        return digest

    def find(self, ref: DocumentRef) -> list[Path]:
        """The kept copies. Raises `StoreError` when one is gone."""
        paths = [self._documents / digest / name for digest, name in ref.files]
        for path in paths:
            if not path.is_file():
                raise StoreError(f"The kept copy of {path.name} is gone from {self._documents}. Open it again.")
        return paths

    def tidy(self, older_than_s: float = 86_400.0) -> None:
        """Delete copies that no conversation is about, left behind when the program ended between two steps."""
        used = {digest for ref in self._refs() for digest, _ in ref.files}
        for folder in self._documents.iterdir() if self._documents.is_dir() else ():
            if folder.name not in used and time.time() - folder.stat().st_mtime > older_than_s:
                self._forget(folder.name)

    def _refs(self) -> list[DocumentRef]:
        """The documents that conversations are about."""
        refs = (DocumentRef.load(one.document) for one in self.store.conversations())
        return [ref for ref in refs if ref]

    def delete(self, conversation: int, text_hash: str = "") -> None:
        """Forget a conversation, its document where no other is about it, and what was computed of the text in use
        where no other reads that. `text_hash` is its SHA-256 as it is read now, which may not be what was noted."""
        summary = self.store.summary(conversation)
        self.store.delete(conversation)
        ref = (DocumentRef.load(summary.document) if summary else None) or DocumentRef(())
        others = self._refs()
        used = {digest for other in others for digest, _ in other.files}
        for digest, _ in ref.files:
            if digest not in used:
                self._forget(digest)
        for read in {ref.text_hash, text_hash} - {""}:  # another version of this program may read a file differently
            if not any(replace(ref, text_hash=read).is_same_text(other) for other in others):
                self.forget_computed(read)

    def _forget(self, digest: str) -> None:
        """Delete a document's copy and what was recognised of it."""
        shutil.rmtree(self._documents / digest, ignore_errors=True)
        self.scans.forget(digest)


class AnswerKeeper:
    """Writes one answer down: events go in, and come out once what they brought is on disk.

    Where that fails the answer goes on; `trouble` says why it is not kept. An answer that is gone on with was a turn
    `before`, which is left alone until the first new token.
    """

    def __init__(
        self,
        store: ConversationStore,
        turn: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        before: StoredTurn | None = None,
    ) -> None:
        self.turn = turn
        self.before = before
        self.trouble = ""
        self._is_untouched = before is not None
        self._written_text = ""
        self._store = store
        self._clock = clock
        self._flushed_at = clock()
        self._waiting: list[Event] = []

    def take(self, event: Event) -> Iterator[Event]:
        """The events that may be shown now, in order."""
        if isinstance(event, PromptReady):
            self._written_text = event.written_text
        self._waiting.append(event)
        is_due = self._clock() - self._flushed_at >= FLUSH_S
        if is_due or isinstance(event, Finished) or not any(isinstance(e, TokensAccepted) for e in self._waiting):
            yield from self.flush()

    def flush(self) -> Iterator[Event]:
        """All that waits."""
        waiting, self._waiting, self._flushed_at = self._waiting, [], self._clock()
        accepted = [event for event in waiting if isinstance(event, TokensAccepted)]
        if accepted:
            if self._is_untouched:
                self._try(lambda: self._store.go_on(self.turn, self._written_text))
                self._is_untouched = False
            text = "".join(event.text for event in accepted)
            token_ids = [token_id for event in accepted for token_id in event.token_ids]
            is_drafted = [flag for event in accepted for flag in event.is_drafted]
            self._try(lambda: self._store.extend(self.turn, text, token_ids, is_drafted))
        yield from waiting

    def finish(self, answer: str, num_tokens: int, reason: Reason, details: Mapping[str, object]) -> None:
        """The answer is complete; see `ConversationStore.finish`."""
        self._try(lambda: self._store.finish(self.turn, answer, num_tokens, reason, details))

    def _try(self, write: Callable[[], None]) -> None:
        if self.trouble:
            return
        try:
            write()
        except StoreError as error:
            self.trouble = f"From here on this answer is not kept. {error}"


def _names(document: str) -> str:
    """The names of the files that `DocumentRef.dump` wrote down."""
    ref = DocumentRef.load(document)
    return ref.name if ref else ""
