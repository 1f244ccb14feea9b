"""Which kernel is used for many rows on a CPU: the rule, what is measured, and that it is kept and told."""

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from spec_engine import onednn
from spec_engine.attention import Scoring, by_head, contest, pick, sdpa
from spec_engine.attention.contest import CLASSES, RowClass, Verdict, judge
from spec_engine.attention.sdpa import CpuBackend
from spec_engine.bench.machine import matrix_rate
from spec_engine.model import products

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
    flash = {"some": (0.0012,), "more": (0.00119,), "many": (0.003,)}
    verdict = judge_with(Clock(), flash, {"some": (0.001,), "more": (0.001,), "many": (0.001,)})
    assert [each.name for each in verdict.won] == ["some", "many"]
    assert "1.2 times (some rows), 3.0 times (many rows)" in verdict.describe()


def test_the_fastest_turn_counts() -> None:
    """A stalled turn of either says nothing; the first turn warms up."""
    flash = dict.fromkeys(("some", "more", "many"), (0.002, 0.0002, 0.001, 0.0002))
    verdict = judge_with(Clock(), flash, dict.fromkeys(flash, (0.002, 0.002, 0.0001, 0.0001)))
    assert len(verdict.won) == len(CLASSES)


def test_flash_stays_where_there_was_no_time_to_measure() -> None:
    clock = Clock()
    flash = dict.fromkeys(("some", "more", "many"), (0.002,))
    slow = flash | {"more": (0.04,)}
    verdict = judge_with(clock, slow, {"some": (0.001,), "more": (0.07, 0.001), "many": (0.001,)})
    assert [each.name for each in verdict.won] == ["some", "many"]
    assert "not 1.2 times faster here: 1.0 (some rows)" in judge_with(Clock(), flash, flash).describe()


def test_a_processor_without_the_instructions_is_found_out_at_once() -> None:
    clock = Clock()
    flash = dict.fromkeys(("some", "more", "many"), (0.002,))
    verdict = judge_with(clock, flash, dict.fromkeys(flash, (0.1,)))
    assert verdict.won == ()
    assert clock.now < 0.11


def test_classes_cover_all_numbers_of_rows_but_few_once() -> None:
    for num_rows in (*range(1, 300), 4096, 100_000):
        assert sum(num_rows in each.rows for each in CLASSES) == (num_rows > 8)
    assert all(each.trial_rows in each.rows for each in CLASSES)


def test_a_verdict_is_for_its_rows() -> None:
    verdict = Verdict(((CLASSES[0], 2.0), (CLASSES[1], 1.0)))
    assert verdict.prefers_products(CLASSES[0].rows[0])
    assert not verdict.prefers_products(CLASSES[0].rows[0] - 1)
    assert not verdict.prefers_products(CLASSES[0].rows[-1] + 1)


@pytest.mark.parametrize(("dtype", "classes"), [(torch.bfloat16, CLASSES), (torch.float32, CLASSES[1:])])
def test_a_dtype_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, classes: tuple[RowClass, ...]
) -> None:
    tried: list[tuple[torch.dtype, str]] = []
    real = contest._on_random_data

    def counted(dtype: torch.dtype, row_class: RowClass) -> tuple[Callable[[], object], Callable[[], object]]:
        tried.append((dtype, row_class.name))
        return real(dtype, row_class)

    monkeypatch.setattr(contest, "_on_random_data", counted)
    contest._measured.cache_clear()
    pick(CPU, torch.float64)
    assert tried == []
    began = time.perf_counter()
    first, again = pick(CPU, dtype), pick(CPU, dtype)
    assert time.perf_counter() - began < 2  # about 0.2 s on a machine that is not busy
    assert tried == [(dtype, each.name) for each in classes[: len(tried)]]  # fewer where the processor cannot do it
    assert tried
    assert first.reason == again.reason
    assert isinstance(first.backend, CpuBackend)
    assert f"for {str(dtype).removeprefix('torch.')}" in first.reason
    assert "products head by head" in first.reason


@pytest.fixture
def without_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on Apple's processors, whose torch comes without it."""
    caches = (onednn.has_products, contest._measured, products._measured)
    for each in caches:
        each.cache_clear()
    monkeypatch.setattr(onednn, "_LINEAR", None)
    yield
    for each in caches:
        each.cache_clear()


@pytest.mark.usefixtures("without_onednn")
def test_without_onednn_the_flash_operator_does_float32() -> None:
    assert contest.measured(torch.float32) == Verdict()
    assert pick(CPU, torch.float32).reason == "torch's flash operator for the CPU, with the group fold"
    assert contest.measured(torch.bfloat16).gains  # torch's own products
    assert products.packing_gain(torch.float32) == products.packing_gain(torch.bfloat16) == 1.0
    assert matrix_rate(CPU, torch.float32) > 0
    with pytest.raises(RuntimeError, match="no oneDNN"):
        onednn.product(torch.ones(2, 2), torch.ones(2, 2))


def test_rows_go_where_the_verdict_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are called for the classes that won, over whole blocks of keys, and not with a soft cap."""
    asked: list[tuple[int, int]] = []
    real = sdpa.attend_by_head

    def noted(folded: torch.Tensor, k: torch.Tensor, *rest: object) -> object:
        asked.append((folded.shape[2], k.shape[2]))
        return real(folded, k, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("spec_engine.attention.sdpa.attend_by_head", noted)
    backend = CpuBackend(Verdict(((CLASSES[0], 2.0), (CLASSES[2], 2.0))))
    k = torch.randn(1, 2, 9000, 64)

    def call(num_new: int, dtype: torch.dtype, softcap: float | None = None, num_keys: int = 9000) -> None:
        q = torch.randn(1, 4, num_new, 64).to(dtype)
        keys = k[:, :, :num_keys].to(dtype)
        backend.hybrid(q, keys, keys, num_keys, None, Scoring(0.25, softcap))

    call(2, torch.bfloat16)
    call(40, torch.bfloat16, 5.0)
    call(16, torch.bfloat16)  # 32 rows: flash had won
    call(40, torch.float64)
    call(40, torch.float32, num_keys=1000)  # less than a block
    assert asked == []
    call(8, torch.bfloat16)
    call(40, torch.float32)
    assert asked == [(16, 8192), (80, 8192)]


def test_a_growing_context_needs_no_new_kernels() -> None:
    """oneDNN compiles for each form, so blocks and rows are of few sizes, whatever lengths and trees come."""
    for dtype in (torch.float32, torch.bfloat16):
        forms = {
            (by_head.filled(num_rows), block)
            for num_rows in range(9, 65)
            for num_keys in range(1, 40_000, 7)
            for block in by_head.whole_blocks(num_rows, num_keys, 64, dtype)
        }
        assert len({rows for rows, _ in forms}) == 6
        assert len(forms) <= 18
    for num_keys in (100, 4096, 12_345, 50_000):
        blocks = by_head.whole_blocks(64, num_keys, 128, torch.float32)
        assert blocks == sorted(blocks, reverse=True)
        assert num_keys - 1024 < sum(blocks) <= num_keys


def test_kernels_are_made_ready_for_all_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where products are used; afterwards no form is new."""
    made: set[tuple[int, int]] = set()
    real = onednn.product

    def noted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        made.add((len(x), len(weight)))
        return real(x, weight, bias)

    monkeypatch.setattr(onednn, "product", noted)
    backend = CpuBackend(Verdict(((CLASSES[1], 2.0), (CLASSES[2], 1.0))))
    backend.warm_up(32, 30_000, 2, 64, torch.float32)
    ready = set(made)
    assert {rows for rows, _ in ready} == {32, 48, 64}
    k = torch.randn(1, 1, 20_000, 64)
    for num_new in (13, 20, 27, 32):
        for num_keys in (3000, 10_000, 20_000):
            keys = k[:, :, :num_keys]
            backend.hybrid(torch.randn(1, 2, num_new, 64), keys, keys, num_keys, None, Scoring(0.1))
    assert made == ready
    backend.warm_up(32, 30_000, 2, 64, torch.float64)
    backend.warm_up(32, 1000, 2, 128, torch.float32)  # a view of a draft model is shorter than any block
    assert made == ready
