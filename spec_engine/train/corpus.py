"""Text for training: reading it, cutting it into marked passages, and the tokenizer made from it.

Job: corpus files in; a byte-level BPE tokenizer with passage marks and its chat template out; documents as passages of
token ids.
Non-job: tasks (objectives.py), the loop (loop.py).

A *passage* is a sentence or a line. The chat template of the built-in models puts a mark token, ``<|s0|>`` to
``<|s511|>`` in turn, before every passage of a document, and an answer that quotes a passage begins with its mark.
Marks are special tokens: they are dropped when text is shown. `split_passages` is the rule of the template in Python;
a test holds the two together.
"""

import json
import lzma
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spec_engine.errors import TrainingError

PAD, DOC, USER, ASSISTANT, END = "<pad>", "<|doc|>", "<|user|>", "<|assistant|>", "<|end|>"
CONTROLS = (PAD, DOC, USER, ASSISTANT, END)
NUM_MARKS = 512
ABBREVIATIONS = """Mr Mrs Ms Dr St No Nos Sec Rep Sen Gen Gov Lt Col Capt Sgt Inc Corp Co Ltd Jr Sr Fig Art pp Vol
    vs cf al ch Jan Feb Mar Apr Aug Sept Sep Oct Nov Dec approx est dept Dept Prof Rev Hon""".split()
HARD_STOPS = ("? ", "! ", '." ', ".” ", ".) ")  # end a sentence whatever stands before


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One text of the corpus, paragraphs separated by a blank line."""

    title: str
    licence: str
    text: str


def read_corpus(path: Path) -> list[CorpusDocument]:
    """Read JSON lines (``.jsonl``, also ``.xz``; keys text, title, licence), one text file, or a folder of them.

    Raises `TrainingError` when nothing is found or a row has no text.
    """
    if path.is_dir():
        files = sorted(file for suffix in ("*.txt", "*.md", "*.jsonl", "*.jsonl.xz") for file in path.rglob(suffix))
    else:
        files = [path]
    documents = [document for file in files for document in _read_file(file)]
    if not documents:
        raise TrainingError(f"{path} holds no text to train on. Give a .jsonl(.xz) file, a text file or a folder.")
    return documents


def _read_file(file: Path) -> Iterator[CorpusDocument]:
    try:
        if file.suffix == ".xz" or file.suffix == ".jsonl":
            text = lzma.decompress(file.read_bytes()).decode() if file.suffix == ".xz" else file.read_text("utf-8")
            for line in text.splitlines():
                row = json.loads(line)
                yield CorpusDocument(str(row.get("title", "")), str(row.get("licence", "")), str(row["text"]))
        else:
            yield CorpusDocument(file.name, "", file.read_text("utf-8"))
    except (OSError, KeyError, ValueError, lzma.LZMAError) as error:
        raise TrainingError(f"{file} cannot be read as training text: {error}. Check the file.") from error


def split_passages(text: str) -> tuple[str, list[str]]:
    """Text before the first passage, and the passages, each with the white space up to the next mark.

    The parts joined are `text`. A passage begins at every line that is not blank and after every sentence end inside
    one: a full stop, not after an abbreviation or an initial, or one of `HARD_STOPS`, with a capital, a digit or a
    quotation mark behind it.
    """
    lead, passages = "", [""]
    passages.clear()

    def glue(part: str) -> None:
        nonlocal lead
        if passages:
            passages[-1] += part
        else:
            lead += part

    for number, line in enumerate(text.split("\n")):
        if number:
            glue("\n")
        if not line.strip():
            glue(line)
            continue
        for stop in HARD_STOPS:
            line = line.replace(stop, stop[:-1] + "\x1f. ")
        parts = line.split(". ")
        passages.append("")
        for index, part in enumerate(parts):
            if index:
                before = parts[index - 1]
                is_hard = before.endswith("\x1f")
                if not is_hard:
                    glue(".")
                if (is_hard or _ends_sentence(before)) and _starts_sentence(part):
                    passages.append("")
                glue(" ")
            glue(part.removesuffix("\x1f"))
    return lead, passages


def _ends_sentence(part: str) -> bool:
    word = part.split(" ")[-1]
    return len(word) > 1 and "." not in word and word not in ABBREVIATIONS


def _starts_sentence(part: str) -> bool:
    first = part[:1]
    return first.isupper() or first.isdigit() or (first != "" and first in "\"'“‘([")


def chat_template() -> str:
    """The Jinja chat template: documents with a mark before every passage, then the turns.

    A document comes as transformers' ``documents`` argument (its ``text``) or as the content of a system message.
    """
    hard = "".join(f".replace({stop!r}, {(stop[:-1] + chr(31) + '. ')!r})" for stop in HARD_STOPS)
    abbreviations = "[" + ", ".join(repr(word) for word in ABBREVIATIONS) + "]"
    return f"""{{%- set ns = namespace(mark=0, new=true, word='') -%}}
{{%- macro passages(text) -%}}
{{%- for line in text.split('\\n') -%}}
{{%- if not loop.first -%}}{{{{ '\\n' }}}}{{%- endif -%}}
{{%- if not line.strip() -%}}{{{{ line }}}}
{{%- else -%}}
{{%- for part in line{hard}.split('. ') -%}}
{{%- set before = loop.previtem if not loop.first else '' -%}}
{{%- set hard = before.endswith('\\x1f') -%}}
{{%- if not loop.first and not hard -%}}{{{{ '.' }}}}{{%- endif -%}}
{{%- set word = before.split(' ')[-1] -%}}
{{%- set first = part[:1] -%}}
{{%- set ends = hard or (word|length > 1 and '.' not in word and word not in {abbreviations}) -%}}
{{%- set starts = first.isupper() or first.isdigit() or (first != '' and first in '"\\'“‘([') -%}}
{{%- if loop.first or (ends and starts) -%}}{{{{ '<|s' ~ ns.mark ~ '|>' }}}}
{{%- set ns.mark = (ns.mark + 1) % {NUM_MARKS} -%}}{{%- endif -%}}
{{%- if not loop.first -%}}{{{{ ' ' }}}}{{%- endif -%}}
{{{{ part[:-1] if part.endswith('\\x1f') else part }}}}
{{%- endfor -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- endmacro -%}}
{{%- for document in documents or [] -%}}{{{{ '{DOC}' }}}}{{{{ passages(document['text']) }}}}{{{{ '{END}' }}}}
{{%- endfor -%}}
{{%- for message in messages -%}}
{{%- if message['role'] == 'system' -%}}{{{{ '{DOC}' }}}}{{{{ passages(message['content']) }}}}{{{{ '{END}' }}}}
{{%- elif message['role'] == 'user' -%}}{{{{ '{USER}' ~ message['content'] ~ '{END}' }}}}
{{%- elif message['role'] == 'assistant' -%}}{{{{ '{ASSISTANT}' ~ message['content'] ~ '{END}' }}}}
{{%- else -%}}{{{{ raise_exception('Only system, user and assistant messages are known.') }}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{ '{ASSISTANT}' }}}}{{%- endif -%}}"""


def train_tokenizer(documents: Sequence[CorpusDocument], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a sample of `documents`; `vocab_size` counts the controls and the `NUM_MARKS` marks."""
    marks = [f"<|s{number}|>" for number in range(NUM_MARKS)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*CONTROLS, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = list(documents)
    random.Random(1).shuffle(sample)
    tokenizer.train_from_iterator((document.text[:60_000] for document in sample[:900]), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[DOC, USER, ASSISTANT, *marks],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template()
    return fast


@dataclass(frozen=True)
class Passage:
    """One passage in token ids. `num_words_ids` ids belong to its words, the rest is white space before the next."""

    text: str  # without the white space that follows
    ids: np.ndarray  # int32 [n], all of it
    num_body_ids: int  # ids of `text` alone
    starts_paragraph: bool


class TokenizedCorpus:
    """Documents as passages of token ids, split into a training and a held-out part (every twentieth document)."""

    def __init__(self, documents: Sequence[CorpusDocument], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.train: list[list[Passage]] = []
        self.held_out: list[list[Passage]] = []
        for number, document in enumerate(documents):
            passages = tokenize_passages(document.text, tokenizer)
            if passages:
                (self.held_out if number % 20 == 0 else self.train).append(passages)
        if not self.train or not self.held_out:
            raise TrainingError("The corpus needs at least 21 documents: one in twenty is held out. Add text.")

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of the training part, marks not counted."""
        return sum(len(passage.ids) for document in self.train for passage in document)


def tokenize_passages(text: str, tokenizer: Tokenizer) -> list[Passage]:
    """`text` as passages, white space before the first dropped."""
    _, pieces = split_passages(text)
    bodies = [piece.rstrip() for piece in pieces]
    whole = tokenizer.encode_batch(pieces, add_special_tokens=False)
    passages = []
    starts_paragraph = True
    for piece, body, encoding in zip(pieces, bodies, whole, strict=True):
        num_body = sum(1 for start, _ in encoding.offsets if start < len(body))
        passages.append(Passage(body, np.array(encoding.ids, np.int32), num_body, starts_paragraph))
        starts_paragraph = "\n\n" in piece[len(body) :]
    return passages
