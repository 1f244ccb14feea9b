"""How many tokens to draft next, from measured costs and acceptance.

Job: `BudgetController.budget` gives the node budget of the next step and 0 where plain decoding is faster;
`PrefillPacer` sizes prefill chunks so that a request can be cancelled quickly on any machine.
Non-job: reading clocks, drafting. Nothing here can change the text, only how fast it comes.

The model. A grower lists the likelier nodes first, so a tree's first b nodes are the tree that a budget of b would have
given: one step tells how many tokens every budget up to its own would have brought. Costs are seconds per step by
budget, measured where tried and interpolated between. The budget with the most tokens per second wins. Content changes,
so each answer begins with some steps at full budget, fewer if they lose much, and now and then one step looks again: at
plain decoding and at the full budget in turn while drafting pays; at the best budget known and at the full one, ever
more rarely, while it does not. Such a look goes on as long as it pays, and the dearer it is the rarer it comes.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence

from spec_engine.metrics import StepRecord

_NUM_COSTS = 7  # newest measurements whose median is a budget's cost: stalls of the machine do not count
_COST_LIFE = 96  # steps after which a budget that was left is measured anew
_TOKENS_WEIGHT = 0.08  # of the newest step in the mean number of tokens
_FIRST_LOOKS = 8  # drafted steps of an answer before drafting may be switched off …
_FIRST_LOSS = 10.0  # … unless they have lost the time of so many plain steps
_LOOK_EVERY = 24  # steps between two looks at least
_LOOK_SHARE = 25.0  # a look may cost one part in so many of the time until the next
_LOOK_LIMIT = 1024  # each look that does not pay doubles the distance, up to this
_MARGIN = 1.03  # a change of budget must promise this factor


class _Arm:
    """One budget: what a step with it costs, and how many tokens it brings."""

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes
        self.costs: deque[float] = deque(maxlen=_NUM_COSTS)  # seconds per step, oldest first
        self.last_step = 0  # when it was last tried
        self.tokens = 0.0
        self.num_samples = 0

    @property
    def seconds(self) -> float | None:
        """Median cost of a step, if it was measured."""
        return statistics.median(self.costs) if self.costs else None

    def add_tokens(self, num_tokens: int) -> None:
        """A mean that forgets: plain over the first samples, exponential after them."""
        self.num_samples += 1
        self.tokens += max(_TOKENS_WEIGHT, 1 / self.num_samples) * (num_tokens - self.tokens)


class BudgetController:
    """Chooses the budget step by step. Made once per engine: costs belong to the machine and outlive an answer.

    `max_nodes` is the largest budget; with `is_adaptive` False every step gets it.
    """

    def __init__(self, max_nodes: int, *, is_adaptive: bool = True) -> None:
        self._max_nodes = max_nodes
        self._is_adaptive = is_adaptive and max_nodes > 0
        sizes = [2**power for power in range(1, max_nodes.bit_length()) if 2**power < max_nodes]
        self._plain = _Arm(0)
        self._plain.add_tokens(1)
        self._arms = [self._plain, *(_Arm(size) for size in (*sizes, max_nodes) if size > 0)]
        self._current = self._arms[-1]
        self._num_steps = 0
        self._first_looks = 0
        self._first_loss = 0.0  # in plain steps
        self._look: _Arm | None = None  # what the next step tries instead of the current budget
        self._last_look: _Arm | None = None
        self._next_look = self._plain
        self._steps_to_look = self._look_gap = _LOOK_EVERY

    @property
    def is_drafting(self) -> bool:
        """Whether speculation is on, single looks apart."""
        return self._current is not self._plain

    @property
    def may_draft(self) -> bool:
        """Whether the step after the next pass may draft; if not, that pass need record nothing for the drafter."""
        return not self._is_adaptive or self.is_drafting or self._look is not None or self._steps_to_look <= 1

    @property
    def note(self) -> str:
        """Why drafting is off, in a sentence for the user; empty while it is on."""
        best = max(self._arms[1:], key=self._speed, default=self._plain)
        if not self._is_adaptive or self.is_drafting or not self._speed(best):
            return ""
        plain_ms, best_ms = 1e3 / self._speed(self._plain), 1e3 / self._speed(best)
        return (
            f"Drafting is off because it would be slower here: {best_ms:.1f} ms a token with {best.num_nodes} drafted "
            f"nodes a step, {plain_ms:.1f} ms without."
        )

    def begin(self) -> None:
        """A new answer starts; its content is unknown, so drafting gets a fresh chance."""
        self._current = self._arms[-1]
        self._next_look = self._plain
        self._first_looks, self._first_loss = _FIRST_LOOKS, 0.0
        self._look = None
        self._steps_to_look = self._look_gap = _LOOK_EVERY
        for arm in self._arms[1:]:
            arm.num_samples = min(arm.num_samples, 1)

    def budget(self) -> int:
        """Nodes that the next step may draft; 0: do not draft."""
        if not self._is_adaptive:
            return self._max_nodes
        return (self._look or self._current).num_nodes

    def record(self, budget: int, record: StepRecord, path: Sequence[int]) -> None:
        """Learn from a step that was given `budget` and kept the nodes `path`, root first, of a best-first tree."""
        if not self._is_adaptive:
            return
        seconds = record.draft_s + record.verify_s + record.other_s
        self._num_steps += 1
        if record.num_draft_tokens == 0:
            self._plain.costs.append(seconds)  # also when the drafter had nothing to say
        else:
            self._learn(next(arm for arm in self._arms if arm.num_nodes >= budget), seconds, path)
        loss = seconds / self._plain.seconds - len(path) if self._plain.seconds else 0.0  # in plain steps
        if self._first_looks > 0 and record.num_draft_tokens > 0:  # a step without a draft tells nothing about drafting
            self._first_loss += loss
            self._first_looks = 0 if self._first_loss > _FIRST_LOSS else self._first_looks - 1
        if self._first_looks == 0:
            self._decide()
        self._schedule(pays=loss < 0)

    def _learn(self, arm: _Arm, seconds: float, path: Sequence[int]) -> None:
        """Book the cost for this budget, and the tokens for it and all smaller ones."""
        arm.costs.append(seconds)
        arm.last_step = self._num_steps
        for other in self._arms[1:]:
            if other.num_nodes <= arm.num_nodes:
                other.add_tokens(sum(node <= other.num_nodes for node in path))
        for other in self._arms[1:-1]:
            if self._num_steps - other.last_step > _COST_LIFE:
                other.costs.clear()

    def _schedule(self, pays: bool) -> None:
        """Plan the next look, after a step that paid, compared with plain decoding, or did not."""
        if self._look is not None:
            if pays and not self.is_drafting:
                return
            self._look = None
            self._look_gap = _LOOK_EVERY if self.is_drafting else min(2 * self._look_gap, _LOOK_LIMIT)
            self._plan_look()
        self._steps_to_look -= 1
        if self._steps_to_look <= 0:
            self._look = self._last_look = self._next_look

    def _plan_look(self) -> None:
        """Choose what to look at next: the full budget in turn with plain decoding or, while that is what runs, with
        the best budget known; and how long to wait, so that looks take a small share of the time."""
        other = max(self._arms[1:], key=self._speed) if self._current is self._plain else self._plain
        self._next_look = self._arms[-1] if self._last_look is other else other
        loss_s = (self._next_look.seconds or 0.0) - self._next_look.tokens / max(self._speed(self._current), 1e-9)
        fair_gap = _LOOK_SHARE * loss_s / max(self._seconds(self._current), 1e-9)
        self._steps_to_look = int(min(max(fair_gap, self._look_gap), _LOOK_LIMIT))

    def _decide(self) -> None:
        """Move to the budget with the most tokens per second if that is clearly more than now."""
        if self._plain.seconds is None or not self._speed(self._current):
            return  # what runs was not measured yet
        best = max(self._arms, key=self._speed)
        if self._speed(best) > self._speed(self._current) * _MARGIN:
            has_switched = self._plain in (best, self._current)
            self._current = best
            if has_switched and self._look is None:
                self._look_gap = _LOOK_EVERY
                self._plan_look()

    def _speed(self, arm: _Arm) -> float:
        """Tokens per second; 0 while nothing is known about them."""
        return arm.tokens / max(self._seconds(arm), 1e-9)

    def _seconds(self, arm: _Arm) -> float:
        """Cost of a step: measured, or interpolated by number of nodes between measured neighbours."""
        if (seconds := arm.seconds) is not None:
            return seconds
        known = [(other.num_nodes, other.seconds) for other in self._arms if other.seconds is not None]
        below = [cost for cost in known if cost[0] < arm.num_nodes]
        above = [cost for cost in known if cost[0] > arm.num_nodes]
        if not below or not above:
            return math.inf
        (low, low_s), (high, high_s) = below[-1], above[0]
        return low_s + (high_s - low_s) * (arm.num_nodes - low) / (high - low)


class PrefillPacer:
    """Sizes of prefill chunks that take at most about `target_s` each, so that cancelling never waits much longer.

    Sizes are powers of two times `smallest`, so few shapes occur.
    """

    def __init__(self, largest: int, target_s: float = 0.15, first: int = 32, smallest: int = 8) -> None:
        self._largest = largest
        self._target_s = target_s
        self._smallest = smallest
        self._size = first

    @property
    def largest(self) -> int:
        """Tokens of a chunk at most."""
        return self._largest

    @property
    def size(self) -> int:
        """Tokens of the next chunk."""
        return min(self._size, self._largest)

    def record(self, num_tokens: int, seconds: float) -> None:
        """Learn from a chunk: shrink the size when it took too long, double it when two would have fitted.

        A rest of less than half the size is mostly the cost of a pass and tells nothing about larger chunks.
        """
        if 2 * num_tokens < self.size and seconds <= self._target_s:
            return
        fitting = num_tokens * self._target_s / max(seconds, 1e-9)
        if num_tokens >= self.size and 2 * self._size <= fitting:
            self._size = min(2 * self._size, self._largest)
        while self._size > max(fitting, self._smallest):
            self._size //= 2
