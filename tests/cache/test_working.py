"""The draft's memory: what is in view, at which slots, and keys turned to the right positions."""

import pytest
import torch

from spec_engine.cache.slots import LayerShape, SlotCache
from spec_engine.cache.working import FocusedCache, Rotation, ViewSize, WholeCache, rotate_keys

CPU = torch.device("cpu")
SIZE = 8
SHAPES = (LayerShape(2, SIZE, 4, torch.float64, CPU),) * 3
INV_FREQ = 1.0 / 10 ** torch.arange(0, 1, 0.25)
ROTATIONS = (Rotation((0,), INV_FREQ, False), Rotation((2,), INV_FREQ[:3], True))  # layer 1 has none
LIMITS = ViewSize(num_start=12, num_sink=2, num_recent=4, limit=20, num_extra=6)


def raw_key(layer: int, token: int) -> torch.Tensor:
    """The unrotated key [SIZE] of a token."""
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(100 * token + layer), dtype=torch.float64)


def key_at(layer: int, token: int, position: int) -> torch.Tensor:
    """The key rotated to a position, by complex multiplication."""
    key = raw_key(layer, token).clone()
    rotation = next((rotation for rotation in ROTATIONS if layer in rotation.layers), None)
    if rotation is None:
        return key
    num = len(rotation.inv_freq)
    first, second = slice(0, num), slice(num, 2 * num)
    if rotation.is_interleaved:
        first, second = slice(0, 2 * num, 2), slice(1, 2 * num, 2)
    turned = torch.complex(key[first], key[second]) * torch.polar(
        torch.ones(num, dtype=torch.float64), position * rotation.inv_freq.double()
    )
    key[first], key[second] = turned.real, turned.imag
    return key


def append(slots: SlotCache, tokens: list[int], first_position: int) -> None:
    """What a forward does: keys rotated to consecutive positions; the value is the token's number."""
    for layer in range(len(SHAPES)):
        keys = torch.stack([key_at(layer, token, first_position + i) for i, token in enumerate(tokens)])
        values = torch.tensor(tokens, dtype=torch.float64)[:, None].expand(-1, 4)
        slots.append(layer, keys.expand(1, 2, -1, -1), values.expand(1, 2, -1, -1))


def read(cache: FocusedCache | WholeCache, num_tokens: int) -> None:
    first = cache.full.length
    append(cache.full, list(range(first, first + num_tokens)), first)
    cache.read(num_tokens)


def run_on_view(cache: FocusedCache, num_tokens: int) -> None:
    first = cache.full.length
    for token in range(first, first + num_tokens):
        assert cache.room(1) == 1
        append(cache.view, [token], cache.view.length)
        cache.keep(1)


def in_view(cache: FocusedCache) -> list[int]:
    return [int(number) for number in cache.view.view(0)[1][0, 0, :, 0]]


def assert_positions_are_consecutive(cache: FocusedCache) -> None:
    """Every key in view is that of its token, rotated to its slot."""
    for layer in range(len(SHAPES)):
        keys, values = cache.view.view(layer)
        for slot in range(cache.view.length):
            token = int(values[0, 1, slot, 0])
            assert torch.allclose(keys[0, 1, slot], key_at(layer, token, slot), atol=1e-6)


@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_rotation_is_a_group(is_interleaved: bool, dtype: torch.dtype) -> None:
    rotation = Rotation((0,), 1.0 / 10000 ** (torch.arange(0, 16, 2) / 16), is_interleaved)
    keys = torch.randn(3, 1, 2, 5, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    there = rotate_keys(keys, torch.tensor([5, -3, 0, 4000, 9]), rotation)
    back = rotate_keys(there, torch.tensor([-5, 3, 0, -4000, -9]), rotation)
    assert there.dtype == dtype
    assert torch.allclose(back.double(), keys.double(), atol={torch.bfloat16: 5e-2}.get(dtype, 1e-5))
    assert torch.equal(there[..., 16:], keys[..., 16:])  # partial rotary: the rest stays
    assert torch.equal(there[..., 2, :], keys[..., 2, :])
    assert not torch.allclose(there[..., 0, :16].double(), keys[..., 0, :16].double(), atol=1e-1)


def test_before_anything_was_chosen_the_view_is_sink_and_newest() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 100, LIMITS)
    read(cache, 30)
    assert cache.room(1) == 1
    assert in_view(cache) == [0, 1, *range(20, 30)]
    assert_positions_are_consecutive(cache)
    assert not cache.keeps_view_rows
    assert cache.num_read == 30


def test_a_short_text_is_whole_in_view() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 100, LIMITS)
    read(cache, 5)
    cache.room(1)
    assert in_view(cache) == list(range(5))


def test_focus_shows_the_chosen_and_all_later_tokens() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 100, LIMITS)
    read(cache, 40)
    cache.focus(torch.tensor([0, 1, 10, 11, 38, 39]))
    run_on_view(cache, 5)
    assert in_view(cache) == [0, 1, 10, 11, 38, 39, 40, 41, 42, 43, 44]
    assert_positions_are_consecutive(cache)
    assert cache.full.length == 45
    assert cache.num_read == 40
    cache.focus(torch.tensor([0, 1, 20, 21, 42, 43]))  # the rows of 42 and 43 were rotated to slots, not to positions
    cache.room(1)
    assert in_view(cache) == [0, 1, 20, 21, 42, 43, 44]
    assert_positions_are_consecutive(cache)


def test_the_view_is_made_anew_only_when_the_choice_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = FocusedCache._make_view
    monkeypatch.setattr(FocusedCache, "_make_view", lambda self, tokens: (made.append(1), original(self, tokens)))
    cache = FocusedCache(SHAPES, ROTATIONS, 100, LIMITS)
    read(cache, 40)
    chosen = torch.tensor([0, 1, 10, 11, 38, 39])
    cache.focus(chosen)
    run_on_view(cache, 3)
    cache.focus(chosen.clone())
    run_on_view(cache, 3)
    assert len(made) == 1
    cache.focus(torch.tensor([0, 1, 12, 13, 40, 41]))
    run_on_view(cache, 1)
    assert len(made) == 2


def test_a_view_that_outgrew_its_limit_keeps_chosen_and_recent() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 200, LIMITS)
    read(cache, 40)
    cache.focus(torch.tensor([0, 1, 10, 11, 38, 39]))
    for num_run in range(1, 60):
        run_on_view(cache, 1)
        shown = in_view(cache)
        assert shown[:4] == [0, 1, 10, 11]
        assert shown[-min(num_run, 4) :] == list(range(40 + num_run - min(num_run, 4), 40 + num_run))
        assert len(shown) <= LIMITS.limit
    assert_positions_are_consecutive(cache)


def test_many_new_tokens_are_run_in_pieces() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 200, LIMITS)
    read(cache, 40)
    cache.focus(torch.arange(0, 14))
    num_left = 50
    while num_left:
        num_next = cache.room(num_left)
        assert 1 <= num_next <= num_left
        first = cache.full.length
        append(cache.view, list(range(first, first + num_next)), cache.view.length)
        cache.keep(num_next)
        num_left -= num_next
    assert cache.full.length == 90
    assert in_view(cache)[-1] == 89
    assert_positions_are_consecutive(cache)


def test_a_choice_larger_than_the_view_loses_its_oldest() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 200, LIMITS)
    read(cache, 60)
    cache.focus(torch.arange(60))
    assert cache.room(1) == 1
    assert in_view(cache) == list(range(41, 60))


def test_choice_may_name_tokens_that_were_not_run_yet() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 200, LIMITS)
    read(cache, 10)
    cache.focus(torch.arange(13))
    run_on_view(cache, 3)
    assert in_view(cache) == list(range(13))


def test_drop_last_and_truncate() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 100, LIMITS)
    read(cache, 40)
    cache.focus(torch.tensor([0, 1, 10, 11, 38, 39]))
    run_on_view(cache, 2)
    cache.drop_last()
    assert in_view(cache) == [0, 1, 10, 11, 38, 39, 40]
    cache.truncate(25)
    assert (cache.full.length, cache.num_read, cache.keeps_view_rows) == (25, 25, False)
    read(cache, 3)
    cache.room(1)
    assert in_view(cache) == [0, 1, *range(18, 28)]
    assert_positions_are_consecutive(cache)


def test_reading_behind_view_rows_is_our_bug() -> None:
    cache = FocusedCache(SHAPES, ROTATIONS, 100, LIMITS)
    read(cache, 40)
    cache.focus(torch.tensor([0, 1]))
    run_on_view(cache, 1)
    with pytest.raises(AssertionError, match="other positions"):
        read(cache, 1)


def test_whole_cache_sees_everything() -> None:
    cache = WholeCache(SHAPES, 50, 5)
    read(cache, 30)
    cache.focus(torch.tensor([1, 2]))
    assert cache.view is cache.full
    assert cache.room(7) == 7
    append(cache.view, [30, 31], 30)
    cache.keep(2)
    cache.drop_last()
    assert cache.num_read == cache.view.length == 31
    cache.truncate(4)
    assert cache.num_read == 4
