"""The trees that lookup copies: which tokens, in which order, how many, and how likely it takes them to be."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from spec_engine.config import LookupConfig
from spec_engine.drafters.lookup import LookupDrafter, LookupSession
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


def answered(session: LookupSession, tokens: Sequence[int], end: int) -> None:
    """The session follows an answer, one token a step, which ends with the token `end`."""
    for token_id, bonus in pairwise((*tokens, end)):
        session.propose(token_id, 8)
        session.observe(Step((token_id,), 0, bonus=bonus))


def begun(drafter: LookupDrafter, text: Sequence[int]) -> LookupSession:
    session = drafter.begin(SamplingParams())
    list(session.reuse(()))
    session.observe(Step(tuple(text), len(text), is_prompt=True))
    return session


def test_what_a_prompt_repeats_does_not_count() -> None:
    def chance(prompt: Sequence[int], answer: Sequence[int]) -> float:
        session = begun(LookupDrafter(LookupConfig(), vocab_size=100), prompt)
        answered(session, answer, 9)
        return session.propose(5, 1).log_q[1]

    once, often = (4, 5, 6, 7, 8, 9, 3), (4, 5, 6, 7, 8, 9, 3) * 20
    assert chance(often, ()) == chance(once, ())
    assert chance(once, (6, 7, 8)) > chance(once, ()) > chance(once, (8, 40, 6, 41, 7, 42, 4))


def test_several_tokens_a_step_teach_as_much_as_one_by_one() -> None:
    """Each token that was committed is learned from once, in whatever steps they came."""
    text, chances = tuple(range(40)), []
    for size in (1, 2, 6):
        drafter = LookupDrafter(LookupConfig(), vocab_size=100)
        session = begun(drafter, text)
        answer = (10, 11, 12, 13, 14, 15, 16)
        for start in range(0, 6, size):
            session.propose(answer[start], 31)
            session.observe(Step(answer[start : start + size], 0, bonus=answer[start + size]))
        chances.append(begun(drafter, (*text, 19)).propose(20, 1).log_q[1])
    assert chances == pytest.approx(chances[:1] * 3, rel=0.05)


def test_how_an_answer_ends_is_learned() -> None:
    """Quoted up to 14, then a token that stands nowhere: what follows 14 in the text is drafted less and less."""
    drafter, text = LookupDrafter(LookupConfig(num_draft=8), vocab_size=100), tuple(range(40))
    past_the_end, within = [], []
    for _ in range(4):
        answered(begun(drafter, text), (10, 11, 12, 13, 14), end=99)
        tree = begun(drafter, (*text, 10)).propose(11, 8)
        within.append(math.exp(tree.log_q[3] - tree.log_q[2]))
        past_the_end.append(math.exp(tree.log_q[4] - tree.log_q[3]))
    assert all(before > after for before, after in pairwise(past_the_end))
    assert all(before < after for before, after in pairwise(within))
    assert past_the_end[-1] < 0.1 < 0.9 < within[-1]


@pytest.mark.parametrize("stray", [Step((50,), 0, bonus=51), Step((10,), 0), Step((10,), 0, is_prompt=True)])
def test_a_step_that_is_not_the_proposals_teaches_nothing(stray: Step) -> None:
    drafter, text = LookupDrafter(LookupConfig(), vocab_size=100), tuple(range(40))
    before = begun(drafter, (*text, 19)).propose(20, 8)
    session = begun(drafter, text)
    session.propose(10, 8)
    session.observe(stray)
    assert begun(drafter, (*text, 19)).propose(20, 8) == before


def test_a_proposal_teaches_once() -> None:
    """A second step that begins with the same token, as in "the the", is not its proposal's."""
    drafter, text = LookupDrafter(LookupConfig(), vocab_size=100), tuple(range(40))
    session = begun(drafter, text)
    session.propose(10, 8)
    session.observe(Step((10,), 0, bonus=50))
    learned = begun(drafter, (*text, 19)).propose(20, 1)
    session.observe(Step((10,), 0, bonus=50))
    assert begun(drafter, (*text, 19)).propose(20, 1) == learned


def test_drawn_answers_and_special_tokens_are_told_apart() -> None:
    """What was wrong in drawn answers is held against greedy ones less, and a mark that is never copied against all."""
    text = (*range(10, 30), 5, *range(30, 40), 6, *range(40, 50))
    drafter = LookupDrafter(LookupConfig(), vocab_size=100, special_ids=frozenset(range(10)))
    for token_id in (12, 15, 18, 21, 24):
        session = drafter.begin(SamplingParams(temperature=1.0))
        list(session.reuse(text))
        answered(session, (token_id, 60), end=60)
    chances = []
    for temperature in (1.0, 0.0):
        session = drafter.begin(SamplingParams(temperature=temperature))
        list(session.reuse((*text, 34)))
        chances.append(session.propose(35, 1).log_q[1])
    assert chances[0] < chances[1]
    for _ in range(3):
        session = drafter.begin(SamplingParams())
        list(session.reuse((*text, 28)))
        answered(session, (29,), end=61)  # 5 stands there
    session = drafter.begin(SamplingParams())
    list(session.reuse((*text, 38)))
    other_mark = session.propose(39, 1)  # 6 does
    session = drafter.begin(SamplingParams())
    list(session.reuse((*text, 35)))
    assert math.exp(other_mark.log_q[1]) < 0.75 * math.exp(session.propose(36, 1).log_q[1])


def test_an_answer_is_drafted_alike_however_often_it_is_made() -> None:
    """Else the race of an answer that was made a moment ago would say nothing of new ones."""
    chance = random.Random(3)
    prompt = [chance.randrange(40) for _ in range(300)]
    answer = [token for start in (20, 150, 90, 210, 20) for token in prompt[start : start + chance.randrange(3, 9)]]
    drafter = LookupDrafter(LookupConfig(), 100)

    def sizes(prompt: list[int]) -> list[int]:
        """Of the trees on the way through the answer, a token a step."""
        session, trees = drafter.begin(SamplingParams()), []
        for _ in session.reuse(prompt):
            pass
        for token_id, following in pairwise(answer):
            trees.append(len(session.propose(token_id, 16)))
            session.observe(Step((token_id,), 0, None, bonus=following))
        return trees

    first = sizes(prompt)
    for _ in session_of_a_prompt_that_is_only_read(drafter, prompt):
        pass
    assert sizes(prompt) == first
    assert sizes(prompt) == first
    assert sizes([*prompt, 99]) != first  # another answer has learned from this one


def session_of_a_prompt_that_is_only_read(drafter: LookupDrafter, prompt: list[int]) -> Iterator[int]:
    return drafter.begin(SamplingParams()).reuse(prompt[:100])


def test_matches_that_promise_too_little_are_passed_over_but_one_in_a_few() -> None:
    """So that what is thought of them can be found wrong; a longer match of the same token is followed."""
    text = [1, 2, 3, 4, 9, 3, 7, 8]
    session = begun(LookupDrafter(LookupConfig(), 100), text)
    at_most = session._belief.at_most(1, 3)
    assert 0.05 < at_most < session._belief.at_most(3, 3) < 1
    followed = [len(session.propose(3, 8, least_chance=at_most + 0.01)) > 1 for _ in range(16)]
    assert followed == 2 * [*7 * [False], True]
    assert len(session.propose(3, 8, least_chance=at_most - 0.01)) > 1
    assert len(session.propose(50, 8, least_chance=0.9)) == 1  # no match at all
    session.observe(Step((1, 2), len(text) + 2))
    assert len(session.propose(3, 8, least_chance=at_most + 0.01)) > 1


def test_what_was_passed_over_teaches_nothing() -> None:
    text = [1, 2, 3, 4, 9, 3, 7, 8]
    session = begun(LookupDrafter(LookupConfig(), 100), text)
    before = session._belief.at_most(1, 3)
    session.propose(3, 8)
    session.propose(3, 8, least_chance=0.99)
    session.observe(Step((3,), 0, bonus=60))
    assert session._belief.at_most(1, 3) == before
