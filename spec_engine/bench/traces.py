"""Traces: what a drafter would have brought at every token of an answer, and what that would have cost.

Job: record them beside real answers; replay a `BudgetController` over one, and find what a controller that knows the
future would reach. So a rule for the budget is judged on real texts without running a model.
Non-job: the rule itself (controller.py).

A trace assumes what the controller does: the first b nodes of a tree are the tree of a budget of b.
"""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
    """The full tree at one token: how many nodes it has below the root, and which of them the answer confirms."""

    num_nodes: int
    path: tuple[int, ...]  # root first


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer. Seconds are medians: `draft_s` by budget, `verify_s` by nodes below the root, 0 among them."""

    name: str
    draft_s: dict[int, float]
    verify_s: dict[int, float]
    tokens: tuple[Drafted, ...]

    @property
    def plain_s(self) -> float:
        """Seconds of plain decoding."""
        return len(self.tokens) * self.verify_s[0]

    def step(self, index: int, budget: int) -> tuple[float, float, int, tuple[int, ...]]:
        """A step before token `index`: seconds of drafting and of the pass, drafted nodes, and the path it keeps."""
        if budget == 0:
            return 0.0, self.verify_s[0], 0, (0,)
        drafted = self.tokens[index]
        num_nodes = min(drafted.num_nodes, budget)
        left = len(self.tokens) - index
        path = tuple(node for node in drafted.path if node <= budget)[:left]
        return _between(self.draft_s, budget), _between(self.verify_s, num_nodes), num_nodes, path


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
            for preset, kind, drafter in drafters:
                name, draft = f"{preset.name} {kind} {length} {case.work}", preset.draft
                trace = record_trace(name, plain.target, drafter, known, draft.retrieval, max_draft_nodes(kind, draft))
                traces.append(trace)
                tell(f"{name}: at best {trace.plain_s / best_seconds(trace):.2f} times plain decoding")
    if not traces:
        raise DocumentError(f"No text has {min(plan.lengths)} tokens. Give longer texts or a smaller --lengths.")
    return traces


@torch.inference_mode()
def record_trace(
    name: str, target: Target, drafter: Drafter, known: Known, retrieval: RetrievalConfig, max_nodes: int
) -> Trace:
    """Propose and verify at every token of a known answer, with every budget in turn."""
    budgets = [max_nodes, *(2**power for power in range(max_nodes.bit_length()) if 2**power < max_nodes)]
    draft_s: dict[int, list[float]] = defaultdict(list)
    verify_s: dict[int, list[float]] = defaultdict(list)
    tokens = []
    for session, root, following in alongside(target, drafter, known, retrieval):
        reading_s, tree = _timed_draft(session, root, max_nodes)
        repeated = [(budget, _timed_draft(session, root, budget)[0]) for budget in budgets]
        reading_s -= repeated[0][1]  # taking in the newest tokens happens once, in the first proposal
        for budget, seconds in repeated:
            draft_s[budget].append(seconds + max(reading_s, 0.0))
        tokens.append(Drafted(len(tree) - 1, _confirmed(tree, following)))
        _timed_pass(target, _first(tree, 0), session)  # warms up
        for size in (0, *budgets):
            if size < len(tree):
                verify_s[size].append(_timed_pass(target, _first(tree, size), session))
    medians = [
        {size: statistics.median(found) for size, found in sorted(table.items())} for table in (draft_s, verify_s)
    ]
    return Trace(name, medians[0], _filled(medians[1], budgets), tuple(tokens))


def _timed_draft(session: DraftSession, root: int, budget: int) -> tuple[float, DraftTree]:
    started = time.perf_counter()
    tree = session.propose(root, budget)
    return time.perf_counter() - started, tree


def _timed_pass(target: Target, tree: DraftTree, session: DraftSession) -> float:
    """A pass over `tree`, its choice included; nothing is kept of it."""
    started = time.perf_counter()
    target.verify(tree, session.taps).logits.argmax(dim=-1).tolist()
    return time.perf_counter() - started


def _first(tree: DraftTree, num_nodes: int) -> DraftTree:
    """The first nodes of a tree."""
    stop = num_nodes + 1
    return DraftTree(tree.token_ids[:stop], tree.parents[:stop], tree.depths[:stop], tree.log_q[:stop])


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
    controller.begin()
    seconds, index, budget = 0.0, 0, 0
    while index < len(trace.tokens):
        draft_s, verify_s, num_nodes, path = trace.step(index, budget)
        seconds += draft_s + verify_s
        index += len(path)
        controller.record(budget, StepRecord(num_nodes, len(path) - 1, len(path), num_nodes, draft_s, verify_s), path)
        budget = controller.budget()
    return seconds


def best_seconds(trace: Trace) -> float:
    """What a controller would take that knows which drafts will be confirmed: the least over all choices of budgets."""
    budgets = (0, *trace.draft_s)
    left = [0.0]  # seconds from each token to the end, the last token first
    for index in reversed(range(len(trace.tokens))):
        steps = (trace.step(index, budget if index else 0) for budget in budgets)
        left.append(min(draft_s + verify_s + left[-len(path)] for draft_s, verify_s, _, path in steps))
    return left[-1]


def save_traces(traces: Sequence[Trace], path: Path) -> None:
    """As JSON, one line a trace."""
    path.write_text("".join(f"{json.dumps(asdict(trace), separators=(',', ':'))}\n" for trace in traces), "utf-8")


def load_traces(path: Path) -> Iterator[Trace]:
    """What `save_traces` wrote."""
    for line in path.read_text("utf-8").splitlines():
        table = json.loads(line)
        draft_s, verify_s = (
            {int(size): value for size, value in table[name].items()} for name in ("draft_s", "verify_s")
        )
        tokens = tuple(Drafted(one["num_nodes"], tuple(one["path"])) for one in table["tokens"])
        yield Trace(table["name"], draft_s, verify_s, tokens)
