"""The trees that lookup copies: which tokens, in which order, how many, and how likely it takes them to be."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from spec_engine.config import LookupConfig
from spec_engine.drafters.lookup import CopyHabits, CopyRecord, LookupDrafter
from spec_engine.model.target import Step
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.fakes import children

PROMPT_LOOKUP = LookupConfig(min_match=3, max_match=3, num_draft=8, num_branches=1, min_probability=0.0)
CHAIN = LookupConfig(min_match=2, num_branches=1, min_probability=0.0)


def grown(tokens: Sequence[int], root: int, max_nodes: int = 16, config: LookupConfig | None = None) -> DraftTree:
    session = LookupDrafter(config or LookupConfig(), vocab_size=100).begin(SamplingParams())
    session.observe(Step(tuple(tokens), len(tokens), is_prompt=True))
    return session.propose(root, max_nodes)


def chain(tokens: Sequence[int], root: int, max_nodes: int = 16, config: LookupConfig = CHAIN) -> list[int]:
    """The drafted tokens after `tokens` and `root`, where one follows the other."""
    tree = grown(tokens, root, max_nodes, config)
    assert tree.parents == tuple(range(-1, len(tree) - 1))
    assert tree.token_ids[0] == root
    return list(tree.token_ids[1:])


def test_a_longer_match_wins_over_a_newer_one() -> None:
    assert chain([1, 2, 3, 4, 50, 0, 9, 3, 4, 60, 0, 1, 2, 3], 4, max_nodes=1) == [50]


def test_the_newest_wins_among_equals() -> None:
    assert chain([3, 4, 50, 3, 4, 60, 9, 3], 4, max_nodes=2) == [60, 9]


def test_the_more_frequent_wins_over_the_newest() -> None:
    tokens = [3, 4, 50, 1, 3, 4, 50, 2, 3, 4, 60, 9, 3]
    assert chain(tokens, 4, max_nodes=1) == [50]
    tree = grown(tokens, 4, config=replace(CHAIN, num_branches=2), max_nodes=3)
    assert [tree.token_ids[node] for node in children(tree, 0)] == [50, 60]
    first, second = (tree.log_q[node] for node in children(tree, 0))
    assert math.exp(first - second) == pytest.approx(2.0)


def test_no_match_proposes_nothing() -> None:
    assert chain([1, 2, 3], 4) == []
    assert chain([], 4) == []
    assert chain([7, 4, 9, 8], 4) == []  # one token is less than min_match
    assert chain([7, 4, 9, 8], 4, 2, replace(CHAIN, min_match=1)) == [9, 8]


def test_a_copy_goes_on_in_itself() -> None:
    assert chain([1, 2, 3, 1, 2], 3, max_nodes=8) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert chain([5, 5], 5, max_nodes=4) == [5, 5, 5, 5]


def test_budget_and_num_draft_both_bound() -> None:
    tokens = [*range(30), 0]
    assert len(chain(tokens, 1, max_nodes=5)) == 5
    assert len(chain(tokens, 1, max_nodes=50, config=replace(CHAIN, num_draft=7))) == 7


def test_it_copies_from_the_answer_too() -> None:
    session = LookupDrafter(CHAIN, 100).begin(SamplingParams())
    session.observe(Step((1, 2, 3), 3, None))
    for token_id in (20, 21, 22, 23, 20):
        session.observe(Step((token_id,), 4, None))
    assert session.propose(21, 2).token_ids == (21, 22, 23)


@pytest.mark.parametrize("seed", range(20))
def test_prompt_lookup_is_a_special_case(seed: int) -> None:
    """A fixed number of tokens behind the most frequent continuation of an n-gram; where there is one, behind it."""
    chance = random.Random(seed)
    tokens = [chance.randrange(12) for _ in range(80)]
    root = chance.randrange(12)
    gram = [*tokens[-2:], root]
    places = [index for index in range(len(tokens) - 2) if tokens[index : index + 3] == gram]
    drafted = chain(tokens, root, config=PROMPT_LOOKUP)
    if not places:
        assert drafted == []
    elif len(places) == 1:
        endless = [*tokens, root]
        for offset in range(8):
            endless.append(endless[places[0] + 3 + offset])
        assert drafted == endless[len(tokens) + 1 :]
    else:
        assert len(drafted) == 8


@pytest.mark.parametrize("seed", range(10))
def test_the_likeliest_come_first_and_nothing_unlikely_comes(seed: int) -> None:
    chance = random.Random(seed)
    tokens = [chance.randrange(3) for _ in range(200)]
    config = LookupConfig(min_match=1, num_branches=3, num_draft=40, min_probability=0.02)
    tree = grown(tokens, chance.randrange(3), 40, config)
    assert list(tree.log_q) == sorted(tree.log_q, reverse=True)
    assert min(tree.log_q) >= math.log(0.02)
    assert len(tree) > 5
    for node in range(len(tree)):
        below = children(tree, node)
        assert len({tree.token_ids[child] for child in below}) == len(below)
        assert sum(math.exp(tree.log_q[child]) for child in below) <= math.exp(tree.log_q[node]) + 1e-9


def test_longer_copies_behind_longer_matches() -> None:
    """The adaptive length of suffix decoding: what is certain is copied far, what is a guess is not."""
    tokens = [*range(60)]
    far = grown([*tokens, *range(20)], 20, config=LookupConfig(num_draft=30, min_probability=0.3), max_nodes=30)
    near = grown([*tokens, 99, 19], 20, config=LookupConfig(num_draft=30, min_probability=0.3), max_nodes=30)
    assert len(far) > len(near) > 1


def record(foretold: Sequence[int], habits: CopyHabits | None = None) -> CopyRecord:
    """Of an answer whose tokens all differ from one another."""
    made = CopyRecord(16, habits or CopyHabits())
    for token_id, signed in enumerate(foretold):
        made.add(1000 + token_id, signed)
    return made


def test_the_record_follows_the_text() -> None:
    """Copies that were right lately raise the estimate, wrong ones lower it; lengths never seen are guessed."""
    guess = record(())
    assert [guess.probability(n, 1) for n in range(1, 30)] == sorted(guess.probability(n, 1) for n in range(1, 30))
    right, wrong = record([4] * 50), record([-4] * 50)
    assert right.probability(4, 1) > 0.95 > guess.probability(4, 1) > 0.1 > wrong.probability(4, 1)
    assert right.probability(7, 1) == guess.probability(7, 1)
    assert record([-4] * 50 + [4] * 200).probability(4, 1) == pytest.approx(record([4] * 128).probability(4, 1))


def test_where_copies_break_off_is_learned_over_answers() -> None:
    """Always behind token 9, the end of a sentence; never within one."""
    habits = CopyHabits()
    for _ in range(5):
        answer = CopyRecord(16, habits)
        for length in range(3, 9):
            answer.add(length, length)
        answer.add(9, -9)
    fresh = CopyRecord(16, habits)
    assert fresh.probability(10, 9) < 0.15 < 0.9 < fresh.probability(10, 5)
    assert fresh.probability(10, 77) == pytest.approx(11 / 11.6)  # behind a token never seen: by the length alone


def test_what_a_prompt_repeats_does_not_count() -> None:
    session = LookupDrafter(LookupConfig(), vocab_size=100).begin(SamplingParams())
    before = session._record.probability(4, 5)
    session.observe(Step((1, 2, 3, 4, 5, 6) * 20, 120, is_prompt=True))
    assert session._record.probability(4, 5) == before
    session.observe(Step((1, 2, 3, 4, 5, 60), 126))
    assert session._record.probability(4, 5) < before


def test_a_drafter_keeps_what_it_learned() -> None:
    """The same sentence quoted up to its end in each answer: what follows it in the text is drafted less and less."""
    drafter = LookupDrafter(LookupConfig(num_draft=8), vocab_size=100)
    text = tuple(range(40))
    drafted = []
    for _ in range(3):
        session = drafter.begin(SamplingParams())
        list(session.reuse(()))
        session.observe(Step(text, len(text), is_prompt=True))
        for token_id in (10, 11, 12, 13, 14, 50):  # 14 ends the sentence, 15 never follows
            session.observe(Step((token_id,), len(text)))
        session = drafter.begin(SamplingParams())
        list(session.reuse(()))
        session.observe(Step((*text, 10), len(text) + 1, is_prompt=True))
        drafted.append(session.propose(11, 8))
    past_the_end = [math.exp(tree.log_q[tree.token_ids.index(15)]) for tree in drafted if 15 in tree.token_ids]
    assert len(past_the_end) == 3
    assert past_the_end[0] > past_the_end[1] > past_the_end[2]
