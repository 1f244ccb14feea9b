"""The conversation on the page, and what is kept of it.

Job: `Talk`: which conversation is shown and which of its branches, beginning and ending an answer in the store.
Non-job: making answers (`workspace`), tables (`chat.store`), markup.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spec_engine.chat.figures import parts_of
from spec_engine.chat.history import AnswerKeeper, DocumentRef, History
from spec_engine.chat.prompt import Turn
from spec_engine.chat.store import Reason, StoredTurn, Summary
from spec_engine.errors import StoreError


class Talk:
    """One conversation of a history at a time; none at first."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._store = history.store
        self._before: int | None = None  # the end of the branch that was shown before the running answer
        self.conversation: int | None = None
        self.path: tuple[StoredTurn, ...] = ()

    def turns(self, model: str) -> list[Turn]:
        """What is shown, for a prompt of `model`: token ids of another one are left out."""
        return [Turn(t.question, t.answer, t.token_ids if t.model == model else None) for t in self.path]

    # --- answers ------------------------------------------------------------------------------------------------------

    def begin(self, question: str, num_kept: int, *, model: str, preset: str) -> AnswerKeeper:
        """Note a question behind the first `num_kept` of the turns shown; a conversation begins with the first one."""
        if self.conversation is None:
            self.conversation = self._store.begin(question)
        self._before = self.path[-1].id if self.path else None
        parent = self.path[num_kept - 1].id if num_kept else None
        turn = self._store.add_turn(self.conversation, parent, question, model=model, preset=preset)
        self._load()
        return AnswerKeeper(self._store, turn)

    def go_on(self) -> AnswerKeeper:
        """Write more of the last answer that is shown."""
        last = self.path[-1]
        return AnswerKeeper(self._store, last.id, before=last)

    def end(
        self, keeper: AnswerKeeper, answer: str, num_tokens: int, reason: Reason, details: Mapping[str, object]
    ) -> None:
        """The answer is complete. One without a token is forgotten, and what was shown before it is shown again."""
        keeper.finish(answer, num_tokens, reason, details)
        if num_tokens == 0 and self.conversation is not None:
            if self._before is not None:
                self._store.show_branch(self.conversation, self._before)
            elif self._store.summary(self.conversation) is None:
                self.conversation = None
        self._load()

    def seeds_of(self, turn: int, model: str, temperature: float) -> set[object]:
        """What answers of this model to the same question were begun with, those on other branches too."""
        begun = [parts_of(details)[0] for by, details in self._store.alternatives(turn) if by == model]
        return {part.get("seed") for part in begun if part.get("temperature") == temperature}

    def annotate(self, turn: int, details: Mapping[str, object]) -> None:
        """Add to what is known of an answer."""
        self._store.annotate(turn, details)
        self._load()

    # --- the document -------------------------------------------------------------------------------------------------

    @property
    def document(self) -> DocumentRef | None:
        """The kept document of the conversation."""
        summary = self._store.summary(self.conversation) if self.conversation is not None else None
        return DocumentRef.load(summary.document) if summary else None

    def document_of(self, conversation: int) -> DocumentRef | None:
        """The kept document of any conversation. Raises `StoreError` when that does not exist any more."""
        return DocumentRef.load(self.summary(conversation).document)

    def keep_document(self, paths: Sequence[Path], chosen: tuple[int, int] | None, text_hash: str) -> None:
        """Keep copies of the document's files for this conversation, and which text of it is in use. Raises
        `StoreError`."""
        if self.conversation is not None and self.document is None:
            self._store.set_document(self.conversation, self._history.keep(paths, chosen, text_hash).dump())

    def find(self, ref: DocumentRef) -> list[Path]:
        """Where a kept document's files lie. Raises `StoreError` when one is gone."""
        return self._history.find(ref)

    # --- which one is shown -------------------------------------------------------------------------------------------

    def summary(self, conversation: int) -> Summary:
        """A conversation's line in the list. Raises `StoreError` when it does not exist any more."""
        summary = self._store.summary(conversation)
        if summary is None:
            raise StoreError("This conversation does not exist any more. Choose another one.")
        return summary

    def turns_of(self, conversation: int) -> list[StoredTurn]:
        """The turns of any conversation, along the branch that is shown."""
        return self._store.path(conversation)

    def summaries(self, search: str = "") -> list[Summary]:
        """All conversations, the last used first, or those that hold some text."""
        return self._store.conversations(search)

    def branches(self) -> list[tuple[int, str, int | None]]:
        """The last turn of each branch of this conversation, its question and the turn before it."""
        return self.branches_of(self.conversation) if self.conversation is not None else []

    def branches_of(self, conversation: int) -> list[tuple[int, str, int | None]]:
        """The same of any conversation."""
        return self._store.branches(conversation)

    def show_branch(self, last_turn: int) -> None:
        """Show another branch. Raises `StoreError` for one of another conversation."""
        if self.conversation is not None:
            self._store.show_branch(self.conversation, last_turn)
            self._load()

    def open(self, conversation: int) -> None:
        """Show another conversation. Raises `StoreError` when it does not exist any more."""
        self.summary(conversation)
        self.conversation = conversation
        self._load()

    def leave(self) -> None:
        """Show none: the next question begins a new one."""
        self.conversation, self.path = None, ()

    def rename(self, title: str) -> None:
        """Another title for this conversation. Raises `StoreError` for a blank one."""
        if self.conversation is not None:
            self._store.rename(self.conversation, title)

    def delete(self, text_hash: str) -> None:
        """Forget this conversation for good, `text_hash` being that of the open document."""
        if self.conversation is not None:
            self._history.delete(self.conversation, text_hash)
            self.leave()

    def _load(self) -> None:
        self.path = tuple(self._store.path(self.conversation)) if self.conversation is not None else ()
