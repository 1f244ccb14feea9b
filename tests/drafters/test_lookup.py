"""The suffix index against brute force, and the chains that are copied from it."""

import random
import time
from collections.abc import Sequence

import pytest

from spec_engine.config import LookupConfig
from spec_engine.drafters.lookup import LookupDrafter, SuffixIndex
from spec_engine.model.target import Step
from spec_engine.sampling import SamplingParams


def brute_force(tokens: Sequence[int], next_token: int, min_match: int, max_match: int) -> int | None:
    """The end of the longest earlier occurrence, the newest among the longest."""
    whole = [*tokens, next_token]
    for length in range(min(max_match, len(whole)), min_match - 1, -1):
        for end in range(len(tokens) - 1, length - 2, -1):
            if list(tokens[end + 1 - length : end + 1]) == whole[-length:]:
                return end
    return None


def fill(index: SuffixIndex, tokens: Sequence[int]) -> SuffixIndex:
    index.append(tokens)
    return index


@pytest.mark.parametrize("vocab_size", [2, 4, 12])
@pytest.mark.parametrize(("min_match", "max_match"), [(1, 1), (1, 5), (2, 3), (2, 16), (4, 6)])
def test_find_equals_brute_force(vocab_size: int, min_match: int, max_match: int) -> None:
    chance = random.Random(vocab_size * 100 + max_match)
    index = SuffixIndex(min_match, max_match)
    tokens: list[int] = []
    for _ in range(150):
        next_token = chance.randrange(vocab_size)
        assert index.find(next_token) == brute_force(tokens, next_token, min_match, max_match)
        tokens.append(next_token)
        index.append([next_token])


def test_truncated_index_equals_a_fresh_one() -> None:
    chance = random.Random(3)
    index = SuffixIndex(2, 8)
    tokens: list[int] = []
    for _ in range(60):
        added = [chance.randrange(3) for _ in range(chance.randrange(8))]
        keep = chance.randrange(len(tokens) + 1)
        index.truncate(keep)
        index.append(added)
        tokens = tokens[:keep] + added
        assert list(index.tokens) == tokens
        fresh = fill(SuffixIndex(2, 8), tokens)
        assert [index.find(t) for t in range(3)] == [fresh.find(t) for t in range(3)]


def propose(tokens: Sequence[int], root: int, max_nodes: int = 16, config: LookupConfig | None = None) -> list[int]:
    """The drafted tokens after `tokens` and `root`."""
    session = LookupDrafter(config or LookupConfig(), vocab_size=100).begin(SamplingParams())
    session.observe(Step(tuple(tokens), len(tokens), None))
    tree = session.propose(root, max_nodes)
    assert tree.parents == tuple(range(-1, len(tree) - 1))
    assert tree.token_ids[0] == root
    return list(tree.token_ids[1:])


def test_a_longer_match_wins_over_a_newer_one() -> None:
    assert propose([1, 2, 3, 4, 50, 0, 9, 3, 4, 60, 0, 1, 2, 3], 4, max_nodes=1) == [50]


def test_the_newest_wins_among_equals() -> None:
    assert propose([3, 4, 50, 3, 4, 60, 9, 3], 4, max_nodes=2) == [60, 9]


def test_no_match_proposes_nothing() -> None:
    assert propose([1, 2, 3], 4) == []
    assert propose([], 4) == []
    assert propose([7, 4, 9, 8], 4) == []  # one token is less than min_match


def test_a_copy_goes_on_in_itself() -> None:
    assert propose([1, 2, 3, 1, 2], 3, max_nodes=8) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert propose([5, 5], 5, max_nodes=4) == [5, 5, 5, 5]


def test_budget_and_num_draft_both_bound() -> None:
    tokens = [*range(30), 0]
    assert len(propose(tokens, 1, max_nodes=5)) == 5
    assert len(propose(tokens, 1, max_nodes=50, config=LookupConfig(num_draft=7))) == 7


def test_it_copies_from_the_answer_too() -> None:
    session = LookupDrafter(LookupConfig(), 100).begin(SamplingParams())
    session.observe(Step((1, 2, 3), 3, None))
    for token_id in (20, 21, 22, 23, 20):
        session.observe(Step((token_id,), 4, None))
    assert session.propose(21, 2).token_ids == (21, 22, 23)


def test_cost_per_token_does_not_grow() -> None:
    """A context full of repeats, as tables are, must not make indexing or searching quadratic."""
    chance = random.Random(0)
    tokens = [chance.randrange(40) for _ in range(200_000)]
    index = SuffixIndex(2, 16)
    started = time.perf_counter()
    index.append(tokens)
    searches = [index.find(chance.randrange(40)) for _ in range(50)]
    assert time.perf_counter() - started < 5
    assert any(found is not None for found in searches)
