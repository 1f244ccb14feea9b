"""Where an answer ends.

Job: the stop rules (end tokens, stop strings, length) and the scanner that applies them token by token while it turns
tokens into text that is certain.
Non-job: decoding tokens (the tokenizer's), cutting caches (the engine's).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from spec_engine.errors import RequestError
from spec_engine.events import FinishReason

_REPLACEMENT: Final = "\ufffd"  # what a decoder writes for bytes that are no character yet


@dataclass(frozen=True, slots=True)
class StopRules:
    """When an answer ends: after `max_tokens` tokens, after one of the end tokens, or before a stop string.

    An end token counts and is stored but is not text. A stop string may begin and end anywhere within tokens; the text
    ends before it. Raises `RequestError` for a length below 1 or an empty stop string.
    """

    max_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens is {self.max_tokens}, it must be at least 1. Ask for one token or more.")
        if "" in self.stop_strings:
            raise RequestError("A stop string is empty, so no text could be written. Remove it.")


class Detokenizer(Protocol):
    """Turns a stream of tokens into text without ever taking a character back."""

    def push(self, token_id: int) -> str:
        """The text that this token makes certain; may be empty."""

    def flush(self) -> str:
        """What is left when no token follows."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """The tokens that were kept: the text that each made certain, and why the answer ends here, if it does."""

    text_by_token: tuple[str, ...]
    stop: FinishReason | None


class StopScanner:
    """Applies the rules to one answer.

    Text that may be the beginning of a stop string is held back until the next tokens decide. Of a character that the
    length cuts nothing is text: the bytes that are there are among the tokens, and whoever goes on with these gets it.
    """

    def __init__(self, rules: StopRules, detokenizer: Detokenizer) -> None:
        self._rules = rules
        self._longest = max(map(len, rules.stop_strings), default=0)
        self._detokenizer = detokenizer
        self._num_tokens = 0
        self._held = ""

    @property
    def num_left(self) -> int:
        """Tokens that the answer may still take."""
        return self._rules.max_tokens - self._num_tokens

    def resume(self, token_ids: Sequence[int]) -> str:
        """Take tokens that the answer began with in an earlier request: they count for no length. Their text as far as
        it is certain; what `scan` gives from now on follows it."""
        return "".join(self._feed(self._detokenizer.push(token_id))[0] for token_id in token_ids)

    def scan(self, token_ids: Sequence[int]) -> Scanned:
        """Take new tokens until one ends the answer; the tokens after that one are not part of it."""
        pieces: list[str] = []
        for token_id in token_ids:
            self._num_tokens += 1
            if token_id in self._rules.stop_token_ids:
                return Scanned((*pieces, self._finish()[0]), "stop")
            piece, is_hit = self._feed(self._detokenizer.push(token_id))
            if is_hit:
                return Scanned((*pieces, piece), "stop")
            if self.num_left == 0:
                rest, is_hit = self._finish()
                rest = rest if is_hit else rest.rstrip(_REPLACEMENT)
                return Scanned((*pieces, piece + rest), "stop" if is_hit else "length")
            pieces.append(piece)
        return Scanned(tuple(pieces), None)

    def _feed(self, text: str) -> tuple[str, bool]:
        """What of the text so far is certain, and whether a stop string was met right behind it."""
        if not self._longest:
            return text, False
        self._held += text
        found = [at for stop in self._rules.stop_strings if (at := self._held.find(stop)) >= 0]
        if found:
            certain, self._held = self._held[: min(found)], ""
            return certain, True
        num_certain = len(self._held) - self._num_undecided()
        certain, self._held = self._held[:num_certain], self._held[num_certain:]
        return certain, False

    def _finish(self) -> tuple[str, bool]:
        """The rest of the text when no token follows, and whether it ends at a stop string."""
        certain, is_hit = self._feed(self._detokenizer.flush())
        rest, self._held = certain + self._held, ""
        return rest, is_hit

    def _num_undecided(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            if self._rules_begin_with(self._held[-length:]):
                return length
        return 0

    def _rules_begin_with(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._rules.stop_strings)
