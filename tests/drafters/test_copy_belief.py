"""What is learned of copies: where they break off, in which answers, of which tokens."""

import math
import random

import pytest

from spec_engine.drafters.copy_belief import CopyBelief, chance_of, learn

WORD, STOP, MARK = 7, 8, 9


def chance(belief: CopyBelief, length: int = 10, before: int = 1, token_id: int = 2) -> float:
    return chance_of(belief.weights(length, before, token_id), 1.0)


def test_the_longer_the_match_the_likelier_before_anything_was_seen() -> None:
    guesses = [chance(CopyBelief(16), length) for length in range(1, 30)]
    assert guesses == sorted(guesses)
    assert guesses[0] == pytest.approx(0.7)
    assert guesses[16:] == guesses[15:16] * 13  # from the longest on


def test_what_one_token_explains_is_not_held_against_the_others() -> None:
    """Copies break off behind every fourth token, which is always the same one, and never elsewhere."""
    belief = CopyBelief(16)
    for number in range(400):
        before = STOP if number % 4 == 3 else 100 + number
        learn(belief.weights(12, before, 1000 + number), 1.0, was_right=before != STOP)
    assert chance(belief, 12, STOP, 2) < 0.1
    assert chance(belief, 12, 1, 2) > 0.95  # three in four were right, and these are taken to be the rule


def test_it_finds_the_weights_that_made_the_data() -> None:
    """Tokens are right with chances that depend on two things at once."""
    belief, dice = CopyBelief(16), random.Random(0)
    truth = {(length, before): 0.95 if before == WORD else 0.3 for length in (2, 12) for before in (WORD, STOP)}
    for _ in range(3000):
        length, before = dice.choice(list(truth))
        learn(belief.weights(length, before, dice.randrange(500)), 1.0, was_right=dice.random() < truth[length, before])
    for (length, before), true in truth.items():
        assert chance(belief, length, before, 9999) == pytest.approx(true, abs=0.12)


def test_a_share_of_the_continuations_is_no_more_than_a_share() -> None:
    """Of two continuations that are equally usual, one is right whenever the answer goes on as the text does."""
    belief = CopyBelief(16)
    for number in range(300):
        for mine in (True, False):
            learn(belief.weights(4, WORD, 2 + mine), 0.5, was_right=mine == (number % 2 == 0))
    both = [chance_of(belief.weights(4, WORD, 2 + mine), 0.5) for mine in (True, False)]
    assert sum(both) == pytest.approx(1.0, abs=0.05)
    assert sum(both) <= 1.0


def test_special_tokens_are_learned_of_together() -> None:
    """Marks that no answer repeats: after a few of them, the next one is not copied either."""
    belief = CopyBelief(16, frozenset(range(500)))
    for mark in range(6):
        learn(belief.weights(12, STOP, mark), 1.0, was_right=False)
        learn(belief.weights(12, STOP, 1000 + mark), 1.0, was_right=True)
    assert chance(belief, 12, STOP, 400) < 0.3 < 0.8 < chance(belief, 12, STOP, 2000)


def test_an_answer_that_does_not_quote_is_taken_as_such_and_drawn_ones_are_apart() -> None:
    belief = CopyBelief(16)
    before = chance(belief)
    belief.begin(is_drawn=True)
    for number in range(20):
        learn(belief.weights(1, 100 + number, 200 + number), 1.0, was_right=False)
    in_it = chance(belief)
    belief.begin(is_drawn=False)
    greedy = chance(belief)
    belief.begin(is_drawn=True)
    drawn = chance(belief)
    assert in_it < drawn < greedy <= before


def test_nothing_is_ever_certain() -> None:
    belief = CopyBelief(16)
    for was_right in (True, False):
        for _ in range(5000):
            learn(belief.weights(3, WORD, 2), 0.25, was_right=was_right)
        found = chance_of(belief.weights(3, WORD, 2), 0.25)
        assert 0.0 < found < 0.25
        assert math.isfinite(math.log(found))
    for _ in range(40):  # a new kind of text: it is not too late to learn
        learn(belief.weights(3, WORD, 2), 1.0, was_right=True)
    assert chance(belief, 3, WORD, 2) > 0.5
