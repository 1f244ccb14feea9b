"""Corpus files, passages, and that the chat template cuts as the training does."""

import json
import lzma
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from spec_engine.errors import TrainingError
from spec_engine.train.corpus import (
    DOC,
    END,
    NUM_MARKS,
    CorpusDocument,
    TokenizedCorpus,
    read_corpus,
    split_passages,
    tokenize_passages,
)

ODD_TEXTS = [
    "One. Two. Three.",
    'Dr. A. Smith met the U.S. Senate. He said "No." Then he left! Why? Nobody knew. (So it was.) Fine.',
    "\n\n  Indented first line.\n\tTabbed. Next\n\n\nLast",
    "no end at all",
    "a. b. C. dd. Ee.",
    "Ends with a space. ",
    "“Quoted.” “Again?” Yes.\n- item one. Two\n- item",
    "Über. Äpfel. 日本語。 次の文。 Ünder.",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_passages_join_to_the_text(text: str) -> None:
    lead, passages = split_passages(text)
    assert lead + "".join(passages) == text
    assert all(passage.strip() for passage in passages)


def test_sentences_are_cut_but_not_after_abbreviations() -> None:
    _, passages = split_passages('Dr. A. Smith met the U.S. Senate. He said "No." Then he left! Why? Nobody knew.')
    assert passages == [
        "Dr. A. Smith met the U.S. Senate.",
        ' He said "No."',
        " Then he left!",
        " Why?",
        " Nobody knew.",
    ]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_the_chat_template_marks_the_same_passages(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "Q?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    lead, passages = split_passages(text)
    body = lead + "".join(f"<|s{number % NUM_MARKS}|>{passage}" for number, passage in enumerate(passages))
    assert rendered == f"{DOC}{body}{END}<|user|>Q?{END}<|assistant|>"


def test_marks_start_again_after_the_last(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "\n".join(f"line {number}" for number in range(NUM_MARKS + 2))
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "Q?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered.count("<|s0|>") == rendered.count("<|s1|>") == 2


def test_marks_are_hidden_when_text_is_shown(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("<|s3|> The report.<|s4|> The U.S. Senate.", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == " The report. The U.S. Senate."


def test_tokens_of_passages_are_those_of_the_prompt(
    tokenizer: PreTrainedTokenizerFast, documents: list[CorpusDocument]
) -> None:
    text = documents[0].text
    messages = [{"role": "system", "content": text}, {"role": "user", "content": ""}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    first_mark = tokenizer.convert_tokens_to_ids("<|s0|>")
    own = [tokenizer.convert_tokens_to_ids(DOC)]
    for number, passage in enumerate(tokenize_passages(text, tokenizer.backend_tokenizer)):
        own += [first_mark + number, *passage.ids.tolist()]
    assert ids[: len(own)] == own


def test_one_document_in_twenty_is_held_out(corpus: TokenizedCorpus) -> None:
    assert (len(corpus.train), len(corpus.held_out)) == (39, 3)


def test_a_corpus_is_read_from_lines_text_and_folders(tmp_path: Path) -> None:
    rows = [{"title": "a", "licence": "CC0", "text": "Alpha."}, {"text": "Beta."}]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "one.jsonl").write_text(lines, "utf-8")
    (tmp_path / "two.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    (tmp_path / "three.txt").write_text("Gamma.", "utf-8")
    assert [document.text for document in read_corpus(tmp_path / "two.jsonl.xz")] == ["Alpha.", "Beta."]
    assert len(read_corpus(tmp_path)) == 5


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no text"):
        read_corpus(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"title": "no text"}', "utf-8")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_corpus(tmp_path)
