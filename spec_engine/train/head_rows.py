"""Rows of tokens that a draft head learns to continue.

Job: token rows with weights, from any text, or from the quoting tasks where the target is the built-in one; the
tokens that are most frequent in them.
Non-job: the tasks (objectives.py), what is learned (the head's own file).
"""

from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from spec_engine.errors import TrainingError
from spec_engine.train.corpus import CONTROLS, CorpusDocument, TokenizedCorpus
from spec_engine.train.objectives import QuoteTasks

_COUNTED_TOKENS = 1 << 18  # for the frequencies of tokens
TEXT_WEIGHT = 0.1  # of a document's own tokens against those of answers, where there are answers
_HELD_OUT = 20  # every so many documents one is held out


class HeadRows(Protocol):
    """Draws rows. Deterministic for a seed."""

    def batch(self, length: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """ids int64 and weight float32, both [num_rows, length]; ``weight[:, t]`` belongs to the prediction of t."""


class QuoteRows:
    """Documents with questions and answers in the built-in target's own format."""

    def __init__(self, tasks: QuoteTasks) -> None:
        self._tasks = tasks

    def batch(self, length: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """See `HeadRows`."""
        arrays = self._tasks.batch(length, num_rows)
        given = arrays["weight"]
        return arrays["ids"], np.where(given > 0, 1.0, np.where(given < 0, TEXT_WEIGHT, 0.0)).astype(np.float32)


class TextRows:
    """Pieces of documents, each row from one of them where it is long enough."""

    def __init__(self, documents: list[np.ndarray], seed: int) -> None:
        self._text = np.concatenate(documents)
        self._generator = np.random.default_rng(seed)

    def batch(self, length: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """See `HeadRows`. Raises `TrainingError` when all text together is shorter than a row."""
        if len(self._text) < length:
            raise TrainingError(
                f"The text has {len(self._text):,} tokens, a row of this stage {length:,}. Give more text, or use "
                "shorter rows."
            )
        starts = self._generator.integers(0, len(self._text) - length + 1, num_rows)
        ids = np.stack([self._text[start : start + length] for start in starts]).astype(np.int64)
        return ids, np.ones(ids.shape, np.float32)


def head_rows(documents: list[CorpusDocument], tokenizer: PreTrainedTokenizerBase) -> tuple[HeadRows, HeadRows]:
    """Rows for training and held-out ones: quoting tasks for a tokenizer with passage marks, else plain text.

    Raises `TrainingError` for less than two documents.
    """
    vocabulary = tokenizer.get_vocab()
    if all(control in vocabulary for control in (*CONTROLS, "<|s0|>")):
        corpus = TokenizedCorpus(documents, tokenizer.backend_tokenizer)
        train = QuoteTasks(corpus, "train", drill_share=0.0)
        return QuoteRows(train), QuoteRows(QuoteTasks(corpus, "held_out", seed=9, drill_share=0.0))
    if len(documents) < 2:
        raise TrainingError("The corpus needs two documents at least: one is held out. Split the text, or add some.")
    ids = [np.array(tokenizer.encode(document.text, add_special_tokens=False), np.int32) for document in documents]
    held_out = ids[::_HELD_OUT]
    return TextRows([row for number, row in enumerate(ids) if number % _HELD_OUT], 0), TextRows(held_out, 9)


def frequent_tokens(rows: HeadRows, size: int, vocab_size: int, length: int) -> np.ndarray:
    """The `size` token ids below `vocab_size` that weigh most in a sample of rows of `length`: int64, ascending."""
    counts = np.zeros(vocab_size)
    num_rows = 8
    for _ in range(max(1, _COUNTED_TOKENS // (num_rows * length))):
        ids, weights = rows.batch(length, num_rows)
        counts += np.bincount(ids.ravel(), weights.ravel(), vocab_size)
    return np.sort(np.argsort(-counts, kind="stable")[:size]).astype(np.int64)
