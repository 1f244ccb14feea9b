"""What the passes of a draft model take, one for each level of a tree, and how far its drafts can be believed.

Job: `LevelCosts`, a line through the newest drafts: the first pass, which also reads the newest tokens, and each
further one.
Non-job: passes of the target (pass_costs.py, plain_steps.py), choosing (controller.py).

Costs are multiples of a plain step, so they hold for other lengths of the context. Before they are known they are
guessed to be low: a pass that is thought too dear is never run, and so never measured.
"""

from collections import Counter, deque
from collections.abc import Sequence

_NUM_DRAFTS = 16  # newest ones that the line goes through …
_FEW_DRAFTS = 3  # … if there are so many
_MOST = 8.0  # a draft that took more plain steps than this was held up
_HELD_UP = 1.25  # as is one that took so many times what one of more passes did
_GUESS = 0.2  # plain steps that a pass takes, until that was measured
_PRIOR = 2.0  # weight of that guess against drafts, in passes that they differ by
_TRUST = 2.0  # tokens for which a draft is believed …
_FADE = 0.9  # … the weight of what was known against a new answer …
_MEMORY = 0.9  # … and the weight of older ones against the next
_DOUBT = 0.7  # what a first pass costs is believed so much less with each answer in which none was run …
_FASTER = 0.5  # … and a draft that then takes less than this part of it makes older ones worthless


class LevelCosts:
    """All plain steps that are given to it belong to the same machine."""

    def __init__(self) -> None:
        self.first = _GUESS  # plain steps of a draft's first pass …
        self.further = _GUESS  # … and of each further one
        self._drafts: deque[tuple[int, float]] = deque(maxlen=_NUM_DRAFTS)  # passes, plain steps that they took
        self._beliefs = {False: [0.0, 0.0], True: [_TRUST, 0.0]}  # tokens expected and confirmed, if drawn or not
        self._belief = self._beliefs[False]
        self._doubt, self._is_asked = 1.0, True

    @property
    def risk(self) -> float:
        """Plain steps that a look may lose: its first pass. The machine may have been slow when that was measured, so
        what is too dear to be tried gets its chance after some answers."""
        return self.first * self._doubt

    @property
    def trust(self) -> float:
        """How many tokens are confirmed for each that a draft expects, at most 1."""
        expected, confirmed = self._belief
        return min((confirmed + _TRUST) / (expected + _TRUST), 1.0)

    def begin(self, *, is_drawn: bool = False, is_later: bool = True) -> None:
        """A new answer, on a machine that may have changed: so the oldest of many drafts is forgotten. `is_drawn`: its
        tokens are drawn, which a draft can foresee less; how far it could be believed is kept apart. `is_later`: there
        was another answer since the last call."""
        self._belief = self._beliefs[is_drawn]
        if not is_later:
            return
        self._belief[:] = (_FADE * old for old in self._belief)  # so that what is not asked any more gets its chance
        self._doubt = 1.0 if self._is_asked else self._doubt * _DOUBT
        self._is_asked = False
        if len(self._drafts) > _FEW_DRAFTS:
            self._drafts.popleft()
            self._fit()

    def record(self, num_passes: int, took: float, expected: float, num_confirmed: int) -> None:
        """A draft that took so many plain steps; of the nodes that were run, `expected` should have been right."""
        if self._doubt < 1 and took < _FASTER * (self.first + self.further * (num_passes - 1)):
            self._drafts.clear()  # a draft may be held up, never sped up: the doubt was right
        self._drafts.append((num_passes, min(took, _MOST)))
        self._doubt, self._is_asked = 1.0, True
        self._belief[:] = (
            _MEMORY * old + new for old, new in zip(self._belief, (expected, num_confirmed), strict=True)
        )
        self._fit()

    def _fit(self) -> None:
        """The line through all drafts but the one that lies farthest above a line through all, and those beyond `_MOST`
        where they are few: they were held up. The only one of its passes is kept, for it says what no other does,
        unless one with more passes took less."""
        drafts = list(self._drafts)
        usual = [one for one in drafts if one[1] < _MOST]
        drafts = usual if 2 * len(usual) > len(drafts) else drafts
        if len(drafts) < _FEW_DRAFTS:  # what was measured may have been held up: not believed beyond a plain step
            self.first = min(min((took / num for num, took in drafts), default=_GUESS), 1.0)
            self.further = min(self.first, _GUESS)
            return
        first, further = _line(drafts)
        counts = Counter(num for num, _ in drafts)
        alike = [
            (num, took)
            for num, took in drafts
            if counts[num] > 1 or any(more > num and _HELD_UP * less < took for more, less in drafts)
        ]
        drafts.remove(max(alike or drafts, key=lambda one: one[1] - first - further * (one[0] - 1)))
        self.first, self.further = _line(drafts)


def _line(drafts: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Plain steps of a first pass and of each further one."""
    passes = sum(num for num, _ in drafts) / len(drafts)
    steps = sum(took for _, took in drafts) / len(drafts)
    spread = _PRIOR + sum((num - passes) ** 2 for num, _ in drafts)
    together = sum((num - passes) * (took - steps) for num, took in drafts)
    together += _PRIOR * min(steps / passes, _GUESS)
    further = min(max(together / spread, 0.0), steps / passes)
    return steps - further * (passes - 1), further
