"""Text to token ids and back.

Job: `Tokenizer` (encode, decode, chat template, stop ids) around a transformers tokenizer, and `StreamingDetokenizer`.
Non-job: what a prompt says (`chat.prompt`), where an answer ends (`stopping`), loading (`load`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from typing import Protocol

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_STOP_SPELLINGS = (
    "</s>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<|return|>",
    "<end_of_turn>", "<turn|>", "[EOS]",
)  # fmt: skip
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet

_NOW = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>.*?)(?P=quote)\s*\)")  # in a template: today's date
_DATE = date(2024, 7, 26)  # the one that Llama 3.1's own template takes where it knows none

# Vicuna's turns, for models that bring no template of their own.
_PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}USER: {{ message.content }} ASSISTANT:"
    "{% else %} {{ message.content }}{{ eos_token or '' }}{% endif %}{% endfor %}"
)


class ChatMessage(Protocol):
    """One message for a chat template."""

    @property
    def role(self) -> str:
        """system, user or assistant."""

    @property
    def content(self) -> str:
        """Its text."""


class Tokenizer:
    """A transformers tokenizer as the engine uses it. `stop_token_ids` adds to those that the tokenizer knows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_token_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_vocab()
        ends = {added[spelling] for spelling in _STOP_SPELLINGS if spelling in added} | set(stop_token_ids)
        if tokenizer.eos_token_id is not None:
            ends.add(tokenizer.eos_token_id)
        self.stop_token_ids: frozenset[int] = frozenset(ends)
        """Ids that end an answer."""
        specials = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.special_spellings: tuple[str, ...] = tuple(sorted(token.content for token in specials))
        """Spellings that `encode` turns into special tokens."""
        self.special_token_ids: frozenset[int] = frozenset(tokenizer.all_special_ids) | {
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        """Ids that `decode` leaves out."""
        self.byte_token_ids: frozenset[int] = frozenset(
            token_id for token, token_id in tokenizer.get_vocab().items() if _is_byte(token)
        )
        """Ids that are one byte of a character that the vocabulary lacks (SentencePiece's byte fallback)."""
        self._decode = _decoder(tokenizer)
        self._alone: dict[int, str] = {}  # texts of single tokens, as far as they were asked for

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included; a model's embedding may be padded beyond it."""
        return len(self._tokenizer)

    @property
    def writes_time(self) -> bool:
        """Whether the chat template writes a time that cannot be held still, as `render_chat` does with a date."""
        template = self._tokenizer.chat_template
        return isinstance(template, str) and "strftime_now" in _NOW.sub("", template)

    def encode(self, text: str) -> list[int]:
        """Token ids; spelled special tokens are recognised, none is added."""
        token_ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Their text without special tokens. Spaces stay as the tokens have them."""
        return self._decode(list(token_ids))

    def decode_one(self, token_id: int) -> str:
        """The text of a single token."""
        text = self._alone.get(token_id)
        if text is None:
            text = self._alone[token_id] = self._decode([token_id])
        return text

    def render_chat(self, messages: Sequence[ChatMessage]) -> str | None:
        """The messages through the chat template, up to where the answer begins; None when the template refuses.

        A template with a switch for thinking aloud has it off. One that writes today's date (Llama 3, SmolLM 3) gets
        `_DATE`, the same every day: with the true one, every prompt would differ from yesterday's before the document
        begins, and nothing that was computed for it could be used again.
        """
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        own = self._tokenizer.chat_template or _PLAIN_TEMPLATE
        template = _NOW.sub(lambda now: repr(_DATE.strftime(now["format"])), own) if isinstance(own, str) else None
        try:
            text = self._tokenizer.apply_chat_template(
                conversation,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
                date_string=_DATE.strftime("%d %b %Y"),
            )
        except TemplateError:
            return None
        assert isinstance(text, str), "an untokenized conversation is text"
        return text

    def vocabulary(self) -> dict[str, int]:
        """Token spellings to ids."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary


def _is_byte(token: object) -> bool:
    """Whether a vocabulary's entry is a byte token; some vocabularies have entries that are no text."""
    return isinstance(token, str) and _BYTE_TOKEN.fullmatch(token) is not None


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[int]], str]:
    """What turns token ids into text: the library's own decoder where nothing of transformers' lies between, because
    an answer asks for it token by token."""
    fast, own = PreTrainedTokenizerFast, type(tokenizer)
    if issubclass(own, fast) and (own.decode, own._decode) == (fast.decode, fast._decode):
        return partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=True)

    def decode(token_ids: list[int]) -> str:
        text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one sequence decodes to one text"
        return text

    return decode


class StreamingDetokenizer:
    """Turns tokens into text piece by piece; the pieces joined are ``tokenizer.decode`` of all tokens.

    A token alone has no text of its own: a decoder joins bytes to characters and drops the first space of a text. So
    new tokens are decoded together with those before them and the common beginning is taken away. Text is held back
    while its end may still change: after bytes that are no character yet, and within a run of byte tokens, which a
    decoder reads as a whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # tokens whose text is out, decoded again as surroundings of the next ones
        self._held: list[int] = []  # tokens whose text is not certain yet

    def push(self, token_id: int) -> str:
        """The text that this token makes certain; may be empty."""
        if token_id in self._tokenizer.special_token_ids:
            return ""  # leaves no trace: its neighbours decode as if it were not there
        self._held.append(token_id)
        if token_id in self._tokenizer.byte_token_ids:
            return ""
        piece = self._decode_held()
        return "" if piece is None or piece.endswith(_REPLACEMENT) else self._release(piece)

    def flush(self) -> str:
        """What is left when no token follows."""
        piece = self._decode_held() if self._held else None
        return "" if piece is None else self._release(piece)

    def _decode_held(self) -> str | None:
        """Text of the held tokens, or None when they change the text before them."""
        if len(self._context) == 1:
            before = self._tokenizer.decode_one(self._context[0])
        else:
            before = self._tokenizer.decode(self._context)
        text = self._tokenizer.decode(self._context + self._held)
        return text[len(before) :] if text.startswith(before) else None

    def _release(self, piece: str) -> str:
        """Move the held tokens behind what is out; they alone are the context of the next ones if they have text."""
        self._context = self._held if piece.strip() else self._context + self._held
        self._held = []
        return piece
