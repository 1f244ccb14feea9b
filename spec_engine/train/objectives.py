"""Quoting tasks made on the fly from plain text, with the source position of every copied token.

Job: a document in marked passages followed by questions and answers, as one row of token ids, with loss weights and
with the alignments that attention is guided by: where a token is copied from, where a word of the question stands in
the document, where the mark of a passage stands, and which words of the question an answer begins from.
Non-job: the loss itself (loop.py).
Kinds of question: a phrase of a sentence, scattered words of a sentence, a phrase to continue, an outline.
An answer begins with the mark of its passage, also where it goes on from a phrase inside it. It ends with the passage,
or with the next one when it would be a few tokens short.
"""

import random
import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from spec_engine.errors import TrainingError
from spec_engine.train.corpus import ASSISTANT, CONTROLS, DOC, END, NUM_MARKS, USER, Passage, TokenizedCorpus
from spec_engine.train.rows import Placed, Row
from spec_engine.train.wording import ASK_CONTINUE, ASK_OUTLINE, ASK_PHRASE, ASK_WORDS, STOP_WORDS

WORD = re.compile(r"[A-Za-z0-9][\w'’-]*")
DRILL_TOKENS = 6  # of an answer in a drill row, whose end is not learned: many questions about one document
KINDS = {"phrase": 0.42, "words": 0.26, "continue": 0.26, "outline": 0.06}  # shares of the questions
MIXED_PASSAGES = 0.3  # of the passages of a mixed row, crossed with one of the `NEAR` before them
NEAR = 16
SHORT_TOKENS = 8  # an answer below this goes on with the next passage
COMMON_SHARE = 0.3  # of the phrases that hold nothing but common words, the ones that are asked about
FIRST_SHARE = 0.05  # of the questions, about the very first passage: attention rests at the beginning of a row
FIRST_WEIGHT = 4.0  # loss weight of the tokens that decide which passage is quoted
DOC_LABEL = -1.0  # marks document text, whose weight the loop chooses


class QuoteTasks:
    """Draws rows from the training or the held-out part of a corpus. Deterministic for a seed."""

    def __init__(
        self,
        corpus: TokenizedCorpus,
        split: str = "train",
        seed: int = 0,
        permuted_share: float = 0.2,
        drill_share: float = 0.5,
        mixed_share: float = 0.4,
    ) -> None:
        self._documents = corpus.train if split == "train" else corpus.held_out
        self._tokenizer: Tokenizer = corpus.tokenizer
        sizes = np.array([sum(len(passage.ids) for passage in document) for document in self._documents], float)
        self._share = np.minimum(sizes, 60_000) / np.minimum(sizes, 60_000).sum()
        self._random = random.Random(seed)
        self._numpy = np.random.default_rng(seed)
        self._permuted_share, self._drill_share, self._mixed_share = permuted_share, drill_share, mixed_share
        self._control = {name: _id_of(self._tokenizer, name) for name in CONTROLS}
        self._first_mark = _id_of(self._tokenizer, "<|s0|>")
        self._newlines = self._encode("\n\n")
        self._bullets = (self._encode("- "), self._encode("\n- "))
        self._num_fixed = self._first_mark + NUM_MARKS + 256  # controls, marks and single bytes keep their ids

    def batch(self, length: int, num_rows: int, only: str | None = None) -> dict[str, np.ndarray]:
        """Arrays [num_rows, length]: ids, source, match, mark int64, weight float32; gather int64 [num_rows, n, 2].

        Padded with zeros where ids and weights are, else with -1.
        """
        rows = [self.row(length, only) for _ in range(num_rows)]
        arrays: dict[str, np.ndarray] = {"weight": np.zeros((num_rows, length), np.float32)}
        arrays |= {name: np.full((num_rows, length), -1, np.int64) for name in ("source", "match", "mark")}
        arrays["ids"] = np.zeros((num_rows, length), np.int64)
        arrays["gather"] = np.full((num_rows, max(32, length // 16), 2), -1, np.int64)
        for number, row in enumerate(rows):
            for name, array in arrays.items():
                values = getattr(row, name)[: array.shape[1]]
                if values:
                    array[number, : len(values)] = values
        return arrays

    def row(self, length: int, only: str | None = None) -> Row:
        """A document and as many questions with answers as fit `length` tokens; `only` one kind of question."""
        row = Row()
        share = self._random.uniform(0.35, 0.65) if length <= 2048 else self._random.uniform(0.6, 0.8)
        placed = self._place_document(row, int(length * share))
        is_permuted = self._random.random() < self._permuted_share and only is None
        is_drill = self._random.random() < self._drill_share and only is None
        if is_permuted:
            self._permute(row, placed)
        text = " ".join(item.passage.text for item in placed).lower()
        misses = 0
        while placed and misses < 30:
            kind = only or self._random.choices(tuple(KINDS), tuple(KINDS.values()))[0]
            asked = self._ask(kind, placed, text, is_permuted)
            if asked is None:
                misses += 1
                continue
            question, match, answer, source = asked
            if is_drill:
                answer, source = answer[:DRILL_TOKENS], source[:DRILL_TOKENS]
            if len(row.ids) + len(question) + len(answer) + 4 > length:
                misses += 10
                continue
            row.add([self._control[USER]])
            start = len(row.ids)
            row.add(question)
            for offset, position in match:
                row.match[start + offset] = position
            row.add([self._control[END], self._control[ASSISTANT]])
            row.gather += [(len(row.ids) - 1 + late, start + offset) for late, offset in gathered(kind, match)]
            row.add(answer, 1.0, source)
            row.set_marks(len(row.ids) - len(answer), self._first_mark)
            for offset in range(min(2, len(answer))):
                row.weight[len(row.ids) - len(answer) + offset] = FIRST_WEIGHT
            row.add([self._control[END]], 0.0 if is_drill else 1.0)
        return row

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _place_document(self, row: Row, num_tokens: int) -> list[Placed]:
        """Write passages from a random place of a random document, and of more documents while there is room."""
        placed: list[Placed] = []
        mark = self._random.randrange(NUM_MARKS)
        order = list(self._numpy.permutation(NUM_MARKS)) if self._random.random() < 0.5 else list(range(NUM_MARKS))
        is_mixed = self._random.random() < self._mixed_share
        row.add([self._control[DOC]])
        while len(row.ids) < num_tokens:
            document = self._documents[self._numpy.choice(len(self._documents), p=self._share)]
            first = self._random.randrange(len(document))
            if placed:
                row.add(self._newlines)
            for passage in document[first:]:
                if is_mixed and placed and self._random.random() < MIXED_PASSAGES:
                    passage = self._crossed(self._random.choice(placed[-NEAR:]).passage, passage)
                ids = [self._first_mark + int(order[mark % NUM_MARKS]), *passage.ids.tolist()]
                if len(row.ids) + len(ids) > num_tokens + 16:
                    break
                placed.append(Placed(passage, ids, len(row.ids), len(row.ids) + len(ids)))
                row.add(ids, DOC_LABEL)
                mark += 1
            else:
                continue
            break
        row.set_marks(0, self._first_mark)
        row.add([self._control[END]])
        return placed

    def _crossed(self, earlier: Passage, passage: Passage) -> Passage:
        """The beginning of one and the end of the other, joined at a token that both have; `passage` if none fits.

        Two passages that begin or end alike can be told apart by their marks alone: without such rows copying leans on
        the last few tokens, and goes astray where they stand in the document twice.
        """
        head, tail = (earlier, passage) if self._random.random() < 0.5 else (passage, earlier)
        left, right = head.ids[: head.num_body_ids].tolist(), tail.ids[: tail.num_body_ids].tolist()
        shared = sorted({token_id for token_id in left[2:-2] if token_id >= self._num_fixed}.intersection(right[2:-2]))
        if not shared:
            return passage
        joint = self._random.choice(shared)
        text = self._tokenizer.decode(left[: left.index(joint, 2) + 1] + right[right.index(joint, 2) + 1 :])
        body = self._encode(text)
        if not 8 <= len(body) <= 120:
            return passage
        ids = np.array(body + passage.ids[passage.num_body_ids :].tolist(), np.int32)
        return Passage(text, ids, len(body), passage.starts_paragraph)

    def _permute(self, row: Row, placed: list[Placed]) -> None:
        """Replace a share of the vocabulary throughout the document: only copying can explain the answers then."""
        table = np.arange(self._tokenizer.get_vocab_size())
        moved = np.flatnonzero(self._numpy.random(len(table)) < 0.4)
        moved = moved[moved >= self._num_fixed]
        table[moved] = self._numpy.permutation(moved)
        for number, item in enumerate(placed):
            ids = table[item.ids].tolist()
            row.ids[item.start : item.stop] = ids
            placed[number] = Placed(item.passage, ids, item.start, item.stop)

    def _ask(
        self, kind: str, placed: list[Placed], text: str, is_permuted: bool
    ) -> tuple[list[int], list[tuple[int, int]], list[int], list[int]] | None:
        """Question ids, matches (offset in the question, position), answer ids and their sources; None: try again."""
        number = 0 if self._random.random() < FIRST_SHARE else self._random.randrange(len(placed))
        if kind == "outline":
            return self._outline(placed)
        if kind == "continue":
            return self._continue(placed, number, text, is_permuted)
        if is_permuted:
            asked = self._permuted_phrase(placed[number])
        else:
            asked = self._phrase(placed[number], text) if kind == "phrase" else self._words(placed, number)
        return None if asked is None else (*asked, *self._quote(placed, number))

    def _quote(self, placed: list[Placed], number: int) -> tuple[list[int], list[int]]:
        """The passage, and the next one of the same paragraph; with marks."""
        ids = placed[number].ids[: placed[number].passage.num_body_ids + 1]
        source = list(range(placed[number].start, placed[number].start + len(ids)))
        if number + 1 < len(placed) and not placed[number + 1].passage.starts_paragraph and len(ids) < SHORT_TOKENS:
            more, where = placed[number + 1].body()
            if placed[number + 1].start == placed[number].start + 1 + len(placed[number].passage.ids):
                gap = list(range(source[-1] + 1, placed[number + 1].start))
                ids = ids + placed[number].ids[len(ids) :] + more
                source = source + gap + where
        return ids, source

    def _phrase(self, item: Placed, text: str) -> tuple[list[int], list[tuple[int, int]]] | None:
        """A run of 2 to 5 words that stands once in the document."""
        run = self._run(item, text, self._random.choice((1, 2, 2, 3, 3, 4, 4, 5)), 0)
        is_common = all(word.group().lower() in STOP_WORDS for word in run)
        if not run or (is_common and self._random.random() > COMMON_SHARE):
            return None
        phrase = item.passage.text[run[0].start() : run[-1].end()]
        return self._worded(self._random.choice(ASK_PHRASE), phrase, item, run, run[0].start())

    def _run(self, item: Placed, text: str, count: int, num_after: int) -> list[re.Match[str]]:
        """`count` words in a row that stand once in `text`, `num_after` words behind them; [] when there are none."""
        words = list(WORD.finditer(item.passage.text))
        if len(words) < count + num_after:
            return []
        first = self._random.randrange(len(words) - count - num_after + 1)
        run = words[first : first + count]
        return run if text.count(item.passage.text[run[0].start() : run[-1].end()].lower()) == 1 else []

    def _words(self, placed: list[Placed], number: int) -> tuple[list[int], list[tuple[int, int]]] | None:
        """Scattered words that no other passage holds together."""
        item = placed[number]
        words = [found for found in WORD.finditer(item.passage.text) if found.group().lower() not in STOP_WORDS]
        words = list({found.group().lower(): found for found in words if len(found.group()) > 2}.values())
        count = self._random.choice((2, 3, 3, 3, 4))
        if len(words) < count:
            return None
        chosen = self._random.sample(words, count)
        if self._random.random() < 0.7:
            chosen.sort(key=lambda found: found.start())
        keys = [found.group().lower() for found in chosen]
        others = (other.passage.text.lower() for index, other in enumerate(placed) if index != number)
        if any(all(key in other for key in keys) for other in others):
            return None
        joint = self._random.choice((" ", ", ", ", ", " and "))
        listed = joint.join(found.group() for found in chosen)
        if joint == ", " and self._random.random() < 0.5:
            listed = ", ".join(found.group() for found in chosen[:-1]) + " and " + chosen[-1].group()
        return self._worded(self._random.choice(ASK_WORDS), listed, item, chosen, None)

    def _worded(
        self, template: str, key: str, item: Placed, words: list[re.Match[str]], start: int | None
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Put `key` into `template`, sometimes in lower case, and align its words with those of the passage.

        `start` is where `key` begins in the passage; None when its words are scattered.
        """
        shown = key.lower() if self._random.random() < 0.25 else key
        question = self._tokenizer.encode(template.format(k=shown), add_special_tokens=False)
        passage = self._tokenizer.encode(item.passage.text, add_special_tokens=False)
        base = template.index("{k}")
        match: list[tuple[int, int]] = []
        cursor = 0
        for word in words:
            if start is None:
                cursor = key.index(word.group(), cursor)
                where = base + cursor
                cursor += len(word.group())
            else:
                where = base + word.start() - start
            asked = _covering(question.offsets, where, where + len(word.group()))
            found = _covering(passage.offsets, word.start(), word.end())
            for back in range(1, min(len(asked), len(found)) + 1):
                match.append((asked[-back], item.start + 1 + found[-back]))
        return list(question.ids), match

    def _permuted_phrase(self, item: Placed) -> tuple[list[int], list[tuple[int, int]]] | None:
        """The same with tokens instead of words."""
        count, size = self._random.randint(2, 6), item.passage.num_body_ids
        if size < count + 2:
            return None
        first = self._random.randrange(1, size - count + 1)
        before, after = self._random.choice(ASK_PHRASE).split("{k}")
        lead = self._encode(before.rstrip(" "))
        ids = lead + item.ids[first + 1 : first + 1 + count] + self._encode(after)
        return ids, [(len(lead) + index, item.start + 1 + first + index) for index in range(count)]

    def _continue(
        self, placed: list[Placed], number: int, text: str, is_permuted: bool
    ) -> tuple[list[int], list[tuple[int, int]], list[int], list[int]] | None:
        """A phrase of 4 to 8 words that stands once; the answer: its mark, the rest of the passage, more if short."""
        item = placed[number]
        if is_permuted:
            count, size = self._random.randint(4, 9), item.passage.num_body_ids
            if size < count + 4:
                return None
            first = self._random.randrange(0, size - count - 2)
            before, after = self._random.choice(ASK_CONTINUE).split("{k}")
            lead = self._encode(before.rstrip(" "))
            question = lead + item.ids[first + 1 : first + 1 + count] + self._encode(after)
            match = [(len(lead) + index, item.start + 1 + first + index) for index in range(count)]
            last = first + count
        else:
            run = self._run(item, text, self._random.randint(4, 8), 2)
            if not run:
                return None
            phrase = item.passage.text[run[0].start() : run[-1].end()]
            question, match = self._worded(self._random.choice(ASK_CONTINUE), phrase, item, run, run[0].start())
            last = max(position for _, position in match) - item.start if match else 0
        if not match:
            return None
        answer, source = item.ids[last + 1 :], list(range(item.start + last + 1, item.stop))
        if number + 1 < len(placed) and placed[number + 1].start == item.stop and len(answer) < SHORT_TOKENS:
            more, where = placed[number + 1].body()
            answer, source = answer + more, source + where
        else:
            extra = len(item.passage.ids) - item.passage.num_body_ids
            answer, source = (answer[:-extra], source[:-extra]) if extra else (answer, source)
        return question, match, [item.ids[0], *answer[:200]], [item.start, *source[:200]]

    def _outline(self, placed: list[Placed]) -> tuple[list[int], list[tuple[int, int]], list[int], list[int]] | None:
        """First passages of the first paragraphs, or the first passages where there are fewer than 3."""
        heads = [item for item in placed if item.passage.starts_paragraph and item.passage.num_body_ids > 5]
        heads = (heads if len(heads) >= 3 else placed)[:5]
        answer: list[int] = []
        source: list[int] = []
        for index, item in enumerate(heads):
            bullet = self._bullets[index > 0]
            ids, where = item.body()
            answer += [*bullet, *ids]
            source += [-1] * len(bullet) + where
        if len(answer) > 400:
            return None
        return self._encode(self._random.choice(ASK_OUTLINE)), [], answer, source


def gathered(kind: str, match: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(token of the answer before whose prediction to look, offset in the question) of the words an answer rests on.

    All of scattered words; of a phrase its last two tokens, which alone have seen the rest of it; and once more, behind
    the mark, the end of a phrase that the answer goes on from.
    """
    offsets = sorted(offset for offset, _ in match)
    pairs = [(0, offset) for offset in (offsets if kind == "words" else offsets[-2:])]
    return pairs + [(1, offset) for offset in offsets[-1:] if kind == "continue"]


def _covering(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> list[int]:
    """Indices of the tokens that overlap the characters from `start` to `stop`."""
    return [index for index, (low, high) in enumerate(offsets) if low < stop and high > start]


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the tokenizer must have."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise TrainingError(f"The tokenizer has no token {token}. Train it with: spec-engine train tokenizer.")
    return int(token_id)
