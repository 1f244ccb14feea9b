"""The suffix automaton against brute force over all substrings."""

import random
import time
from collections.abc import Sequence

import pytest

from spec_engine.drafters.suffix_automaton import Match, SuffixAutomaton


def ends_of(tokens: Sequence[int], part: Sequence[int]) -> list[int]:
    """Where `part` ends in `tokens`, oldest first."""
    size = len(part)
    return [end for end in range(size - 1, len(tokens)) if list(tokens[end + 1 - size : end + 1]) == list(part)]


def longest(tokens: Sequence[int], next_token: int, max_length: int) -> tuple[int, int] | None:
    """Length of the longest suffix of the tokens with the next one that occurs in them, and its newest end."""
    whole = [*tokens, next_token]
    for length in range(min(max_length, len(tokens)), 0, -1):
        if ends := ends_of(tokens, whole[-length:]):
            return length, ends[-1]
    return None


def filled(tokens: Sequence[int]) -> SuffixAutomaton:
    automaton = SuffixAutomaton()
    automaton.append(tokens)
    return automaton


def contents(automaton: SuffixAutomaton) -> dict[str, object]:
    return vars(automaton)


@pytest.mark.parametrize("vocab_size", [1, 2, 4, 12])
@pytest.mark.parametrize("max_length", [1, 3, 16])
def test_matches_and_continuations_equal_brute_force(vocab_size: int, max_length: int) -> None:
    chance = random.Random(vocab_size * 100 + max_length)
    automaton, tokens = SuffixAutomaton(), list[int]()
    for _ in range(30 if vocab_size == 1 else 120):
        next_token = chance.randrange(vocab_size)
        match, expected = automaton.match(next_token, max_length), longest(tokens, next_token, max_length)
        assert (match is None) == (expected is None)
        if match is not None and expected is not None:
            assert (match.length, match.end) == expected
            check_continuations(automaton, tokens, match)
        tokens.append(next_token)
        automaton.append([next_token])


def check_continuations(automaton: SuffixAutomaton, tokens: Sequence[int], match: Match) -> None:
    part = tokens[match.end + 1 - match.length : match.end + 1]
    after = [tokens[end + 1] for end in ends_of(tokens, part) if end + 1 < len(tokens)]
    found, total = automaton.continuations(match.state, 100)
    assert total == len(after)
    assert {option.token_id: option.num_seen for option in found} == {token: after.count(token) for token in after}
    newest = {token: index for index, token in enumerate(after)}
    order = sorted(newest, key=lambda token: (-after.count(token), -newest[token]))
    assert [option.token_id for option in found] == order
    assert [option.token_id for option in automaton.continuations(match.state, 1)[0]] == order[:1]


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 8])
def test_what_was_taken_back_never_happened(vocab_size: int) -> None:
    chance = random.Random(vocab_size)
    automaton, tokens = SuffixAutomaton(), list[int]()
    for _ in range(80):
        added = [chance.randrange(vocab_size) for _ in range(chance.randrange(10))]
        keep = chance.randrange(max(0, len(tokens) - 12), len(tokens) + 1)
        automaton.truncate(keep)
        automaton.append(added)
        tokens = tokens[:keep] + added
        assert contents(automaton) == contents(filled(tokens))


@pytest.mark.parametrize("kind", ["random", "one token", "two in turn"])
def test_cost_per_token_does_not_grow(kind: str) -> None:
    """Text full of repeats, as tables are, must not make it quadratic: the last eighth would cost 15 first ones."""
    chance, size = random.Random(0), 10_000
    tokens = {
        "random": [chance.randrange(40) for _ in range(8 * size)],
        "one token": [7] * (8 * size),
        "two in turn": [1, 2] * (4 * size),
    }[kind]
    automaton = SuffixAutomaton()
    seconds = []
    for start in range(0, 8 * size, size):
        started = time.perf_counter()
        automaton.append(tokens[start : start + size])
        for token_id in range(8):
            automaton.match(token_id, 16)
        seconds.append(time.perf_counter() - started)
    assert min(seconds[4:]) < 3 * min(seconds[:2]) + 0.02
    started = time.perf_counter()
    automaton.truncate(4 * size)
    assert time.perf_counter() - started < sum(seconds)
    assert len(automaton.tokens) == 4 * size
