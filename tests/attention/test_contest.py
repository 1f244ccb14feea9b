"""Which kernel is used in half precision on a CPU: the rule, what is measured, and that it is kept and told."""

import time
from collections.abc import Callable

import pytest
import torch

from spec_engine.attention import Scoring, contest, pick
from spec_engine.attention.contest import CLASSES, RowClass, Verdict, judge
from spec_engine.attention.sdpa import CpuBackend

CPU = torch.device("cpu")


class Clock:
    """A timer whose time passes only while `work` is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        """Work that takes these seconds in turn; the last of them for ever."""
        left = list(seconds)

        def do() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return do


def judge_with(clock: Clock, flash: dict[str, tuple[float, ...]], products: dict[str, tuple[float, ...]]) -> Verdict:
    return judge(lambda each: (clock.work(*flash[each.name]), clock.work(*products[each.name])), clock)


def test_each_class_is_decided_by_itself_and_with_a_margin() -> None:
    flash = {"few": (0.0012,), "some": (0.00119,), "many": (0.003,)}
    verdict = judge_with(Clock(), flash, {"few": (0.001,), "some": (0.001,), "many": (0.001,)})
    assert [each.name for each in verdict.won] == ["few", "many"]
    assert "1.2 times (few rows), 3.0 times (many rows)" in verdict.describe()


def test_the_fastest_turn_counts() -> None:
    """A stalled turn of either says nothing; the first turn warms up."""
    flash = dict.fromkeys(("few", "some", "many"), (0.002, 0.0002, 0.001, 0.0002))
    verdict = judge_with(Clock(), flash, dict.fromkeys(flash, (0.002, 0.002, 0.0001, 0.0001)))
    assert len(verdict.won) == len(CLASSES)


def test_flash_stays_where_there_was_no_time_to_measure() -> None:
    clock = Clock()
    flash = dict.fromkeys(("few", "some", "many"), (0.002,))
    slow = flash | {"some": (0.04,)}
    verdict = judge_with(clock, slow, {"few": (0.001,), "some": (0.07, 0.001), "many": (0.001,)})
    assert [each.name for each in verdict.won] == ["few", "many"]
    assert "not 1.2 times faster here: 1.0 (few rows)" in judge_with(Clock(), flash, flash).describe()


def test_a_processor_without_the_instructions_is_found_out_at_once() -> None:
    clock = Clock()
    flash = dict.fromkeys(("few", "some", "many"), (0.002,))
    verdict = judge_with(clock, flash, dict.fromkeys(flash, (0.1,)))
    assert verdict.won == ()
    assert clock.now < 0.11


def test_classes_cover_all_numbers_of_rows_once() -> None:
    for num_rows in (*range(1, 300), 4096, 100_000):
        assert sum(num_rows in each.rows for each in CLASSES) == 1
    for each in CLASSES:
        assert each.trial[1] in each.rows
        assert each.trial[2] >= each.least_keys


def test_a_verdict_is_for_its_rows_and_enough_keys() -> None:
    few = CLASSES[0]
    verdict = Verdict(((few, 2.0), (CLASSES[1], 1.0)))
    assert verdict.prefers_products(few.rows[0], few.least_keys)
    assert not verdict.prefers_products(few.rows[0], few.least_keys - 1)
    assert not verdict.prefers_products(few.rows[-1] + 1, 100_000)


def test_half_precision_is_measured_once_and_float32_never(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[torch.dtype, str]] = []
    real = contest._on_random_data

    def counted(dtype: torch.dtype, row_class: RowClass) -> tuple[Callable[[], object], Callable[[], object]]:
        tried.append((dtype, row_class.name))
        return real(dtype, row_class)

    monkeypatch.setattr(contest, "_on_random_data", counted)
    contest._measured.cache_clear()
    pick(CPU, torch.float32)
    pick(CPU, torch.float64)
    assert tried == []
    began = time.perf_counter()
    first, again = pick(CPU, torch.bfloat16), pick(CPU, torch.bfloat16)
    assert time.perf_counter() - began < 2  # about 0.15 s on a machine that is not busy
    assert tried == [(torch.bfloat16, each.name) for each in CLASSES]
    assert first.reason == again.reason
    assert isinstance(first.backend, CpuBackend)
    assert "for bfloat16" in first.reason
    assert "products head by head" in first.reason


def test_rows_go_where_the_verdict_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are called for the classes that won, in half precision and without a soft cap only."""
    asked: list[tuple[int, int]] = []
    real = contest.attend_by_head

    def noted(folded: torch.Tensor, k: torch.Tensor, *rest: object) -> object:
        asked.append((folded.shape[2], k.shape[2]))
        return real(folded, k, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("spec_engine.attention.sdpa.attend_by_head", noted)
    backend = CpuBackend(Verdict(((CLASSES[0], 2.0), (CLASSES[2], 2.0))))
    k = torch.randn(1, 2, 5000, 16)

    def call(num_new: int, dtype: torch.dtype, softcap: float | None = None) -> None:
        q = torch.randn(1, 4, num_new, 16).to(dtype)
        backend.hybrid(q, k.to(dtype), k.to(dtype), 5000, None, Scoring(0.25, softcap))

    call(2, torch.float32)
    call(2, torch.bfloat16, 5.0)
    call(16, torch.bfloat16)  # 32 rows: flash had won
    assert asked == []
    call(2, torch.bfloat16)
    call(40, torch.bfloat16)
    assert asked == [(4, 5000), (80, 5000)]
