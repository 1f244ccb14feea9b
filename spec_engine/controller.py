"""What to draft next and how much, from measured costs and acceptance.

Job: `BudgetController`, which says before each step what a pass of the draft model has to bring (`min_gain`), and
leaves of a draft what is worth verifying (`cut`).
Non-job: reading clocks, drafting; what steps cost and drafts are worth (pass_costs.py, level_costs.py, plain_steps.py).

Depth. A draft model runs a pass for each level of its tree. A level is worth its time while the tokens that it may
bring are more than as many as could be had otherwise in that time: that is `min_gain`, and the drafter, which knows how
likely its nodes are, ends the tree there. So a look at text that no draft fits costs one pass of the draft model.

Drafter. At rest `min_gain` is infinite. What costs nothing, copies from the text, is proposed even then: it is cut by
what rows cost, and needs no permission. With copies beside it, a model is asked where they leave enough open
(drafters/blend.py).

Nodes. Of a draft the first nodes are run, likeliest first, as long as each is worth a row of the target's pass.

Rest. Before a draft is confirmed nobody knows whether this text can be predicted, so a look may lose time. All of that
is paid from one account, in plain steps: each answer begins with `_CREDIT`, or with less where drawn answers lose,
plain decoding pays `_RATE` a step in, a look pays what it gained or takes what it lost, at most `_LOOK`,
or `_DEAR_LOOK` after a draft that took long. While drafts lose, the waits between two looks double. Where tokens are
drawn and little credit is given, a look that brought tokens but did not pay gets enough for another, `_UNPAID` times.
"""

import math
from collections.abc import Sequence

from spec_engine.level_costs import LevelCosts
from spec_engine.metrics import StepRecord
from spec_engine.pass_costs import PassCosts, chance
from spec_engine.plain_steps import PlainSteps
from spec_engine.tree import DraftTree

_CREDIT = 2.0  # plain steps that an answer may lose at its start …
_CAUTION = 0.9  # … less this part where tokens are drawn, if all looks at such answers have lost lately …
_UNKNOWN = 0.5  # a look at them that nobody has taken yet, and that lost so far …
_RATE = 0.002  # … and so many more for each plain step
_LOOK = 0.7  # plain steps; a look takes no more than this off the account: a draft may be wrong once
_DEAR = 4.0  # … unless drafting alone took so long: then …
_DEAR_LOOK = 1.3  # … so much, and another look has to wait
_MOST = 4.0  # the account holds no more, so that old gains do not pay for a long loss
_UNPAID = 2  # looks in a row that brought tokens and did not pay: this text can be predicted, so another one is allowed
_LONGEST_WAIT = 32  # steps; the wait doubles with each look that does not pay
_SILENCE = 8  # steps without even copies, behind two that took long for nothing; doubles while they go on so
_ONE_LEVEL = 1.5  # tokens; more than any level brings, so none follows the first
_SMALL = 0.1  # plain steps; a look that lost less lost nothing, a drafter that took less did nothing
_LOSSES = 0.6  # weight of looks that lost, or did not, against the next one
_TREND = 0.9  # weight of what drafts have brought so far against the next one
_MEMORY = 0.97  # the same for what a token takes, in this answer
_LONG_MEMORY = 0.99  # the same for what it takes in all answers
_USUAL = 40.0  # tokens that count as much as those of all answers, against those of this one
_UNKNOWN_TOKENS = 5.0  # tokens at a plain step each, before any was made
_SHORTEST = 1e-9  # seconds; a coarse clock may say 0
_HELD_UP = 8.0  # plain steps; a step that took longer counts as this
_NOTE_EVERY = 16  # steps after which the figures of a note are brought up to date
_PLAIN_EVERY = 64  # drafted steps after which a plain one is measured again


class BudgetController:
    """Chooses step by step. Made once per engine: costs belong to the machine and outlive an answer.

    `max_nodes` is the largest budget; with `is_adaptive` False every step gets it, and no pass is too dear.
    """

    def __init__(self, max_nodes: int, *, is_adaptive: bool = True) -> None:
        self._max_nodes = max_nodes
        self._is_adaptive = is_adaptive and max_nodes > 0
        self._plain = PlainSteps()
        self._passes = PassCosts()
        self._levels = LevelCosts()
        self._tokens = {False: [0.0, 0.0], True: [0.0, 0.0]}  # plain steps and tokens of all answers, if drawn or not
        self._looks = {False: [0.0, 0.0], True: [0.0, 0.0]}  # that lost, and all, if drawn or not; older ones for less
        self._num_steps = 0
        self.begin(0)

    @property
    def may_draft(self) -> bool:
        """Whether a pass of the draft model may follow the next pass; if not, that one need record nothing for it."""
        return not self._is_adaptive or (self._wait <= 1 and self._risk <= self._account + _RATE)

    @property
    def note(self) -> str:
        """Why drafting is off, in a sentence for the user; empty while it is on."""
        if not self._is_off:
            self._note = ""
        elif not self._note or self._num_steps % _NOTE_EVERY == 0:
            self._note = self._reason()
        return self._note

    def begin(self, num_tokens: int, *, is_drawn: bool = False) -> None:
        """A new answer starts behind `num_tokens`; its content is unknown, so drafting gets a fresh chance. `is_drawn`:
        its tokens are drawn at a temperature; how far drafts can be believed is another question then. What is known
        is believed less with each answer; one of a single step, as for a prompt that is only read, is none."""
        is_later = self._num_steps > 1
        self._lost_looks = self._looks[is_drawn]
        self._all = self._tokens[is_drawn]
        self._is_proven = not is_drawn  # drafts have been right in this answer: only then they go deep, if it is drawn
        self._plain.begin(num_tokens, is_later=is_later)
        self._passes.begin(is_drawn=is_drawn, is_later=is_later)
        self._levels.begin(is_drawn=is_drawn, is_later=is_later)
        num_lost, num_known = self._lost_looks
        self._account = _CREDIT * (1 - (_CAUTION if is_drawn else 0.0) * (num_lost + _UNKNOWN) / (num_known + 1))
        self._weigh_risk()
        self._wait = 1  # steps until the next look
        self._gap = 1  # what the wait will be if that does not pay
        self._trend = 0.0  # plain steps that looks have brought lately
        self._is_drawn, self._num_unpaid = is_drawn, 0  # looks in a row that did not pay
        self._num_dear = 0  # drafts in a row that took time for nothing and named no pass; one may have been held up
        self._silence, self._num_silent = _SILENCE, 0  # steps without any draft behind two of them at rest
        self._num_steps = self._num_looks = self._num_drafted = 0  # the last: in a row
        self._own = [0.0, 0.0]  # plain steps and tokens of this answer, the newest for most
        self._look_s = self._look_tokens = 0.0  # seconds and tokens of the newest looks
        self._proposed: DraftTree | None = None  # the last draft before it was cut
        self._is_resting = self._is_adaptive
        self._is_off = False  # since the last look
        self._note = ""

    def budget(self) -> int:
        """Nodes that the next step may draft; 0: do not even ask for what costs nothing, for it does cost."""
        return 0 if self._is_resting and self._num_dear > 1 else self._max_nodes

    def min_gain(self) -> float:
        """Tokens that a pass of the draft model must be able to bring in the next step; infinite: none is run."""
        if not self._is_adaptive:
            return 0.0
        plain_s = self._plain.seconds
        if self._is_resting or plain_s is None:
            return math.inf
        gain = self._gain_of(self._levels.further, plain_s)
        return gain if self._is_proven else max(gain, _ONE_LEVEL)

    def first_gain(self) -> float:
        """The same of the first pass of a draft, for a drafter that has copies besides; infinite at rest."""
        if not self._is_adaptive:
            return 0.0
        plain_s = self._plain.seconds
        if self._is_resting or plain_s is None:
            return math.inf
        return self._gain_of(self._levels.first, plain_s)

    def least_chance(self) -> float:
        """That the first token of a draft must be right with, to be worth a row; 0 while nobody knows."""
        plain_s = self._plain.seconds
        if not self._is_adaptive or plain_s is None:
            return 0.0
        return self._passes.least_chance(self._token_s(plain_s), plain_s)

    def cut(self, tree: DraftTree) -> DraftTree:
        """The first nodes of a drafted tree, as many as are worth a row of the target's pass."""
        self._proposed = tree
        plain_s = self._plain.seconds
        if len(tree) == 1 or not self._is_adaptive or plain_s is None:
            return tree
        return tree.first(self._passes.num_worth(tree, self._token_s(plain_s), plain_s))

    def record(self, record: StepRecord, tree: DraftTree, path: Sequence[int]) -> None:
        """Learn from a step that ran `tree` and kept its nodes `path`, root first."""
        if not self._is_adaptive:
            return
        self._num_steps += 1
        beside_s = record.draft_s + record.other_s
        seconds = record.verify_s + beside_s
        proposed, self._proposed = self._proposed or tree, None
        plain_s = self._plain.seconds or record.verify_s or _SHORTEST
        self._count(min(seconds / plain_s, _HELD_UP), len(path))
        if len(tree) > 1:
            self._plain.add_pass(record.verify_s, self._passes.num_steps(len(tree) - 1))
        else:
            self._plain.add_step(record.verify_s + min(beside_s, _SMALL * record.verify_s))
        if len(proposed) > 1:
            self._passes.record(proposed, len(tree) - 1, len(path) - 1, record.verify_s, plain_s)
        is_dear = record.draft_s > _SMALL * plain_s
        if is_dear or self._num_dear or len(path) > 1:
            self._book_cost(is_vain=is_dear and not proposed.num_passes and len(path) == 1, is_right=len(path) > 1)
        num_passes = proposed.num_passes or int(self._num_dear > 1 and not self._is_resting)
        if num_passes:
            was_proven, self._is_proven = self._is_proven, self._is_proven or len(path) > 1
            expected = sum(map(chance, tree.log_q[1:]))
            self._levels.record(num_passes, record.draft_s / plain_s, expected, len(path) - 1)
            self._book_look(seconds, record.draft_s, len(path), is_first=not was_proven and len(path) > 1)
            self._weigh_risk()
            if self._is_drawn and len(path) > 1 and self._num_unpaid <= _UNPAID:
                self._account = max(self._account, min(self._risk, _MOST))
        else:
            self._num_drafted = 0
            self._wait = max(self._wait - 1, 0)
            self._account = min(self._account + _RATE, _MOST)
        is_off = self._wait > 0 or self._account < self._risk
        self._is_off = (is_off and self._num_looks > 0) or (self._is_off and not num_passes)
        self._is_resting = is_off or self._num_drafted >= _PLAIN_EVERY

    def _count(self, took: float, num_tokens: int) -> None:
        """What tokens cost, in this answer and in all: a step of so many plain steps brought so many."""
        own, every = self._own, self._all
        own[0] = _MEMORY * own[0] + took
        own[1] = _MEMORY * own[1] + num_tokens
        every[0] = _LONG_MEMORY * every[0] + took
        every[1] = _LONG_MEMORY * every[1] + num_tokens

    def _book_cost(self, *, is_vain: bool, is_right: bool) -> None:
        """Whether what costs nothing is proposed in the next step: not behind two drafts that took time in vain."""
        if self.budget():
            self._num_dear = self._num_dear + 1 if is_vain else 0
            self._silence = _SILENCE if is_right else self._silence
            return
        self._num_silent += 1
        if self._num_silent >= self._silence:  # the content may have changed: once more
            self._num_dear, self._num_silent, self._silence = 1, 0, 2 * self._silence

    def _weigh_risk(self) -> None:
        """What the account has to cover for a look: the first pass of a draft, as often as looks lose."""
        num_lost, num_known = self._lost_looks
        self._risk = self._levels.risk * (num_lost + 1) / (num_known + 1)

    def _book_look(self, seconds: float, draft_s: float, num_tokens: int, *, is_first: bool) -> None:
        """What a step with passes of the draft model does to the account, and how long to wait if it did not pay.
        `is_first`: it was right with the one level that a drawn answer begins with; deeper ones may pay."""
        self._num_looks += 1
        self._num_drafted += 1
        self._look_s = _TREND * self._look_s + seconds
        self._look_tokens = _TREND * self._look_tokens + num_tokens
        if self._plain.seconds is None:
            return
        gain = num_tokens - seconds / self._plain.seconds  # in plain steps
        self._num_unpaid = self._num_unpaid + 1 if gain < 0 else 0
        gain = max(gain, 0.0) if is_first else gain
        is_dear = draft_s > _DEAR * self._plain.seconds
        booked = max(gain, -_DEAR_LOOK if is_dear else -_LOOK)
        self._lost_looks[:] = (_LOSSES * old + new for old, new in zip(self._lost_looks, (gain < 0, 1), strict=True))
        self._account = max(min(self._account + booked, _MOST), 0.0)
        self._trend = _TREND * self._trend + booked
        if gain >= 0:
            self._gap = max(self._gap // 2, 1)
        elif gain < -_SMALL and self._trend < 0:
            self._wait, self._gap = self._gap, min(2 * self._gap, _LONGEST_WAIT)

    def _gain_of(self, took: float, plain_s: float) -> float:
        """Tokens that a draft has to say it brings in so many plain steps."""
        return took * plain_s / max(self._token_s(plain_s), 1e-9) / self._levels.trust

    def _token_s(self, plain_s: float) -> float:
        """What a token costs otherwise. A draft competes with all that could be done instead, drafts included, so it is
        what tokens have cost, in all answers and in this one; a plain step at most."""
        steps, tokens = self._all
        usual = (steps + _UNKNOWN_TOKENS) / (tokens + _UNKNOWN_TOKENS)
        steps, tokens = self._own
        return plain_s * min((steps + _USUAL * usual) / (tokens + _USUAL), 1.0)

    def _reason(self) -> str:
        """The sentence, with figures."""
        drafted_s, plain_s = self._look_s / self._look_tokens, self._plain.seconds or 0.0
        figures = f"{1e3 * drafted_s:.1f} ms a token in the last tries, {1e3 * plain_s:.1f} ms without."
        if drafted_s < plain_s:
            return f"Drafting rests because the last drafts were unsure or wrong: {figures}"
        return f"Drafting is off because it would be slower here: {figures}"
