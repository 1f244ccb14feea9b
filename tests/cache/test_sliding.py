"""Layers with a window hold their newest rows, and texts can be cut back to where they parted."""

import random

import pytest
import torch

from spec_engine.cache import sliding
from spec_engine.cache.sliding import SlidingRows, num_sliding_slots
from spec_engine.cache.slots import LayerShape, SlotCache

CPU = torch.device("cpu")
WINDOW, SLACK, NUM_SLOTS = 8, 20, 2000
SHAPES = (LayerShape(1, 2, 3, torch.float32, CPU),) * 3
WINDOWS = (WINDOW, None, WINDOW)
REACH = WINDOW + 16


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "_LEAST_PLACE", 3)
    monkeypatch.setattr(sliding, "_LEAST_WAY", 3)


class Text:
    """A cache that is written to as a target does, and the tokens that it should hold."""

    def __init__(self) -> None:
        self.cache = SlotCache(SHAPES, NUM_SLOTS, WINDOWS, SLACK)
        self.tokens: list[int] = []

    def write(self, tokens: list[int], num_kept: int) -> None:
        """A pass over these tokens, of which the first are kept; the row of a token holds its number."""
        self.cache.reserve(len(tokens))
        values = torch.tensor(tokens, dtype=torch.float32).view(1, 1, -1, 1)
        for layer in range(len(SHAPES)):
            keys, _ = self.cache.append(layer, values.expand(1, 1, -1, 2), values.expand(1, 1, -1, 3))
            assert keys.shape[2] == len(self.tokens) - self.cache.first(layer) + len(tokens)
        self.cache.gather(range(num_kept))
        self.tokens += tokens[:num_kept]

    def check(self) -> None:
        """All rows that something may still see are the right ones."""
        length = len(self.tokens)
        assert self.cache.length == length
        for layer in range(len(SHAPES)):
            first = self.cache.first(layer)
            needed = max(0, length - WINDOW - 2) if layer != 1 else 0
            assert first <= needed
            for rows in self.cache.memory(layer):
                assert rows[0, 0, needed - first : length - first, -1].tolist() == self.tokens[needed:]


@pytest.mark.parametrize("seed", range(8))
def test_random_texts_hold_the_rows_that_can_be_seen(seed: int) -> None:
    """Grown, cut where that is said to be possible, and grown anew with other tokens."""
    dice = random.Random(seed)
    text = Text()
    num_cuts = 0
    for number in range(400):
        length = len(text.tokens)
        if dice.random() < 0.15:
            wanted = dice.choice([dice.randrange(length + 1), max(0, length - dice.randrange(12))])
            found = text.cache.reachable(wanted)
            assert found <= wanted
            text.cache.truncate(found)
            text.cache.remember(wanted)
            del text.tokens[found:]
            num_cuts += found > 0
        else:
            num_new = dice.randrange(1, SLACK + 1)
            if length + num_new < NUM_SLOTS:
                text.write([1000 * number + index for index in range(num_new)], dice.randrange(1, num_new + 1))
        text.check()
    assert num_cuts > 10


def grown(length: int, start: int = 0) -> Text:
    text = Text()
    while len(text.tokens) < length:
        num_new = min(10, length - len(text.tokens))
        first = start + len(text.tokens)
        text.write(list(range(first, first + num_new)), num_new)
    return text


def test_a_text_can_always_be_cut_by_half_of_the_slack() -> None:
    text = grown(500)
    for _ in range(60):
        text.write([7], 1)
        assert text.cache.reachable(len(text.tokens) - SLACK // 2) == len(text.tokens) - SLACK // 2


def test_where_texts_parted_can_be_come_back_to_however_long_the_other_was() -> None:
    text = grown(300)
    assert text.cache.reachable(295) == 295
    text.cache.remember(295)
    for _ in range(3):
        for _ in range(20):
            text.write([5] * SLACK, SLACK)
        assert text.cache.reachable(600) == 295  # 600 was never remembered
        assert text.cache.truncate(295)
        del text.tokens[295:]
        text.check()
        text.cache.truncate(294)  # a head may want one token less
        del text.tokens[294:]
        text.check()
        text.write([9], 1)
        text.check()
        text.cache.truncate(294)
        text.tokens.pop()
        text.write([294], 1)
        assert text.cache.reachable(295) == 295
        text.cache.remember(295)


def test_the_shortest_place_and_the_newest_are_remembered() -> None:
    text = grown(340)
    for place in (340, 350, 360, 380, 400):
        text.cache.remember(place)
        for _ in range(2 if place >= 360 else 1):
            text.write([5] * 10, 10)
    for _ in range(20):
        text.write([5] * SLACK, SLACK)
    wanted = (500, 400, 387, 385, 367, 359, 350, 340, 326, 325)
    assert [text.cache.reachable(place) for place in wanted] == [400, 400, 387, 380, 367, 359, 350, 340, 326, 0]


def test_a_place_behind_which_the_text_changed_is_forgotten() -> None:
    text = grown(300)
    text.cache.remember(300)
    text.cache.remember(280)
    text.cache.truncate(290)
    del text.tokens[290:]
    for _ in range(20):
        text.write([5] * SLACK, SLACK)
    assert text.cache.reachable(300) == 280


def test_a_lasting_place_outlives_many_newer_ones_and_shorter_ones() -> None:
    text = grown(340)
    text.cache.remember(340)
    text.write(list(range(340, 400))[:SLACK], SLACK)
    for _ in range(2):
        text.write([5] * SLACK, SLACK)
    text.cache.remember(400, is_lasting=True)
    for _ in range(8):
        text.write([6] * SLACK, SLACK)
        text.cache.remember(len(text.tokens))
    assert text.cache.reachable(405) == 400
    assert text.cache.reachable(399) == 399
    text.cache.truncate(text.cache.reachable(200))
    text.cache.remember(200)  # another document
    assert text.cache._sliding is not None
    assert text.cache._sliding._places == [200]


def test_places_of_another_text_are_forgotten_where_a_short_beginning_is_shared() -> None:
    """Before rows have ever moved, and so with nothing dropped."""
    text = Text()
    for _ in range(2):
        text.write([1] * 18, 18)
    for place in (20, 36):
        text.cache.remember(place)
    text.cache.truncate(2)
    text.cache.remember(2)
    del text.tokens[2:]
    for number in range(40):
        text.write([100 + number] * 10, 10)
        if number == 9:
            text.cache.remember(102)
    for place in (380, 390, 398):
        text.cache.remember(place)
    assert text.cache._sliding is not None
    assert text.cache._sliding._places == [102, 380, 390, 398]


def test_rows_move_in_parts_that_are_not_tiny() -> None:
    """Also where a chunk of a prompt lacks one slot."""
    rows = SlidingRows([torch.arange(float(REACH + SLACK + 1)).view(1, 1, 1, -1, 1)], WINDOW, SLACK)
    assert not rows.make_room(REACH + 2, SLACK - 2)
    assert rows.make_room(REACH + 3, SLACK - 2)
    assert rows.first == 3
    assert rows._stores[0][0, 0, 0, : REACH + 3 - rows.first, 0].tolist() == list(range(rows.first, REACH + 3))


def test_rows_can_be_taken_away_and_brought_back() -> None:
    text = grown(333)
    kept = text.cache.rows(333)
    assert kept is not None
    assert [rows.shape[1] for rows in kept.values()].count(REACH) == 4
    other = grown(700, start=5000)
    for name, rows in other.cache.room(333).items():
        rows.copy_(kept[name])
    other.cache.advance(333)
    other.tokens = list(range(333))
    other.check()
    assert other.cache.rows(320) is None
    assert other.cache.reachable(332) == 332


def test_memory_is_that_of_the_window_where_layers_differ() -> None:
    assert num_sliding_slots(WINDOWS, NUM_SLOTS, SLACK) == REACH + SLACK + 1  # the last is for rows that are none
    assert num_sliding_slots(WINDOWS, 30, SLACK) == 30
    assert num_sliding_slots((WINDOW, WINDOW), NUM_SLOTS, SLACK) == NUM_SLOTS  # the last one is looked at as a whole
    assert num_sliding_slots((None, None), NUM_SLOTS, SLACK) == NUM_SLOTS
    cache = SlotCache(SHAPES, NUM_SLOTS, WINDOWS, SLACK)
    assert cache.num_bytes == 4 * 5 * (NUM_SLOTS + 2 * (REACH + SLACK + 1))
    assert [cache.slides(layer) for layer in range(3)] == [True, False, True]


def test_more_rows_than_the_slack_are_refused() -> None:
    rows = SlidingRows([torch.zeros(1, 1, 1, REACH + SLACK + 1, 2)], WINDOW, SLACK)
    rows.make_room(REACH, SLACK)
    with pytest.raises(AssertionError, match="is the most"):
        rows.make_room(REACH + SLACK, SLACK + 1)
