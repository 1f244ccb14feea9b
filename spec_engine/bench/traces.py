"""Traces: what a drafter would have brought at every token of an answer, and what that would have cost.

Job: record them beside real answers; replay a `BudgetController` over one, and find what a controller that knows the
future would reach. So a rule for the budget is judged on real texts without running a model.
Non-job: the rule itself (controller.py).

A trace assumes what the controller does: the first b nodes of a tree are the tree of a budget of b, likeliest first.
"""

import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from spec_engine.bench.alongside import Known, alongside
from spec_engine.bench.run import BenchPlan, bench_cases
from spec_engine.config import DrafterKind, Preset, RetrievalConfig
from spec_engine.controller import BudgetController
from spec_engine.drafters import available_drafters, build_drafter, max_draft_nodes
from spec_engine.drafters.base import Drafter, DraftSession
from spec_engine.drafters.blend import is_worth_asking
from spec_engine.engine import Engine, Request, StopRules
from spec_engine.errors import DocumentError
from spec_engine.events import Finished, TokensAccepted
from spec_engine.metrics import StepRecord
from spec_engine.model.target import Target
from spec_engine.pass_costs import chance
from spec_engine.tree import DraftTree
from spec_engine.verify import accept

_DRAWN = "free"  # the work whose tokens are drawn
_LEAST_GAIN = 0.08  # tokens; a pass that may bring less is worth its time on no CPU, and is not recorded


@dataclass(frozen=True, slots=True)
class Drafted:
    """What a drafter gives in one step: the nodes, likeliest first, and which of them the answer confirms."""

    log_q: tuple[float, ...]  # of the nodes, the root's first
    depths: tuple[int, ...]
    passes: tuple[int, ...]  # of the draft model, without which there is no such node; 0: it costs nothing
    path: tuple[int, ...]  # root first
    free: "Drafted | None" = None  # what is drafted without a pass, where it is more than the nodes that need none

    @property
    def num_passes(self) -> int:
        """That were run."""
        return max(self.passes)

    @property
    def chance(self) -> float:
        """That the first node is right, as the drafter believes."""
        return chance(self.log_q[1]) if len(self.log_q) > 1 else 0.0

    def first(self, num_nodes: int) -> "Drafted":
        """The likeliest nodes."""
        return self._keep(range(min(num_nodes + 1, len(self.log_q))))

    def within(self, num_passes: int) -> "Drafted":
        """What so many passes give."""
        if num_passes == 0 and self.free is not None:
            return self.free
        return self._keep([node for node, needed in enumerate(self.passes) if needed <= num_passes])

    def _keep(self, nodes: Sequence[int]) -> "Drafted":
        log_q = tuple(self.log_q[node] for node in nodes)
        depths, passes = (tuple(row[node] for node in nodes) for row in (self.depths, self.passes))
        return Drafted(log_q, depths, passes, tuple(new for new, node in enumerate(nodes) if node in self.path))

    def ended(self, min_gain: float, first_gain: float = 0.0) -> "Drafted":
        """What is drafted where passes have to bring so many tokens, as in blend.py and the growers of tree.py."""
        if min_gain == math.inf or (self.free is not None and not is_worth_asking(self.free.chance, first_gain)):
            return self.within(0)
        before = 1.0
        for number in range(1, self.num_passes):
            above = sum(chance(q) for q, depth in zip(self.log_q, self.depths, strict=True) if depth == number)
            if above * min(above / before, 1.0) < min_gain:
                return self.within(number)
            before = above
        return self

    def tree(self) -> DraftTree:
        """As far as a controller looks at it: without tokens, every node below the newest one that may be above it."""
        newest, parents = {0: 0}, [-1]
        for node, depth in enumerate(self.depths[1:], start=1):
            parents.append(newest[depth - 1])
            newest[depth] = node
        return DraftTree((0,) * len(parents), tuple(parents), self.depths, self.log_q, self.num_passes)


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer behind `num_prompt_tokens`. `plain_s` is a plain step, `draft_s` drafting by passes of the draft
    model, `verify_s` a pass behind a draft by nodes below the root, 0 among both: medians in seconds."""

    name: str
    num_prompt_tokens: int
    plain_s: float
    draft_s: dict[int, float]
    verify_s: dict[int, float]
    tokens: tuple[Drafted, ...]

    @property
    def plain_answer_s(self) -> float:
        """Seconds of the answer by plain decoding."""
        return len(self.tokens) * self.plain_s

    @property
    def budgets(self) -> tuple[int, ...]:
        """Numbers of nodes whose passes were measured, ascending."""
        return tuple(sorted(set(self.verify_s) - {0}))

    def step(self, index: int, drafted: Drafted, num_run: int) -> tuple[float, float, tuple[int, ...]]:
        """A step before token `index` that runs the first `num_run` nodes of a draft: seconds of drafting and of the
        pass, and the path that is kept. Behind passes of a draft model the machine's caches are cold."""
        path = tuple(node for node in drafted.path if node <= num_run)[: len(self.tokens) - index]
        draft_s = 0.0 if drafted is NOTHING else _between(self.draft_s, drafted.num_passes)
        is_plain = num_run == drafted.num_passes == 0
        return draft_s, self.plain_s if is_plain else _between(self.verify_s, num_run), path


def _between(table: dict[int, float], size: int) -> float:
    """A measured value, or one interpolated between neighbours."""
    if size in table:
        return table[size]
    low, high = max(known for known in table if known < size), min(known for known in table if known > size)
    return table[low] + (table[high] - table[low]) * (size - low) / (high - low)


def record_traces(
    plain: Engine, presets: Sequence[Preset], texts: Sequence[str], plan: BenchPlan, tell: Callable[[str], None]
) -> list[Trace]:
    """Every kind of drafter, made as in the first of these presets that has it, beside the answers of `plain` to the
    plan's questions. The presets share a target.

    Raises `DocumentError` when no text is long enough for any length.
    """
    first_with: dict[DrafterKind, Preset] = {}
    for preset in presets:
        first_with |= {kind: preset for kind in available_drafters(preset) if kind not in first_with}
    drafters = [
        (preset, kind, build_drafter(preset, kind, plain.target, plain.tokenizer.special_token_ids))
        for kind, preset in first_with.items()
        if max_draft_nodes(kind, preset.draft)
    ]
    traces = []
    for length in plan.lengths:
        for case in chain.from_iterable(islice(bench_cases(plain, texts, length, plan), plan.num_texts)):
            stop = StopRules(plan.max_tokens, plain.tokenizer.stop_token_ids)
            *steps, finished = plain.generate(Request(case.prompt, case.sampling, stop))
            assert isinstance(finished, Finished), "every answer ends with Finished"
            known = Known(case.prompt, finished.token_ids, case.sampling)
            plain_s = statistics.median(e.record.verify_s for e in steps if isinstance(e, TokensAccepted))
            for preset, kind, drafter in drafters:
                name, draft = f"{preset.name} {kind} {length} {case.work}", preset.draft
                max_nodes = max_draft_nodes(kind, draft)
                recorded = record_tokens(plain.target, drafter, known, draft.retrieval, max_nodes)
                traces.append(trace := Trace(name, len(case.prompt), plain_s, *recorded))
                tell(f"{name}: at best {trace.plain_answer_s / best_seconds(trace):.2f} times plain decoding")
    if not traces:
        raise DocumentError(f"No text has {min(plan.lengths)} tokens. Give longer texts or a smaller --lengths.")
    return traces


@torch.inference_mode()
def record_tokens(
    target: Target, drafter: Drafter, known: Known, retrieval: RetrievalConfig, max_nodes: int
) -> tuple[dict[int, float], dict[int, float], tuple[Drafted, ...]]:
    """Propose and verify at every token of a known answer: a trace's drafts, passes and tokens."""
    sizes = [*(2**power for power in range(max_nodes.bit_length()) if 2**power < max_nodes), max_nodes]
    draft_s: dict[int, list[float]] = defaultdict(list)
    verify_s: dict[int, list[float]] = defaultdict(list)
    reading_s, tokens = [], []
    for session, root, following in alongside(target, drafter, known, retrieval):
        free_s, free = _timed_draft(session, root, max_nodes, math.inf)
        draft_s[0].append(free_s)
        anew_s, _ = _timed_draft(session, root, max_nodes)
        for budget in (1, max_nodes):
            seconds, tree = _timed_draft(session, root, budget)
            if tree.num_passes:
                draft_s[tree.num_passes].append(seconds)
        if tree.num_passes:  # new tokens are taken in once, by the first proposal
            reading_s.append(max(anew_s - seconds, 0.0))
        for size in (0, *sizes):
            if size < len(tree):
                session.propose(root, max_nodes, _LEAST_GAIN)  # so that the machine's caches are as a draft leaves them
                verify_s[size].append(_timed_pass(target, tree.first(size), session))
        tokens.append(_drafted(tree, free, following))
    drafts, passes = (
        {size: statistics.median(found) for size, found in sorted(t.items())} for t in (draft_s, verify_s)
    )
    drafts |= {number: seconds + statistics.median(reading_s) for number, seconds in drafts.items() if number}
    return drafts, _filled(passes, sizes), tuple(tokens)


def _drafted(tree: DraftTree, free: DraftTree, following: Sequence[int]) -> Drafted:
    """`tree` with what costs nothing of it marked, and `free` beside it where it is more than that."""
    is_free = {_spelled(free, node) for node in range(len(free))}
    passes = tuple(0 if _spelled(tree, node) in is_free else depth for node, depth in enumerate(tree.depths))
    own = None
    if [tree.log_q[node] for node, number in enumerate(passes) if number == 0] != list(free.log_q):
        own = Drafted(free.log_q, free.depths, (0,) * len(free), _confirmed(free, following))
    return Drafted(tree.log_q, tree.depths, passes, _confirmed(tree, following), own)


def _spelled(tree: DraftTree, node: int) -> tuple[int, ...]:
    return tuple(tree.token_ids[above] for above in tree.path(node))


def _timed_draft(
    session: DraftSession, root: int, budget: int, min_gain: float = _LEAST_GAIN
) -> tuple[float, DraftTree]:
    started = time.perf_counter()
    tree = session.propose(root, budget, min_gain)
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
    controller.begin(trace.num_prompt_tokens, is_drawn=trace.name.endswith(_DRAWN))
    seconds, index, tree, drafted = 0.0, 0, DraftTree.root(0), NOTHING
    while index < len(trace.tokens):
        draft_s, verify_s, path = trace.step(index, drafted, len(tree) - 1)
        seconds += draft_s + verify_s
        index += len(path)
        num_run = len(tree) - 1
        controller.record(StepRecord(num_run, len(path) - 1, len(path), tree.depth, draft_s, verify_s), tree, path)
        if index < len(trace.tokens):
            drafted = trace.tokens[index].ended(controller.min_gain(), controller.first_gain())
            tree = controller.cut(drafted.tree())
    return seconds


NOTHING = Drafted((0.0,), (0,), (0,), (0,))


def best_seconds(trace: Trace) -> float:
    """What a controller would take that knows which drafts will be confirmed: the least over all choices of passes and
    of nodes."""
    left = [0.0]  # seconds from each token to the end, the last token first
    for index in reversed(range(len(trace.tokens))):
        full = trace.tokens[index]
        choices = [NOTHING, *(full.within(number) for number in range(full.num_passes + 1))] if index else [NOTHING]
        steps = [
            trace.step(index, drafted, num_run)
            for drafted in choices
            for num_run in {0, *drafted.path}  # a pass ends best behind a confirmed node
        ]
        left.append(min(draft_s + verify_s + left[-len(path)] for draft_s, verify_s, path in steps))
    return left[-1]


def fixed_seconds(trace: Trace) -> float:
    """What the answer takes with the one budget, 0 among them, that suits it best when all is known: what is left of
    the gap to `best_seconds` cannot be had without knowing single drafts before they are verified."""
    taken = []
    for budget in (0, *trace.budgets):
        seconds, index = 0.0, 0
        while index < len(trace.tokens):
            drafted = trace.tokens[index].first(budget) if index and budget else NOTHING
            draft_s, verify_s, path = trace.step(index, drafted, len(drafted.log_q) - 1)
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
        draft_s, verify_s = ({int(n): s for n, s in table[name].items()} for name in ("draft_s", "verify_s"))
        tokens = tuple(_token(row) for row in table["tokens"])
        yield Trace(table["name"], table["num_prompt_tokens"], table["plain_s"], draft_s, verify_s, tokens)


def _table(trace: Trace) -> dict[str, object]:
    """A trace's line."""
    return {
        "name": trace.name,
        "num_prompt_tokens": trace.num_prompt_tokens,
        "plain_s": round(trace.plain_s, 6),
        "draft_s": {number: round(seconds, 6) for number, seconds in trace.draft_s.items()},
        "verify_s": {size: round(seconds, 6) for size, seconds in trace.verify_s.items()},
        "tokens": [_row(drafted) for drafted in trace.tokens],
    }


def _row(drafted: Drafted) -> list[object]:
    """Of a token: log-probabilities, depths (negative: needs no pass), path, what is drafted without passes."""
    depths = [depth if needed else -depth for depth, needed in zip(drafted.depths, drafted.passes, strict=True)]
    row: list[object] = [[round(score, 2) for score in drafted.log_q], depths, drafted.path]
    return row if drafted.free is None else [*row, _row(drafted.free)]


def _token(row: Sequence[Any]) -> Drafted:
    log_q, depths, path, *free = row
    own = _token(free[0]) if free else None
    passes = tuple(max(depth, 0) for depth in depths)
    return Drafted(tuple(log_q), tuple(map(abs, depths)), passes, tuple(path), own)
