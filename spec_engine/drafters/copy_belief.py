"""How likely a copied token is right, learned while answers are made.

Job: `CopyBelief`: a logistic regression over what is known of a copy before the target has judged it; it learns from
every token that was offered where the answer went, right or wrong.
Non-job: finding copies (suffix_automaton.py), growing trees of them (lookup.py).

What says most about a copy is where it stands. An answer leaves its source behind the end of a sentence or a line and
hardly within one, and leaves out what no answer holds, a chat template's marks for example. So there is a weight for
the token before and one for the copied token, beside those for the length of the match, for special tokens and for this
answer. Together they explain what each alone would get wrong: long matches are not thought worse for breaking off at
sentences' ends. How often a document repeats itself says nothing about how often an answer quotes it, so only answers
are learned from.

Each weight is a Gaussian: what was seen often moves little with another token, what is new moves much (Graepel et al.
2010, "Web-scale Bayesian click-through rate prediction in Bing"). The update is the diagonal Laplace approximation:
the certainty grows by the curvature of the token's log-likelihood, the mean moves by its gradient over the certainty.
"""

import math
from collections.abc import Hashable, Set

_RIGHT_BY_LENGTH = {1: 0.70, 2: 0.83, 3: 0.87, 5: 0.91, 8: 0.94, 12: 0.955, 16: 0.965}  # of matches up to so long
_GUESSED = 2.0  # certainty of these guesses: as if so much had been seen …
_UNSEEN = 0.5  # … and of a weight of which nothing is known
_MOOD = 4.0  # … and of the answer's own; what it was in the answer before is worth …
_MOOD_KEPT = 0.5  # … so much of it
_MOST_CERTAIN = 30.0  # texts and questions change: nothing is ever known better …
_FARTHEST = 8.0  # … and no chance is farther from even odds, as a logarithm

Weight = list[float]  # mean, and certainty, which is the inverse of the variance
Weights = tuple[Weight, Weight, Weight, Weight, Weight]  # length, token before, copied one, special tokens, mood


class CopyBelief:
    """Learned over all answers of a drafter: it is the model's way of copying rather than a text's.

    The last answer, when it is made once more as in a race, begins with what was known before: else it would be drafted
    the better the more often it is made, and its speed would say nothing of new answers.

    Matches longer than `max_length` count as this long. `special_ids` are tokens that are not text.
    """

    def __init__(self, max_length: int, special_ids: Set[int] = frozenset()) -> None:
        by_length = [(most, [math.log(right / (1 - right)), _GUESSED]) for most, right in _RIGHT_BY_LENGTH.items()]
        self._by_length = [
            next((weight for most, weight in by_length if length <= most), by_length[-1][1])
            for length in range(max_length + 1)
        ]
        self._special_ids = special_ids
        self._special = [[0.0, _UNSEEN] for _ in range(4)]  # neither token is, the copied one, the one before, both
        self._special[0][1] = _MOOD  # of nearly every copy, so it is no surprise
        self._before: dict[int, Weight] = {}
        self._copied: dict[int, Weight] = {}
        self._moods = {False: [0.0, _MOOD], True: [0.0, _MOOD]}
        self._mood = self._moods[False]
        self._answer: Hashable = None
        self._before_it: dict[int, tuple[Weight, float, float]] = {}  # weights that it changed, as they were

    def begin(self, answer: Hashable, *, is_drawn: bool) -> None:
        """The answer that is made now; the same `answer` as the last one's is that one once more. `is_drawn`: its
        tokens are drawn at a temperature, which other answers say little about."""
        if answer == self._answer:
            for weight, mean, certainty in self._before_it.values():
                weight[:] = mean, certainty
        self._answer = answer
        self._before_it.clear()
        self._mood = self._moods[is_drawn]
        self._note(self._mood)
        if self._mood[1] != _MOOD:
            self._mood[:] = self._mood[0] * _MOOD_KEPT, _MOOD

    def learn(self, weights: Weights, share: float, *, was_right: bool) -> None:
        """What became of such a copy in this answer."""
        for weight in weights:
            if id(weight) not in self._before_it:
                self._note(weight)
        learn(weights, share, was_right=was_right)

    def _note(self, weight: Weight) -> None:
        """Note what a weight is before this answer changes it."""
        mean, certainty = weight
        self._before_it[id(weight)] = weight, mean, certainty

    def at_most(self, length: int, before: int) -> float:
        """About how likely any copy behind a match of `length` tokens is right, of which `before` is the last, whatever
        is copied: told at once, before it is looked for."""
        by_length, above = self._by_length, self._before.get(before)
        log_odds = by_length[length if length < len(by_length) else -1][0] + self._mood[0]
        log_odds += self._special[2 * (before in self._special_ids)][0] + (above[0] if above else 0.0)
        return 1 / (1 + math.exp(min(max(-log_odds, -_FARTHEST), _FARTHEST)))

    def weights(self, length: int, before: int, token_id: int) -> Weights:
        """Of a copy behind a match of `length` tokens, of which `before` is the last. Called for every node of every
        tree, and so written to be fast; each token that was ever offered keeps its weights."""
        by_length, above, copied = self._by_length, self._before.get(before), self._copied.get(token_id)
        if above is None:
            above = self._before[before] = [0.0, _UNSEEN]
        if copied is None:
            copied = self._copied[token_id] = [0.0, _UNSEEN]
        return (
            by_length[length] if length < len(by_length) else by_length[-1],
            above,
            copied,
            self._special[2 * (before in self._special_ids) + (token_id in self._special_ids)],
            self._mood,
        )


def chance_of(weights: Weights, share: float) -> float:
    """That a copied token is right which stands for `share` of what followed there: the chance that the answer goes on
    as one of these, times the share."""
    odds = math.exp(min(max(_log_odds(weights), -_FARTHEST), _FARTHEST))
    return share * odds / (1.0 + odds)


def learn(weights: Weights, share: float, *, was_right: bool) -> None:
    """What became of such a copy."""
    log_odds = _log_odds(weights)
    if abs(log_odds) > _FARTHEST and (log_odds > 0) == was_right:
        return  # as sure as may be
    chance = chance_of(weights, share)
    slope = 1 - chance / share  # of its logarithm
    gradient = (was_right - chance) * slope / (1 - chance)
    curvature = chance * slope * slope / (1 - chance)
    for weight in weights:
        weight[1] = min(weight[1] + curvature, _MOST_CERTAIN)
        weight[0] += gradient / weight[1]


def _log_odds(weights: Weights) -> float:
    length, before, copied, special, mood = weights
    return length[0] + before[0] + copied[0] + special[0] + mood[0]
