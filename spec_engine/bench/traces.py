"""Traces: what a drafter would have brought at every token of an answer, and what that would have cost.

Job: record them beside real answers; replay a `BudgetController` over one, and find what a controller that knows the
future would reach. So a rule for the budget is judged on real texts without running a model.
Non-job: the rule itself (controller.py).

A trace assumes what the controller does: the first b nodes of a tree are the tree of a budget of b, likeliest first.
"""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch

from spec_engine.bench.alongside import Known, alongside
from spec_engine.bench.run import BenchPlan, bench_cases
from spec_engine.config import Preset, RetrievalConfig
from spec_engine.controller import BudgetController
from spec_engine.drafters import DRAFTERS, available_drafters, max_draft_nodes
from spec_engine.drafters.base import Drafter, DrafterContext, DraftSession
from spec_engine.engine import Engine, Request, StopRules
from spec_engine.errors import DocumentError
from spec_engine.events import Finished
from spec_engine.metrics import StepRecord
from spec_engine.model.target import Target
from spec_engine.tree import DraftTree
from spec_engine.verify import accept


@dataclass(frozen=True, slots=True)
class Drafted:
    """The full tree at one token: how likely its nodes were said to be, and which of them the answer confirms."""

    draft_s: dict[int, float]  # seconds of drafting by budget
    log_q: tuple[float, ...]  # of the nodes, the root's first
    path: tuple[int, ...]  # root first

    def tree(self, budget: int) -> DraftTree:
        """What a budget would have given, as far as a controller looks at it: without tokens, all below the root."""
        log_q = self.log_q[: budget + 1]
        num_nodes = len(log_q) - 1
        return DraftTree((0,) * (num_nodes + 1), (-1, *(0,) * num_nodes), (0, *(1,) * num_nodes), log_q)


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer behind `num_prompt_tokens`. `plain_s` is a plain step, `verify_s` a pass behind a draft, by nodes
    below the root, 0 among them: medians in seconds."""

    name: str
    num_prompt_tokens: int
    plain_s: float
    verify_s: dict[int, float]
    tokens: tuple[Drafted, ...]

    @property
    def plain_answer_s(self) -> float:
        """Seconds of the answer by plain decoding."""
        return len(self.tokens) * self.plain_s

    @property
    def budgets(self) -> tuple[int, ...]:
        """Those that were tried, ascending."""
        return tuple(sorted(self.tokens[0].draft_s))

    def step(self, index: int, budget: int, num_nodes: int) -> tuple[float, float, tuple[int, ...]]:
        """A step before token `index` that runs the first `num_nodes` of a draft of `budget`: seconds of drafting and
        of the pass, and the path that is kept."""
        if budget == 0:
            return 0.0, self.plain_s, (0,)
        drafted = self.tokens[index]
        path = tuple(node for node in drafted.path if node <= num_nodes)[: len(self.tokens) - index]
        return _between(drafted.draft_s, budget), _between(self.verify_s, num_nodes), path


def _between(table: dict[int, float], size: int) -> float:
    """A measured value, or one interpolated between neighbours."""
    if size in table:
        return table[size]
    low, high = max(known for known in table if known < size), min(known for known in table if known > size)
    return table[low] + (table[high] - table[low]) * (size - low) / (high - low)


def record_traces(
    plain: Engine, presets: Sequence[Preset], texts: Sequence[str], plan: BenchPlan, tell: Callable[[str], None]
) -> list[Trace]:
    """Every drafter of these presets, which share a target, beside the answers of `plain` to the plan's questions.

    Raises `DocumentError` when no text is long enough for any length.
    """
    drafters = [
        (preset, kind, DRAFTERS[kind](DrafterContext(preset, plain.target, plain.device)))
        for preset in presets
        for kind in available_drafters(preset)
        if max_draft_nodes(kind, preset.draft)
    ]
    traces = []
    for length in plan.lengths:
        for case in chain.from_iterable(islice(bench_cases(plain, texts, length, plan), plan.num_texts)):
            stop = StopRules(plan.max_tokens, plain.tokenizer.stop_token_ids)
            *_, finished = plain.generate(Request(case.prompt, case.sampling, stop))
            assert isinstance(finished, Finished), "every answer ends with Finished"
            known = Known(case.prompt, finished.token_ids, case.sampling)
            plain_s = finished.metrics.decode_s / len(finished.token_ids)
            for preset, kind, drafter in drafters:
                name, draft = f"{preset.name} {kind} {length} {case.work}", preset.draft
                tokens, verify_s = record_tokens(
                    plain.target, drafter, known, draft.retrieval, max_draft_nodes(kind, draft)
                )
                traces.append(trace := Trace(name, len(case.prompt), plain_s, verify_s, tokens))
                tell(f"{name}: at best {trace.plain_answer_s / best_seconds(trace):.2f} times plain decoding")
    if not traces:
        raise DocumentError(f"No text has {min(plan.lengths)} tokens. Give longer texts or a smaller --lengths.")
    return traces


@torch.inference_mode()
def record_tokens(
    target: Target, drafter: Drafter, known: Known, retrieval: RetrievalConfig, max_nodes: int
) -> tuple[tuple[Drafted, ...], dict[int, float]]:
    """Propose and verify at every token of a known answer, with every budget in turn: a trace's tokens and passes."""
    budgets = [*(2**power for power in range(max_nodes.bit_length()) if 2**power < max_nodes), max_nodes]
    verify_s: dict[int, list[float]] = defaultdict(list)
    tokens = []
    for session, root, following in alongside(target, drafter, known, retrieval):
        reading_s, tree = _timed_draft(session, root, max_nodes)
        draft_s = {}
        for budget in budgets:
            draft_s[budget], _ = _timed_draft(session, root, budget)
            if budget < len(tree):
                verify_s[budget].append(_timed_pass(target, tree.first(budget), session))
        session.propose(root, max_nodes)
        verify_s[0].append(_timed_pass(target, tree.first(0), session))
        reading_s = max(reading_s - draft_s[max_nodes], 0.0)  # new tokens are taken in once, by the first proposal
        known_s = {budget: seconds + reading_s for budget, seconds in draft_s.items()}
        tokens.append(Drafted(known_s, tree.log_q, _confirmed(tree, following)))
    medians = {size: statistics.median(found) for size, found in sorted(verify_s.items())}
    return tuple(tokens), _filled(medians, budgets)


def _timed_draft(session: DraftSession, root: int, budget: int) -> tuple[float, DraftTree]:
    started = time.perf_counter()
    tree = session.propose(root, budget)
    return time.perf_counter() - started, tree


def _timed_pass(target: Target, tree: DraftTree, session: DraftSession) -> float:
    """A pass over `tree`, its choice included; nothing is kept of it."""
    started = time.perf_counter()
    target.verify(tree, session.taps).logits.argmax(dim=-1).tolist()
    return time.perf_counter() - started


def _confirmed(tree: DraftTree, following: Sequence[int]) -> tuple[int, ...]:
    """The path that `following`, the tokens behind the root, takes through the tree."""
    never = -1  # what comes after the end is not known, and so not counted
    chosen = [following[depth] if depth < len(following) else never for depth in tree.depths]
    return accept(tree, chosen).path


def _filled(table: dict[int, float], sizes: Sequence[int]) -> dict[int, float]:
    """Sizes that no tree reached, on the line through the largest two that were."""
    known = sorted(table)
    slope = (table[known[-1]] - table[known[-2]]) / (known[-1] - known[-2]) if len(known) > 1 else 0.0
    return table | {size: table[known[-1]] + slope * (size - known[-1]) for size in sizes if size > known[-1]}


def replay(trace: Trace, controller: BudgetController) -> float:
    """Seconds that the answer would have taken under `controller`."""
    controller.begin(trace.num_prompt_tokens)
    seconds, index, budget, tree = 0.0, 0, 0, DraftTree.root(0)
    while index < len(trace.tokens):
        draft_s, verify_s, path = trace.step(index, budget, len(tree) - 1)
        seconds += draft_s + verify_s
        index += len(path)
        record = StepRecord(len(tree) - 1, len(path) - 1, len(path), len(tree) - 1, draft_s, verify_s)
        controller.record(budget, record, tree, path)
        budget, tree = controller.budget(), DraftTree.root(0)
        if budget and index < len(trace.tokens):
            tree = controller.cut(trace.tokens[index].tree(budget))
    return seconds


def best_seconds(trace: Trace) -> float:
    """What a controller would take that knows which drafts will be confirmed: the least over all choices of budgets."""
    left = [0.0]  # seconds from each token to the end, the last token first
    for index in reversed(range(len(trace.tokens))):
        num_nodes = len(trace.tokens[index].log_q) - 1
        budgets = (0, *trace.budgets) if index else (0,)
        steps = [trace.step(index, budget, min(budget, num_nodes)) for budget in budgets]
        left.append(min(draft_s + verify_s + left[-len(path)] for draft_s, verify_s, path in steps))
    return left[-1]


def fixed_seconds(trace: Trace) -> float:
    """What the answer takes with the one budget, 0 among them, that suits it best when all is known: what is left of
    the gap to `best_seconds` cannot be had without knowing single drafts before they are verified."""
    taken = []
    for budget in (0, *trace.budgets):
        seconds, index = 0.0, 0
        while index < len(trace.tokens):
            now = budget if index else 0
            draft_s, verify_s, path = trace.step(index, now, min(now, len(trace.tokens[index].log_q) - 1))
            seconds += draft_s + verify_s
            index += len(path)
        taken.append(seconds)
    return min(taken)


def save_traces(traces: Sequence[Trace], path: Path) -> None:
    """As JSON, one line a trace, to the microsecond and the hundredth of a log-probability."""
    path.write_text("".join(f"{json.dumps(_table(trace), separators=(',', ':'))}\n" for trace in traces), "utf-8")


def load_traces(path: Path) -> Iterator[Trace]:
    """What `save_traces` wrote."""
    for line in path.read_text("utf-8").splitlines():
        table = json.loads(line)
        tokens = tuple(
            Drafted(dict(zip(table["budgets"], draft_s, strict=True)), tuple(log_q), tuple(path))
            for draft_s, log_q, path in table["tokens"]
        )
        verify_s = {int(size): seconds for size, seconds in table["verify_s"].items()}
        yield Trace(table["name"], table["num_prompt_tokens"], table["plain_s"], verify_s, tokens)


def _table(trace: Trace) -> dict[str, object]:
    """A trace's line. Of a token: seconds by budget, log-probabilities, path."""
    return {
        "name": trace.name,
        "num_prompt_tokens": trace.num_prompt_tokens,
        "plain_s": round(trace.plain_s, 6),
        "verify_s": {size: round(seconds, 6) for size, seconds in trace.verify_s.items()},
        "budgets": trace.budgets,
        "tokens": [
            (
                [round(drafted.draft_s[budget], 6) for budget in trace.budgets],
                [round(score, 2) for score in drafted.log_q],
                drafted.path,
            )
            for drafted in trace.tokens
        ],
    }
