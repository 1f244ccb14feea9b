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
from typing import cast, get_args

import torch

from spec_engine.bench.peers import Peers
from spec_engine.bench.tasks import QuestionKind, as_document, cut_to_tokens, make_questions
from spec_engine.chat.prompt import build
from spec_engine.config import MODEL_DRAFTERS, DrafterKind, Preset
from spec_engine.drafters import DRAFTERS, available_drafters
from spec_engine.engine import Engine, Request, StopRules, load_engine
from spec_engine.errors import DocumentError, RequestError
from spec_engine.events import Finished
from spec_engine.model.load import load_target
from spec_engine.sampling import SamplingParams

PLAIN: DrafterKind = "none"


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured. Lengths in tokens of document."""

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 15000)
    num_texts: int = 3
    questions_per_text: int = 3
    max_tokens: int = 128
    ask: str | None = None  # this question instead of one of each kind in turn


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One method at one length, summed over all questions."""

    length: int
    method: str
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
        """Against plain decoding of this engine at the same length, in the same run."""
        plain = next((other for other in self.rows if other.length == row.length and other.method == PLAIN), None)
        return row.tokens_per_second / plain.tokens_per_second if plain and plain.tokens_per_second else 0.0

    @staticmethod
    def load(path: Path) -> "BenchReport":
        """Read back what `to_json` wrote."""
        table = json.loads(path.read_text("utf-8"))
        names = set(BenchRow.__dataclass_fields__)
        rows = tuple(BenchRow(**{key: value for key, value in row.items() if key in names}) for row in table["rows"])
        plan = BenchPlan(**{**table["plan"], "lengths": tuple(table["plan"]["lengths"])})
        return BenchReport(
            table["preset"], table["date"], table["hardware"], table["versions"], plan, rows, table["command"]
        )


@dataclass(slots=True)
class _Case:
    """One question about one text."""

    prompt: tuple[int, ...]
    by_method: dict[str, tuple[int, ...]] = field(default_factory=dict)


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
        sums = {method: BenchRow(length, method) for method in (PLAIN, *engines, *peers.names)}
        for prompts in islice(_prompts(plain, texts, length, plan), plan.num_texts):
            sums = _measure_text(engines, peers, prompts, plan, sums)
        if sums[PLAIN].num_answers:
            rows += sums.values()
            speeds = ", ".join(f"{name} {row.tokens_per_second:.0f}" for name, row in sums.items())
            tell(f"{length} tokens: {speeds} tokens/s")
        else:
            tell(f"{length} tokens: no text is so long, left out")
    if not rows:
        raise DocumentError(f"No text has {min(plan.lengths)} tokens. Give longer texts or a smaller --lengths.")
    preset = plain.preset.name if plain.preset else "by hand"
    versions = {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()}
    return BenchReport(preset, datetime.now(UTC).date().isoformat(), hardware(), versions, plan, tuple(rows))


def _prompts(engine: Engine, texts: Sequence[str], length: int, plan: BenchPlan) -> Iterator[list[_Case]]:
    """Cases of the texts that are long enough."""
    for number, text in enumerate(texts):
        part = cut_to_tokens(text, length, lambda piece: len(engine.tokenizer.encode(piece)))
        if part is None:
            continue
        questions: list[str]
        if plan.ask is not None:
            questions = [plan.ask]
        else:
            kinds = cycle([make_questions(part, kind, seed=number) for kind in get_args(QuestionKind)])
            made = (next(kind, None) for kind in kinds)  # a kind that the text has no question of leaves a gap
            questions = [question.text for question in islice(made, plan.questions_per_text) if question]
        document, instruction = as_document(part), engine.preset.instruction if engine.preset else ""
        cases = [_Case(tuple(build(engine.tokenizer, document, (), question, instruction))) for question in questions]
        cases = [case for case in cases if len(case.prompt) + plan.max_tokens <= engine.capacity]
        if cases:
            yield cases


def _measure_text(
    engines: dict[str, Engine], peers: Peers, cases: list[_Case], plan: BenchPlan, sums: dict[str, BenchRow]
) -> dict[str, BenchRow]:
    """All methods on all questions of one text; the first pass over each warms it up and is not counted."""
    for number, case in enumerate([cases[0], *cases]):
        for method, engine in engines.items():
            request = Request(
                case.prompt, SamplingParams(), StopRules(plan.max_tokens, engine.tokenizer.stop_token_ids)
            )
            finished = next(event for event in engine.generate(request) if isinstance(event, Finished))
            case.by_method[method] = finished.token_ids
            if number:
                same = finished.token_ids == case.by_method[PLAIN]
                sums[method] = _add(sums[method], finished, same)
            elif method == next(iter(engines)):
                sums[method] = _add_prefill(sums[method], finished)
        if number:
            stop_ids = engines[PLAIN].tokenizer.stop_token_ids
            for peer in peers.names:
                sums[peer] = _add_peer(sums[peer], peers, case, plan.max_tokens, stop_ids)
    return sums


def _without_stop(token_ids: tuple[int, ...], stop_ids: frozenset[int]) -> tuple[int, ...]:
    return token_ids[:-1] if token_ids and token_ids[-1] in stop_ids else token_ids


def _add(row: BenchRow, finished: Finished, is_same: bool) -> BenchRow:
    metrics = finished.metrics
    return BenchRow(
        row.length,
        row.method,
        row.num_tokens + metrics.num_generated_tokens,
        row.decode_s + metrics.decode_s,
        row.num_steps + metrics.num_spec_steps,
        row.num_accepted + metrics.num_accepted_draft_tokens,
        row.num_drafted + metrics.num_draft_tokens,
        row.draft_s + metrics.draft_s,
        row.verify_s + metrics.verify_s,
        row.prefill_tokens,
        row.prefill_s,
        row.num_answers + 1,
        row.num_identical + is_same,
    )


def _add_peer(row: BenchRow, peers: Peers, case: _Case, max_tokens: int, stop_ids: frozenset[int]) -> BenchRow:
    """Ask a peer the same question."""
    run = peers.run(row.method, case.prompt, max_tokens, stop_ids)
    same = _without_stop(run.token_ids, stop_ids) == _without_stop(case.by_method[PLAIN], stop_ids)
    return replace(
        row,
        num_tokens=row.num_tokens + run.num_timed_tokens,
        decode_s=row.decode_s + run.decode_s,
        num_answers=row.num_answers + 1,
        num_identical=row.num_identical + same,
    )


def _add_prefill(row: BenchRow, finished: Finished) -> BenchRow:
    metrics = finished.metrics
    values = {name: getattr(row, name) for name in BenchRow.__dataclass_fields__}
    values["prefill_tokens"] += metrics.num_prompt_tokens - metrics.num_reused_tokens
    values["prefill_s"] += metrics.prefill_s
    return BenchRow(**values)


def build_peers(preset: Preset, engine: Engine) -> Peers:
    """transformers on the engine's target, with a copy of the preset's draft model where it has one."""
    draft = preset.draft.model if preset.draft.model_kind == "lm" else None
    return Peers(engine.target.model, None if draft is None else load_target(preset, draft, device=engine.device))


def all_methods(preset: Preset) -> list[str]:
    """What `build_engines` can make of a preset."""
    kinds = available_drafters(preset)
    return [*kinds, *(f"{kind}-" for kind in kinds if kind in MODEL_DRAFTERS)]


def build_engines(
    preset: Preset, methods: Sequence[str], device: str, tell: Callable[[str], None]
) -> dict[str, Engine]:
    """One engine a method on a shared target; ``lm-`` is ``lm`` without retrieval, and so with ``eagle3-``.

    Raises `RequestError` for an unknown method, or when ``none``, which the speed-up needs, is missing.
    """
    without = {f"{kind}-": kind for kind in MODEL_DRAFTERS}
    unknown = [method for method in methods if method not in DRAFTERS and method not in without]
    if unknown:
        raise RequestError(f"There is no drafter '{unknown[0]}'. Valid: {', '.join((*DRAFTERS, *without))}.")
    if PLAIN not in methods:
        raise RequestError("A speed-up needs plain decoding to compare with. Add 'none' to --drafters.")
    plain = load_engine(preset, drafter=PLAIN, device=device, on_progress=tell)
    engines: dict[str, Engine] = {PLAIN: plain}
    for method in methods:
        if method in without:
            kind = without[method]
            engines[f"{kind}, no retrieval"] = plain.with_drafter(kind, use_retrieval=False)
        elif method != PLAIN:
            engines[method] = plain.with_drafter(cast(DrafterKind, method))
    return engines
