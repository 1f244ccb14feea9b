"""How much of a drafted tree is run, by what rows cost and how sure the draft is."""

import math
from itertools import pairwise

import pytest

from spec_engine.pass_costs import PassCosts


def chain(chance: float, num_nodes: int = 8) -> list[float]:
    """Path log-probabilities of a chain whose tokens are right with this chance."""
    return [depth * math.log(chance) for depth in range(num_nodes + 1)]


def measured(row_s: float) -> PassCosts:
    """A machine whose pass takes a second and `row_s` more a row; drafts are as right as they say."""
    costs = PassCosts()
    for chance in (0.05, 0.1, 0.5, 0.8, 0.97):
        for _ in range(200):
            for num_nodes in (0, 1, 2, 4, 8):
                confirmed = sum(chance**depth for depth in range(1, num_nodes + 1))
                costs.record(chain(chance, num_nodes), confirmed, 1 + row_s * num_nodes)  # type: ignore[arg-type]
    return costs


def test_where_rows_are_free_the_whole_tree_is_run() -> None:
    assert measured(0.0).num_worth(chain(0.1), 1.0) == 8


@pytest.mark.parametrize(("row_s", "num_nodes"), [(0.6, 0), (0.3, 1), (0.15, 2), (0.07, 3)])
def test_a_node_is_worth_its_row_while_its_chance_is_larger(row_s: float, num_nodes: int) -> None:
    """Half a token, a quarter, an eighth …"""
    assert measured(row_s).num_worth(chain(0.5), 1.0) == num_nodes


def test_a_sure_draft_is_run_and_an_unsure_one_is_not() -> None:
    costs = measured(0.2)
    assert costs.num_worth(chain(0.97), 1.0) == 8
    assert costs.num_worth(chain(0.05), 1.0) == 0


def test_a_token_that_is_cheap_otherwise_buys_fewer_rows() -> None:
    sizes = [measured(0.1).num_worth(chain(0.8), token_s) for token_s in (2.0, 1.0, 0.5, 0.2, 0.1)]
    assert all(more >= less for more, less in pairwise(sizes))
    assert sizes[0] > sizes[-1]


def test_before_anything_was_measured_it_is_run() -> None:
    assert PassCosts().num_worth(chain(0.3), 1.0) == 8


def test_a_draft_that_is_surer_than_right_loses_its_rows_and_gets_another_chance() -> None:
    costs = measured(0.2)
    for _ in range(60):
        costs.record(chain(0.97), 0, 1 + 0.2 * 8)
    costs.num_worth(chain(0.97), 1.0)
    assert costs.num_worth(chain(0.97), 1.0) == 0
    for _ in range(1000):
        costs.record([0.0], 0, 1.0)
    assert costs.num_worth(chain(0.97), 1.0) == 8


def test_a_pass_that_seemed_cheaper_with_more_rows_is_noise() -> None:
    costs = PassCosts()
    costs.record([0.0], 0, 1.0)
    costs.record(chain(0.5, 8), 1, 0.8)
    assert costs.num_worth(chain(0.01), 1.0) == 8  # no row costs anything, so all are run
