"""One conversation over one document, answered by one engine.

Job: keep the turns, turn a question into a request, store what was shown.
Non-job: the prompt's form (`prompt`), the loop (`engine`), threads (the caller iterates where it likes), disk.

A stopped answer is stored as it was shown; an answer of which nothing was shown leaves no trace. The session keeps the
token ids the model wrote, so the next prompt extends this one and only the new question is read.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final

from spec_engine.answer import Request
from spec_engine.cache.slots import num_shared
from spec_engine.chat.answering import AnsweringEngine
from spec_engine.chat.prompt import Message, Turn, build
from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.errors import ContextOverflow, RequestError
from spec_engine.events import Event, Finished, Prefilled, PromptReady, TokensAccepted
from spec_engine.sampling import SamplingParams
from spec_engine.stopping import StopRules

MIN_ANSWER_TOKENS: Final = 32  # with less room than this an answer is not begun
GREEDY: Final = SamplingParams()
_FEW_TOKENS: Final = 64  # of a document that are not held: what heads read again, what a template puts behind it
_ANY_QUESTION: Final = "?"  # stands where the question will
_ANY_TWO: Final = ("What?", "0")  # questions that begin differently


@dataclass(slots=True)
class _Asked:
    """What is known of an answer while it is written. Of one that is gone on with, `before` is the turn as it was."""

    question: str
    request: Request
    before: Turn | None = None
    written_text: str = ""  # of `before`, what new text follows
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def new_token_ids(self) -> list[int]:
        """What was written so far, of an answer that is gone on with what was added."""
        return list(self.finished.token_ids) if self.finished else self.token_ids

    def take(self, event: Event) -> None:
        """Note what an event added."""
        if isinstance(event, PromptReady):
            self.written_text = event.written_text
        elif isinstance(event, TokensAccepted):
            self.token_ids.extend(event.token_ids)
            self.texts.append(event.text)
        elif isinstance(event, Finished):
            self.finished = event


class Session:
    """A conversation.

    Args:
        engine: answers; may be exchanged by making a new session with `turns` of the old one.
        document: read in full before the conversation.
        context_length: tokens that prompt and answer may take together, if less than the engine's capacity.
        instruction: put before the document's text; "" for models that were trained without one.
        turns: a conversation to go on with.
    """

    def __init__(
        self,
        engine: AnsweringEngine,
        document: Document | None = None,
        *,
        context_length: int | None = None,
        instruction: str = "",
        turns: Iterable[Turn] = (),
    ) -> None:
        self._engine = engine
        self._document = document
        self._capacity = engine.capacity if context_length is None else min(context_length, engine.capacity)
        self._instruction = instruction
        self._turns = [_without_stop(turn, engine.tokenizer.stop_token_ids) for turn in turns]
        self._last: _Asked | None = None
        self._common: list[int] = []  # tokens that all prompts about the document begin with

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation so far, oldest first."""
        return tuple(self._turns)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation as messages of user and assistant in turn."""
        roles = ((Message("user", turn.question), Message("assistant", turn.answer)) for turn in self._turns)
        return tuple(message for pair in roles for message in pair)

    @property
    def last_finished(self) -> Finished | None:
        """How the last answer ended, of one that was gone on with the last part; None before the first."""
        return self._last.finished if self._last else None

    @property
    def last_prompt_token_ids(self) -> tuple[int, ...]:
        """The prompt of the last request, with the answer so far of one that was gone on with; empty before the
        first."""
        return self._last.request.prompt_token_ids if self._last else ()

    @property
    def last_question_token_ids(self) -> tuple[int, ...]:
        """The prompt of the last question, without anything of its answer."""
        token_ids = self.last_prompt_token_ids
        return token_ids[: len(token_ids) - self._last.request.num_written] if self._last else ()

    @property
    def can_replay(self) -> bool:
        """Whether there is an answer of this model for `replay`; one that this session has not given needs `recall`."""
        return self._has_answered or bool(self._turns and self._turns[-1].answer_token_ids)

    @property
    def _has_answered(self) -> bool:
        """Whether the last request brought tokens."""
        return self._last is not None and bool(self._last.new_token_ids)

    def recall(self, sampling: SamplingParams = GREEDY) -> None:
        """Have `replay` repeat the last turn also where another session gave its answer, drawn by `sampling`.

        Raises `RequestError` when there is none of this model, and `ContextOverflow` when it does not fit.
        """
        if self._has_answered:
            return
        old, question, token_ids = self._last_answered()
        stop = StopRules(self._room(len(question), len(token_ids), least=1), self._engine.tokenizer.stop_token_ids)
        self._last = _Asked(old.question, Request(tuple(question), sampling, stop), token_ids=list(token_ids))

    def prompt(self, question: str) -> list[int]:
        """Token ids of the prompt that `ask` would use."""
        return build(self._engine.tokenizer, self._document, self._turns, question, self._instruction)

    def ask(
        self,
        question: str,
        *,
        sampling: SamplingParams = GREEDY,
        max_tokens: int = 512,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Answer a question; the turn is stored when the iterator ends or is closed.

        Raises, at the first step:
            RequestError: the question is blank.
            ContextOverflow: conversation and question leave no room for an answer; nothing was cut.
        """
        check_question(question)
        token_ids = tuple(self.prompt(question))
        stop = StopRules(self._room(len(token_ids), max_tokens), self._engine.tokenizer.stop_token_ids)
        yield from self._answer(_Asked(question, Request(token_ids, sampling, stop)), cancelled)

    def go_on(
        self,
        *,
        sampling: SamplingParams = GREEDY,
        max_tokens: int = 512,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Write on behind the last answer, `max_tokens` more at most: what one answer with a longer limit would have
        said, drawn ones with the same settings and seed. The turn is exchanged for the longer one when the iterator
        ends or is closed; where nothing was added it stays as it was. `last_finished` and `replay` are about what was
        added.

        Raises, at the first step:
            RequestError: there is no answer, or its token ids are not this model's.
            ContextOverflow: there is no room for a token more.
        """
        old, question, written = self._last_answered()
        token_ids = (*question, *written)
        stop = StopRules(self._room(len(token_ids), max_tokens, least=1), self._engine.tokenizer.stop_token_ids)
        request = Request(token_ids, sampling, stop, len(written))
        yield from self._answer(_Asked(old.question, request, old), cancelled)

    def _last_answered(self) -> tuple[Turn, list[int], tuple[int, ...]]:
        """The last turn, its prompt, its answer's token ids. Raises `RequestError` where those are not this model's."""
        old = self._turns[-1] if self._turns else None
        if old is None or not old.answer_token_ids:
            raise RequestError("There is no answer of this model to go on with or repeat. Ask a question first.")
        question = build(self._engine.tokenizer, self._document, self._turns[:-1], old.question, self._instruction)
        return old, question, tuple(old.answer_token_ids)

    def read_ahead(
        self, cancelled: Callable[[], bool] = lambda: False, *, keeps_document: bool = False
    ) -> Iterator[Event]:
        """Read what the next prompt begins with, the document and the conversation, so that only the question is left;
        with `keeps_document` call that when the document is read. Where the engine does not hold it yet that is before
        the conversation: behind a long one, layers with a window have forgotten it.

        Yields the engine's events up to the end of the prompt. Nothing is answered and nothing is stored.
        """
        token_ids = tuple(self.prompt(_ANY_QUESTION))
        if keeps_document and self._turns:
            alone = tuple(build(self._engine.tokenizer, self._document, (), _ANY_QUESTION, self._instruction))
            num_common = num_shared(alone, token_ids)
            comes_first = 2 * num_common > len(alone)  # else this model's questions come before the document
            if comes_first and num_common - self._num_held(token_ids, cancelled) > _FEW_TOKENS:
                yield from self._read(alone, cancelled)
                if not cancelled():
                    self.keep_document(cancelled)
        yield from self._read(token_ids, cancelled)
        if keeps_document and not cancelled():
            self.keep_document(cancelled)

    def _num_held(self, token_ids: tuple[int, ...], cancelled: Callable[[], bool]) -> int:
        """Tokens of a prompt that the engine need not read."""
        with closing(self._read(token_ids, cancelled)) as events:
            return next((event.num_reused_tokens for event in events if isinstance(event, PromptReady)), 0)

    def _read(self, token_ids: tuple[int, ...], cancelled: Callable[[], bool]) -> Generator[Event, None, None]:
        """The engine's events until a prompt is read."""
        request = Request(token_ids, GREEDY, StopRules(1, self._engine.tokenizer.stop_token_ids))
        events = self._engine.generate(request, cancelled)
        try:
            for event in events:
                if isinstance(event, TokensAccepted | Finished):
                    break
                yield event
                if isinstance(event, Prefilled) and event.num_done >= len(token_ids) - 1:
                    break
        finally:
            if isinstance(events, Generator):
                events.close()

    def keep_document(self, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Have the engine keep the document's keys and values on disk, once it has read it; whether they are there.

        Kept is what prompts about this document have in common whatever is asked, and with those about it and another
        one that comes behind it. Nothing is of one that is locked: its text would lie in clear beside its locked copy.
        """
        if self._document is None:
            return False
        if not self._common:
            prompts = [
                build(self._engine.tokenizer, document, (), question, self._instruction)
                for document, question in zip((self._document, _with_more(self._document)), _ANY_TWO, strict=True)
            ]
            self._common = prompts[0][: num_shared(*prompts)]
        label = None if self._document.is_locked else self._document.sha256
        return self._engine.keep_prefix(self._common, label, cancelled)

    def regenerate(
        self,
        *,
        sampling: SamplingParams = GREEDY,
        max_tokens: int = 512,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Answer the last question again in place of its answer. Raises `RequestError` when nothing was asked yet."""
        if not self._turns:
            raise RequestError("There is no answer to repeat yet. Ask a question first.")
        old, num_before = self._turns.pop(), len(self._turns)
        try:
            yield from self.ask(old.question, sampling=sampling, max_tokens=max_tokens, cancelled=cancelled)
        finally:
            if len(self._turns) == num_before:  # nothing of a new answer was shown
                self._turns.append(old)

    def replay(
        self,
        engine: AnsweringEngine,
        *,
        max_tokens: int | None = None,
        is_whole: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """The last request again through another engine; nothing is stored. Of an answer that was gone on with that is
        its last part alone, or with `is_whole` all of it.

        At most as many tokens as the stored answer has, or `max_tokens` if that is less.
        """
        if self._last is None or not self._last.new_token_ids:
            raise RequestError("There is no answer to repeat yet. Ask a question first.")
        request, num_tokens = self._last.request, len(self._last.new_token_ids)
        if is_whole:
            num_tokens += request.num_written
            request = replace(request, prompt_token_ids=self.last_question_token_ids, num_written=0)
        limit = num_tokens if max_tokens is None else min(max_tokens, num_tokens)
        yield from engine.generate(replace(request, stop=replace(request.stop, max_tokens=max(1, limit))), cancelled)

    def clear(self) -> None:
        """Forget the conversation; the document stays."""
        self._turns.clear()
        self._last = None

    def _answer(self, asked: _Asked, cancelled: Callable[[], bool]) -> Iterator[Event]:
        """The engine's events, and the turn in the end."""
        self._last = asked
        try:
            for event in self._engine.generate(asked.request, cancelled):
                asked.take(event)
                yield event
        finally:
            self._store(asked)

    def _room(self, num_prompt: int, max_tokens: int, least: int = MIN_ANSWER_TOKENS) -> int:
        """Tokens that the answer may have."""
        room = self._capacity - num_prompt
        if room < min(max_tokens, least):
            raise ContextOverflow(
                f"The document, the conversation and this question take {num_prompt:,} tokens of a context of "
                f"{self._capacity:,}, which leaves no room for an answer. Nothing was cut. Start a new chat, "
                f"choose a smaller part of the document, or use a model with a longer context."
            )
        return min(max_tokens, room)

    def _store(self, asked: _Asked) -> None:
        """Keep what was shown."""
        token_ids = asked.new_token_ids
        answer = asked.finished.text if asked.finished else "".join(asked.texts)
        if not token_ids:
            return
        if asked.before is not None:
            self._turns.pop()
            answer = asked.written_text + answer
            token_ids = [*(asked.before.answer_token_ids or ()), *token_ids]
        turn = Turn(asked.question, answer, tuple(token_ids))
        self._turns.append(_without_stop(turn, self._engine.tokenizer.stop_token_ids))


def check_question(question: str) -> None:
    """Raise `RequestError` for a blank one, and for one that is no text: half of a pair of surrogates is none."""
    if not question.strip():
        raise RequestError("The question is empty. Type a question.")
    if any("\ud800" <= char <= "\udfff" for char in question):
        raise RequestError(
            "The question holds bytes that are no text, perhaps of another encoding. Type it again; a terminal has to "
            "be set to UTF-8."
        )


def _with_more(document: Document) -> Document:
    """A document that goes on where this one ends."""
    return replace(document, blocks=(*document.blocks, Block(Anchor("line", "", 0), "(More.)")))


def _without_stop(turn: Turn, stop_token_ids: Collection[int]) -> Turn:
    """A turn whose ids end before a closing stop token, which an answer that was broken off on disk may still have."""
    token_ids = turn.answer_token_ids
    if not token_ids or token_ids[-1] not in stop_token_ids:
        return turn
    return Turn(turn.question, turn.answer, token_ids[:-1])
