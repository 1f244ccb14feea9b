"""The products of a decoder block alone, on a GPU: cuBLAS and ours in many cuts, beside what the memory allows.

Job: `sweep_products`, which has more cuts than a model tries contest the products of a published size.
Non-job: attention's kernels (`tuning`), whole passes (`limit`). Every cut is compiled, so there is a time limit.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Final

import torch

from spec_engine.bench.machine import bandwidth
from spec_engine.bench.shapes import shape_config
from spec_engine.model.block_products import Cut, Form, Kind, TorchProducts
from spec_engine.model.contest import Choice, Timer, Use, all_cuts, choose
from spec_engine.model.norm import Norm
from spec_engine.model.products import Matrix

_MEMBERS: Final = 8  # matrices of a form: together far more than a GPU's cache holds
_ONE_ROW: Final = ((2, 2048), (4, 1024), (8, 512), (16, 256), (4, 2048), (8, 1024), (16, 512), (32, 256))
_FEW_ROWS: Final = ((16, 128), (16, 256), (16, 512), (32, 64), (32, 128), (32, 256), (64, 64), (64, 128), (128, 64))
_WARPS: Final = (4, 8)
_STAGES: Final = (3, 1, 5)


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One way of doing a product: its seconds, and as a share of the speed at which its matrix could be read."""

    kind: Kind
    num_in: int
    num_out: int
    num_rows: int
    cut: str  # "cuBLAS" or how ours is cut
    seconds: float
    share: float

    @property
    def title(self) -> str:
        """Which product it is."""
        return f"{self.kind} {self.num_in} x {self.num_out}, {self.num_rows} rows"

    def values(self) -> dict[str, object]:
        """For JSON."""
        return {"title": self.title} | asdict(self) | {"share": round(self.share, 3)}


def uses_of(shape: str, where: tuple[torch.dtype, torch.device]) -> list[Use]:
    """The products of a block of a model of published size, and its output layer, with random weights.

    Raises `RequestError` for a shape that is not known.
    """
    config = shape_config(shape)
    hidden, inner, heads, kv, vocabulary = (
        int(str(config[key]))
        for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    )
    size = int(str(config.get("head_dim", hidden // heads)))
    forms: tuple[tuple[Kind, int, int, int], ...] = (
        ("normed", hidden, (heads + 2 * kv) * size, _MEMBERS),
        ("added", heads * size, hidden, _MEMBERS),
        ("gated", hidden, 2 * inner, _MEMBERS),
        ("added", inner, hidden, _MEMBERS),
        ("normed", hidden, vocabulary, 1),
    )
    return [
        Use(kind, tuple(_member(kind, num_in, num_out, where) for _ in range(number)))
        for kind, num_in, num_out, number in forms
    ]


@torch.inference_mode()
def sweep_products(
    shape: str, where: tuple[torch.dtype, torch.device], limit_s: float, timer: Timer, tell: Callable[[str], None]
) -> list[ProductRow]:
    """All that was tried until the time was up, for 1 and for 16 rows."""
    uses, found = uses_of(shape, where), list[ProductRow]()
    for use in uses:
        choice = choose([use], TorchProducts(), timer, _more_cuts(limit_s / (2 * len(uses))))
        for (form, cut), why in choice.refused.items():
            tell(f"{form[0]} {form[1]} x {form[2]}, {cut or 'cuBLAS'}: {why}")
        for form in choice.seconds:
            rows = _rows(form, choice, where)
            best = max(row.share for row in rows)
            tell(
                f"{rows[0].title}: cuBLAS {rows[0].share:.0%}, the best of {len(rows) - 1} cuts {best:.0%} of the limit"
            )
            found += rows
    return found


def _rows(form: Form, choice: Choice, where: tuple[torch.dtype, torch.device]) -> list[ProductRow]:
    """All that was right of one form, cuBLAS first."""
    kind, num_in, num_out, is_one = form
    num_bytes = choice.num_bytes[form]
    limit_s, number = num_bytes / bandwidth(where[1], num_bytes), num_bytes // (num_in * num_out * where[0].itemsize)

    def share(cut: Cut | None, seconds: float) -> float:
        """Of the speed at which the bytes that this one reads could be read."""
        return limit_s / seconds / (where[0].itemsize if cut is not None and cut.is_narrow else 1)

    return [
        ProductRow(kind, num_in, num_out, 1 if is_one else 16, str(cut or "cuBLAS"), s / number, share(cut, s))
        for cut, s in choice.seconds[form].items()
    ]


def product_line(found: Sequence[ProductRow]) -> str:
    """The best of each product in a sentence."""
    fastest = {row.title: row for row in sorted(found, key=lambda row: -row.seconds)}
    told = [f"{title}: {row.cut}, {row.share:.0%}" for title, row in fastest.items()]
    return f"Fastest products, as shares of the memory's speed: {'; '.join(told)}."


def _more_cuts(limit_s: float) -> Callable[[int, torch.device], Iterator[Cut]]:
    """Those that a draft tries, then others, for so many seconds a form."""

    def cuts(num_rows: int, device: torch.device) -> Iterator[Cut]:
        usual, end = all_cuts(num_rows, device), time.monotonic() + limit_s
        yield from usual
        sizes = _ONE_ROW if num_rows == 1 else _FEW_ROWS
        for stages, warps, size in product(_STAGES, _WARPS, sizes):
            cut = Cut(*size, warps, stages, any(known.is_early for known in usual))
            if cut not in usual and time.monotonic() < end:
                yield cut

    return cuts


def _member(
    kind: Kind, num_in: int, num_out: int, where: tuple[torch.dtype, torch.device]
) -> tuple[Matrix, Norm | None]:
    """A random matrix, and the norm before it."""
    weight = torch.randn(num_out, num_in, dtype=where[0], device=where[1]) / num_in**0.5
    return Matrix(weight.t(), None), None if kind == "added" else Norm(weight.new_ones(num_in), 1e-6)
