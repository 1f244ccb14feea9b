"""How many tokens to draft next, from measured costs and acceptance.

Job: `BudgetController.budget` gives the node budget of the next step and 0 where plain decoding is faster;
`BudgetController.cut` leaves of a drafted tree what is worth verifying.
Non-job: reading clocks, drafting. Nothing here can change the text, only how fast it comes.

The model. A grower lists the likelier nodes first, so a tree's first b nodes are the tree that a budget of b would have
given: one step tells how many tokens every budget up to its own would have brought. Costs are seconds per step by
budget, measured where tried and interpolated between. The budget with the most tokens per second wins, of those that
can be afforded.

The account. Before a draft is confirmed nobody knows whether this text can be predicted, so drafting may lose time. All
of that is paid from one account, in plain steps: each answer begins with `_CREDIT`, plain decoding pays `_RATE` a step
in, and a drafted step pays what it gained or takes what it lost; of a loss no more than such drafts lose on average, or
one step. A step is taken if half of the account, for the cheapest budget all of it, covers that average; drafts
confirmed to their ends in a row earn a try of the next larger budget. So an answer of n tokens takes longer than plain
decoding by about `_CREDIT` + n `_RATE` steps at most, and a draft that was mostly right may be wrong once.

The cut. Drafts that say they are unsure are not run, or not all of them (pass_costs.py). In text that no draft fits
most say so, and a look costs the draft's own time alone.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from spec_engine.arms import SHORTEST, Arm, PlainSteps
from spec_engine.metrics import StepRecord
from spec_engine.pass_costs import PassCosts, chance
from spec_engine.tree import DraftTree

_NUM_PARTS = 7  # newest drafts that tell how dear drafting is
_STALL = 2.0  # a step that took more than so many times the usual was held up by something else
_COST_LIFE = 96  # steps after which old costs of a budget that was left count less
_LONG_LIFE = 4096  # steps after which a budget too dear to be tried gets another chance
_MEMORY = 0.9  # weight of a step's tokens against the next one's
_HOPE = 0.8  # the chance of a token to be confirmed, before anything was
_STREAK = 2  # drafts in a row, confirmed to their ends, that earn a try of the next larger budget whatever it costs …
_LONGEST_STREAK = 16  # … twice as many after each try that brought no more, up to this
_GROWTH = 1.2  # what the next larger budget is thought to cost, times the one below, until it was tried
_CREDIT = 2.0  # plain steps that an answer may lose at its start …
_RATE = 0.01  # … and so many more for each plain step
_FIRST_LOOK = 3  # plain steps before the first draft: where an answer reads from is open until it has begun …
_CHEAP = 0.25  # … one less where drafts take no more than this part of a pass
_LOOK = 1.0  # plain steps; where drafts are mostly right, a wrong one takes no more than this off the account
_BET = 0.5  # part of the account that one draft may cost; the cheapest may cost all of it
_DEBT = -0.5  # the account is never lower, so that one bad look is not paid for by a whole answer …
_MOST = 8.0  # … and holds no more, so that old gains do not pay for a long loss
_LONGEST_WAIT = 32  # steps; the wait doubles with each look that does not pay
_IDLE = 0.1  # plain steps; a drafter that has nothing to say and took less did nothing
_NOTE_EVERY = 16  # steps after which the figures of a note are brought up to date
_LARGER_EVERY = 24  # steps after which the next larger budget is looked at again
_PLAIN_EVERY = 64  # drafted steps after which a plain one is measured again


class BudgetController:
    """Chooses the budget step by step. Made once per engine: costs belong to the machine and outlive an answer.

    `max_nodes` is the largest budget; with `is_adaptive` False every step gets it.
    """

    def __init__(self, max_nodes: int, *, is_adaptive: bool = True) -> None:
        self._max_nodes = max_nodes
        self._is_adaptive = is_adaptive and max_nodes > 0
        sizes = [2**power for power in range(max_nodes.bit_length()) if 2**power < max_nodes]
        self._plain = PlainSteps()
        edges = [0, *sizes, max_nodes] if max_nodes else []
        steps = [1.0, *(float(high - low) for low, high in pairwise(edges))]  # nodes that a budget adds
        self._arms = [Arm(size, more / less) for size, (less, more) in zip(edges[1:], pairwise(steps), strict=True)]
        self._num_steps = 0
        self._passes = PassCosts()
        self._draft_parts: deque[float] = deque(maxlen=_NUM_PARTS)  # what drafts took, in passes
        self._next: Arm = self._plain
        self.begin(0)

    @property
    def may_draft(self) -> bool:
        """Whether the step after the next pass may draft; if not, that pass need record nothing for the drafter."""
        return not self._is_adaptive or self._may_draft

    @property
    def note(self) -> str:
        """Why drafting is off, in a sentence for the user; empty while it is on."""
        if not self._is_adaptive or self._next is not self._plain or self._is_plain_look or not self._has_tried:
            self._note = ""
        elif not self._note or self._num_steps % _NOTE_EVERY == 0:
            self._note = self._reason()
        return self._note

    def begin(self, num_tokens: int) -> None:
        """A new answer starts behind `num_tokens`; its content is unknown, so drafting gets a fresh chance."""
        self._plain.begin(num_tokens)
        self._account = _CREDIT
        is_cheap = bool(self._draft_parts) and max(self._draft_parts) < _CHEAP
        self._wait = _FIRST_LOOK - is_cheap  # steps until the next look
        self._gap = 1  # what the wait will be if that does not pay
        self._num_drafted = 0  # drafted steps since the last plain one
        self._streak = 0  # drafts in a row that were confirmed to their ends …
        self._num_confirmed = 0  # … and the drafted tokens of the last of them
        self._recent_s = self._recent_tokens = 0.0  # of the newest steps
        self._proposed: DraftTree | None = None  # the last draft before it was cut
        self._passes.begin()
        self._larger: Arm | None = None  # the next larger budget than the last one drafted with
        self._has_tried = self._has_looked = self._is_plain_look = False
        self._note = ""
        self._may_draft = True
        self._num_needed = _STREAK
        for arm in self._arms:
            arm.fade()
            arm.keep_costs(2)
            if self._num_steps - arm.last_step > _LONG_LIFE:
                arm.keep_costs(1)
        self._spread()
        self._next = self._choose()

    def budget(self) -> int:
        """Nodes that the next step may draft; 0: do not draft."""
        return self._next.num_nodes if self._is_adaptive else self._max_nodes

    def cut(self, tree: DraftTree) -> DraftTree:
        """The first nodes of a drafted tree, as many as are worth a row of the target's pass."""
        self._proposed = tree
        plain_s = self._plain.seconds
        if not self._is_adaptive or plain_s is None:
            return tree
        token_s = min(plain_s, self._recent_s / max(self._recent_tokens, 1.0))
        return tree.first(self._passes.num_worth(tree.log_q, token_s, plain_s))

    def record(self, budget: int, record: StepRecord, tree: DraftTree, path: Sequence[int]) -> None:
        """Learn from a step that was given `budget`, ran `tree` and kept its nodes `path`, root first."""
        if not self._is_adaptive:
            return
        self._num_steps += 1
        self._has_looked = self._has_looked or budget > 0
        self._recent_s = _MEMORY * self._recent_s + record.draft_s + record.verify_s + record.other_s
        self._recent_tokens = _MEMORY * self._recent_tokens + len(path)
        proposed, self._proposed = self._proposed or tree, None
        is_idle = len(proposed) == 1 and record.draft_s <= _IDLE * (self._plain.seconds or math.inf)
        if budget == 0 or is_idle:  # the drafter was not asked, or had nothing to say
            self._book_plain(record, budget)
        else:
            arm = next(arm for arm in self._arms if arm.num_nodes >= budget)
            self._book_drafted(arm, record, proposed, path)
        if self._plain.seconds is not None:
            for arm in self._arms:
                arm.fit(self._plain.seconds)
        self._next = self._choose() if self._may_draft else self._plain
        self._may_draft = self._wait <= 1 and self._affords(self._cover + _RATE)

    def _book_plain(self, record: StepRecord, budget: int) -> None:
        """A step over a bare root. What a drafter took that had nothing to say, or that only read, is its own."""
        beside_s = record.draft_s + record.other_s
        idle_s = record.draft_s if budget else max(beside_s - _IDLE * record.verify_s, 0.0)
        self._plain.add_step(record.verify_s + beside_s - idle_s)
        loss = idle_s / (self._plain.seconds or math.inf)
        self._account = max(min(self._account + _RATE - loss, _MOST), _DEBT)
        self._wait = max(self._wait - 1, 0)
        self._num_drafted = 0
        self._larger = None

    def _book_drafted(self, arm: Arm, record: StepRecord, proposed: DraftTree, path: Sequence[int]) -> None:
        """Cost and tokens of a step that drafted `proposed`, what it does to the account, and how long to wait if it
        did not pay."""
        self._has_tried = True
        self._num_drafted += 1
        seconds = record.draft_s + record.verify_s + record.other_s
        num_run, num_proposed = record.num_draft_tokens, len(proposed) - 1
        plain_s = self._plain.seconds or record.verify_s
        self._passes.record(proposed.log_q, num_run, len(path) - 1, record.verify_s, plain_s)
        arm.add_cost(seconds + (num_proposed - num_run) * self._passes.row_s(plain_s), plain_s)
        if len(path) == 1:
            arm.failures.append(max(seconds, SHORTEST))
        arm.last_step = self._num_steps
        self._plain.add_pass(record.verify_s)
        self._draft_parts.append(record.draft_s / max(record.verify_s, SHORTEST))
        self._learn_tokens(arm, proposed, num_run, path)
        for other in self._arms:
            if self._num_steps - other.last_step > _COST_LIFE:
                other.keep_costs(2)
        if self._plain.seconds is None:
            return
        gain = len(path) - min(seconds, _STALL * self._seconds(arm)) / self._plain.seconds  # in plain steps
        booked = max(gain, -max(_LOOK, self._risk(arm)))
        self._account = max(min(self._account + booked, _MOST), _DEBT)
        is_confirmed = num_run == num_proposed and 0 < record.num_accepted_draft_tokens == record.draft_depth
        if arm is self._larger:  # a climb
            is_worth = record.num_accepted_draft_tokens > self._num_confirmed
            self._num_needed = _STREAK if is_worth else min(2 * self._num_needed, _LONGEST_STREAK)
        self._streak = self._streak + 1 if is_confirmed else 0
        self._num_confirmed = record.num_accepted_draft_tokens if is_confirmed else self._num_confirmed
        if arm is not self._larger or is_confirmed:
            self._larger = next((other for other in self._arms if other.num_nodes > arm.num_nodes), None)
        else:
            self._larger = None  # that was a look, and it failed
        pays = self._pays()
        if gain < 0 and not pays:
            self._wait, self._gap = self._gap, min(2 * self._gap, _LONGEST_WAIT)
        elif gain >= 0:
            self._gap = max(self._gap // 2, 1)
            self._wait = 0 if pays else self._gap

    def _learn_tokens(self, arm: Arm, proposed: DraftTree, num_run: int, path: Sequence[int]) -> None:
        """Book the tokens of this budget and of all smaller ones, and what follows for the larger.

        Of a draft that was cut only what was run says anything; of one that was not run at all, what it said."""
        before, base = 0, 1.0
        if num_run == 0 and len(proposed) > 1:
            self._arms[0].add(chance(proposed.log_q[1]), base)
        for other in self._arms:
            if other.num_nodes <= (arm.num_nodes if num_run == len(proposed) - 1 else num_run):
                more = sum(before < node <= other.num_nodes for node in path)
                other.add(more, base)
                before, base = other.num_nodes, float(more)
        self._spread()

    def _spread(self) -> None:
        """Tokens of each budget from the shares."""
        tokens, more, share = 1.0, 1.0, _HOPE
        for arm in self._arms:
            share = arm.share(share)  # what holds for small trees is expected of larger ones
            more *= share * arm.growth
            tokens += more
            arm.tokens = tokens

    def _reason(self) -> str:
        """The sentence, with figures."""
        best = max(self._arms, key=self._speed)
        now = f"{1e3 / self._speed(best):.1f} ms a token with {best.num_nodes} drafted nodes a step"
        plain = f"{1e3 / self._speed(self._plain):.1f} ms without"
        if self._pays():
            return f"Drafting rests because the last drafts were unsure or wrong: {now} if they are, {plain}."
        return f"Drafting is off because it would be slower here: {now}, {plain}."

    def _choose(self) -> Arm:
        """The budget of the next step."""
        self._is_plain_look = False
        if self._wait > 0 or not self._arms:
            return self._plain
        if self._plain.seconds is None:
            return self._arms[-1]
        if self._num_drafted >= _PLAIN_EVERY:
            self._is_plain_look = True
            return self._plain
        affordable = [arm for arm in self._arms if self._is_affordable(arm, self._cover)]
        if affordable:
            cheapest, most = min(affordable, key=self._risk), _BET * self._cover
            affordable = [arm for arm in affordable if arm is cheapest or self._is_affordable(arm, most)]
        if (larger := self._larger) is not None and (
            self._streak >= self._num_needed
            or (self._num_steps - larger.last_step >= _LARGER_EVERY and larger in affordable)
        ):
            self._streak = min(self._streak, self._num_needed - 1)  # one more may climb again
            return larger
        return max(affordable, key=self._speed, default=self._plain)

    @property
    def _cover(self) -> float:
        """What a draft may lose now: the account, and for the first look of an answer no less than all credit."""
        return self._account if self._has_looked else max(self._account, _CREDIT)

    def _affords(self, account: float) -> bool:
        """Whether any draft is covered."""
        return self._plain.seconds is None or any(self._is_affordable(arm, account) for arm in self._arms)

    def _is_affordable(self, arm: Arm, account: float) -> bool:
        """Whether the account covers such a draft. The first measurement of all may have been a stall: so a fresh
        account covers another one whatever it said."""
        is_first = sum(len(other.costs) for other in self._arms) == 1
        return (min(self._risk(arm), _CREDIT) if is_first else self._risk(arm)) <= account

    def _risk(self, arm: Arm) -> float:
        """What a step may lose, in plain steps: what it did when nothing was confirmed, as often as that was so.

        An unsure draft ends early and is cut short, so such steps cost less. Where nothing is known, cost goes by the
        number of nodes."""
        plain = self._plain.seconds or math.inf
        if arm.seconds is None and (below := self._measured_below(arm)) is not None:
            return (below[1] - plain) * arm.num_nodes / below[0] / plain
        loss = (statistics.median_low(arm.failures) if arm.failures else self._seconds(arm)) / plain - 1
        return loss * (len(arm.failures) + 1) / (len(arm.costs) + 2 if arm.costs else 1)

    def _pays(self) -> bool:
        """Whether some budget is faster than plain decoding by all that is known."""
        return max((self._plain, *self._arms), key=self._speed) is not self._plain

    def _speed(self, arm: Arm) -> float:
        """Tokens per second."""
        return arm.tokens / max(self._seconds(arm), SHORTEST)

    def _seconds(self, arm: Arm) -> float:
        """Cost of a step: measured; between two measured budgets by number of nodes; else a guess that makes it be
        tried."""
        if (seconds := arm.seconds) is not None:
            return seconds
        below = self._measured_below(arm) or (0, self._plain.seconds or 0.0)
        above = next((a for a in self._arms if a.num_nodes > arm.num_nodes and a.seconds is not None), None)
        if above is None or above.seconds is None:
            return below[1] * _GROWTH
        return below[1] + (above.seconds - below[1]) * (arm.num_nodes - below[0]) / (above.num_nodes - below[0])

    def _measured_below(self, arm: Arm) -> tuple[int, float] | None:
        """Nodes and seconds of the largest smaller budget that was measured."""
        known = [(a.num_nodes, a.seconds) for a in self._arms if a.num_nodes < arm.num_nodes and a.seconds is not None]
        return known[-1] if known else None
