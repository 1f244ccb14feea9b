"""Run by test_card: graphs on a pretended card, whose streams come round, and work that cannot be captured."""

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.model import contest
from spec_engine.model.capture import Captures, CudaCapture, Work
from spec_engine.model.contest import cuda_timer
from spec_engine.model.products import Matrix
from tests.card.stand_ins import Stream, card

NUM_STREAMS = 32


def check_graphs_outlive_others(device: torch.device) -> None:
    """Those that are only timed, and those that are refused or dropped, leave the others alone (pytorch#193402)."""
    x = torch.ones(3, device=device)

    def work() -> tuple[Tensor, ...]:
        return (x * 2,)

    capture = CudaCapture(device)
    captures = Captures(capture, 1 << 30)
    kept = captures.record(work, lambda replay: True)
    assert kept is not None
    seconds = cuda_timer(device)
    for _ in range(2 * NUM_STREAMS):
        assert seconds(work) >= 0
    kept()
    dropped: Work | None = capture(work)
    del dropped
    kept()
    assert captures.record(work, lambda replay: False) is None
    x += 1
    (found,) = kept()
    assert found.tolist() == [4, 4, 4]


def check_what_waits_is_not_captured(device: torch.device) -> None:
    """It raises before the capture begins; the mode is then what it was, and what was begun is waited for."""
    x, num_begun = torch.ones(3, device=device), 0
    begin = torch.cuda.graph

    def counted(*given: object, **options: object) -> object:
        nonlocal num_begun
        num_begun += 1
        return begin(*given, **options)  # type: ignore[arg-type]

    torch.cuda.graph = counted  # type: ignore[assignment, misc]
    waited = list[object]()
    Stream.wait_stream = lambda self, stream: waited.append(stream)  # type: ignore[method-assign]
    captures = Captures(capture := CudaCapture(device), 1 << 30)
    torch.cuda.set_sync_debug_mode("warn")
    assert captures.record(lambda: (x + x.sum().item(),), lambda replay: True) is None
    assert "called a synchronizing CUDA operation" in captures.note, captures.note
    assert torch.cuda.get_sync_debug_mode() == 1
    assert num_begun == 0
    assert waited[-1] is capture._stream
    assert Captures(CudaCapture(device), 1 << 30).record(lambda: (x + 1,), lambda replay: True) is not None
    assert num_begun == 1


def check_copies_take_turns(device: torch.device) -> None:
    """Where a form has one matrix, so that no cache holds them all; no more than there is room for."""
    member = Matrix(torch.ones(8, 4, device=device).t(), None), None
    found = contest._in_turn([member], 5)
    assert len({matrix.weight.data_ptr() for matrix, _ in found}) == len(found) == 5
    assert {matrix.weight.stride() for matrix, _ in found} == {(1, 4)}
    assert contest._in_turn([member] * 3, 2) == [member] * 2
    torch.cuda.mem_get_info = lambda device=None: (8 * 128 * 2, 1 << 30)  # type: ignore[assignment]
    assert len(contest._in_turn([member], 5)) == 3


if __name__ == "__main__":
    torch.set_num_threads(1)
    with card():
        check_copies_take_turns(torch.device("cuda"))
        check_graphs_outlive_others(torch.device("cuda"))
        check_what_waits_is_not_captured(torch.device("cuda"))
