"""Speed by context length: every way of decoding on the same questions, one after another, warm.

Job: interleave the methods question by question on one machine, sum tokens and decode seconds, compare token ids.
Non-job: printing and tables (report.py).

The prompt is read once per document; a method that comes later finds the target's cache filled, so what is timed is
decoding alone. Prefill speed is taken from the first, unfilled reading.
"""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from spec_engine.bench.peers import PeerRun, Peers
from spec_engine.bench.tasks import QuestionKind, as_document, cut_to_tokens, make_questions
from spec_engine.chat.prompt import build
from spec_engine.config import DrafterKind
from spec_engine.engine import Engine, Request, StopRules
from spec_engine.errors import DocumentError, RequestError
from spec_engine.events import Finished
from spec_engine.sampling import SamplingParams

PLAIN: DrafterKind = "none"
Work = Literal["quote", "continue", "outline", "free"]
FREE_TEMPERATURE = 2.0  # of free text: what is drawn then follows from no document
_OUTLINES = ("Give an outline of the document.", "What are the main points of the document?")


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured. Lengths in tokens of document."""

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 15000)
    num_texts: int = 3
    questions_per_text: int = 4  # of each kind of work in turn
    max_tokens: int = 128
    ask: str | None = None  # this question instead
    temperature: float = 0.0  # of all but free text
    works: tuple[Work, ...] = get_args(Work)
    turns: int = 1  # so many times each answer, by all methods in turn


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One method at one length and one kind of work, or several, summed over all questions."""

    length: int
    method: str
    work: Work | None = None  # None: of several kinds
    num_tokens: int = 0
    decode_s: float = 0.0
    num_steps: int = 0
    num_accepted: int = 0
    num_drafted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    num_answers: int = 0
    sample_s: float = 0.0  # of `verify_s`, choosing tokens
    other_s: float = 0.0  # retrieval and bookkeeping
    num_identical: int = 0  # answers with the same token ids as plain decoding

    @property
    def tokens_per_second(self) -> float:
        """Decoding alone."""
        return self.num_tokens / self.decode_s if self.decode_s else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per target pass, the bonus token included; 0 where passes are not known."""
        return 1 + self.num_accepted / self.num_steps if self.num_steps else 0.0


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All rows, and what is needed to repeat them."""

    preset: str
    date: str
    hardware: str
    versions: dict[str, str]
    plan: BenchPlan
    rows: tuple[BenchRow, ...]
    command: str = ""

    def to_json(self) -> str:
        """JSON with the derived figures written out."""
        table = asdict(self)
        for row, values in zip(self.rows, table["rows"], strict=True):
            values["tokens_per_second"] = round(row.tokens_per_second, 2)
            values["mean_acceptance_length"] = round(row.mean_acceptance_length, 3)
            values["speed_up"] = round(self.speed_up(row), 3)
        return json.dumps(table, indent=1)

    def speed_up(self, row: BenchRow) -> float:
        """Against plain decoding of this engine on the same questions, in the same run."""
        alike = (other for other in self.rows if (other.length, other.work) == (row.length, row.work))
        return speed_up(row, next((other for other in alike if other.method == PLAIN), None))

    def by_length(self) -> list[BenchRow]:
        """All work that has to do with the document summed by length and method; free text only if that is all."""
        return summed(_of_document(self.rows), lambda row: (row.length, row.method))

    def by_work(self) -> list[BenchRow]:
        """All lengths, summed by kind of work and method; `length` is 0."""
        rows = [replace(row, length=0) for row in self.rows if row.work is not None]
        return summed(rows, lambda row: (row.work, row.method))

    @staticmethod
    def load(path: Path) -> "BenchReport":
        """Read back what `to_json` wrote."""
        table = json.loads(path.read_text("utf-8"))
        names = set(BenchRow.__dataclass_fields__)
        rows = tuple(BenchRow(**{key: value for key, value in row.items() if key in names}) for row in table["rows"])
        given = {key: tuple(item) if isinstance(item, list) else item for key, item in table["plan"].items()}
        plan = BenchPlan(**cast("dict[str, Any]", given))
        return BenchReport(
            table["preset"], table["date"], table["hardware"], table["versions"], plan, rows, table["command"]
        )


def speed_up(row: BenchRow, plain: BenchRow | None) -> float:
    """How many times faster than `plain`; 0 where it was not timed."""
    return row.tokens_per_second / plain.tokens_per_second if plain and plain.tokens_per_second else 0.0


_COUNTED = (
    "num_tokens", "decode_s", "num_steps", "num_accepted", "num_drafted", "draft_s", "verify_s", "prefill_tokens",
    "prefill_s", "num_answers", "num_identical", "sample_s", "other_s",
)  # fmt: skip


def _plus(left: BenchRow, right: BenchRow) -> BenchRow:
    """All that is counted, together."""
    return replace(left, **{name: getattr(left, name) + getattr(right, name) for name in _COUNTED})


def _of_document(rows: Sequence[BenchRow]) -> Sequence[BenchRow]:
    """Without free text, which has nothing to do with a document; with it if that is all."""
    return [row for row in rows if row.work != "free"] or rows


def summed(rows: Sequence[BenchRow], key: Callable[[BenchRow], object]) -> list[BenchRow]:
    """Rows with the same key as one, in the order of their first."""
    sums: dict[object, BenchRow] = {}
    for row in rows:
        sums[key(row)] = _plus(sums[key(row)], row) if key(row) in sums else row
    kinds: dict[object, set[Work | None]] = {}
    for row in rows:
        kinds.setdefault(key(row), set()).add(row.work)
    return [row if len(kinds[found]) == 1 else replace(row, work=None) for found, row in sums.items()]


@dataclass(slots=True)
class BenchCase:
    """One question about one text."""

    prompt: tuple[int, ...]
    work: Work = "quote"
    sampling: SamplingParams = field(default_factory=SamplingParams)


def hardware() -> str:
    """The device that computes, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return f"{cpu}, {torch.get_num_threads()} threads"


def run_bench(
    engines: dict[str, Engine], peers: Peers, texts: Sequence[str], plan: BenchPlan, tell: Callable[[str], None]
) -> BenchReport:
    """Measure every engine and every peer at every length.

    `engines` share one target and hold ``none``. Raises `DocumentError` when no text is long enough for any length.
    """
    plain = engines[PLAIN]
    rows: list[BenchRow] = []
    for length in plan.lengths:
        measured: list[BenchRow] = []
        for cases in islice(bench_cases(plain, texts, length, plan), plan.num_texts):
            measured += _measure_text(engines, peers, cases, plan)
        found = [replace(row, length=length) for row in measured]
        rows += summed(found, lambda row: (row.method, row.work))
        totals = summed(_of_document(found), lambda row: row.method)
        speeds = ", ".join(f"{row.method} {row.tokens_per_second:.0f}" for row in totals)
        tell(f"{length} tokens: {speeds} tokens/s" if totals else f"{length} tokens: no text is so long, left out")
    if not rows:
        raise DocumentError(f"No text has {min(plan.lengths)} tokens. Give longer texts or a smaller --lengths.")
    preset = plain.preset.name if plain.preset else "by hand"
    versions = {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()}
    return BenchReport(preset, datetime.now(UTC).date().isoformat(), hardware(), versions, plan, tuple(rows))


def bench_cases(engine: Engine, texts: Sequence[str], length: int, plan: BenchPlan) -> Iterator[list[BenchCase]]:
    """The questions about each text that is long enough; free text last, as it has a prompt of its own."""
    for number, text in enumerate(texts):
        part = cut_to_tokens(text, length, lambda piece: len(engine.tokenizer.encode(piece)))
        if part is None:
            continue
        document, instruction = as_document(part), engine.preset.instruction if engine.preset else ""
        asked = _questions(part, number, plan)
        cases = [
            BenchCase(
                tuple(build(engine.tokenizer, document, (), question, instruction)),
                work,
                SamplingParams(temperature=plan.temperature, seed=number),
            )
            for work, question in asked
            if work != "free"
        ]
        if len(cases) < len(asked):
            bare = tuple(engine.tokenizer.encode(part))
            cases.append(BenchCase(bare, "free", SamplingParams(temperature=FREE_TEMPERATURE, seed=number)))
        cases = [case for case in cases if len(case.prompt) + plan.max_tokens <= engine.capacity]
        if cases:
            yield cases


def _questions(text: str, number: int, plan: BenchPlan) -> list[tuple[Work, str]]:
    """What is asked about a text; "" for free text."""
    if plan.ask is not None:
        return [("quote", plan.ask)]
    by_kind = {kind: make_questions(text, kind, seed=number) for kind in get_args(QuestionKind)}
    quotes, outlines = cycle((by_kind["phrase"], by_kind["words"])), cycle(_OUTLINES)
    made: list[tuple[Work, str]] = []
    for work in islice(cycle(plan.works), plan.questions_per_text):
        if work == "outline" or work == "free":
            made.append((work, next(outlines) if work == "outline" else ""))
            continue
        question = next(next(quotes) if work == "quote" else by_kind["continue"], None)
        if question is not None:  # a kind that the text has no question of leaves a gap
            made.append((work, question.text))
    return made


def _measure_text(engines: dict[str, Engine], peers: Peers, cases: list[BenchCase], plan: BenchPlan) -> list[BenchRow]:
    """All methods on all questions of one text; the first pass over each warms it up and is not counted. Each has read
    a prompt before its answer is timed: behind a draft model's reading the machine's caches are cold, and the target,
    which all share, has read it long ago where plain decoding finds it. Every second question is put in the reverse
    order, so that none gains by its place where the machine becomes slower or faster meanwhile."""
    rows: list[BenchRow] = []
    names = list(engines)
    for number, case in enumerate([cases[0], *(case for case in cases for _ in range(plan.turns))]):
        answers: dict[str, Finished] = {}
        for method in names[:: -1 if number % 2 else 1]:
            if number:
                _answer(engines[method], case, 1)
            answers[method] = _answer(engines[method], case, plan.max_tokens)
            if answers[method].metrics.drafter_failure:
                raise RequestError(f"'{method}' cannot be measured. {answers[method].metrics.drafter_failure}")
        if not number:
            rows.append(_prefill_row(names[0], case, answers[names[0]]))
            continue
        plain_ids = answers[PLAIN].token_ids
        rows += [_row(method, case, answers[method], answers[method].token_ids == plain_ids) for method in names]
        if case.sampling.temperature == 0:
            stop_ids = engines[PLAIN].tokenizer.stop_token_ids
            for peer in peers.names:
                run = peers.run(peer, case.prompt, plan.max_tokens, stop_ids)
                rows.append(_peer_row(peer, case, run, _is_same(run.token_ids, plain_ids, stop_ids)))
    return rows


def _answer(engine: Engine, case: BenchCase, max_tokens: int) -> Finished:
    request = Request(case.prompt, case.sampling, StopRules(max_tokens, engine.tokenizer.stop_token_ids))
    return next(event for event in engine.generate(request) if isinstance(event, Finished))


def _is_same(left: tuple[int, ...], right: tuple[int, ...], stop_ids: frozenset[int]) -> bool:
    """But for the token that ends an answer, which a peer may leave out."""
    bare = [ids[:-1] if ids and ids[-1] in stop_ids else ids for ids in (left, right)]
    return bare[0] == bare[1]


def _row(method: str, case: BenchCase, finished: Finished, is_same: bool) -> BenchRow:
    metrics = finished.metrics
    return BenchRow(
        length=0,
        method=method,
        work=case.work,
        num_tokens=metrics.num_generated_tokens,
        decode_s=metrics.decode_s,
        num_steps=metrics.num_spec_steps,
        num_accepted=metrics.num_accepted_draft_tokens,
        num_drafted=metrics.num_draft_tokens,
        draft_s=metrics.draft_s,
        verify_s=metrics.verify_s,
        sample_s=metrics.sample_s,
        other_s=metrics.other_s,
        num_answers=1,
        num_identical=is_same,
    )


def _prefill_row(method: str, case: BenchCase, finished: Finished) -> BenchRow:
    """What the first reading of a text took."""
    metrics = finished.metrics
    num_read = metrics.num_prompt_tokens - metrics.num_reused_tokens
    return BenchRow(0, method, case.work, prefill_tokens=num_read, prefill_s=metrics.prefill_s)


def _peer_row(peer: str, case: BenchCase, run: PeerRun, is_same: bool) -> BenchRow:
    """A peer's answer to the same question."""
    return BenchRow(0, peer, case.work, run.num_timed_tokens, run.decode_s, num_answers=1, num_identical=is_same)
