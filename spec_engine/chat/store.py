"""Conversations on disk, in one SQLite file, kept while they are written.

Job: `ConversationStore`: conversations, each a tree of turns (asking again or editing a question begins a branch), the
pieces of a running answer, search, rename, delete; bringing the file to the newest schema.
Non-job: the schema (`schema`), asking (`session`), documents themselves (`history`), files to give away (`export`).

A piece of an answer is committed before it is shown, so after a crash everything that was seen is there. The file is in
write-ahead mode without a sync per commit: a killed process loses nothing, a power cut the last moments at most.
"""

import json
import sqlite3
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from spec_engine.chat.schema import MIGRATIONS
from spec_engine.errors import StoreError

Reason = Literal["stop", "length", "cancelled", "failed", "interrupted", "writing"]  # the last is never kept
MAX_TITLE: Final = 80


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A question and its answer as kept. `token_ids` are those that `model`'s tokenizer wrote, without a closing stop
    token; `is_drafted` says of each whether it was drafted; `details` are figures for the page."""

    id: int
    parent: int | None
    question: str
    answer: str
    token_ids: tuple[int, ...]
    is_drafted: tuple[bool, ...]
    model: str
    preset: str
    reason: Reason
    details: Mapping[str, object] = field(default_factory=dict)
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in the list. Times are seconds since 1970."""

    id: int
    title: str
    document: str  # what `DocumentRef.dump` wrote; "" without one
    num_turns: int
    updated_at: float
    created_at: float


class ConversationStore:
    """The conversations of one person. Every method may be called from any thread.

    Args:
        path: the file; made with its folders when it does not exist. None keeps everything in memory.
        names: the names of a document, of what `set_document` was given, for which a search looks too.

    Raises `StoreError` when the file cannot be used; it is left as it was.
    """

    def __init__(self, path: Path | None, names: Callable[[str], str] = lambda document: "") -> None:
        self._path = path
        self._lock = threading.RLock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None, timeout=10)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.create_function("holds", 2, _holds, deterministic=True)
            self._db.create_function("names", 1, names, deterministic=True)
            self._migrate()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(self._broken(error)) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    # --- conversations ------------------------------------------------------------------------------------------------

    def begin(self, title: str, document: str = "") -> int:
        """A new conversation; its id. The title is shortened to a line."""
        now = time.time()
        with self._writing() as db:
            row = db.execute(
                "INSERT INTO conversations (title, document, created_at, updated_at) VALUES (?, ?, ?, ?) RETURNING id",
                (shorten(title), document, now, now),
            ).fetchone()
        return int(row[0])

    def conversations(self, search: str = "") -> list[Summary]:
        """All of them, the last used first; with `search`, those whose title and document's names, or one of whose
        questions or answers, hold all of its words."""
        query = """
            SELECT c.id, c.title, c.document, count(t.id), c.updated_at, c.created_at
            FROM conversations c LEFT JOIN turns t ON t.conversation = c.id
            WHERE ?1 = '' OR holds(c.title || ' ' || names(c.document), ?1) OR EXISTS (
                SELECT 1 FROM turns s WHERE s.conversation = c.id AND (holds(s.question, ?1) OR holds(s.answer, ?1))
            ) GROUP BY c.id ORDER BY c.updated_at DESC, c.id DESC"""
        return [Summary(*row) for row in self._rows(query, (_text(search).strip().casefold(),))]

    def set_document(self, conversation: int, document: str) -> None:
        """Which document a conversation is about."""
        with self._writing() as db:
            db.execute("UPDATE conversations SET document = ? WHERE id = ?", (document, conversation))

    def rename(self, conversation: int, title: str) -> None:
        """Give a conversation a title of the user's. Raises `StoreError` for a blank one."""
        if not title.strip():
            raise StoreError("The title is empty. Type a title.")
        with self._writing() as db:
            db.execute("UPDATE conversations SET title = ? WHERE id = ?", (shorten(title), conversation))

    def delete(self, conversation: int) -> None:
        """Forget a conversation with all its turns."""
        with self._writing() as db:
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation,))

    def summary(self, conversation: int) -> Summary | None:
        """One of them; None when it does not exist."""
        return next((one for one in self.conversations() if one.id == conversation), None)

    # --- turns --------------------------------------------------------------------------------------------------------

    def add_turn(self, conversation: int, parent: int | None, question: str, *, model: str, preset: str) -> int:
        """A question behind the turn `parent` (None: the first), about to be answered; its id. It becomes the end of
        the path that is shown."""
        now = time.time()
        with self._writing() as db:
            row = db.execute(
                "INSERT INTO turns (conversation, parent, question, model, preset, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                (conversation, parent, question, model, preset, now),
            ).fetchone()
            db.execute("UPDATE conversations SET head = ?, updated_at = ? WHERE id = ?", (row[0], now, conversation))
        return int(row[0])

    def go_on(self, turn: int, answer: str) -> None:
        """More pieces will follow the tokens of a turn. `answer` is the part of its text that stays as it is. Until it
        is finished again it is one that was interrupted."""
        with self._writing() as db:
            token_ids, is_drafted = self._take_in(db, turn)
            row = db.execute(
                "UPDATE turns SET answer = ?, token_ids = ?, is_drafted = ?, reason = 'interrupted' WHERE id = ? "
                "RETURNING conversation",
                (answer, token_ids, is_drafted, turn),
            ).fetchone()
            if row is not None:
                db.execute("UPDATE conversations SET updated_at = ? WHERE id = ?", (time.time(), row[0]))

    def extend(self, turn: int, text: str, token_ids: Sequence[int], is_drafted: Sequence[bool]) -> None:
        """A piece of a running answer."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO pieces (turn, text, token_ids, is_drafted) VALUES (?, ?, ?, ?)",
                (turn, text, _pack(token_ids), bytes(is_drafted)),
            )

    def finish(
        self, turn: int, answer: str, num_tokens: int, reason: Reason, details: Mapping[str, object] | None = None
    ) -> None:
        """The answer is complete: its text, and how many tokens of the turn and its pieces belong to it. One without
        any token is forgotten with its question."""
        with self._writing() as db:
            if num_tokens == 0:
                self._drop(db, turn)
                return
            token_ids, is_drafted = self._take_in(db, turn)
            db.execute(
                "UPDATE turns SET answer = ?, token_ids = ?, is_drafted = ?, reason = ?, details = ? WHERE id = ?",
                (
                    answer,
                    token_ids[: num_tokens * _TOKEN_SIZE],
                    is_drafted[:num_tokens],
                    reason,
                    json.dumps(details or {}),
                    turn,
                ),
            )

    def annotate(self, turn: int, details: Mapping[str, object]) -> None:
        """Add to an answer's details."""
        with self._writing() as db:
            row = db.execute("SELECT details FROM turns WHERE id = ?", (turn,)).fetchone()
            if row is not None:
                merged = json.dumps({**json.loads(row[0]), **details})
                db.execute("UPDATE turns SET details = ? WHERE id = ?", (merged, turn))

    def path(self, conversation: int) -> list[StoredTurn]:
        """The turns that are shown, the first one first: from the root to the conversation's head."""
        query = """
            WITH RECURSIVE path(id, depth) AS (
                SELECT head, 0 FROM conversations WHERE id = ? AND head IS NOT NULL
                UNION ALL SELECT t.parent, depth + 1 FROM path JOIN turns t ON t.id = path.id WHERE t.parent IS NOT NULL
            ) SELECT t.id, t.parent, t.question, t.answer, t.token_ids, t.is_drafted, t.model, t.preset, t.reason,
                     t.details, t.created_at
            FROM path JOIN turns t ON t.id = path.id ORDER BY depth DESC"""
        return [self._turn(row) for row in self._rows(query, (conversation,))]

    def branches(self, conversation: int) -> list[tuple[int, str, int | None]]:
        """The last turn of every branch, its question and the turn before it, in the order in which they were begun."""
        query = """
            SELECT id, question, parent FROM turns t WHERE conversation = ?
            AND NOT EXISTS (SELECT 1 FROM turns child WHERE child.parent = t.id) ORDER BY id"""
        return [(int(row[0]), str(row[1]), row[2]) for row in self._rows(query, (conversation,))]

    def alternatives(self, turn: int) -> list[tuple[str, Mapping[str, object]]]:
        """Model and details of every answer to a question, asked in the same place in the same words."""
        query = """
            SELECT t.model, t.details FROM turns t JOIN turns o ON t.conversation = o.conversation
            AND t.parent IS o.parent AND t.question = o.question WHERE o.id = ?"""
        return [(str(row[0]), json.loads(str(row[1]))) for row in self._rows(query, (turn,))]

    def show_branch(self, conversation: int, last_turn: int | None) -> None:
        """Show the path that ends at `last_turn`; None for an empty one. Raises `StoreError` for a turn of another
        conversation."""
        known = self._rows("SELECT 1 FROM turns WHERE id = ? AND conversation = ?", (last_turn, conversation))
        if last_turn is not None and not known:
            raise StoreError("This branch does not exist any more. Reload the page.")
        with self._writing() as db:
            db.execute("UPDATE conversations SET head = ? WHERE id = ?", (last_turn, conversation))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _take_in(self, db: sqlite3.Connection, turn: int) -> tuple[bytes, bytes]:
        """The tokens of a turn with those of its pieces, packed, and whether each was drafted; the pieces go."""
        rows = db.execute("SELECT token_ids, is_drafted FROM turns WHERE id = ?", (turn,)).fetchall()
        rows += db.execute("SELECT token_ids, is_drafted FROM pieces WHERE turn = ? ORDER BY id", (turn,)).fetchall()
        db.execute("DELETE FROM pieces WHERE turn = ?", (turn,))
        return b"".join(row[0] for row in rows), b"".join(row[1] for row in rows)

    def _drop(self, db: sqlite3.Connection, turn: int) -> None:
        """Forget a turn; the path ends before it, and a conversation without turns goes with it."""
        row = db.execute("SELECT conversation, parent FROM turns WHERE id = ?", (turn,)).fetchone()
        if row is None:
            return
        db.execute("UPDATE conversations SET head = ? WHERE id = ?", (row[1], row[0]))
        db.execute("DELETE FROM turns WHERE id = ?", (turn,))
        db.execute(
            "DELETE FROM conversations WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM turns WHERE conversation = ?1)",
            (row[0],),
        )

    def _turn(self, row: tuple[Any, ...]) -> StoredTurn:
        """A row of `path`, with the pieces of an answer that was never finished."""
        identity, parent, question, answer, token_ids, is_drafted, model, preset, reason, details, created_at = row
        pieces = self._rows("SELECT text, token_ids, is_drafted FROM pieces WHERE turn = ? ORDER BY id", (identity,))
        packed = bytes(token_ids) + b"".join(bytes(piece[1]) for piece in pieces)
        flags = bytes(is_drafted) + b"".join(bytes(piece[2]) for piece in pieces)
        return StoredTurn(
            id=identity,
            parent=parent,
            question=str(question),
            answer=str(answer) + "".join(str(piece[0]) for piece in pieces),
            token_ids=_unpack(packed),
            is_drafted=tuple(bool(flag) for flag in flags),
            model=str(model),
            preset=str(preset),
            reason=reason,
            details=json.loads(str(details)),
            created_at=float(created_at),
        )

    def _migrate(self) -> None:
        """Bring the file to the newest version."""
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StoreError(
                f"The history in {self._path} was written by a newer version of this program ({version}; this one "
                f"knows {len(MIGRATIONS)}). Update the program, or use another folder with --data-dir."
            )
        for number in range(version, len(MIGRATIONS)):
            self._db.executescript(f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")

    def _rows(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            is_done = False
            try:
                yield self._db
                is_done = True
            finally:
                self._db.execute("COMMIT" if is_done else "ROLLBACK")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as `StoreError`."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(self._broken(error)) from error

    def _broken(self, error: Exception) -> str:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            return (
                f"The disk is full, so nothing more can be kept in {self._path}. What is there was not changed. Make "
                "room on the disk and try again."
            )
        return (
            f"The history in {self._path or 'memory'} cannot be used: {error}. Nothing in it was changed. Check the "
            "disk and the file's rights, move the file away, or use another folder with --data-dir."
        )


_TOKEN_SIZE: Final = array("i").itemsize


def shorten(title: str) -> str:
    """One line of at most `MAX_TITLE` characters."""
    line = " ".join(_text(title).split())
    return line if len(line) <= MAX_TITLE else f"{line[: MAX_TITLE - 1].rstrip()}…"


def _text(typed: str) -> str:
    """What was typed as SQLite takes it: without halves of pairs of surrogates, which are no characters."""
    return typed.encode("utf-8", "replace").decode()


def _holds(text: str, wanted: str) -> bool:
    """Whether a text holds all words of a casefolded string, or beginnings of them, whatever its case."""
    text = text.casefold()
    return all(word in text for word in wanted.split())


def _pack(token_ids: Sequence[int]) -> bytes:
    return array("i", token_ids).tobytes()


def _unpack(packed: bytes) -> tuple[int, ...]:
    token_ids = array("i")
    token_ids.frombytes(packed)
    return tuple(token_ids)
