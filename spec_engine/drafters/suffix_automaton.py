"""All substrings of a growing text, and how often each was seen.

Job: `SuffixAutomaton`: append tokens, take the last ones back, find the longest suffix that occurred before and what
followed it there.
Non-job: drafting (lookup.py).

A suffix automaton (Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text") built online: each
state stands for substrings that end at the same places. Appending costs O(1) amortised but for copies of a state's
continuations (few), and so does a search that follows the text. Every token remembers what it changed,
so the newest can be taken back. An occurrence is counted, and becomes the newest, for the `_MAX_COUNTED` longest
substrings that end there: in text of very few different tokens the shorter ones are out of date.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_MAX_COUNTED = 32  # states an appended token is counted in, longest substrings first; keeps the cost of "aaaa…" bounded
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Match:
    """The `length` last tokens of a text, found before: `state` of the automaton, `end` of its newest occurrence."""

    state: int
    length: int
    end: int


class Continuation(NamedTuple):
    """A token that followed a match, `num_seen` times; `state` stands for the match with it."""

    token_id: int
    state: int
    num_seen: int


# What one appended token changed: the last state before it, the clone it made (-1: none) and of which state, and the
# newest ends so far of the states that it was counted in. Plain tuples of numbers, which the garbage collector lets go.
_Undo = tuple[int, int, int, tuple[int, ...]]


class SuffixAutomaton:
    """Substrings of `tokens`; states by number, 0 is the empty one."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]  # the state of the longest suffix that ends elsewhere too
        self._length = [0]  # of a state's longest substring
        self._count = [0]  # occurrences
        self._end = [-1]  # index of the last token of the newest occurrence
        self._last = _ROOT
        self._undo: list[_Undo] = []

    @property
    def tokens(self) -> Sequence[int]:
        """All tokens, oldest first."""
        return self._tokens

    def end(self, state: int) -> int:
        """Index of the last token of a state's newest occurrence."""
        return self._end[state]

    def append(self, token_ids: Sequence[int]) -> None:
        """Add tokens at the end."""
        for token_id in token_ids:
            self._extend(token_id)

    def truncate(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` tokens, as if the others had never come."""
        if num_tokens == 0:
            self.__init__()  # type: ignore[misc]  # cheaper than taking back a whole document
        while len(self._tokens) > num_tokens:
            self._take_back()

    def match(self, next_token_id: int, max_length: int) -> Match | None:
        """The longest suffix of the tokens with `next_token_id` behind them that stands in the tokens; None: none does.

        Among suffixes of `max_length` tokens and more the one of `max_length` is taken, which has the most occurrences.
        """
        state, follow, link = self._last, self._next, self._link
        while state != -1 and next_token_id not in follow[state]:
            state = link[state]
        if state == -1:
            return None
        length = self._length[state] + 1
        found = follow[state][next_token_id]
        while self._length[link[found]] >= max_length:
            found = link[found]
        return Match(found, min(length, max_length), self._end[found])

    def continuations(self, state: int, most: int) -> tuple[list[Continuation], int]:
        """The `most` frequent tokens behind the substrings of `state`, the newest among equals; how often any came."""
        follow, count, end = self._next[state], self._count, self._end
        counts = [count[after] for after in follow.values()]
        least = sorted(counts)[-most] if len(counts) > most else 0  # a word like "the" has hundreds of continuations
        found = [
            (num_seen, end[after], token_id, after)
            for (token_id, after), num_seen in zip(follow.items(), counts, strict=True)
            if num_seen >= least
        ]
        found.sort(reverse=True)
        return [Continuation(token_id, after, num_seen) for num_seen, _, token_id, after in found[:most]], sum(counts)

    def _extend(self, token_id: int) -> None:
        follow, link, length, last = self._next, self._link, self._length, self._last
        own = self._new_state(length[last] + 1, {}, 0, -1)
        state, clone, cloned = last, -1, -1
        while state != -1 and token_id not in follow[state]:
            follow[state][token_id] = own
            state = link[state]
        if state == -1:
            link[own] = _ROOT
        else:
            after = follow[state][token_id]
            if length[after] != length[state] + 1:  # its longest substring is no suffix of the text: split it
                clone, cloned = len(follow), after
                self._new_state(length[state] + 1, dict(follow[after]), self._count[after], self._end[after])
                link[clone] = link[after]
                link[after] = clone
                while state != -1 and follow[state].get(token_id) == after:
                    follow[state][token_id] = clone
                    state = link[state]
                after = clone
            link[own] = after
        self._last = own
        self._undo.append((last, clone, cloned, self._count_end(len(self._tokens))))
        self._tokens.append(token_id)

    def _count_end(self, position: int) -> tuple[int, ...]:
        """Book an occurrence that ends at `position` in the last state and its suffixes; their newest ends so far."""
        ends: list[int] = []
        link, end, count, state = self._link, self._end, self._count, self._last
        while state != _ROOT and len(ends) < _MAX_COUNTED:
            ends.append(end[state])
            end[state] = position
            count[state] += 1
            state = link[state]
        return tuple(ends)

    def _take_back(self) -> None:
        """Undo the newest `_extend`."""
        last, clone, cloned, ends = self._undo.pop()
        token_id, own = self._tokens.pop(), self._last
        follow, link = self._next, self._link
        state = own
        for end in ends:
            self._end[state] = end
            self._count[state] -= 1
            state = link[state]
        state = last
        while state != -1 and follow[state].get(token_id) == own:
            del follow[state][token_id]
            state = link[state]
        if clone != -1:
            while state != -1 and follow[state].get(token_id) == clone:
                follow[state][token_id] = cloned
                state = link[state]
            link[cloned] = link[clone]
            self._pop_state()
        self._pop_state()
        self._last = last

    def _new_state(self, length: int, follow: dict[int, int], count: int, end: int) -> int:
        self._next.append(follow)
        self._link.append(-1)
        self._length.append(length)
        self._count.append(count)
        self._end.append(end)
        return len(self._next) - 1

    def _pop_state(self) -> None:
        for column in (self._next, self._link, self._length, self._count, self._end):
            column.pop()
