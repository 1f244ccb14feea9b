"""A drafter that costs what the real one costs and is accepted as often as a published figure says.

Job: `ReplayDrafter`, which runs a real drafter and then proposes a tree of the same size in which as many tokens are
right as a draw says; `Profile`, the draws.
Non-job: models of published sizes, among them targets that say what is known (`shapes`), whole answers (`shaped`).

Without the real weights nobody knows what a pair accepts, but what its passes cost does not depend on the weights. So
speed is measured on random weights, and acceptance is given. Every figure that comes from here must say so.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from spec_engine.cache.store import TextMemory
from spec_engine.drafters.base import Drafter, DraftSession
from spec_engine.errors import RequestError
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree

_GOLDEN = (5**0.5 - 1) / 2
_LEAST = 1e-6  # chance of a token that is never right


@dataclass(frozen=True, slots=True)
class Profile:
    """How often drafts are accepted: `mean_length` tokens a step with the target's own, as papers count it.

    The next drafted token is right with the same chance at every depth, as long as those before it are: a truncated
    geometric distribution over the depths of a tree. Raises `RequestError` for a mean below 1.
    """

    mean_length: float

    def __post_init__(self) -> None:
        if not 1 <= self.mean_length < math.inf:
            raise RequestError(f"A step brings at least 1 token, not {self.mean_length}. Give a larger mean.")

    def chance(self, depth: int) -> float:
        """Of a token to be right, so that trees of this depth bring the mean. Raises `RequestError` if none does."""
        wanted = self.mean_length - 1
        if wanted > depth:
            raise RequestError(
                f"A tree of depth {depth} brings at most {depth + 1} tokens a step, not {self.mean_length}. Give a "
                "smaller mean, or a preset with deeper trees."
            )
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            expected = sum(middle**level for level in range(1, depth + 1))
            low, high = (middle, high) if expected < wanted else (low, middle)
        return high

    def draw(self, depth: int, step: int) -> int:
        """How many drafted tokens of a tree of this depth are right in this step of an answer.

        The numbers between 0 and 1 that decide are spread evenly over any run of steps (multiples of the golden ratio),
        so that short answers come to the mean too.
        """
        chance, share = self.chance(depth), (step + 0.5) * _GOLDEN % 1
        return sum(share < chance**level for level in range(1, depth + 1))


def parse_means(spelling: str, number: int) -> list[float]:
    """``5.03,3.80`` as `number` means; a single one is meant for all. Raises `RequestError` for anything else."""
    try:
        means = [float(part) for part in spelling.split(",")]
    except ValueError:
        means = []
    if len(means) not in (1, number):
        raise RequestError(
            f"'{spelling}' is no list of means. Write tokens a step, one number for all lengths or {number} of them."
        )
    return [Profile(mean).mean_length for mean in (means * number if len(means) == 1 else means)]


class ReplayDrafter:
    """`drafter` beside an echoing target, with trees of depth `depth` at most that are right as `profile` says.

    `may_stop`: the drafter is told what a pass must bring. Only one that goes by what was confirmed may be (whole
    drafts); one that goes by its own probabilities would end at once, as random weights are never sure.
    """

    def __init__(self, drafter: Drafter, profile: Profile, depth: int, *, may_stop: bool = False) -> None:
        self._drafter = drafter
        self._profile = profile
        self._depth = depth
        self._may_stop = may_stop
        self.name = f"replay of {drafter.name}"
        self.vocab_size = drafter.vocab_size

    @property
    def memories(self) -> Sequence[TextMemory]:
        """Those of the real drafter."""
        return self._drafter.memories

    def begin(self, sampling: SamplingParams) -> "ReplaySession":
        """A session for a new answer; all draw the same."""
        return ReplaySession(self._drafter.begin(sampling), self._profile, self._depth, may_stop=self._may_stop)


class ReplaySession:
    """The real session, whose proposals are exchanged."""

    def __init__(self, session: DraftSession, profile: Profile, depth: int, *, may_stop: bool) -> None:
        self._session = session
        self._profile = profile
        self._depth = depth
        self._may_stop = may_stop
        self._num_steps = 0

    @property
    def taps(self) -> Taps:
        """What the real drafter asks for."""
        return self._session.taps

    def reusable(self, prefix: Sequence[int]) -> int:
        """As the real drafter says."""
        return self._session.reusable(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        """The real drafter reads."""
        return self._session.reuse(prefix)

    def observe(self, step: Step) -> None:
        """The real drafter takes the tokens."""
        self._session.observe(step)

    def focus(self, focus: Focus) -> None:
        """The real drafter moves its view."""
        self._session.focus(focus)

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        """As many nodes and levels as the real drafter proposed, arranged around one path of which the first tokens are
        right."""
        gains = (min_gain, first_gain) if self._may_stop or min_gain == math.inf else (0.0, 0.0)
        drafted = self._session.propose(root, max_nodes, *gains, least_chance)
        num_nodes = len(drafted) - 1
        depth = min(self._depth, num_nodes, drafted.depth if self._may_stop else num_nodes)
        num_right = min(self._profile.draw(self._depth, self._num_steps), depth)
        self._num_steps += 1
        tree = arranged(root, num_nodes, (depth, num_right), self._profile.chance(self._depth))
        return replace(tree, num_passes=drafted.num_passes)


def arranged(root: int, num_nodes: int, path: tuple[int, int], chance: float) -> DraftTree:
    """A path below `root`, `path` says of how many nodes and how many of their tokens are right, the root's own; the
    other nodes are wrong siblings beside it, level by level. A node is as likely as its path, a sibling a quarter."""
    depth, num_right = path
    token_ids, parents, depths, log_q = [root], [-1], [0], [0.0]
    for node in range(1, num_nodes + 1):
        is_on_path = node <= depth
        level = node if is_on_path else (node - depth - 1) % depth + 1
        token_ids.append(root if node <= num_right else _other(root, node))
        parents.append(level - 1)
        depths.append(level)
        log_q.append(level * math.log(max(chance, _LEAST)) + (0.0 if is_on_path else math.log(0.25)))
    return DraftTree(tuple(token_ids), tuple(parents), tuple(depths), tuple(log_q))


def _other(root: int, node: int) -> int:
    """A token that is not `root`: small ids, which every vocabulary has, one for each node of a tree."""
    return node if node < root else node + 1
