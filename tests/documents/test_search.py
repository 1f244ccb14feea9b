"""Words are found as a reader would find them, and marked exactly."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec_engine.documents.search import find_all

LETTERS = st.text(
    st.sampled_from("aAe\u00e9\u0301 \u00ad\ufb01f\u2019'-\u2013\u2026.\n\u00df\u304c\u3099"), max_size=30
)


def found(text: str, words: str) -> list[str]:
    return [text[start:end] for start, end in find_all(text, words)]


@pytest.mark.parametrize(
    ("text", "words", "passages"),
    [
        ("‹so› ‚so′", "'so'", ["‹so›", "‚so′"]),
        ("The Fund’s fund's", "FUND'S", ["Fund’s", "fund's"]),
        ("“a – b” − 5 …", '"a - b" - 5 ...', ["“a – b” − 5 …"]),
        ("Café, cafe\u0301s", "cafe", ["Café", "cafe\u0301"]),
        ("naive", "naïve", ["naive"]),
        ("Straße in STRASSE", "strasse", ["Straße", "STRASSE"]),
        ("eﬃcient oﬃces of the ﬁle", "office", ["oﬃce"]),
        ("of the ﬁle", "f", ["f"]),
        ("so\u00adft hy\u200bphens", "soft hyphen", ["so\u00adft hy\u200bphen"]),
        ("2,500 m² each", "m2", ["m²"]),
        ("İstanbul", "istanbul", ["İstanbul"]),
        ("שָׁלוֹם", "שלום", ["שָׁלוֹם"]),
        ("がか", "か", ["か"]),
        ("각가", "가", ["가"]),
        ("पानी पान", "पानी", ["पानी"]),
        ("line\n  break\u00a0here", "line break here", ["line\n  break\u00a0here"]),
        ("aaaa", "aa", ["aa", "aa"]),
        ("a.c abc", "a.c", ["a.c"]),
        ("anything", "\u00ad \u200b", []),
        ("anything", "", []),
        ("", "a", []),
    ],
)
def test_words_are_found_whatever_their_spelling(text: str, words: str, passages: list[str]) -> None:
    assert found(text, words) == passages


@given(LETTERS, LETTERS)
def test_what_is_found_reads_like_what_was_looked_for(text: str, words: str) -> None:
    def read(written: str) -> str:
        plain = "".join(found_as for letter in written for found_as in seen(letter))
        return " ".join(plain.split())

    def seen(letter: str) -> str:
        alike = {"’": "'", "–": "-", "\u00ad": ""}.get(letter, letter)
        return "".join(
            part for part in unicodedata.normalize("NFKD", alike).casefold() if unicodedata.combining(part) < 200
        )

    for start, end in find_all(text, words):
        assert 0 <= start < end <= len(text)
        assert read(text[start:end]) == read(words)


@given(LETTERS)
def test_every_word_of_a_text_is_found_in_it(text: str) -> None:
    for word in text.split():
        if any(map(str.isalnum, word)):
            assert list(find_all(text, word))


def test_a_long_text_with_many_odd_letters_is_searched_in_time() -> None:
    text = "The fund’s levy was é " * 80_000
    started = time.perf_counter()
    assert len(list(find_all(text, "e"))) == 240_000
    assert time.perf_counter() - started < 3.0  # 0.2 s on the machine that this was written on
