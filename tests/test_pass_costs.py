"""How much of a drafted tree is run, by what rows cost and how sure the draft is."""

import math
import random
from itertools import pairwise

import pytest

from spec_engine.pass_costs import PassCosts, chance
from spec_engine.tree import DraftTree

BARE_S = 1.0


def chain(chance: float, num_nodes: int = 8) -> DraftTree:
    """A chain whose tokens are right with this chance."""
    return chain_of([depth * math.log(chance) for depth in range(num_nodes + 1)])


def chain_of(log_q: list[float]) -> DraftTree:
    """A chain with these path log-probabilities."""
    return DraftTree.chain([0] * len(log_q), log_q)


def measured(row_s: float, noise: float = 0.0, plain_s: float = BARE_S) -> PassCosts:
    """A machine whose pass takes a plain step and `row_s` more a row; drafts are as right as they say."""
    costs, dice = PassCosts(), random.Random(1)
    for said in (0.05, 0.1, 0.5, 0.8, 0.97):
        for _ in range(60):
            for num_nodes in (1, 2, 4, 8):
                confirmed = next((depth for depth in range(num_nodes) if dice.random() >= said), num_nodes)
                seconds = (plain_s + row_s * num_nodes) * dice.uniform(1 - noise, 1 + noise)
                costs.record(chain(said), num_nodes, confirmed, seconds, plain_s)
    return costs


def test_where_rows_are_free_the_whole_tree_is_run() -> None:
    assert measured(0.0).num_worth(chain(0.1), 1.0, BARE_S) == 8


def price_of_a_row(costs: PassCosts) -> float:
    """In plain steps."""
    few, more = costs.num_steps(1), costs.num_steps(2)
    assert few is not None
    assert more is not None
    return more - few


@pytest.mark.parametrize(("row_s", "num_nodes"), [(0.6, 0), (0.3, 1), (0.15, 2), (0.07, 3)])
def test_a_node_is_worth_its_row_while_its_chance_is_larger(row_s: float, num_nodes: int) -> None:
    """Half a token, a quarter, an eighth …"""
    assert measured(row_s).num_worth(chain(0.5), 1.0, BARE_S) == num_nodes


def test_a_sure_draft_is_run_and_an_unsure_one_is_not() -> None:
    costs = measured(0.2)
    assert costs.num_worth(chain(0.97), 1.0, BARE_S) == 8
    assert costs.num_worth(chain(0.05), 1.0, BARE_S) == 0


def test_a_token_that_is_cheap_otherwise_buys_fewer_rows() -> None:
    sizes = [measured(0.1).num_worth(chain(0.8), token_s, BARE_S) for token_s in (2.0, 1.0, 0.5, 0.2, 0.1)]
    assert all(more >= less for more, less in pairwise(sizes))
    assert sizes[0] > sizes[-1]


def test_a_pass_over_a_bare_root_costs_a_plain_step_and_not_what_a_token_costs_while_drafting_pays() -> None:
    """A row adds 1 ms to 30; a token costs 6 ms because drafts are good: the rows of a fair draft are worth it."""
    costs = measured(0.001, plain_s=0.03)
    assert costs.num_worth(chain(0.75, 16), 0.006, 0.03) >= 5


def test_costs_hold_for_another_context_and_another_machine() -> None:
    """Measured where all took ten times as long, asked where it does not."""
    costs = measured(2.0, plain_s=10.0)
    assert costs.num_worth(chain(0.97), 1.0, BARE_S) == 8
    assert price_of_a_row(costs) == pytest.approx(0.2, rel=0.1)


def test_before_anything_was_measured_it_is_run() -> None:
    assert PassCosts().num_worth(chain(0.3), 1.0, BARE_S) == 8


@pytest.mark.parametrize("stall", [5.0, 50.0, 1e9])
def test_one_pass_that_was_held_up_is_got_over(stall: float) -> None:
    costs = PassCosts()
    costs.record(chain(0.97), 8, 7, stall, BARE_S)
    num_run = 0
    for _ in range(30):
        size = costs.num_worth(chain(0.97), 0.5, BARE_S)
        costs.record(chain(0.97), size, size, BARE_S + 0.01 * size, BARE_S)
        num_run += size
    assert num_run > 100
    assert costs.num_worth(chain(0.97), 0.5, BARE_S) == 8


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_not_taken_for_the_price_of_rows(seed: int) -> None:
    costs, dice = PassCosts(), random.Random(seed)
    for _ in range(60):
        num_nodes = dice.choice((0, 1, 2, 4, 8, 16, 32))
        costs.record(chain(0.3, 32), num_nodes, 0, BARE_S * dice.uniform(0.7, 1.3), BARE_S)
    assert price_of_a_row(costs) < 0.008


def test_a_draft_that_is_surer_than_right_loses_its_rows_and_gets_another_chance() -> None:
    costs = measured(0.2)
    for _ in range(60):
        costs.record(chain(0.97), 8, 0, BARE_S + 0.2 * 8, BARE_S)
    assert costs.num_worth(chain(0.97), 1.0, BARE_S) == 0
    costs.begin()  # a new answer, another text
    assert costs.num_worth(chain(0.97), 1.0, BARE_S) > 0


def test_what_says_it_is_hopeless_is_tried_now_and_then() -> None:
    costs = measured(0.2)
    sizes = [costs.num_worth(chain(1e-9), 1.0, BARE_S) for _ in range(30)]
    assert sizes.count(1) == 1
    assert set(sizes) == {0, 1}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1000.0, 5.0])
def test_odd_probabilities_do_no_harm(odd: float) -> None:
    costs = measured(0.2)
    for log_q in ([0.0, odd], [0.0, -0.1, odd], [odd, odd, odd]):
        size = costs.num_worth(chain_of(log_q), 1.0, BARE_S)
        assert 0 <= size < len(log_q)
        costs.record(chain_of(log_q), size, 0, 1.0, BARE_S)
        costs.record(chain_of(log_q), len(log_q) - 1, 1, 1.0, BARE_S)
    assert costs.num_worth(chain(0.97), 1.0, BARE_S) == 8
    assert 0.0 <= chance(odd) <= 1.0


def test_a_clock_that_is_too_coarse_cuts_nothing() -> None:
    assert measured(0.2).num_worth(chain(0.1), 0.0, 0.0) == 8


def test_drafts_that_begin_right_and_end_too_soon_are_believed_in_their_first_token() -> None:
    """In text that shares phrases with what was read, every copy is right once and wrong then."""
    costs = measured(0.2)
    for _ in range(20):
        costs.record(chain(0.97), 8, 1, BARE_S + 0.2 * 8, BARE_S)
    assert costs.num_worth(chain(0.97), 1.0, BARE_S) == 1
    believed = costs._belief.deep
    costs.begin()
    assert believed < 0.15 < costs._belief.deep < 0.3  # another answer: so much of it is forgotten
    for _ in range(20):
        costs.record(chain(0.97), 8, 8, BARE_S + 0.2 * 8, BARE_S)
    assert costs.num_worth(chain(0.97), 1.0, BARE_S) == 8  # other text


def test_what_stands_beside_a_right_first_token_was_not_to_follow_it() -> None:
    """Of five first tokens one is right; the two nodes behind it, as likely as they say, are right too."""
    costs = measured(0.05)
    fan = DraftTree((0,) * 8, (-1, 0, 1, 2, 0, 0, 0, 0), (0, 1, 2, 3, 1, 1, 1, 1), (0.0, *[math.log(0.2)] * 7))
    for _ in range(40):
        costs.record(fan, 7, 3, BARE_S + 0.05 * 7, BARE_S)
    assert costs.num_worth(fan, 1.0, BARE_S) == 7
    costs = PassCosts()
    for _ in range(40):
        costs.record(
            fan, 7, 1, BARE_S, BARE_S
        )  # one of the five is right, and what should follow in two of five is not
    assert costs._belief.first > 0.9
    expected = 10 * (1 - 0.9**40) * 0.4  # tokens, by the memory of older drafts
    assert costs._belief.deep == pytest.approx(4.0 / (expected + 4.0), abs=0.01)
    costs.begin()
    assert costs._belief.deep == pytest.approx(4.0 / (expected + 4.0), abs=0.01)  # so little fades not


def test_several_first_tokens_are_believed_by_what_they_say_together() -> None:
    costs = PassCosts()
    fan = DraftTree((0,) * 6, (-1, 0, 0, 0, 0, 0), (0, 1, 1, 1, 1, 1), (0.0, *[math.log(0.18)] * 5))
    for number in range(40):
        costs.record(fan, 5, int(number % 3 == 0), BARE_S, BARE_S)
    assert costs._belief.first < 0.6  # nine in ten should have been right, a third was


@pytest.mark.parametrize("row_s", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("token_s", [0.3, 1.0])
@pytest.mark.parametrize("num_right", [0, 1, 3])
def test_a_first_token_less_likely_than_the_least_is_worth_no_draft_and_a_likelier_one_may_be(
    row_s: float, token_s: float, num_right: int
) -> None:
    """Whatever was learned of how right drafts are, at the beginning and behind it."""
    costs = measured(row_s)
    for _ in range(40):
        costs.record(chain(0.7), 8, num_right, BARE_S + 8 * row_s, BARE_S)
    least = costs.least_chance(token_s, BARE_S)
    assert least > 0
    for factor, is_worth in ((0.98, False), (1.02, True)):
        first = math.log(least * factor)
        tree = chain_of([0.0, *(first + depth * math.log(0.95) for depth in range(31))])
        if first < 0:
            assert (costs.num_worth(tree, token_s, BARE_S) > 0) == is_worth


def test_before_anything_was_measured_any_chance_will_do() -> None:
    assert PassCosts().least_chance(1.0, BARE_S) == 0.0
    assert measured(0.1).least_chance(0.0, BARE_S) == 0.0


def test_the_least_chance_follows_what_is_learned() -> None:
    costs = measured(0.1)
    before = costs.least_chance(1.0, BARE_S)
    for _ in range(20):
        costs.record(chain(0.9), 8, 0, BARE_S + 0.8, BARE_S)
    doubted = costs.least_chance(1.0, BARE_S)
    assert doubted > 2 * before
    costs.begin(is_drawn=True)
    assert costs.least_chance(1.0, BARE_S) < doubted


def test_first_tokens_are_expected_right_once_at_most() -> None:
    """Merged drafts may say more than one together; then it is one that was right or none."""
    costs = PassCosts()
    fan = DraftTree((0,) * 4, (-1, 0, 0, 0), (0, 1, 1, 1), (0.0, *[math.log(0.9)] * 3))
    for _ in range(40):
        costs.record(fan, 3, 1, BARE_S, BARE_S)
    assert costs._belief.first == pytest.approx(1.0)


def test_a_wrong_first_token_says_nothing_of_those_behind_it() -> None:
    costs = PassCosts()
    for _ in range(40):
        costs.record(chain(0.9), 8, 0, BARE_S, BARE_S)
    assert costs._belief.first < 0.2
    assert costs._belief.deep == 1.0
