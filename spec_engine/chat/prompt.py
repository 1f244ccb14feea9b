"""How a document and a conversation become the token ids of one prompt.

Job: the order (document, conversation, question), the model's own chat template, and two promises.
Non-job: what was said so far (`session`), whether it fits (`documents.budget`).

1. *The document comes first and is byte-stable*: alone in the system message where the template has a system role at
   the very start, else before the first question. A new chat about the same document begins with the same tokens.
2. *A turn extends the one before.* The prompt of turn n + 1 is the prompt of turn n, the token ids the model wrote, and
   the tokens of what the template puts between an answer and the next question. Nothing is encoded a second time, so
   the keys and values of the whole prefix stay valid, also where a template would spell an old turn differently.

Text that spells a special token of the tokenizer (a document that quotes ``<|im_end|>``) must stay text: an invisible
word joiner behind its first character keeps the tokenizer from recognising it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from spec_engine.documents.anchors import Anchor, Block, Document

WORD_JOINER: Final = "\u2060"
_PROBE_DOCUMENT: Final = "DOCUMENT-PROBE"
_PROBE_QUESTION: Final = "QUESTION-PROBE"
_SENTINEL: Final = "ANSWER-GOES-HERE"


@dataclass(frozen=True, slots=True)
class Message:
    """One message for a chat template."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and the answer it got.

    `answer_token_ids` are the ids the model wrote without a closing stop token; None when another tokenizer wrote them.
    """

    question: str
    answer: str
    answer_token_ids: tuple[int, ...] | None = None


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer."""

    @property
    def special_spellings(self) -> tuple[str, ...]:
        """Spellings that `encode` turns into special tokens."""

    @property
    def writes_time(self) -> bool:
        """Whether the chat template writes a time that cannot be held still."""

    def encode(self, text: str) -> list[int]:
        """Token ids; spelled special tokens are recognised, none is added."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Their text without special tokens."""

    def render_chat(self, messages: Sequence[Message]) -> str | None:
        """The messages through the chat template, up to where the answer begins; None when the template refuses."""


def build(
    tokenizer: ChatTokenizer, document: Document | None, turns: Sequence[Turn], question: str, instruction: str = ""
) -> list[int]:
    """Token ids of the prompt that asks `question`.

    `instruction` is put before the document's text. Pure: the same arguments give the same ids in every process.
    """
    questions = [neutralise(text, tokenizer.special_spellings) for text in (*(t.question for t in turns), question)]
    context = neutralise(context_text(document, instruction), tokenizer.special_spellings)
    has_system_role = context == "" or _has_system_role(tokenizer)
    token_ids = tokenizer.encode(_render(tokenizer, _opening(context, questions[0], has_system_role)))
    sentinel = _unused(_SENTINEL, [context, *questions])
    history = _opening("", questions[0], True)
    for turn, next_question in zip(turns, questions[1:], strict=True):
        token_ids += _answer_ids(tokenizer, turn)
        history += [Message("assistant", sentinel), Message("user", next_question)]
        token_ids += tokenizer.encode(_render(tokenizer, history).rpartition(sentinel)[2])
    return token_ids


def reuse_trouble(tokenizer: ChatTokenizer) -> str:
    """Why a question has to read the document again with this model; "" when it has not."""
    if tokenizer.writes_time:
        return "The chat format of this model writes the time before the document, so it may be read again."
    document = Document("", "", (Block(Anchor("line", "", 0), _PROBE_DOCUMENT),))
    prompts = [build(tokenizer, document, [], question) for question in (_PROBE_QUESTION, _SENTINEL)]
    shared = next((i for i, pair in enumerate(zip(*prompts, strict=False)) if pair[0] != pair[1]), len(prompts[0]))
    if _PROBE_DOCUMENT in tokenizer.decode(prompts[0][:shared]):
        return ""
    return "The chat format of this model puts the question before the document, so each question reads it again."


def context_text(document: Document | None, instruction: str = "") -> str:
    """What stands before the conversation: the instruction, a blank line, the document's text."""
    return "\n\n".join(part for part in (instruction, document.text if document else "") if part)


def neutralise(text: str, spellings: Sequence[str]) -> str:
    """`text` with a word joiner inside every spelling of a special token; the smallest possible change.

    A spelling of one character cannot be broken and stays.
    """
    pattern = _heads(tuple(spellings))
    return pattern.sub(lambda match: match.group() + WORD_JOINER, text) if pattern else text


@lru_cache(maxsize=8)  # hundreds of spellings, for each of thousands of parts of a document
def _heads(spellings: tuple[str, ...]) -> re.Pattern[str] | None:
    """Finds the first character of each spelling that has more than one; None where there is none."""
    tails: dict[str, list[str]] = {}
    for spelling in spellings:
        if len(spelling) > 1:
            tails.setdefault(spelling[0], []).append(re.escape(spelling[1:]))
    pattern = "|".join(f"{re.escape(head)}(?={'|'.join(rest)})" for head, rest in tails.items())
    return re.compile(pattern) if tails else None


def count_document_tokens(tokenizer: ChatTokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens that each text adds to a prompt when it is the document, with what the chat template puts into it."""
    has_system_role = _has_system_role(tokenizer)
    empty = [Message("system", ""), Message("user", "?")] if has_system_role else [Message("user", "?")]
    num_around = len(tokenizer.encode(_render(tokenizer, empty)))
    counts = []
    for text in texts:
        messages = _opening(neutralise(text, tokenizer.special_spellings), "?", has_system_role)
        counts.append(max(0, len(tokenizer.encode(_render(tokenizer, messages))) - num_around))
    return counts


def _opening(context: str, question: str, has_system_role: bool) -> list[Message]:
    """The messages up to the first question."""
    if not context:
        return [Message("user", question)]
    if has_system_role:
        return [Message("system", context), Message("user", question)]
    return [Message("user", f"{context}\n\n{question}")]


def _has_system_role(tokenizer: ChatTokenizer) -> bool:
    """Whether a system message stays in front, once, as the conversation grows.

    Some templates refuse the role, some move its text to the last question: there it would not be a stable prefix.
    """
    messages = [
        Message("system", _PROBE_DOCUMENT),
        Message("user", _PROBE_QUESTION),
        Message("assistant", _SENTINEL),
        Message("user", _PROBE_QUESTION),
    ]
    rendered = tokenizer.render_chat(messages)
    if rendered is None or rendered.count(_PROBE_DOCUMENT) != 1:
        return False
    return rendered.index(_PROBE_DOCUMENT) < rendered.index(_PROBE_QUESTION)


def _render(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> str:
    """The messages as text; where the model brings no usable template, as the plain turns of Vicuna's format."""
    rendered = tokenizer.render_chat(messages)
    if rendered is not None:
        return rendered
    names = {"system": "", "user": "USER: ", "assistant": "ASSISTANT: "}
    return "\n".join(f"{names[message.role]}{message.content}" for message in messages) + "\nASSISTANT:"


def _answer_ids(tokenizer: ChatTokenizer, turn: Turn) -> list[int]:
    """The ids the model wrote, or those of the text when they are another tokenizer's."""
    if turn.answer_token_ids is not None:
        return list(turn.answer_token_ids)
    return tokenizer.encode(neutralise(turn.answer, tokenizer.special_spellings))


def _unused(sentinel: str, texts: Sequence[str]) -> str:
    """The sentinel, lengthened until no text holds it."""
    while any(sentinel in text for text in texts):
        sentinel += "-X"
    return sentinel
