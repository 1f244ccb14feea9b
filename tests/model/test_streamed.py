"""Streaming products: against float64 in Triton's interpreter, compiled for cards that are not here; their contest."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from spec_engine.attention.triton import CannotLaunch
from spec_engine.model import contest, products, streamed
from spec_engine.model.block_products import Around, ChosenProducts, Cut, Form, TorchProducts
from spec_engine.model.capture import Work
from spec_engine.model.contest import (
    FEW_ROWS,
    NARROW_ROW,
    NARROW_ROWS,
    ONE_ROW,
    Use,
    all_cuts,
    choose,
    narrow_cuts,
    settle,
    usual_cuts,
)
from spec_engine.model.narrow import Narrow
from spec_engine.model.norm import Norm
from spec_engine.model.products import Matrix
from tests.model.test_kernels import run

SHARED = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}  # bytes that a program may take at most
FORM: Form = ("normed", 64, 96, True)
NUM_CARD_SIZES = 6  # of streamed_grid.py
REMATCH = (1.0, 0.5) * 2  # torch, and the cut that was fastest


@pytest.mark.parametrize("what", ["float32", "float16", "bfloat16", "passes", "heads"])
def test_they_give_what_torch_gives(what: str) -> None:
    """Sizes that no block divides, rows that lie apart, norms, biases, sums and gates; and whole passes and drafts. By
    matrices of 8 bits too."""
    assert run("streamed_grid.py", what, interpret=True).split()[-1] == "ok"


def test_they_compile_for_ampere_ada_and_hopper() -> None:
    """Nothing is spilled, blocks are on their way while others are used, and every card can run some cut."""
    lines = [line.split() for line in run("kernels_compile.py", "streamed", interpret=False).splitlines()]
    num_cuts = sum(map(len, (ONE_ROW, FEW_ROWS, NARROW_ROW, NARROW_ROWS)))
    assert len(lines) == 4 * 3 * num_cuts, "on Hopper early ones too"
    assert [line for line in lines if line[2] != "0"] == []
    assert [line for line in lines if int(line[7]) > 1 and line[4] == "0"] == []
    assert [line for line in lines if (line[8] == "True") != (line[5] == "1")] == [], "early ones wait"
    for kernel in {line[0] for line in lines}:
        for capability, most in SHARED.items():
            for kind in ("normed", "added", "gated"):
                for bits in ("8", "16"):
                    form = kernel, str(capability), kind, bits
                    alike = [line for line in lines if (line[0], line[1], line[6], line[9]) == form]
                    assert sum(int(line[3]) <= most for line in alike) >= 2, form


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("size", range(NUM_CARD_SIZES))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_they_give_what_torch_gives_on_the_card(dtype: str, size: int) -> None:
    """One size after the other: each takes half a minute to compile."""
    assert run("streamed_grid.py", dtype, "cuda", str(size), interpret=False).split()[-1] == "ok"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("what", ["chain", "card"])
def test_products_that_need_one_another_are_right_on_the_card(what: str) -> None:
    """Early kernels too; and captured passes."""
    assert run("streamed_grid.py", what, "cuda", interpret=False).split()[-1] == "ok"


def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, around: Around, cut: Cut) -> Tensor:
    """What a kernel should give."""
    assert around.norm is not None
    return torch.rms_norm(x, around.norm.shape, around.norm, around.eps) @ weight


@pytest.fixture
def use() -> Use:
    generator = torch.Generator().manual_seed(0)
    weight, norm = (torch.randn(*shape, generator=generator) for shape in ((96, 64), (64,)))
    return Use("normed", ((Matrix(weight.t(), None), Norm(norm, 1e-6)),))


def timer(*seconds: float) -> Callable[[Work], float]:
    """Tells these, one after the other, and the last for ever."""

    def told() -> Iterator[float]:
        yield from seconds
        while True:
            yield seconds[-1]

    times = told()
    return lambda work: next(times)


def test_the_fastest_cut_is_taken(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "product", by_torch)
    choice = choose([use], TorchProducts(), timer(1.0, 0.9, 0.5, 0.7, *REMATCH, 1.0))
    assert choice.cuts == {FORM: ONE_ROW[1]}
    assert (choice.gain(FORM), choice.gain((*FORM[:3], False))) == (2.0, 1.0)
    won = "1 of 1 forms with 1 row, 2.00 to 2.00 times as fast; 0 of 1 forms with 16 rows"
    assert choice.describe() == f"Our products for {won}; cuBLAS for the others."


def test_without_memory_for_a_contest_torch_goes_on(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(contest, "_in_turn", full)
    choice = choose([use], TorchProducts(), timer(1.0))
    assert choice.cuts == {}
    assert "2 times no memory to try them" in choice.describe()


def test_what_is_hardly_faster_is_left(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "product", by_torch)
    assert choose([use], TorchProducts(), timer(1.0, 0.99)).cuts == {}


def test_what_is_wrong_is_never_taken(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: object) -> Tensor:
        cut = given[-1]
        result = by_torch(*given)  # type: ignore[arg-type]
        return result if cut == ONE_ROW[0] else torch.full_like(result, torch.nan)

    monkeypatch.setattr(streamed, "product", wrong)
    assert choose([use], TorchProducts(), timer(1.0, 0.9, *REMATCH, 1.0)).cuts == {FORM: ONE_ROW[0]}


def test_what_was_fastest_once_has_to_win_again(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "product", by_torch)
    for second in ((1.0, 0.99), (1.0, 1.1)):
        times = (1.0, 0.9, 0.5, 0.7, 1.0, 0.5, *second)
        assert choose([use], TorchProducts(), timer(*times, 1.0)).cuts == {}


def test_what_cannot_run_here_is_passed_over_and_named(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object) -> Tensor:
        raise CannotLaunch("out of resource: shared memory")

    monkeypatch.setattr(streamed, "product", refused)
    choice = choose([use], TorchProducts(), timer(1.0, 0.1))
    assert choice.cuts == {}
    assert choice.describe().endswith("Not tried or not right: 6 times out of resource: shared memory.")


def test_a_sum_that_leaves_the_product_out_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where products are small beside what they are added to, as in a model that repeats its newest token."""
    weight = 1e-3 * torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    use = Use("added", ((Matrix(weight.t(), None), None),))
    monkeypatch.setattr(streamed, "product", lambda x, weight, bias, around, cut: around.base.clone())
    choice = choose([use], TorchProducts(), timer(1.0, 0.1))
    assert choice.cuts == {}
    assert set(choice.refused.values()) == {"other numbers than torch gives"}


def test_uses_of_one_form_are_decided_together(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "product", by_torch)
    choice = choose([use, use], TorchProducts(), timer(1.0, 0.9, 0.5, 0.7, *REMATCH, 1.0))
    assert choice.cuts == {FORM: ONE_ROW[1]}
    assert choice.num_bytes[FORM] == 2 * 64 * 96 * 4


def test_matrices_take_turns_until_no_cache_holds_them_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "product", by_torch_too)
    monkeypatch.setattr(contest, "CACHED_BYTES", 3 * 64 * 96 - 1)
    use = Use("plain", tuple((Matrix(torch.randn(64, 96), None), None) for _ in range(5)))
    choice = choose([use], TorchProducts(), timer(1.0, 0.9, 0.5, 0.7, *REMATCH, 1.0), narrow_cuts)
    assert set(choice.num_bytes.values()) == {3 * 64 * 96 * 4}, "float32"


@pytest.mark.parametrize("keeps_base", [False, True])
def test_what_is_added_to_is_kept_in_the_contest_where_it_is_kept_later(keeps_base: bool) -> None:
    """To write elsewhere takes torch a copy more. One use of a form that keeps it decides for all."""
    told = []

    class Told(TorchProducts):
        def added(self, matrix: Matrix, x: Tensor, base: Tensor, *, keeps_base: bool = False) -> Tensor:
            told.append(keeps_base)
            return super().added(matrix, x, base, keeps_base=keeps_base)

    member = Matrix(torch.randn(64, 96), None), None
    uses = [Use("added", (member,)), Use("added", (member,), keeps_base)]
    choose(uses, Told(), lambda work: float(len(work())), lambda num_rows, device: ())
    assert set(told) == {keeps_base}


def test_a_matrix_that_there_is_no_memory_to_round_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its form are rounded; its own products are torch's."""
    monkeypatch.setattr(streamed, "product", by_torch_too)
    matrices = [Matrix(torch.randn(64, 96, generator=torch.Generator().manual_seed(n)), None) for n in range(2)]
    uses = [Use("plain", tuple((matrix, None) for matrix in matrices))]
    monkeypatch.setattr(contest, "CACHED_BYTES", 1)  # the second takes no turn, and is rounded once more at the end
    times = iter(0.9**number for number in range(1000))
    choice, plain = choose(uses, TorchProducts(), lambda work: next(times), narrow_cuts), TorchProducts()
    assert len(choice.cuts) == 2

    def refuse(weight: Tensor) -> Narrow:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(products, "narrowed", refuse)
    assert [matrix.keep_narrow() for matrix in settle(uses, choice)] == [True, False]
    only_one_row = replace(choice, cuts={form: cut for form, cut in choice.cuts.items() if form[3]})
    assert settle(uses, only_one_row) == []
    chosen = ChosenProducts(plain, choice.cuts)
    for num_rows in (1, 5):
        x = torch.randn(num_rows, 64)
        for matrix in matrices:
            torch.testing.assert_close(chosen.plain(matrix, x), matrix(x))
    assert matrices[1]._weight is not None


def test_longer_passes_go_to_torch(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where both forms were won."""
    calls = []
    monkeypatch.setattr(streamed, "product", lambda *given: calls.append(len(given[0])) or by_torch(*given))
    plain = TorchProducts()
    chosen = ChosenProducts(
        plain, choose([use], plain, timer(1.0, 0.5, 0.5, 0.5, *REMATCH, 1.0, 0.5, 0.5, 0.5, *REMATCH)).cuts
    )
    calls.clear()
    matrix, norm = use.members[0]
    assert norm is not None
    for num_rows in (1, 2, 16, 17, 64):
        x = torch.randn(num_rows, 64)
        torch.testing.assert_close(chosen.normed(matrix, x, norm), plain.normed(matrix, x, norm))
    assert calls == [1, 2, 16]


def by_torch_too(x: Tensor, weight: Tensor, bias: Tensor | None, around: Around, cut: Cut) -> Tensor:
    """What a kernel without a norm should give, in 8 bits too."""
    out = x @ (weight if around.scales is None else weight * around.scales)
    return out if around.base is None else out + around.base


def test_a_draft_may_use_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both numbers of rows were won by them nothing else is needed; the target is never asked."""
    monkeypatch.setattr(streamed, "product", by_torch_too)
    matrix = Matrix(torch.randn(64, 96, generator=torch.Generator().manual_seed(0)), None)
    uses = [Use("plain", ((matrix, None),))]
    for cuts, num_narrow in ((usual_cuts, 0), (all_cuts, 2)):
        times = iter(0.9**number for number in range(1000))
        choice = choose(uses, TorchProducts(), lambda work, times=times: next(times), cuts)
        assert sum(cut.is_narrow for cut in choice.cuts.values()) == num_narrow
        assert choice.describe().count("(1 in 8 bits)") == num_narrow
        assert settle(uses, choice) == [matrix] * (num_narrow // 2)


def test_a_matrix_that_8_bits_do_not_fit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number a column that is a thousand times as large as the others leaves these little."""
    monkeypatch.setattr(streamed, "product", by_torch_too)
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    weight[0] = 1000
    times = iter(0.9**number for number in range(1000))
    uses = [Use("plain", ((Matrix(weight, None), None),))]
    choice = choose(uses, TorchProducts(), lambda work: next(times), all_cuts)
    assert all(not cut.is_narrow for cut in choice.cuts.values())


@pytest.mark.parametrize("kind", ["plain", "added"])
def test_8_bits_take_more_rows_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 rows at most, up to 64; more are multiplied in 16 bits."""
    calls: list[int] = []
    monkeypatch.setattr(streamed, "product", lambda *given: calls.append(len(given[0])) or by_torch_too(*given))
    matrix, cut = Matrix(torch.randn(64, 96, generator=torch.Generator().manual_seed(0)), None), NARROW_ROWS[0]
    matrix.keep_narrow()
    cuts = {(kind, 64, 96, is_one): replace(cut, is_narrow=True) for is_one in (True, False)}
    chosen = ChosenProducts(TorchProducts(), cuts)  # type: ignore[arg-type]
    for num_rows, parts in ((1, [1]), (16, [16]), (17, [9, 8]), (50, [13, 13, 13, 11]), (64, [16] * 4), (65, [])):
        calls.clear()
        x, base = torch.randn(num_rows, 64), torch.randn(num_rows, 96)
        want = x @ matrix.weight
        if kind == "plain":
            torch.testing.assert_close(chosen.plain(matrix, x), want)
        else:
            torch.testing.assert_close(chosen.added(matrix, x, base, keeps_base=True), want + base)
        assert calls == parts


def test_a_matrix_that_takes_no_turn_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a form are rounded, so the last of many decides as the first does."""
    monkeypatch.setattr(streamed, "product", by_torch_too)
    monkeypatch.setattr(contest, "CACHED_BYTES", 1)
    weights = [torch.randn(64, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    weights[2][0] = 1000
    times = iter(0.9**number for number in range(1000))
    uses = [Use("plain", tuple((Matrix(weight, None), None) for weight in weights))]
    choice = choose(uses, TorchProducts(), lambda work: next(times), all_cuts)
    assert all(not cut.is_narrow for cut in choice.cuts.values())
    assert "8 bits lose too much" in choice.describe()


def test_a_gate_with_a_bias_stays_with_torch() -> None:
    """Some heads have one; our kernels do not know it."""
    generator = torch.Generator().manual_seed(0)
    matrix = Matrix(torch.randn(64, 96, generator=generator), torch.randn(96, generator=generator))
    times = iter(0.9**number for number in range(1000))
    uses, plain = [Use("gated", ((matrix, None),))], TorchProducts()
    choice = choose(uses, plain, lambda work: next(times), all_cuts)
    assert choice.cuts == {}
    assert set(choice.refused.values()) == {"our gates have no bias"}
    x = torch.randn(4, 64, generator=generator)
    torch.testing.assert_close(ChosenProducts(plain, choice.cuts).gated(matrix, x, None), plain.gated(matrix, x, None))
