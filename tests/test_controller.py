"""The budget under synthetic costs, and chunk sizes under synthetic speeds."""

import math
import random
from collections.abc import Callable

import pytest

from spec_engine.controller import BudgetController
from spec_engine.level_costs import LevelCosts
from spec_engine.metrics import StepRecord
from spec_engine.pacer import PrefillPacer
from spec_engine.tree import DraftTree

Cost = Callable[[int], float]


class Machine:
    """Runs steps whose cost and acceptance are given by formulas; a draft is a chain, one pass a token, and accepted
    rank by rank. `draft` is what so many passes take, or, if it `is_free`, what a draft takes that needs none."""

    def __init__(
        self,
        verify: Cost,
        draft: Cost,
        accept: float,
        noise: float = 0.1,
        seed: int = 0,
        says: float | None = None,
        is_free: bool = False,
    ) -> None:
        self.verify, self.draft, self.accept, self.noise = verify, draft, accept, noise
        self.says = says  # how likely the draft takes a token to be right, if it is wrong about that
        self.is_free = is_free
        self._random = random.Random(seed)

    def step(self, controller: BudgetController) -> tuple[int, float]:
        """One step; returns tokens and seconds, the rare stall of the machine left out."""
        drafted = self.tree(controller.budget(), controller.min_gain())
        tree = controller.cut(drafted)
        num_nodes, path = len(tree) - 1, [0]
        while len(path) <= num_nodes and self._random.random() < self.accept:
            path.append(len(path))
        verify_s = self.verify(num_nodes) * self._random.uniform(1 - self.noise, 1 + self.noise)
        draft_s = self.draft(drafted.num_passes) if drafted.num_passes or (self.is_free and len(drafted) > 1) else 0.0
        stall_s = 50 * verify_s if self.noise and self._random.random() < 0.01 else 0.0
        record = StepRecord(num_nodes, len(path) - 1, len(path), num_nodes, draft_s, verify_s + stall_s)
        controller.record(record, tree, path)
        return len(path), verify_s + draft_s

    def tree(self, budget: int, min_gain: float = 0.0) -> DraftTree:
        """A chain that says how likely it is right, ended where a further pass may bring too little."""
        said = self.says or self.accept or 1e-9
        num_nodes = 0 if min_gain == math.inf and not self.is_free else budget
        if not self.is_free and num_nodes:
            num_nodes = next((depth for depth in range(1, budget) if said**depth < min_gain), budget)
        log_q = tuple(depth * math.log(said) for depth in range(num_nodes + 1))
        ids, parents, depths = (1,) * len(log_q), tuple(range(-1, num_nodes)), tuple(range(len(log_q)))
        return DraftTree(ids, parents, depths, log_q, 0 if self.is_free else num_nodes)

    def first_step(self, controller: BudgetController, *, is_drawn: bool = False) -> None:
        """Every answer begins with a bare root."""
        controller.begin(1000, is_drawn=is_drawn)
        controller.record(StepRecord(0, 0, 1, 0, 0.0, self.verify(0)), DraftTree.root(1), (0,))

    def speed(self, controller: BudgetController, num_steps: int) -> float:
        """Tokens per second over so many steps."""
        runs = [self.step(controller) for _ in range(num_steps)]
        return sum(tokens for tokens, _ in runs) / sum(seconds for _, seconds in runs)


def chain_length(budget: int, accept: float) -> float:
    return sum(accept**depth for depth in range(budget + 1))


def best_speed(machine: Machine, max_nodes: int) -> float:
    """Tokens per second of the best fixed budget."""
    return max(
        chain_length(n, machine.accept) / (machine.verify(n) + (machine.draft(n) if n else 0.0))
        for n in range(max_nodes + 1)
    )


def gpu(num_nodes: int) -> float:
    return 0.030 + 0.00005 * num_nodes


def cpu(num_nodes: int) -> float:
    return 0.030 * (1 + 0.12 * num_nodes)


def cheap(num_nodes: int) -> float:
    return 0.001 + 0.0001 * num_nodes


def dear(num_nodes: int) -> float:
    return 0.040


@pytest.mark.parametrize(
    ("verify", "draft", "accept"),
    [(gpu, cheap, 0.8), (gpu, cheap, 0.3), (cpu, cheap, 0.9), (cpu, cheap, 0.5), (cpu, cheap, 0.05), (gpu, dear, 0.4)],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_it_comes_close_to_the_best_fixed_budget(verify: Cost, draft: Cost, accept: float, seed: int) -> None:
    machine = Machine(verify, draft, accept, seed=seed)
    controller = BudgetController(32)
    machine.first_step(controller)
    machine.speed(controller, 150)
    assert machine.speed(controller, 600) > 0.88 * best_speed(machine, 32)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_never_much_slower_than_plain_decoding(seed: int) -> None:
    machine = Machine(cpu, dear, accept=0.1, seed=seed)
    controller = BudgetController(16)
    machine.first_step(controller)
    machine.speed(controller, 30)
    assert machine.speed(controller, 500) > 0.98 / machine.verify(0)
    assert controller.note.startswith("Drafting")
    assert "ms a token" in controller.note


def test_a_cheap_draft_gets_many_chances() -> None:
    machine = Machine(gpu, cheap, accept=0.0, noise=0.0)
    controller = BudgetController(16)
    machine.first_step(controller)
    for _ in range(12):
        assert controller.min_gain() < math.inf
        machine.step(controller)
    assert controller.note == ""


@pytest.mark.parametrize("draft_s", [0.001, 0.01, 0.03, 0.06])
@pytest.mark.parametrize("num_tokens", [64, 128, 1000])
def test_an_answer_that_no_draft_fits_loses_what_the_account_holds(draft_s: float, num_tokens: int) -> None:
    machine = Machine(gpu, lambda num_nodes: draft_s, accept=0.0, noise=0.0)
    controller = BudgetController(16)
    for _ in range(6):  # the first answers learn what each budget costs
        machine.first_step(controller)
        seconds = sum(machine.step(controller)[1] for _ in range(num_tokens))
    assert seconds / machine.verify(0) <= 1.004 * num_tokens + 2.2


def test_a_level_is_asked_to_bring_what_its_time_would_bring_otherwise() -> None:
    """A level takes a fifth of a plain step. While drafting pays a token is cheaper, so a level has to bring more."""
    machine = Machine(gpu, lambda num_passes: 0.006 * num_passes, accept=0.0, noise=0.0, says=0.1)
    controller = BudgetController(16)
    machine.first_step(controller)
    machine.speed(controller, 30)
    machine.first_step(controller)
    assert 0.2 <= controller.min_gain() < 0.3
    machine.accept = machine.says = 1.0
    machine.speed(controller, 30)
    assert 0.4 < controller.min_gain() < math.inf


def test_drawn_answers_say_nothing_about_greedy_ones() -> None:
    """Drafts say the same in both, and are right in greedy answers alone. So what a level has to say that it brings is
    another figure, and a greedy answer behind many drawn ones is drafted for as before."""
    controller = BudgetController(16)
    machine = Machine(gpu, lambda num_passes: 0.003 * num_passes, accept=0.95, noise=0.0, says=0.95)
    machine.first_step(controller)
    machine.speed(controller, 40)
    greedy = controller.min_gain()
    machine.accept = 0.05
    for _ in range(4):
        machine.first_step(controller, is_drawn=True)
        machine.speed(controller, 60)
    assert controller._levels.trust < 0.4
    machine.accept = 0.95
    machine.first_step(controller)
    assert controller._levels.trust > 0.9
    machine.speed(controller, 40)
    assert controller.min_gain() == pytest.approx(greedy, rel=0.15)


def test_drawn_answers_that_no_draft_fits_lose_less_and_less() -> None:
    machine = Machine(gpu, lambda num_passes: 0.01 * num_passes, accept=0.0, noise=0.0, says=0.5)
    controller = BudgetController(16)
    lost = []
    for _ in range(8):
        machine.first_step(controller, is_drawn=True)
        seconds = sum(machine.step(controller)[1] for _ in range(128))
        lost.append(seconds / machine.verify(0) - 128)
    assert lost[0] > 1.5 * lost[-1]
    assert lost[-1] > 0  # still looked at
    machine.first_step(controller)
    assert controller.min_gain() < math.inf  # a greedy answer gets its fresh chance …
    assert controller._lost_looks == [0.0, 0.0]  # … and knows nothing of these looks


def test_a_look_is_remembered_where_each_answer_has_one() -> None:
    """A first pass takes as long as a plain step; drawn answers that no draft fits are not looked at each time."""
    machine = Machine(gpu, lambda num_passes: 0.03 * num_passes, accept=0.0, noise=0.0, says=0.5)
    controller = BudgetController(16)
    looks = []
    for _ in range(16):
        machine.first_step(controller, is_drawn=True)
        looks.append(sum(machine.step(controller)[1] > 1.5 * machine.verify(0) for _ in range(60)))
    assert max(looks) == 1
    assert 2 <= sum(looks[4:]) <= 5  # still now and then, as the text may be another


@pytest.mark.parametrize("accept", [0.8, 0.9])
def test_drafts_that_bring_tokens_are_tried_again_where_tokens_are_drawn(accept: float) -> None:
    """All looks at drawn answers have lost, so one more may cost little; if it is right, that counts for more."""
    machine = Machine(gpu, lambda num_passes: 0.018 + 0.006 * num_passes, accept=0.0, noise=0.0, says=0.5)
    controller = BudgetController(16)
    for _ in range(4):
        machine.first_step(controller, is_drawn=True)
        machine.speed(controller, 60)
    machine.accept = machine.says = accept
    num_tokens = []
    for _ in range(5):
        machine.first_step(controller, is_drawn=True)
        num_tokens.append(sum(machine.step(controller)[0] for _ in range(60)))
    assert min(num_tokens[1:]) > 180


@pytest.mark.parametrize("first_pass", [0.6, 1.09, 2.0])
@pytest.mark.parametrize("is_drawn", [False, True])
def test_drafts_that_are_right_and_never_pay_are_given_up(first_pass: float, is_drawn: bool) -> None:
    """Only one token is drafted, and it takes about as long as it saves, or longer."""
    machine = Machine(gpu, lambda num_passes: first_pass * gpu(0) + 0.018, accept=1.0, noise=0.0)
    controller = BudgetController(1)
    for least in (0.97, 0.98, 0.98, 0.98):
        machine.first_step(controller, is_drawn=is_drawn)
        assert machine.speed(controller, 300) * machine.verify(0) > least


@pytest.mark.parametrize(("first", "further"), [(1.1, 0.28), (1.0, 0.05), (0.7, 0.0)])
def test_one_short_draft_among_long_ones_tells_what_a_first_pass_takes(first: float, further: float) -> None:
    """It takes the longest for its passes, which does not mean that it was held up."""
    levels = LevelCosts()
    for num_passes, noise in ((1, 1.0), (12, 1.02), (12, 0.97), (12, 1.03)):
        levels.record(num_passes, noise * (first + further * (num_passes - 1)), 1, 1)
    assert abs(levels.first - first) < 0.1
    assert abs(levels.further - further) < 0.03
    levels.record(12, 7.5, 1, 1)  # held up
    assert abs(levels.first - first) < 0.1


def test_a_short_draft_that_took_longer_than_long_ones_was_held_up() -> None:
    levels = LevelCosts()
    for num_passes, took in ((1, 6.0), (12, 4.3), (12, 4.0), (12, 4.4)):
        levels.record(num_passes, took, 1, 1)
    assert levels.first < 3.0


def test_a_first_pass_that_takes_long_is_asked_for_more_than_a_further_one() -> None:
    """It reads the newest tokens too: here half a plain step, and a tenth for each further pass."""
    machine = Machine(gpu, lambda num_passes: 0.012 + 0.003 * num_passes, accept=0.8, noise=0.0)
    controller = BudgetController(16)
    assert controller.first_gain() == math.inf  # an answer begins at rest
    machine.first_step(controller)
    for machine.accept in (0.9, 0.5, 0.8):  # so that drafts are of several depths
        machine.speed(controller, 20)
    assert 2 * controller.min_gain() < controller.first_gain() < 8 * controller.min_gain()
    assert BudgetController(16, is_adaptive=False).first_gain() == 0.0


def test_a_look_at_text_that_no_draft_fits_costs_one_pass() -> None:
    machine = Machine(cpu, lambda num_passes: 0.008 * num_passes, accept=0.05, noise=0.0)
    controller = BudgetController(16)
    for _ in range(3):
        machine.first_step(controller)
        seconds = [machine.step(controller)[1] for _ in range(100)]
    assert max(seconds) < machine.verify(1) + 0.0081


def test_a_draft_that_is_surer_than_right_is_ended_sooner() -> None:
    """It says that all of it is right, and every second token is: eight passes bring no more than three."""
    machine = Machine(gpu, lambda num_passes: 0.006 * num_passes, accept=0.5, noise=0.0, says=0.9)
    controller = BudgetController(16)
    machine.first_step(controller)
    machine.speed(controller, 60)
    passes = set()
    for _ in range(60):
        passes.add(machine.tree(16, controller.min_gain()).num_passes)
        machine.step(controller)
    assert max(passes) < 8  # believed, it would be run through 14 levels


def test_copies_that_cost_nothing_never_rest() -> None:
    """Wrong for a whole answer, and asked at every step; what is drafted is not run for long."""
    machine = Machine(cpu, lambda num_passes: 0.0002, accept=0.0, noise=0.0, says=0.9, is_free=True)
    controller = BudgetController(16)
    machine.first_step(controller)
    for _ in range(200):
        assert controller.budget() == 16
        machine.step(controller)
    assert machine.speed(controller, 100) > 0.98 / machine.verify(0)
    assert controller.note == ""
    machine.first_step(controller)
    machine.accept = 0.95
    machine.speed(controller, 60)
    assert machine.speed(controller, 60) > 1.5 / machine.verify(0)


def test_copies_that_take_time_and_are_right_never_rest() -> None:
    """Building a large tree of copies may take a tenth of a short plain step; that is no reason to be silent."""
    machine = Machine(gpu, lambda num_passes: 0.2 * gpu(0), accept=0.9, noise=0.0, is_free=True)
    controller = BudgetController(16)
    machine.first_step(controller)
    controller._is_resting, controller._account, controller._wait = True, 0.0, 32  # a model beside them rests
    for _ in range(30):
        assert controller.budget() == 16
        machine.step(controller)


def test_copies_that_took_time_and_were_wrong_are_asked_for_again() -> None:
    """Beside a model whose first pass no account can pay for: in the next answer at once, in the same one later."""
    machine = Machine(gpu, lambda num_passes: 0.2 * gpu(0), accept=0.0, noise=0.0, says=0.5, is_free=True)
    controller = BudgetController(16)
    controller._levels.first = 9.0
    machine.first_step(controller)
    num_asked = 0
    for _ in range(400):
        num_asked += controller.budget() > 0
        machine.step(controller)
    assert 2 < num_asked < 10
    assert controller.budget() == 0
    machine.first_step(controller)
    assert controller.budget() == 16


def test_a_draft_that_is_mostly_right_may_be_wrong_once() -> None:
    """It costs a plain step, and is asked again at once."""
    machine = Machine(gpu, lambda num_nodes: 0.03, accept=1.0, noise=0.0)
    controller = BudgetController(16)
    machine.first_step(controller)
    machine.speed(controller, 40)
    machine.first_step(controller)
    machine.accept, machine.says = 0.0, 1.0
    machine.step(controller)
    machine.accept = 1.0
    assert machine.speed(controller, 15) > 2 / machine.verify(0)


def test_an_unsure_draft_is_not_run() -> None:
    """Where rows are dear, a draft that says it is unsure costs its own time alone."""
    machine = Machine(cpu, cheap, accept=0.02, noise=0.0)
    controller = BudgetController(16)
    machine.first_step(controller)
    for _ in range(10):
        machine.step(controller)
    assert [machine.step(controller)[1] for _ in range(5)] == [pytest.approx(machine.verify(0), rel=0.1)] * 5


def stalled_first_pass(factor: float, accept: float = 0.9) -> float:
    """Gain in the last of eight answers on a machine whose first pass over a draft was held up."""
    machine = Machine(cpu, cheap, accept=accept, noise=0.0)
    controller = BudgetController(16)
    for number in range(8):
        machine.first_step(controller)
        if number == 0:
            tree = controller.cut(machine.tree(controller.budget(), controller.min_gain()))
            stall = StepRecord(len(tree) - 1, 1, 2, len(tree) - 1, 0.001, factor * machine.verify(len(tree) - 1))
            controller.record(stall, tree, (0, 1))
        speed = machine.speed(controller, 60)
    return speed * machine.verify(0)


@pytest.mark.parametrize("factor", [5.0, 50.0, 1000.0])
def test_one_pass_that_was_held_up_is_got_over(factor: float) -> None:
    assert stalled_first_pass(factor) > 0.95 * stalled_first_pass(1.0)


@pytest.mark.parametrize("factor", [2.0, 4.0, 10.0])
@pytest.mark.parametrize("verify", [cpu, gpu])
def test_short_contexts_after_long_ones_are_drafted_for(verify: Cost, factor: float) -> None:
    controller = BudgetController(16)
    long = Machine(lambda num_nodes: factor * verify(num_nodes), cheap, accept=0.9, noise=0.0)
    short = Machine(verify, cheap, accept=0.9, noise=0.0)
    alone = BudgetController(16)
    for _ in range(4):
        long.first_step(controller)
        long.speed(controller, 60)
        short.first_step(alone)
        usual = short.speed(alone, 60)
    for _ in range(4):
        short.first_step(controller)
        speed = short.speed(controller, 60)
    assert speed > 0.75 * usual


def fairly_dear(num_passes: int) -> float:
    return gpu(0) * (0.5 + 0.2 * num_passes) if num_passes else 0.0


@pytest.mark.parametrize("factor", [2.5, 3.0])
def test_an_answer_on_a_busy_machine_does_not_silence_those_after_it(factor: float) -> None:
    """What drafts take then is a multiple of what plain steps take then, not of what they took before."""
    idle = Machine(gpu, fairly_dear, accept=0.95, noise=0.0)
    busy = Machine(lambda num: factor * gpu(num), lambda num: factor * fairly_dear(num), 0.95, noise=0.0)
    never = Machine(gpu, fairly_dear, accept=0.0, noise=0.0, says=0.1)
    controller = BudgetController(16)
    never.first_step(controller)
    never.speed(controller, 60)  # so plain steps are known
    idle.first_step(controller)
    usual = idle.speed(controller, 60)
    busy.first_step(controller)
    busy.speed(controller, 60)
    idle.first_step(controller)
    assert idle.speed(controller, 60) > 0.8 * usual


def test_what_was_too_dear_to_be_tried_gets_its_chance() -> None:
    """Drafts took long while something else was running; nothing but a look can tell that it is over."""
    slow = Machine(gpu, lambda num: 3 * fairly_dear(num), accept=0.95, noise=0.0)
    machine = Machine(gpu, fairly_dear, accept=0.95, noise=0.0)
    controller = BudgetController(16)
    machine.first_step(controller)
    usual = machine.speed(controller, 60)
    for _ in range(2):
        slow.first_step(controller)
        slow.speed(controller, 60)
    for _ in range(5):
        machine.first_step(controller)
        speed = machine.speed(controller, 60)
    assert speed > 0.8 * usual


def test_a_prompt_that_is_only_read_is_no_answer() -> None:
    """Reading ahead runs the engine for a step; what was learned of answers must not fade for it."""
    once, twice = BudgetController(16), BudgetController(16)
    lost = []
    for controller in (once, twice):
        machine = Machine(gpu, lambda num_passes: 2.5 * gpu(0) * num_passes, accept=0.0, noise=0.0)
        seconds = 0.0
        for _ in range(20):
            if controller is twice:
                machine.first_step(controller)
            machine.first_step(controller)
            seconds += sum(machine.step(controller)[1] for _ in range(100))
        lost.append(seconds)
    assert lost[0] == lost[1]


def test_a_drawn_answer_is_drafted_for_one_level_until_a_draft_was_right() -> None:
    controller = BudgetController(16)
    machine = Machine(gpu, cheap, accept=0.95, noise=0.0)
    machine.first_step(controller)
    assert controller.min_gain() <= 1
    machine.first_step(controller, is_drawn=True)
    assert 1 < controller.min_gain() < math.inf
    assert machine.tree(16, controller.min_gain()).num_passes == 1
    machine.speed(controller, 10)
    assert controller.min_gain() <= 1


@pytest.mark.parametrize("drawn", [(True,), (False, True)], ids=["drawn", "in turn with greedy ones"])
@pytest.mark.parametrize("first", [1.3, 1.65, 1.9])
def test_a_first_level_that_was_right_is_no_loss(drawn: tuple[bool, ...], first: float) -> None:
    """One level may be right and take longer than its token is worth: the depth is ours, not the drafter's."""
    machine = Machine(gpu, lambda num_passes: 0.03 * (first + 0.1 * (num_passes - 1)), accept=1.0, noise=0.0, says=0.99)
    controller = BudgetController(8)
    for answer in range(12):
        machine.first_step(controller, is_drawn=drawn[answer % len(drawn)])
        speed = machine.speed(controller, 60)
    assert speed > 1.5 / machine.verify(0)


def test_a_machine_that_is_free_again_is_noticed() -> None:
    """All takes ten times as long for some answers, and then no longer."""
    slow = Machine(lambda num_nodes: 10 * cpu(num_nodes), lambda num_nodes: 10 * cheap(num_nodes), 0.9, noise=0.0)
    fast = Machine(cpu, cheap, accept=0.9, noise=0.0)
    controller = BudgetController(16)
    slow.first_step(controller)
    slow.speed(controller, 100)
    fast.speed(controller, 150)
    assert fast.speed(controller, 100) > 1.8 / fast.verify(0)


def test_a_copier_that_was_wrong_for_long_and_is_right_again_is_run() -> None:
    machine = Machine(gpu, lambda num_passes: 0.0002, accept=0.0, noise=0.0, says=0.999, is_free=True)
    controller = BudgetController(16)
    machine.first_step(controller)
    machine.speed(controller, 300)
    machine.accept = 0.97
    machine.speed(controller, 100)
    assert machine.speed(controller, 200) > 3 / machine.verify(0)


def test_a_plain_step_behind_a_cold_machine_is_not_what_plain_decoding_costs() -> None:
    """Steps take longer at first and behind each draft; drafts are never right: little may be lost."""
    machine = Machine(gpu, lambda num_nodes: 0.02, accept=0.0, noise=0.0, says=0.9)
    controller, heat = BudgetController(16), 0.0
    for _ in range(6):
        controller.begin(1000)
        seconds, heat = 0.0, 1.0
        for _ in range(128):
            drafted = machine.tree(controller.budget(), controller.min_gain())
            tree = controller.cut(drafted)
            verify_s = machine.verify(len(tree) - 1) * (1 + heat)
            heat = 0.8 if drafted.num_passes else 0.6 * heat
            draft_s = 0.02 if drafted.num_passes else 0.0
            controller.record(StepRecord(len(tree) - 1, 0, 1, len(tree) - 1, draft_s, verify_s), tree, (0,))
            seconds += verify_s + draft_s
    cold_s = machine.verify(0) * sum(0.6**n for n in range(128))  # plain decoding alone is cold once
    assert seconds < 1.05 * (128 * machine.verify(0) + cold_s) + 0.1


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 7.0])
def test_odd_probabilities_of_a_drafter_do_no_harm(odd: float) -> None:
    controller = BudgetController(8)
    Machine(gpu, cheap, accept=0.5).first_step(controller)
    for _ in range(30):
        budget = controller.budget()
        tree = controller.cut(DraftTree.chain([1] * (budget + 1), [0.0, *[odd] * budget]))
        size = len(tree) - 1
        controller.record(StepRecord(size, 0, 1, size, 0.001, 0.03), tree, (0,))
        assert controller.min_gain() >= 0


def test_a_fixed_budget_cuts_nothing() -> None:
    tree = DraftTree.chain([1] * 9, [-5.0 * depth for depth in range(9)])
    assert BudgetController(8, is_adaptive=False).cut(tree) is tree


def test_a_dear_draft_loses_little_of_a_short_answer() -> None:
    """A draft whose step costs ten plain ones is left after a look or two, in every answer."""
    machine = Machine(gpu, lambda num_nodes: 0.3, accept=0.3, noise=0.0)
    controller = BudgetController(16)
    for _ in range(5):
        machine.first_step(controller)
        assert machine.speed(controller, 100) > 0.9 / machine.verify(0)


def test_drafting_comes_back_when_the_content_changes() -> None:
    machine = Machine(cpu, dear, accept=0.02)
    controller = BudgetController(16)
    machine.first_step(controller)
    machine.speed(controller, 100)
    assert controller.note
    machine.accept = 0.97
    machine.speed(controller, 400)
    assert controller.note == ""


def test_a_new_answer_gets_a_fresh_chance() -> None:
    machine = Machine(cpu, dear, accept=0.02)
    controller = BudgetController(16)
    machine.first_step(controller)
    machine.speed(controller, 60)
    assert controller.note
    machine.first_step(controller)
    assert controller.min_gain() < math.inf


def test_a_drafter_with_nothing_to_say_is_not_switched_off() -> None:
    controller = BudgetController(16)
    controller.begin(1000)
    for _ in range(200):
        assert controller.budget() == 16
        controller.record(StepRecord(0, 0, 1, 0, 0.0001, 0.03), DraftTree.root(1), (0,))
    assert not controller.note


def test_what_is_drafted_was_announced() -> None:
    """A pass that records nothing for the drafter is never followed by a draft."""
    machine = Machine(cpu, dear, accept=0.02)
    controller = BudgetController(16)
    machine.first_step(controller)
    silent = 0
    for _ in range(1500):
        may_draft = controller.may_draft
        machine.step(controller)
        assert may_draft or controller.min_gain() == math.inf
        silent += not may_draft
    assert silent > 1000


def test_looks_grow_rare_while_drafting_loses() -> None:
    machine = Machine(cpu, dear, accept=0.02, noise=0.0)
    controller = BudgetController(16)
    machine.first_step(controller)
    drafted = []
    for _ in range(1500):
        drafted.append(controller.min_gain() < math.inf)
        machine.step(controller)
    assert 1 <= sum(drafted[:50]) <= 10
    assert 1 <= sum(drafted[100:]) <= 20


def test_without_adaptation_the_budget_is_fixed() -> None:
    machine = Machine(cpu, dear, accept=0.0)
    controller = BudgetController(16, is_adaptive=False)
    machine.first_step(controller)
    for _ in range(100):
        assert controller.budget() == 16
        assert controller.min_gain() == 0
        machine.step(controller)
    assert controller.note == ""


@pytest.mark.parametrize("max_nodes", [0, 1, 2, 3, 50])
def test_any_largest_budget(max_nodes: int) -> None:
    machine = Machine(gpu, cheap, accept=0.9)
    controller = BudgetController(max_nodes)
    machine.first_step(controller)
    budgets = set()
    for _ in range(100):
        budgets.add(controller.budget())
        machine.step(controller)
    assert max(budgets) == max_nodes


def test_pacer_finds_the_size_that_fits_the_time() -> None:
    pacer = PrefillPacer(largest=512, target_s=0.2)
    for _ in range(10):
        pacer.record(pacer.size, pacer.size / 1000)
    assert pacer.size == 128
    for _ in range(10):
        pacer.record(pacer.size, pacer.size / 100_000)
    assert pacer.size == 512
    pacer.record(512, 6.0)
    assert pacer.size / (512 / 6.0) <= 0.2
    pacer.record(5, 100.0)
    assert pacer.size == 8


def test_pacer_stays_within_the_largest_size() -> None:
    pacer = PrefillPacer(largest=7)
    assert pacer.size == 7
    pacer.record(7, 0.0)
    assert pacer.size == 7


def test_short_last_chunks_do_not_shrink_or_grow_it() -> None:
    pacer = PrefillPacer(largest=512)
    pacer.record(3, 0.001)
    assert pacer.size == 32


def test_stalls_while_nothing_is_drafted_switch_nothing_off() -> None:
    """A drafter that copies has nothing to say for long stretches; noise in them says nothing about drafting."""
    dice = random.Random(1)
    for stall in (0.1, 1.0):
        controller = BudgetController(16)
        controller.begin(1000)
        for number in range(500):
            assert controller.note == ""
            seconds = stall if number == 20 else 0.005 * dice.lognormvariate(0, 0.3)
            controller.record(StepRecord(0, 0, 1, 0, 0.0, seconds), DraftTree.root(1), (0,))
        assert not controller.note


def test_short_chunks_do_not_count_as_slow() -> None:
    pacer = PrefillPacer(512)
    for _ in range(6):
        pacer.record(pacer.size, pacer.size / 4000)
    pacer.record(3, 0.03)
    assert pacer.size == 512


def test_a_long_answer_does_not_change_what_plain_decoding_costs_in_the_next() -> None:
    """Behind a long context everything takes longer; a short one must not take the difference for a gain."""
    controller = BudgetController(16)
    long = Machine(lambda num_nodes: 10 * gpu(num_nodes), lambda num_nodes: 0.3, accept=0.9, noise=0.0)
    short = Machine(gpu, lambda num_nodes: 0.03, accept=0.0, noise=0.0)
    for _ in range(3):
        long.first_step(controller)
        long.speed(controller, 60)
        short.first_step(controller)
        seconds = sum(short.step(controller)[1] for _ in range(128))
    # Three looks of a step each: the long answer drafts on to its end, so its looks count as good.
    assert seconds / short.verify(0) <= 128 + 3.01


def test_a_drafter_that_thinks_long_and_says_nothing_is_asked_rarely() -> None:
    controller = BudgetController(16)
    controller.begin(1000)
    seconds = 0.0
    for _ in range(400):
        draft_s = 0.06 if controller.budget() else 0.0
        seconds += 0.03 + draft_s
        controller.record(StepRecord(0, 0, 1, 0, draft_s, 0.03), DraftTree.root(1), (0,))
    assert seconds < 400 * 0.03 * 1.1


def test_first_steps_that_were_held_up_do_not_make_drafting_look_cheap() -> None:
    machine = Machine(gpu, lambda num_nodes: 0.02, accept=0.1, noise=0.0)
    controller = BudgetController(16)
    seconds = 0.0
    for _ in range(4):
        controller.begin(1000)
        for _ in range(2):
            controller.record(StepRecord(0, 0, 1, 0, 0.0, 0.09), DraftTree.root(1), (0,))
        runs = [machine.step(controller) for _ in range(120)]
        seconds = sum(taken for _, taken in runs) / sum(tokens for tokens, _ in runs)
    assert seconds < 1.12 * machine.verify(0)
