"""Quoting tasks: every alignment points at the token it claims, and answers are what the document says."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from spec_engine.train.corpus import ASSISTANT, END, NUM_MARKS, TokenizedCorpus
from spec_engine.train.objectives import DOC_LABEL, FIRST_WEIGHT, QuoteTasks


@pytest.mark.parametrize("kind", ["phrase", "words", "continue", "outline", None])
def test_every_source_holds_the_copied_token(corpus: TokenizedCorpus, kind: str | None) -> None:
    tasks = QuoteTasks(corpus, seed=1)
    num_copied = 0
    for _ in range(12):
        row = tasks.row(512, kind)
        assert len(row.ids) == len(row.weight) == len(row.source) == len(row.match) <= 512
        for position, source in enumerate(row.source):
            if source >= 0:
                assert source < position
                assert row.ids[source] == row.ids[position]
                num_copied += 1
    assert num_copied > 100


def test_answers_stand_in_the_document_word_for_word(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    tasks = QuoteTasks(corpus, seed=2, permuted_share=0.0)
    row = tasks.row(700, "phrase")
    text = tokenizer.decode(row.ids, skip_special_tokens=False)
    document, _, conversation = text.partition(END)
    answers = [part.partition(ASSISTANT)[2] for part in conversation.split(END) if ASSISTANT in part]
    assert len(answers) >= 2
    assert all(answer in document for answer in answers)


def test_matches_point_at_the_words_of_the_question(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    tasks = QuoteTasks(corpus, seed=3, permuted_share=0.0)
    same = total = 0
    for _ in range(20):
        row = tasks.row(512, "words")
        for position, match in enumerate(row.match):
            if match >= 0:
                total += 1
                asked, found = (tokenizer.decode([row.ids[index]]).strip().lower() for index in (position, match))
                same += asked == found
    assert total > 50
    assert same / total > 0.8  # a word may be cut otherwise where no space stands before it


def test_marks_and_gathered_words_are_where_they_are_said_to_be(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    row = QuoteTasks(corpus, seed=7).row(700, "phrase")
    first_mark = tokenizer.convert_tokens_to_ids("<|s0|>")
    assert all(first_mark <= row.ids[mark] < first_mark + NUM_MARKS for mark in row.mark if mark >= 0)
    assert sum(mark >= 0 for mark in row.mark) > 300
    assert row.gather
    assistant = tokenizer.convert_tokens_to_ids(ASSISTANT)
    assert all(row.ids[begin] == assistant and row.match[word] >= 0 and word < begin for begin, word in row.gather)


def test_a_permuted_row_can_only_be_copied(corpus: TokenizedCorpus) -> None:
    row = QuoteTasks(corpus, seed=4, permuted_share=1.0).row(512)
    assert any(source >= 0 for source in row.source)
    assert all(row.ids[source] == row.ids[position] for position, source in enumerate(row.source) if source >= 0)


def test_a_batch_is_padded_and_weighted(corpus: TokenizedCorpus) -> None:
    batch = QuoteTasks(corpus, seed=5).batch(256, 4)
    assert batch["ids"].shape == batch["weight"].shape == (4, 256)
    assert set(np.unique(batch["weight"])) <= {0.0, 1.0, FIRST_WEIGHT, DOC_LABEL}
    assert (batch["source"][batch["weight"] == FIRST_WEIGHT] >= -1).all()


def test_the_same_seed_gives_the_same_rows(corpus: TokenizedCorpus) -> None:
    first, second = (QuoteTasks(corpus, seed=6).batch(256, 2) for _ in range(2))
    assert all(np.array_equal(first[key], second[key]) for key in first)
