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
    belief.begin("one", is_drawn=True)
    for number in range(20):
        learn(belief.weights(1, 100 + number, 200 + number), 1.0, was_right=False)
    in_it = chance(belief)
    belief.begin("two", is_drawn=False)
    greedy = chance(belief)
    belief.begin("three", is_drawn=True)
    drawn = chance(belief)
    assert in_it < drawn < greedy <= before


def test_the_share_is_told_from_the_chance_that_the_answer_goes_on() -> None:
    """Three in four answers go on as the text does, each continuation in half of these: the weights say the former."""
    belief, dice = CopyBelief(16), random.Random(1)
    for _ in range(4000):
        next_token = dice.choice((2, 3)) if dice.random() < 0.75 else None
        for token_id in (2, 3):
            learn(belief.weights(4, WORD, token_id), 0.5, was_right=token_id == next_token)
    for token_id in (2, 3):
        assert chance_of(belief.weights(4, WORD, token_id), 1.0) == pytest.approx(0.75, abs=0.12)


def test_a_special_token_before_a_copy_is_learned_of_too() -> None:
    """Behind a mark an answer goes on as the text does, behind words it does not."""
    belief = CopyBelief(16, frozenset(range(500)))
    for number in range(12):
        learn(belief.weights(2, number, 1000 + number), 1.0, was_right=True)
        learn(belief.weights(2, 2000 + number, 3000 + number), 1.0, was_right=False)
    assert chance(belief, 2, 400, 5000) > 0.8 > 0.4 > chance(belief, 2, 4000, 5001)


def test_wrong_copies_elsewhere_say_little() -> None:
    """The first wrong copies of a drafter's life do not end all copying."""
    belief = CopyBelief(16)
    before = chance(belief, 16, 1, 2)
    for number in range(2):
        learn(belief.weights(1, 100 + number, 200 + number), 1.0, was_right=False)
    assert before > chance(belief, 16, 1, 2) > 0.8


def test_an_answer_of_which_nothing_was_learned_is_none() -> None:
    belief = CopyBelief(16)
    for number in range(10):
        learn(belief.weights(1, 100 + number, 200 + number), 1.0, was_right=False)
    belief.begin("one", is_drawn=False)
    once = chance(belief)
    for number in range(5):
        belief.begin(number, is_drawn=False)
    assert chance(belief) == once


def test_an_answer_that_is_made_again_begins_with_what_was_known_before_it() -> None:
    belief = CopyBelief(16)

    def answer(name: str, *, was_right: bool) -> float:
        belief.begin(name, is_drawn=False)
        before = chance(belief, 3, WORD, STOP)
        for number in range(8):
            belief.learn(belief.weights(3, WORD, STOP), 1.0, was_right=was_right)
            belief.learn(belief.weights(number, WORD, 1000 + number), 1.0, was_right=was_right)
        return before

    first = answer("one", was_right=False)
    assert answer("one", was_right=False) == answer("one", was_right=False) == first
    second = answer("two", was_right=True)
    assert second < first  # what the first one taught, once
    assert answer("two", was_right=True) == second
    assert answer("one", was_right=False) > second  # it is no longer the last one


@pytest.mark.parametrize("was_right", [True, False])
def test_nothing_is_ever_certain(was_right: bool) -> None:
    """However long one thing was seen, another is learned soon: a new kind of text has come."""
    belief = CopyBelief(16)
    for _ in range(50_000):
        learn(belief.weights(3, WORD, 2), 1.0, was_right=was_right)
    sure = chance(belief, 3, WORD, 2)
    assert 0.0 < sure < 1.0
    assert math.isfinite(math.log(sure))
    for _ in range(40):
        learn(belief.weights(3, WORD, 2), 1.0, was_right=not was_right)
    assert (chance(belief, 3, WORD, 2) < 0.5) == was_right


def test_what_any_copy_may_be_right_with_is_told_before_it_is_found() -> None:
    """As long as nothing is known of the copied token itself."""
    belief = CopyBelief(16, frozenset({7}))
    for length, before in ((1, 5), (3, 7), (40, 5)):
        assert belief.at_most(length, before) == pytest.approx(chance(belief, length, before, 2))
    for _ in range(20):
        belief.learn(belief.weights(2, 5, 30 + _), 1.0, was_right=False)
    for length, before in ((1, 5), (2, 5), (2, 6)):
        assert belief.at_most(length, before) == pytest.approx(chance(belief, length, before, 2))
    assert belief.at_most(2, 5) < 0.5 * CopyBelief(16).at_most(2, 5)
