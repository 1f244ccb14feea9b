"""Run by test_triton: the kernels against the reference. Arguments: a dtype, ``lengths`` or ``tunings``; a device; the
number of a shape, or of none for the rest: on a card every shape is compiled for itself, so the work is shared out.
"""

import sys
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.attention import Bounds, Scoring, TreeBias
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.attention.sdpa import MatmulBackend
from spec_engine.attention.triton import TritonBackend
from spec_engine.bench import tuning
from spec_engine.bench.kernels import Heads
from tests.attention.test_contract import SHAPES, assert_same, make, random_bias

TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}


LARGE = (8, 2, 512)
CARD_SHAPES = [*SHAPES, (32, 8, 128), (32, 8, 64), (8, 8, 256), LARGE]  # of the models that are measured, and wide ones


def check_shapes(shapes: list[tuple[int, int, int]], dtype: torch.dtype, device: str) -> None:
    """Numbers of rows, lengths, biases."""
    backend, reference = TritonBackend(MatmulBackend()), ReferenceBackend()
    news, prefixes = ((1, 33), (0, 63, 300)) if device == "cpu" else ((1, 2, 7, 33, 64), (0, 1, 63, 1030, 16_000))
    for shape, num_new, prefix_len in product(shapes, news, prefixes):
        if shape == LARGE and device == "cpu" and prefix_len != 63:  # slow in the interpreter
            continue
        scoring = Scoring(shape[2] ** -0.5)
        q, k, v = make(shape, num_new, prefix_len, dtype)
        for bias in (None, random_bias(num_new, 0, dtype), random_bias(num_new, min(5, prefix_len), dtype)):
            want = reference.hybrid(q.double(), k.double(), v.double(), prefix_len, bias, scoring)
            on_device = None if bias is None else TreeBias(bias.values.to(device), None)
            got = backend.hybrid(q.to(device), k.to(device), v.to(device), prefix_len, on_device, scoring)
            assert_same((got[0].cpu(), got[1].cpu()), want, TOLERANCE[dtype])


def check_others(dtype: torch.dtype, device: str) -> None:
    """Soft caps, sinks, other value sizes, dead rows."""
    backend, reference = TritonBackend(MatmulBackend()), ReferenceBackend()
    for softcap, has_sink, value_size, prefix_len in product((None, 5.0), (False, True), (0, 20), (0, 3, 200)):
        sink = torch.randn(8, generator=torch.Generator().manual_seed(1)) if has_sink else None
        q, k, v = make((8, 2, 16), 6, prefix_len, dtype, value_size)
        bias = random_bias(6, min(3, prefix_len), dtype, with_dead=True)
        want = reference.hybrid(q.double(), k.double(), v.double(), prefix_len, bias, Scoring(0.3, softcap, sink))
        scoring = Scoring(0.3, softcap, None if sink is None else sink.to(device))
        on_device = TreeBias(bias.values.to(device), None)
        got = backend.hybrid(q.to(device), k.to(device), v.to(device), prefix_len, on_device, scoring)
        assert_same((got[0].cpu(), got[1].cpu()), want, TOLERANCE[dtype])


def check_lengths(device: str) -> None:
    """The same tensors and the same grid at every length: numbers on the device say where the keys lie. The edge of a
    window has as many columns at every length, also where it is shorter, or not reached yet."""
    dtype = torch.float32 if device == "cpu" else torch.float16
    q, k, v = (x.to(device) for x in make((4, 2, 16), 3, 700, dtype))
    backend, values = TritonBackend(MatmulBackend()), torch.zeros(3, dtype=torch.int64, device=device)
    scoring = Scoring(0.25)
    for end, window, num_edge in product((0, 1, 64, 65, 511, 697), (None, 20, 100, 650), (0, 3)):
        first = 0 if window is None else max(end - window, 0)
        start = min(first + 2, end) if num_edge and first else first  # two keys at the edge, as for depths 0 to 2
        values.copy_(torch.tensor([first, start, end]))
        bias = random_bias(3, num_edge, dtype).values.to(device)
        bias[:, start - first : num_edge] = -torch.inf
        got = backend.bounded(q, k, v, Bounds(values, num_edge), bias, scoring)
        part_k, part_v = k[:, :, first : end + 3], v[:, :, first : end + 3]
        seen = torch.cat((bias[:, : start - first], bias[:, num_edge:]), dim=1)
        parts = (q.double(), part_k.double(), part_v.double())
        want = ReferenceBackend().hybrid(*parts, end - first, TreeBias(seen, None), scoring)
        assert_same(got, want, TOLERANCE[dtype])
        again = ReferenceBackend().bounded(q.double(), k.double(), v.double(), Bounds(values, num_edge), bias, scoring)
        assert_same(again, want, 2e-5)


def check_tunings() -> None:
    """Every way to cut the kernels that the sweep tries gives the same; one that is wrong is not kept."""
    tuning.seconds_of = lambda backend, calls: 1.0 / (1 + calls[0].run(backend)[0].isfinite().all())  # type: ignore
    heads, where = Heads(4, 2, 16), (torch.float32, torch.device("cpu"))
    found = tuning.sweep(heads, 200, where, 1e6, print)
    fields = {
        name: {getattr(tried.tuning, name) for tried in found} for name in ("keys", "most_rows", "slice", "merged")
    }
    assert fields == {"keys": {(64, 32), (128, 32), (32, 32)}, "most_rows": {64, 128, 32}, "slice": {32, 64, 128, 16},
                      "merged": {4, 8, 2}}  # fmt: skip
    assert all(tried.ratio == 1.0 for tried in found)
    assert "of 16 tunings" in tuning.sweep_line(found)
    assert len(tuning.sweep(heads, 200, where, 0, print)) == 1
    tuning.error_of = lambda *call: 1.0  # type: ignore[assignment]
    assert len(tuning.sweep(heads, 200, where, 1e6, print)) == 1


if __name__ == "__main__":
    if sys.argv[1] == "tunings":
        check_tunings()
    elif sys.argv[1] == "lengths":
        check_lengths(sys.argv[2] if len(sys.argv) > 2 else "cpu")
    else:
        dtype, device = getattr(torch, sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cpu"
        chosen = int(sys.argv[3]) if len(sys.argv) > 3 else -1
        few = [*SHAPES, LARGE] if dtype == torch.float32 else SHAPES
        check_shapes(few if chosen < 0 else CARD_SHAPES[chosen : chosen + 1], dtype, device)
        if chosen < 0 or chosen == len(CARD_SHAPES):
            check_others(dtype, device)
    print("ok")
