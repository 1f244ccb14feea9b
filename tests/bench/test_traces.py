"""The controller over recorded drafts of real answers, against one that knows the future."""

from collections import defaultdict
from pathlib import Path

import pytest

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
from spec_engine.config import RetrievalConfig, load_preset
from spec_engine.controller import BudgetController
from spec_engine.loading import load_engine
from spec_engine.model.target import Target
from spec_engine.sampling import SamplingParams
from tests.fakes import OracleDrafter, tiny_lm

TRACES = Path(__file__).parent / "traces.jsonl"
SURE = Drafted({1: 0.1, 4: 0.4}, (0.0, -0.01, -0.02, -0.03, -0.04), (0, 1, 2, 3, 4))
WRONG = Drafted({1: 0.1, 4: 0.4}, (0.0, -2.0, -4.0, -6.0, -8.0), (0,))
EASY = Trace("easy", 100, 1.0, {0: 1.0, 1: 1.0, 4: 1.2}, (SURE,) * 20)


def test_a_step_costs_and_brings_what_its_budget_does() -> None:
    assert EASY.plain_answer_s == 20
    assert EASY.step(3, 0, 0) == (0.0, 1.0, (0,))
    assert EASY.step(3, 2, 2) == (pytest.approx(0.2), pytest.approx(1.0 + 0.2 / 3), (0, 1, 2))
    assert EASY.step(3, 4, 1) == (0.4, 1.0, (0, 1))  # drafted for four, one was run
    assert EASY.step(18, 4, 4)[2] == (0, 1)  # the answer ends


def test_the_bound_knows_the_future() -> None:
    """The first token comes from a bare root; then five tokens a step at 1.6, and what is left as it pays best."""
    assert best_seconds(EASY) == pytest.approx(1 + 3 * 1.6 + 1.6)
    assert best_seconds(Trace("hard", 100, 1.0, {0: 1.0, 4: 1.2}, (WRONG,) * 20)) == pytest.approx(20)


def test_the_best_fixed_budget_never_changes() -> None:
    """Easy, then hard: one node in every step is the best of them, and changing one's mind is better."""
    turned = Trace("turned", 100, 1.0, {0: 1.0, 1: 1.0, 4: 1.2}, (SURE,) * 11 + (WRONG,) * 5)
    assert fixed_seconds(EASY) == pytest.approx(best_seconds(EASY))
    assert fixed_seconds(turned) == pytest.approx(1 + 10 * 1.1)
    assert best_seconds(turned) == pytest.approx(1 + 1.6 + 2 * 1.1 + 1.6 + 1.0)


def test_traces_are_recorded_and_kept(tmp_path: Path) -> None:
    prompt, answer = (5, 6, 7, 8), tuple(range(20, 40))
    drafter = OracleDrafter(prompt, answer)
    known = Known(prompt, answer, SamplingParams())
    tokens, verify_s = record_tokens(Target(tiny_lm(), 64, 16), drafter, known, RetrievalConfig(enabled=False), 8)
    assert len(tokens) == len(answer)
    assert tokens[0].path == (0, 1, 3, 5, 7)  # every second node is a wrong sibling
    assert set(tokens[0].draft_s) == {1, 2, 4, 8}
    assert set(verify_s) == {0, 1, 2, 4, 8}
    save_traces([EASY], tmp_path / "traces.jsonl")
    assert list(load_traces(tmp_path / "traces.jsonl")) == [EASY]


@pytest.mark.slow
def test_every_drafter_of_a_preset_is_recorded() -> None:
    preset = load_preset("builtin")
    plain = load_engine(preset, drafter="none", device="cpu")
    plan = BenchPlan((300,), 1, 1, max_tokens=12)
    traces = record_traces(plain, [preset], read_texts(bundled_text()), plan, lambda line: None)
    assert [trace.name for trace in traces] == [f"builtin {kind} 300 quote" for kind in ("lookup", "lm", "blend")]
    assert all(len(trace.tokens) > 5 and trace.budgets[-1] >= 8 for trace in traces)
    assert any(len(drafted.path) > 3 for trace in traces for drafted in trace.tokens)


def test_the_controller_is_near_the_bound_and_never_loses_much() -> None:
    """On document work most of what is possible, for every drafter, and nearly what each answer's own best budget would
    give; on free text no answer below 0.95 of plain."""
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
                    assert taken < trace.plain_answer_s / 0.95, trace.name
                else:
                    seconds[kind].append((best_seconds(trace), fixed_seconds(trace), taken))
    for lengths in (("1024", "8192"), ("8192", "1024")):  # and one engine that goes from short to long documents
        for kind in seconds:
            controller = BudgetController(16)
            for trace in (
                one for length in lengths for key, many in engines.items() if key[1:] == (kind, length) for one in many
            ):
                if trace.budgets[-1] == 16 and trace.name.endswith("free"):
                    assert replay(trace, controller) < trace.plain_answer_s / 0.93, trace.name
                elif trace.budgets[-1] == 16:
                    replay(trace, controller)
    for kind, answers in seconds.items():
        best, fixed, taken = (sum(column) for column in zip(*answers, strict=True))
        print(f"{kind}: {best / taken:.0%} of the bound, {fixed / taken:.0%} of the best fixed budget of each answer")
        assert best / taken > 0.75, kind
        assert fixed / taken > 0.88, kind
