"""Text to ids and back, and the promise of the streaming detokeniser: pieces joined are the decoded whole."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from spec_engine.chat.prompt import Message
from spec_engine.model.tokenizer import StreamingDetokenizer, Tokenizer
from tests.fakes import END_ID, byte_tokenizer

TEXT = "Größe: 5 € – naïve 日本語, 🙂👩‍👩‍👧 e\u0301 \ufffd end.  two  spaces\n\ttab"


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Llama 2's kind: words begin with a low line, what the vocabulary lacks is spelled in byte tokens."""
    words = ["▁", "▁the", "▁a", "b", "the", "é", "▁▁"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    backend = Backend(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in pieces[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"bytes": Tokenizer(byte_tokenizer()), "sentencepiece": Tokenizer(sentencepiece_like())}


def stream(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    detokenizer = StreamingDetokenizer(tokenizer)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_joined_are_the_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    token_ids = tokenizer.encode(TEXT)
    assert len(token_ids) > len(TEXT) // 2
    pieces = stream(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids)
    assert sum(bool(piece) for piece in pieces) > 10  # it does stream


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 258), max_size=40))
def test_any_tokens(name: str, token_ids: list[int]) -> None:
    """Also bytes that are no text, cut characters, and special tokens in between."""
    tokenizer = TOKENIZERS[name]
    assert "".join(stream(tokenizer, token_ids)) == tokenizer.decode(token_ids)


def test_sentencepiece_words_between_bytes_and_special_tokens() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    generator = random.Random(1)
    words = [259, 260, 261, 262, 263, 264, 265, 2, 1]
    for _ in range(400):
        token_ids = [generator.choice([*words, generator.randrange(3, 259)]) for _ in range(generator.randrange(25))]
        assert "".join(stream(tokenizer, token_ids)) == tokenizer.decode(token_ids)


def test_a_character_is_never_shown_before_it_is_whole() -> None:
    tokenizer = TOKENIZERS["bytes"]
    token_ids = tokenizer.encode("a€🙂b")
    token_ids[2:2] = [END_ID]  # a special token between the bytes of a character
    assert [piece for piece in stream(tokenizer, token_ids) if piece] == ["a", "€", "🙂", "b"]


def test_a_cut_character_comes_with_the_flush() -> None:
    tokenizer = TOKENIZERS["bytes"]
    token_ids = tokenizer.encode("ok 🙂")[:-1]
    *pieces, last = stream(tokenizer, token_ids)
    assert "".join(pieces) == "ok "
    assert "".join(pieces) + last == tokenizer.decode(token_ids)
    assert last.startswith("\ufffd")


def test_special_tokens_are_recognised_and_left_out() -> None:
    tokenizer = TOKENIZERS["bytes"]
    token_ids = tokenizer.encode("<|user|>hi<|end|>")
    assert token_ids[0] == 257
    assert token_ids[-1] == END_ID
    assert tokenizer.decode(token_ids) == "hi"
    assert set(tokenizer.special_spellings) == {"<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"}
    assert tokenizer.special_token_ids == {256, 257, 258, 259}


def test_stop_ids_are_all_that_are_known() -> None:
    own = byte_tokenizer()
    own.add_special_tokens({"additional_special_tokens": ["<|eot_id|>", "<|im_end|>"]})
    tokenizer = Tokenizer(own, [77])
    assert tokenizer.stop_token_ids == {END_ID, 77, 260, 261}
    assert tokenizer.vocab_size == 262


def test_spelled_ends_count_only_as_single_tokens() -> None:
    """ "</s>" in a vocabulary that has no such token is text."""
    assert TOKENIZERS["bytes"].stop_token_ids == {END_ID}


def test_chat_template() -> None:
    messages = [Message("user", "hi"), Message("assistant", "yes"), Message("user", "why?")]
    tokenizer = TOKENIZERS["bytes"]
    text = "<|user|>hi<|end|><|assistant|>yes<|end|><|user|>why?<|end|><|assistant|>"
    assert tokenizer.render_chat(messages) == text


def test_a_template_that_refuses_gives_none() -> None:
    own = byte_tokenizer()
    own.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    tokenizer = Tokenizer(own)
    assert tokenizer.render_chat([Message("system", "s")]) is None
    assert tokenizer.render_chat([Message("user", "u")]) == "x"


DATED = {
    "llama 3": """{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
Today Date: {{ date_string }}
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}""",
    "smollm 3": """{%- set today = strftime_now("%d %B %Y") -%}Today Date: {{ today }}
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}""",
}


@pytest.mark.parametrize("family", list(DATED))
def test_a_prompt_is_the_same_on_every_day(family: str) -> None:
    """A template that writes the date would change the first tokens of every prompt at midnight."""
    own = byte_tokenizer()
    own.chat_template = DATED[family]
    shown = Tokenizer(own).render_chat([Message("system", "The document."), Message("user", "Why?")])
    assert shown is not None
    assert "Today Date: 26 Ju" in shown
    assert str(datetime.now(UTC).year) not in shown


def test_without_a_template_vicunas_turns_are_used() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    messages = [Message("system", "S"), Message("user", "q"), Message("assistant", "a"), Message("user", "r")]
    assert tokenizer.render_chat(messages) == "<s>S\n\nUSER: q ASSISTANT: a</s>USER: r ASSISTANT:"


def test_texts_are_those_of_transformers() -> None:
    """Where the library's own decoder is asked, and where a tokenizer has a decoder of its own."""

    class Shouting(PreTrainedTokenizerFast):
        def _decode(self, token_ids: int | list[int], **options: object) -> str:
            return str(super()._decode(token_ids, **options)).upper()  # type: ignore[misc]

    class Whispering(PreTrainedTokenizerFast):
        def decode(self, token_ids: object, *args: object, **options: object) -> str:
            return str(super().decode(token_ids, *args, **options)).lower()  # type: ignore[arg-type]

    plain, own = byte_tokenizer(), Shouting(tokenizer_object=byte_tokenizer().backend_tokenizer)
    token_ids = plain.encode(TEXT)
    for number, token_id in enumerate(token_ids):
        want = plain.decode([token_id], skip_special_tokens=True)
        assert Tokenizer(plain).decode_one(token_id) == want, number
    assert Tokenizer(plain).decode(token_ids) == plain.decode(token_ids) == TEXT
    assert Tokenizer(own).decode(token_ids) == TEXT.upper()
    soft = Whispering(tokenizer_object=byte_tokenizer().backend_tokenizer)
    assert Tokenizer(soft).decode(token_ids) == TEXT.lower()


def test_a_tokenizer_in_python_is_asked_itself() -> None:
    """One that knows single characters alone refuses longer spellings."""
    tokenizer = Tokenizer(CanineTokenizer())
    assert tokenizer.byte_token_ids == frozenset()
    token_ids = tokenizer.encode("Größe 5")
    assert "".join(stream(tokenizer, token_ids)) == tokenizer.decode(token_ids) == "Größe 5"


def test_byte_tokens_are_found_by_their_spelling() -> None:
    assert TOKENIZERS["sentencepiece"].byte_token_ids == frozenset(range(3, 259))
    assert TOKENIZERS["bytes"].byte_token_ids == frozenset()
