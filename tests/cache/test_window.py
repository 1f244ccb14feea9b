"""The ring holds exactly the newest rows, at their positions, in memory taken once."""

import pytest
import torch

from spec_engine.cache.slots import LayerShape
from spec_engine.cache.window import WindowCache

SHAPE = LayerShape(2, 4, 3, torch.float32, torch.device("cpu"))
WINDOW = 8


def rows(first: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Recognisable rows: every entry of a key is its position, of a value the negative of it."""
    values = torch.arange(first, first + num_rows, dtype=torch.float32).view(1, 1, num_rows, 1)
    return values.expand(1, 2, -1, 4), -values.expand(1, 2, -1, 3)


def assert_holds(cache: WindowCache, positions: list[int]) -> None:
    """These positions, each with its own row, whatever their order."""
    held = cache.positions >= 0
    assert sorted(cache.positions[held].tolist()) == positions
    keys, values = cache.view(0)
    assert torch.equal(keys[0, 1, held, 3].long(), cache.positions[held])
    assert torch.equal(values[0, 0, held, 2].long(), -cache.positions[held])


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 11, 50])
def test_the_newest_rows_stay(chunk: int) -> None:
    cache = WindowCache(SHAPE, WINDOW, 4)
    for first in range(0, 50, chunk):
        num_rows = min(chunk, 50 - first)
        cache.extend(*rows(first, num_rows))
        end = first + num_rows
        assert cache.next_position == end
        assert_holds(cache, list(range(max(end - WINDOW, 0), end)))


def test_it_can_begin_anywhere_and_again() -> None:
    cache = WindowCache(SHAPE, WINDOW, 4)
    cache.restart(1005)
    cache.extend(*rows(1005, 3))
    assert_holds(cache, [1005, 1006, 1007])
    cache.restart(2)
    assert_holds(cache, [])
    cache.extend(*rows(2, 0))
    cache.extend(*rows(2, 2))
    assert_holds(cache, [2, 3])


def test_empty_rows_are_beyond_every_window() -> None:
    cache = WindowCache(SHAPE, WINDOW, 4)
    cache.extend(*rows(0, 2))
    assert (cache.positions >= 1 - 10**9).tolist() == [True, True] + [False] * 6
    assert torch.equal(cache.view(0)[0][:, :, 2:], torch.zeros(1, 2, 6, 4))


def test_tree_rows_lie_behind_the_ring_and_leave_it_alone() -> None:
    cache = WindowCache(SHAPE, WINDOW, 4)
    cache.extend(*rows(0, 13))
    cache.put(0, *rows(100, 1))
    cache.put(1, *rows(200, 3))
    keys, values = cache.view(4)
    assert keys[0, 0, WINDOW:, 0].tolist() == [100.0, 200.0, 201.0, 202.0]
    assert values[0, 1, WINDOW:, 0].tolist() == [-100.0, -200.0, -201.0, -202.0]
    assert_holds(cache, list(range(5, 13)))
    with pytest.raises(AssertionError, match="more than 4 rows"):
        cache.put(2, *rows(0, 3))


def test_memory_is_taken_once() -> None:
    cache = WindowCache(SHAPE, WINDOW, 4)
    before, num_bytes = cache.view(4)[0].data_ptr(), cache.num_bytes
    with torch.inference_mode():
        cache.extend(*rows(0, 5000))
    cache.extend(*rows(5000, 3))  # also outside inference mode
    assert (cache.view(4)[0].data_ptr(), cache.num_bytes) == (before, num_bytes)
    assert num_bytes == (WINDOW + 4) * SHAPE.bytes_per_token + WINDOW * 8
