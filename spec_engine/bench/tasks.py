"""What is asked in a measurement: real texts cut to a length, and questions with known answers.

Job: texts from a folder of GovReport files, from any text files or from the bundled report; questions made from their
sentences.
Non-job: running anything.

The questions here are made apart from the training tasks, with another sentence splitter, so that a mistake in one
does not hide in the other.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.errors import DocumentError, RequestError

QuestionKind = Literal["continue", "phrase", "words"]

_PROMPT_HEAD = re.compile(r"\A\s*Summarize the following text[^\n]*\n### Text:\n+")
_PROMPT_TAIL = re.compile(r"\n+### Summary:\s*\Z")
_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"”’)]))\s+(?=[A-Z0-9\"“(])")
_WORD = re.compile(r"[A-Za-z0-9][\w'’-]*")
_ABBREVIATED = re.compile(
    r"(?:\b[A-Z]|\b[A-Za-z]\.[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|St|No|Nos|Sec|Rep|Sen|Gen|Inc|Corp|Co|Ltd|Jr|Fig|vs|pp|Vol))\.\Z"
)
_COMMON = frozenset(
    """the a an of to in and for on at by with from that this which is are was were be been as it its or not have has
    had but his her their he she they we you i if so no do did does can will would should may might must than then
    there""".split()
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a text.

    `expected` is the text that must follow (continue) or the sentence that the answer must hold (phrase, words).
    """

    kind: QuestionKind
    text: str
    expected: str


def read_texts(path: Path) -> list[str]:
    """The texts of a measurement: rows of ``.jsonl`` files with a key ``text``, or ``.txt`` files, in name order.

    The summarising prompt around a GovReport text is dropped. Raises `DocumentError` when nothing is found.
    """
    files = sorted(path.glob("*.jsonl")) + sorted(path.glob("*.txt")) if path.is_dir() else [path]
    texts: list[str] = []
    for file in files:
        try:
            content = file.read_text("utf-8")
            rows = (
                [str(json.loads(line)["text"]) for line in content.splitlines()]
                if file.suffix == ".jsonl"
                else [content]
            )
        except (OSError, ValueError, KeyError) as error:
            raise DocumentError(
                f"{file} cannot be read as texts: {error}. Give .jsonl rows with 'text', or .txt."
            ) from error
        texts += [_PROMPT_TAIL.sub("", _PROMPT_HEAD.sub("", row)).strip() for row in rows]
    if not texts:
        raise DocumentError(f"{path} holds no .jsonl or .txt file. Name a folder with texts.")
    return texts


def bundled_text() -> Path:
    """The report that is shipped with the page as a sample."""
    return Path(__file__).resolve().parent.parent / "ui" / "sample"


def parse_lengths(spelling: str) -> list[int]:
    """``1024,2K,15000`` as numbers of tokens. Raises `RequestError` for anything else."""
    try:
        lengths = [int(part[:-1]) * 1024 if part.upper().endswith("K") else int(part) for part in spelling.split(",")]
    except ValueError:
        raise RequestError(
            f"'{spelling}' is no list of lengths. Write numbers of tokens, for example 1024,4K."
        ) from None
    if min(lengths) < 1:
        raise RequestError(f"Of the lengths '{spelling}' one is {min(lengths)}, but each is at least 1. Give others.")
    return lengths


def as_document(text: str) -> Document:
    """A text as a document of one block."""
    return Document("text", "text.txt", (Block(Anchor("section", "text", 0), text),))


def cut_to_tokens(text: str, num_tokens: int, count: Callable[[str], int]) -> str | None:
    """The longest run of whole sentences from the start with at most `num_tokens`; None if `text` is shorter."""
    if count(text) < num_tokens:
        return None
    ends = [found.start() for found in _SENTENCE_END.finditer(text)]
    low, high = 0, len(ends) - 1
    while low < high:  # the last end whose text still fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text[: ends[middle]]) <= num_tokens else (low, middle - 1)
    return text[: ends[low]] if ends else None


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; not split after initials and common abbreviations."""
    parts: list[str] = []
    for paragraph in re.split(r"\n+", text):
        start = 0
        for found in _SENTENCE_END.finditer(paragraph):
            if not _ABBREVIATED.search(paragraph[start : found.start()]):
                parts.append(paragraph[start : found.start()])
                start = found.end()
        parts.append(paragraph[start:])
    return [part.strip() for part in parts if part.strip()]


def make_questions(text: str, kind: QuestionKind, seed: int = 0) -> Iterator[Question]:
    """Endless questions of one kind about a text, from sentences all over it; fewer when the text has none that fit."""
    dice = random.Random(f"{seed}-{kind}")
    candidates = [sentence for sentence in sentences(text) if 8 <= len(sentence.split()) <= 50]
    lowered = text.lower()
    misses = 0
    while candidates and misses < 500:
        question = _make(text, lowered, dice.choice(candidates), kind, dice)
        misses = misses + 1 if question is None else 0
        if question is not None:
            yield question


def _make(text: str, lowered: str, sentence: str, kind: QuestionKind, dice: random.Random) -> Question | None:
    words = list(_WORD.finditer(sentence))
    if kind == "words":
        content = list(
            {
                w.group().lower(): w.group() for w in words if w.group().lower() not in _COMMON and len(w.group()) > 3
            }.values()
        )
        if len(content) < 3:
            return None
        chosen = dice.sample(content, 3)
        holders = [other for other in sentences(text) if all(word.lower() in other.lower() for word in chosen)]
        if len(holders) != 1:
            return None
        return Question(kind, f"Which sentence mentions {chosen[0]}, {chosen[1]} and {chosen[2]}?", sentence)
    low, high = (4, 8) if kind == "continue" else (2, 4)
    count = dice.randint(low, high)
    if len(words) < count + 1:
        return None
    first = dice.randrange(len(words) - count)
    phrase = sentence[words[first].start() : words[first + count - 1].end()]
    if lowered.count(phrase.lower()) != 1 or all(word.lower() in _COMMON for word in phrase.split()):
        return None
    if kind == "phrase":
        return Question(kind, f'What does the document say about "{phrase}"?', sentence)
    return Question(kind, f'Continue the text after "{phrase}"', text[text.index(phrase) + len(phrase) :][:400])
