"""The controller over recorded drafts of real answers, against one that knows the future."""

import math
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from spec_engine.bench.alongside import Known
from spec_engine.bench.run import BenchPlan
from spec_engine.bench.tasks import bundled_text, read_texts
from spec_engine.bench.traces import (
    Drafted,
    Trace,
    best_seconds,
    fixed_seconds,
    load_traces,
    record_tokens,
    record_traces,
    replay,
    save_traces,
)
from spec_engine.config import RetrievalConfig, TreeConfig, load_preset
from spec_engine.controller import BudgetController
from spec_engine.loading import load_engine
from spec_engine.model.target import Target
from spec_engine.sampling import SamplingParams
from spec_engine.tree import make_grower
from tests.fakes import OracleDrafter, tiny_lm

TRACES = Path(__file__).parent / "traces.jsonl"
DEPTHS = (0, 1, 2, 3, 4)
SURE = Drafted((0.0, -0.01, -0.02, -0.03, -0.04), DEPTHS, DEPTHS, (0, 1, 2, 3, 4))
WRONG = Drafted((0.0, -2.0, -4.0, -6.0, -8.0), DEPTHS, DEPTHS, (0,))
DRAFT_S, VERIFY_S = {0: 0.0, 1: 0.1, 4: 0.4}, {0: 1.0, 1: 1.0, 4: 1.2}
EASY = Trace("easy", 100, 1.0, DRAFT_S, VERIFY_S, (SURE,) * 20)


def test_a_step_costs_and_brings_what_its_passes_and_nodes_do() -> None:
    assert EASY.plain_answer_s == 20
    assert EASY.step(3, SURE.within(0), 0) == (0.0, 1.0, (0,))
    assert EASY.step(3, SURE.first(2), 2) == (pytest.approx(0.2), pytest.approx(1.0 + 0.2 / 3), (0, 1, 2))
    assert EASY.step(3, SURE, 1) == (0.4, 1.0, (0, 1))  # drafted to the end, one node was run
    assert EASY.step(18, SURE, 4)[2] == (0, 1)  # the answer ends


def test_a_recorded_draft_is_ended_as_a_grower_ends_it() -> None:
    """A chain whose tokens are right with the same chance: what is expected of a level is the square, the third …"""
    for chance in (0.3, 0.7, 0.95):
        log_q = tuple(depth * math.log(chance) for depth in DEPTHS)
        for min_gain in (0.0, 0.2, 0.5, 0.8, 1.2):
            config = TreeConfig(policy="chain", num_nodes=4, max_depth=4)
            grower = make_grower(config, 1, min_gain=min_gain)
            row = torch.tensor([chance, 1e-6]).log()
            frontier = grower.start(row)
            while frontier:
                frontier = grower.extend(frontier, row[None])
            ended = Drafted(log_q, DEPTHS, DEPTHS, (0,)).ended(min_gain)
            assert ended.num_passes == grower.finish().num_passes
    assert SURE.ended(math.inf).log_q == (0.0,)
    assert SURE.ended(0.0) == SURE


def test_what_costs_nothing_is_drafted_at_rest() -> None:
    copies = Drafted((0.0, -0.5), (0, 1), (0, 0), (0, 1))
    both = Drafted((0.0, -0.2, -0.4, -0.6, -0.8), DEPTHS, (0, 0, 2, 3, 4), (0, 1, 2, 3, 4), copies)
    assert both.ended(math.inf) == both.ended(0.0, 0.25) == copies  # 0.39 are left open, and half of that is found
    assert both.ended(0.3, 0.15) == both.ended(0.0) == both
    assert both.within(2).path == (0, 1, 2)
    tree = both.tree()
    assert (tree.parents, tree.num_passes) == ((-1, 0, 1, 2, 3), 4)


def test_the_bound_knows_the_future() -> None:
    """The first token comes from a bare root; then five tokens a step at 1.6, and what is left as it pays best."""
    assert best_seconds(EASY) == pytest.approx(1 + 3 * 1.6 + 1.0 + 0.3 + 0.2 * 2 / 3)
    assert best_seconds(Trace("hard", 100, 1.0, DRAFT_S, VERIFY_S, (WRONG,) * 20)) == pytest.approx(20)


def test_the_best_fixed_budget_never_changes() -> None:
    """Easy, then hard: one node in every step is the best of them, and changing one's mind is better."""
    turned = Trace("turned", 100, 1.0, DRAFT_S, VERIFY_S, (SURE,) * 11 + (WRONG,) * 5)
    assert fixed_seconds(EASY) == pytest.approx(1 + 4 * 1.6)
    assert fixed_seconds(turned) == pytest.approx(1 + 10 * 1.1)
    assert best_seconds(turned) < 0.7 * fixed_seconds(turned)


def test_traces_are_recorded_and_kept(tmp_path: Path) -> None:
    prompt, answer = (5, 6, 7, 8), tuple(range(20, 40))
    drafter = OracleDrafter(prompt, answer)
    known = Known(prompt, answer, SamplingParams())
    target, retrieval = Target(tiny_lm(), 64, 16), RetrievalConfig(enabled=False)
    draft_s, verify_s, tokens = record_tokens(target, drafter, known, retrieval, 8)
    assert len(tokens) == len(answer)
    assert tokens[0].path == (0, 1, 3, 5, 7)  # every second node is a wrong sibling
    assert tokens[0].depths == (0, 1, 1, 2, 2, 3, 3, 4, 4)
    assert set(tokens[0].passes) == set(draft_s) == {0}  # it runs no model
    assert set(verify_s) == {0, 1, 2, 4, 8}
    copies = Drafted((0.0, -0.5), (0, 1), (0, 0), (0, 1))
    mixed = Trace("mixed", 9, 1.0, DRAFT_S, VERIFY_S, (SURE, Drafted((0.0, -0.2), (0, 1), (0, 0), (0, 1), copies)))
    save_traces([EASY, mixed], tmp_path / "traces.jsonl")
    assert list(load_traces(tmp_path / "traces.jsonl")) == [EASY, mixed]


@pytest.mark.slow
def test_every_drafter_of_a_preset_is_recorded() -> None:
    preset = load_preset("builtin")
    plain = load_engine(preset, drafter="none", device="cpu")
    plan = BenchPlan((300,), 1, 1, max_tokens=12)
    traces = record_traces(plain, [preset], read_texts(bundled_text()), plan, lambda line: None)
    assert [trace.name for trace in traces] == [f"builtin {kind} 300 quote" for kind in ("lookup", "lm", "blend")]
    assert all(len(trace.tokens) > 5 and trace.budgets[-1] >= 8 for trace in traces)
    passes = {trace.name.split()[1]: [drafted.num_passes for drafted in trace.tokens] for trace in traces}
    assert max(passes["lookup"]) == 0 < min(passes["lm"])
    assert max(passes["blend"]) > 0
    assert any(len(drafted.path) > 3 for trace in traces for drafted in trace.tokens)


def test_the_controller_is_near_the_bound_and_never_loses_much() -> None:
    """On document work most of what is possible, for every drafter, and nearly what each answer's own best budget would
    give; on free text no answer below 0.98 of plain."""
    engines: dict[tuple[str, ...], list[Trace]] = defaultdict(list)
    for trace in load_traces(TRACES):
        engines[tuple(trace.name.split()[:3])].append(trace)
    seconds: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for (_, kind, _), traces in engines.items():
        controller = BudgetController(traces[0].budgets[-1])
        for _ in range(3):  # answers one after the other, as an engine makes them
            for trace in traces:
                taken = replay(trace, controller)
                if trace.name.endswith("free"):
                    assert taken < trace.plain_answer_s / 0.98, trace.name
                else:
                    seconds[kind].append((best_seconds(trace), fixed_seconds(trace), taken))
    for lengths in (("1024", "8192"), ("8192", "1024")):  # and one engine that goes from short to long documents
        for kind in seconds:
            controller = BudgetController(31)
            for trace in (
                one for length in lengths for key, many in engines.items() if key[1:] == (kind, length) for one in many
            ):
                if trace.budgets[-1] >= 16 and trace.name.endswith("free"):
                    assert replay(trace, controller) < trace.plain_answer_s / 0.95, trace.name
                elif trace.budgets[-1] >= 16:
                    replay(trace, controller)
    for kind, answers in seconds.items():
        best, fixed, taken = (sum(column) for column in zip(*answers, strict=True))
        print(f"{kind}: {best / taken:.0%} of the bound, {fixed / taken:.0%} of the best fixed budget of each answer")
        # No rule can know which single draft is wrong; so the best fixed budget of each answer is the second measure.
        assert best / taken > {"lookup": 0.80, "longspec": 0.89, "eagle3": 0.85, "lm": 0.80}.get(kind, 0.76), kind
        assert fixed / taken > 0.94, kind
