"""Whether the places that the model is said to have looked at are those that the answer came from.

Job: ask for passages whose place in the text is known, and count how often the most looked-at chunk, or one of three,
holds that passage.
Non-job: whether the answers are right (`quality`), speed (`run`).

The page shows these places, so this number says how far they may be trusted.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

from spec_engine.bench.tasks import as_document, cut_to_tokens, make_questions
from spec_engine.chat.session import Session
from spec_engine.engine import Engine
from spec_engine.events import ContextAttended

_NUM_BEST: Final = 3


@dataclass(frozen=True, slots=True)
class LooksRow:
    """Answers at one context length, in tokens, and how many had looked at their passage."""

    length: int
    num_questions: int = 0
    num_first: int = 0  # the most looked-at chunk touches the passage
    num_best: int = 0  # one of the three most looked-at does


def measure_looks(
    engine: Engine, texts: Sequence[str], lengths: Sequence[int], num_questions: int, tell: Callable[[str], None]
) -> list[LooksRow]:
    """Ask `num_questions` for quoted passages at each length; texts shorter than a length are left out there."""
    engine.telling_where_it_looks()
    rows = []
    for length in lengths:
        row = LooksRow(length)
        for number, text in enumerate(texts):
            part = cut_to_tokens(text, length, lambda words: len(engine.tokenizer.encode(words)))
            if part is None or row.num_questions >= num_questions:
                continue
            for question in islice(make_questions(part, "phrase", seed=number), 5):
                hits = _hits(engine, part, question.text, question.expected)
                row = LooksRow(
                    length,
                    row.num_questions + 1,
                    row.num_first + any(hits[:1]),
                    row.num_best + any(hits[:_NUM_BEST]),
                )
        if row.num_questions:
            rows.append(row)
            tell(f"{length}: {row.num_first} of {row.num_questions} first, {row.num_best} among the first {_NUM_BEST}")
    return rows


def _hits(engine: Engine, text: str, question: str, passage: str) -> list[bool]:
    """Of each chunk looked at, most looked-at first, whether it touches the passage."""
    instruction = engine.preset.instruction if engine.preset else ""
    session = Session(engine, as_document(text), context_length=engine.capacity, instruction=instruction)
    looks: Counter[int] = Counter()
    size = 1
    for event in session.ask(question, max_tokens=160):
        if isinstance(event, ContextAttended):
            looks.update(event.chunk_ids)
            size = event.chunk_size
    decode, prompt = engine.tokenizer.decode, session.last_prompt_token_ids
    start = decode(prompt).find(passage)
    spans = (
        (len(decode(prompt[: chunk * size])), len(decode(prompt[: (chunk + 1) * size])))
        for chunk, _ in looks.most_common(_NUM_BEST)
    )
    return [first < start + len(passage) and last > start for first, last in spans]


def looks_table(rows: Sequence[LooksRow]) -> str:
    """As Markdown."""
    lines = ["| context | passages | most looked at | among three |", "|---|---|---|---|"]
    lines += [
        f"| {row.length:,} tokens | {row.num_questions} | {row.num_first / row.num_questions:.0%} | "
        f"{row.num_best / row.num_questions:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


def looks_json(rows: Sequence[LooksRow]) -> str:
    """As JSON."""
    return json.dumps([asdict(row) for row in rows], indent=1)
