"""Texts and questions of the measurements: what is cut, what is asked, what counts as right."""

import json
from itertools import islice
from pathlib import Path

import pytest

from spec_engine.bench.quality import is_right, is_verbatim
from spec_engine.bench.tasks import (
    Question,
    bundled_text,
    cut_to_tokens,
    make_questions,
    parse_lengths,
    read_texts,
    sentences,
)
from spec_engine.errors import DocumentError, RequestError

TEXT = read_texts(bundled_text())[0]


def count_words(text: str) -> int:
    return len(text.split())


def test_the_summarising_prompt_is_dropped(tmp_path: Path) -> None:
    row = {"text": "\n\nSummarize the following text into a summary.\n### Text:\n\nBody here.\n\n### Summary:\n\n"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), "utf-8")
    assert read_texts(tmp_path) == ["Body here."]


def test_no_texts_and_broken_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="holds no"):
        read_texts(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"body": 1}', "utf-8")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_texts(tmp_path)


def test_a_text_is_cut_at_the_last_sentence_that_fits() -> None:
    part = cut_to_tokens(TEXT, 500, count_words)
    assert part is not None
    assert TEXT.startswith(part)
    assert 420 <= count_words(part) <= 500
    assert part[-1] in ".!?"
    assert cut_to_tokens("Too short.", 500, count_words) is None


def test_sentences_are_not_cut_after_abbreviations() -> None:
    text = "Mr. Smith met the U.S. Senate. It was No. 5. Then he left.\n\nA new paragraph. “Quoted.” End."
    assert sentences(text)[:2] == ["Mr. Smith met the U.S. Senate.", "It was No. 5."]
    assert sentences(text)[-2:] == ["“Quoted.”", "End."]
    assert sentences('It is "possible." The rest (all of it.) Follows.') == [
        'It is "possible."',
        "The rest (all of it.)",
        "Follows.",
    ]


@pytest.mark.parametrize("kind", ["continue", "phrase", "words"])
def test_questions_have_their_answer_in_the_text(kind: str) -> None:
    questions = list(islice(make_questions(TEXT, kind, seed=1), 8))
    assert len(questions) == 8
    for question in questions:
        assert question.expected[:60] in TEXT
        assert is_right(question, question.expected[:300])
        assert not is_right(question, "Something else altogether, at some length.")
    assert questions == list(islice(make_questions(TEXT, kind, seed=1), 8))


def test_a_continuation_must_be_right_to_its_end() -> None:
    question = Question("continue", "?", " public domain. It is free to all.")
    assert is_right(question, "public domain. It is free")
    assert not is_right(question, "public domain. It is not free")
    assert not is_right(question, "public")


def test_a_quote_must_stand_in_the_document() -> None:
    assert is_verbatim("One two three\nfour five.", "two three four")
    assert not is_verbatim("One two three four five.", "two four")
    assert not is_verbatim("One two three four five.", "two")


def test_lengths_are_read_with_and_without_k() -> None:
    assert parse_lengths("1024,2K,15000") == [1024, 2048, 15000]
    with pytest.raises(RequestError, match="1024,4K"):
        parse_lengths("many")
    for spelling, least in (("0", "0"), ("1K,-5", "-5"), ("0K", "0")):
        with pytest.raises(RequestError, match=f"one is {least}, but each is at least 1"):
            parse_lengths(spelling)
