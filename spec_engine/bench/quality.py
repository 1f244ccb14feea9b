"""How often the answers are right: continued phrases, quoted passages, sentences found by scattered words.

Job: ask a preset's model questions with known answers and count.
Non-job: making the questions (tasks.py), speed (run.py).

``spec-engine bench --quality`` runs it. An answer continues a phrase rightly when the whole of it, white space aside,
is what follows the phrase in the document. It is a verbatim quote when all of it stands in the document, and holds
the right sentence when that sentence is part of it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

from spec_engine.bench.tasks import Question, QuestionKind, as_document, cut_to_tokens, make_questions
from spec_engine.chat.session import Session
from spec_engine.engine import Engine

KINDS: tuple[QuestionKind, ...] = ("continue", "phrase", "words")


@dataclass(frozen=True, slots=True)
class QualityRow:
    """Counts of one kind of question at one document length (tokens)."""

    kind: QuestionKind
    length: int
    num_questions: int = 0
    num_right: int = 0
    num_verbatim: int = 0
    mean_acceptance_length: float = 0.0

    @property
    def right_share(self) -> float:
        """Share of right answers."""
        return self.num_right / max(1, self.num_questions)

    @property
    def verbatim_share(self) -> float:
        """Share of answers that stand in the document word for word."""
        return self.num_verbatim / max(1, self.num_questions)


def quality_json(rows: Sequence[QualityRow]) -> str:
    """The rows with their shares written out."""
    table = [{**asdict(row), "right_share": row.right_share, "verbatim_share": row.verbatim_share} for row in rows]
    return json.dumps(table, indent=1)


def _plain(text: str) -> str:
    """Text with every run of white space as one space."""
    return " ".join(text.split())


def is_right(question: Question, answer: str) -> bool:
    """Whether the answer is what the question asks for."""
    given, expected = _plain(answer), _plain(question.expected)
    if question.kind == "continue":
        return len(given) >= 10 and expected.startswith(given[: len(expected)])
    return expected in given


def is_verbatim(document: str, answer: str) -> bool:
    """Whether the answer is a run of text of the document, at least three words long."""
    given = _plain(answer)
    return len(given.split()) >= 3 and given in _plain(document)


def measure_quality(
    engine: Engine,
    texts: Sequence[str],
    lengths: Sequence[int],
    num_questions: int,
    tell: Callable[[str], None],
    *,
    questions_per_text: int = 5,
) -> list[QualityRow]:
    """Ask `num_questions` of each kind at each length; texts shorter than a length are left out there."""
    rows: list[QualityRow] = []

    def count(text: str) -> int:
        return len(engine.tokenizer.encode(text))

    for length in lengths:
        by_kind = {kind: QualityRow(kind, length) for kind in KINDS}
        accepted = dict.fromkeys(KINDS, 0.0)
        for number, text in enumerate(texts):
            if all(row.num_questions >= num_questions for row in by_kind.values()):
                break
            part = cut_to_tokens(text, length, count)
            if part is None:
                continue
            for kind in KINDS:
                for question in islice(make_questions(part, kind, seed=number), questions_per_text):
                    answer, acceptance = _ask(engine, part, question.text)
                    row, accepted[kind] = by_kind[kind], accepted[kind] + acceptance
                    by_kind[kind] = replace(
                        row,
                        num_questions=row.num_questions + 1,
                        num_right=row.num_right + is_right(question, answer),
                        num_verbatim=row.num_verbatim + is_verbatim(part, answer),
                    )
        for kind, row in by_kind.items():
            if row.num_questions:
                rows.append(replace(row, mean_acceptance_length=accepted[kind] / row.num_questions))
                tell(f"{length} {kind}: {rows[-1].num_right} of {row.num_questions} right, {row.num_verbatim} verbatim")
    return rows


def _ask(engine: Engine, text: str, question: str) -> tuple[str, float]:
    instruction = engine.preset.instruction if engine.preset else ""
    session = Session(engine, as_document(text), context_length=engine.capacity, instruction=instruction)
    for _ in session.ask(question, max_tokens=160):
        pass
    finished = session.last_finished
    return (finished.text, finished.metrics.mean_acceptance_length) if finished else ("", 0.0)
