"""What a conversation needs of the engine that answers it.

Job: the two protocols, so that tests can stand in for the model.
Non-job: the engine (`engine`), conversations (`session`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from spec_engine.answer import Request
from spec_engine.chat.prompt import ChatTokenizer
from spec_engine.events import Event


class SessionTokenizer(ChatTokenizer, Protocol):
    """A chat tokenizer that also knows where answers end."""

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Ids that end an answer."""


class AnsweringEngine(Protocol):
    """What a session needs of an engine."""

    @property
    def tokenizer(self) -> SessionTokenizer:
        """The target's tokenizer."""

    @property
    def capacity(self) -> int:
        """Tokens that prompt and answer may take together."""

    def generate(self, request: Request, cancelled: Callable[[], bool] = ...) -> Iterator[Event]:
        """Events of one answer, in the order that `events` states."""

    def keep_prefix(self, token_ids: Sequence[int], label: str | None, cancelled: Callable[[], bool] = ...) -> bool:
        """Keep what was computed for the beginning of a prompt, under the name of what it is about, None to keep it in
        memory alone; whether it is kept on disk."""
