"""The slot cache keeps exactly the committed rows, in memory taken once."""

import pytest
import torch

from spec_engine.cache.slots import LayerShape, SlotCache

CPU = torch.device("cpu")
SHAPES = (
    LayerShape(2, 4, 4, torch.float32, CPU),
    LayerShape(1, 6, 3, torch.float32, CPU),
    LayerShape(2, 4, 4, torch.float32, CPU),
)


def rows(layer: int, first: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Recognisable rows: every entry is 1000 * layer + row."""
    shape = SHAPES[layer]
    values = (1000.0 * layer + torch.arange(first, first + num_rows)).view(1, 1, num_rows, 1)
    return (
        values.expand(1, shape.num_kv_heads, num_rows, shape.key_size),
        -values.expand(1, shape.num_kv_heads, num_rows, shape.value_size),
    )


def append_all(cache: SlotCache, first: int, num_rows: int) -> None:
    for layer in range(len(SHAPES)):
        keys, values = cache.append(layer, *rows(layer, first, num_rows))
        assert keys.shape[2] == values.shape[2] == cache.length + num_rows


def assert_holds(cache: SlotCache, numbers: list[int]) -> None:
    for layer in range(len(SHAPES)):
        keys, values = cache.view(layer)
        want = torch.tensor([1000.0 * layer + number for number in numbers])
        assert torch.equal(keys[0, 0, :, 0], want)
        assert torch.equal(keys[0, -1, :, -1], want)
        assert torch.equal(values[0, -1, :, -1], -want)


def test_append_returns_all_rows_and_commits_none() -> None:
    cache = SlotCache(SHAPES, 16)
    append_all(cache, 0, 5)
    assert cache.length == 0
    append_all(cache, 7, 3)  # a pass that was not committed is overwritten
    cache.advance(3)
    assert_holds(cache, [7, 8, 9])
    keys, _ = cache.append(2, *rows(2, 20, 2))
    assert keys[0, 0, :, 0].tolist() == [2007.0, 2008.0, 2009.0, 2020.0, 2021.0]


@pytest.mark.parametrize("path", [[0], [0, 1, 2], [0, 2, 5], [1, 4], [0, 1, 2, 3, 4, 5]])
def test_gather_keeps_the_path(path: list[int]) -> None:
    cache = SlotCache(SHAPES, 16)
    append_all(cache, 0, 4)
    cache.advance(4)
    append_all(cache, 100, 6)
    cache.gather(path)
    assert_holds(cache, [0, 1, 2, 3, *(100 + node for node in path)])


def test_truncate_and_reset() -> None:
    cache = SlotCache(SHAPES, 8)
    append_all(cache, 0, 8)
    cache.advance(8)
    cache.truncate(3)
    assert_holds(cache, [0, 1, 2])
    append_all(cache, 50, 2)
    cache.advance(2)
    assert_holds(cache, [0, 1, 2, 50, 51])
    cache.reset()
    assert cache.length == 0
    append_all(cache, 30, 1)
    cache.advance(1)
    assert_holds(cache, [30])


def test_memory_is_taken_once() -> None:
    cache = SlotCache(SHAPES, 32)
    before = [bank.keys.data_ptr() for bank in cache.banks]
    with torch.inference_mode():
        for step in range(6):
            append_all(cache, 10 * step, 4)
            cache.gather([0, 2])
        cache.truncate(5)
    append_all(cache, 0, 3)  # also outside inference mode
    assert [bank.keys.data_ptr() for bank in cache.banks] == before
    for bank in cache.banks:
        views = [cache.view(layer)[0].data_ptr() for layer in bank.layers]
        assert views == [bank.keys[row].data_ptr() for row in range(len(bank.layers))]
    assert cache.num_bytes == 32 * sum(shape.bytes_per_token for shape in SHAPES)
    assert cache.num_bytes == sum(bank.keys.nbytes + bank.values.nbytes for bank in cache.banks)


def test_more_rows_than_slots_is_our_bug() -> None:
    cache = SlotCache(SHAPES, 4)
    with pytest.raises(AssertionError, match="do not fit"):
        append_all(cache, 0, 5)
    with pytest.raises(AssertionError, match="cannot cut"):
        cache.truncate(1)


def test_copy_rows() -> None:
    source, cache = SlotCache(SHAPES, 8), SlotCache(SHAPES, 5)
    append_all(source, 0, 8)
    cache.copy_rows(source, 2, 3)  # rows need not be committed in the source
    cache.copy_rows(source, 7, 1)
    assert_holds(cache, [2, 3, 4, 7])
