"""The race: one question answered several ways on the same machine, shown side by side.

Job: which lanes run, and what is known of them while they do. A lane is one whole run after another, never at once: two
would slow each other down.
Non-job: running them (`racing`), markup (`render`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from spec_engine.chat.compare import Comparison
from spec_engine.config import DraftConfig, DrafterKind
from spec_engine.events import Event
from spec_engine.ui import text
from spec_engine.ui.live import LiveAnswer
from spec_engine.ui.speed import TIMED_S, MeasuredSpeed, speed_of


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to decode: a drafter, and whether it has retrieval (None: as the model is set up)."""

    label: str
    kind: DrafterKind
    use_retrieval: bool | None = None


@dataclass(frozen=True, slots=True)
class LaneStarted:
    """A lane's run begins; the events that follow are its own."""

    label: str


@dataclass(frozen=True, slots=True)
class LaneCompared:
    """A lane's text was compared with the plain one."""

    label: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class LanesRunAgain:
    """A run was over too soon for its speed to be told: lanes run again, unseen."""


@dataclass(frozen=True, slots=True)
class LaneTimed:
    """A lane's speed over several runs."""

    label: str
    speed: MeasuredSpeed
    num_runs: int


RaceFact = LaneStarted | LaneCompared | LanesRunAgain | LaneTimed


@dataclass(slots=True)
class RaceLane:
    """A lane as far as it has come."""

    label: str
    answer: LiveAnswer = field(default_factory=LiveAnswer)
    comparison: Comparison | None = None
    timed: LaneTimed | None = None
    runs_again: bool = False  # what was seen of it tells no speed

    @property
    def is_whole(self) -> bool:
        """Whether its run came to its end and was not stopped."""
        return self.answer.finished is not None and self.answer.finished.reason != "cancelled"

    @property
    def is_timed(self) -> bool:
        """Whether its speed can be told, and it is whole."""
        return self.timed is not None or (self.is_told and self.is_whole)

    @property
    def is_told(self) -> bool:
        """Whether its speed can be told, also where it was stopped."""
        return self.timed is not None or (not self.runs_again and self.answer.metrics.decode_s >= TIMED_S)

    @property
    def tokens_per_second(self) -> float:
        """Its speed, as well as it is known; 0 while it is not."""
        if self.timed is not None:
            return self.timed.speed.tokens_per_second
        answer = self.answer
        return answer.metrics.tokens_per_second if answer.finished else answer.tokens_per_second_now


def lanes(draft: DraftConfig) -> tuple[Lane, ...]:
    """Plain decoding, then drafting; where retrieval feeds the drafter, once without it and once with it."""
    plain = Lane(text.RACE_PLAIN, "none")
    if draft.kind == "none":
        return (plain,)
    if not draft.retrieves:
        return plain, Lane(text.RACE_DRAFTED, draft.kind)
    return plain, Lane(text.RACE_WITHOUT, draft.kind, False), Lane(text.RACE_WITH, draft.kind)


class LiveRace:
    """A race as far as it has come. A lane that was not planned, but ran, comes behind the others."""

    def __init__(self, planned: Iterable[Lane]) -> None:
        self.lanes = [RaceLane(lane.label) for lane in planned]
        self.runs_again = False  # unseen, until lanes are timed
        self._running: RaceLane | None = None

    def apply(self, facts: Iterable[object]) -> None:
        """Fold facts in, in order; others than those of a race are left out."""
        for fact in facts:
            if isinstance(fact, LaneStarted):
                self._running = self._lane(fact.label)
            elif isinstance(fact, LaneCompared):
                self._lane(fact.label).comparison = fact.comparison
            elif isinstance(fact, LanesRunAgain):
                self.runs_again, self._running = True, None
                for lane in self.lanes:
                    lane.runs_again = True
            elif isinstance(fact, LaneTimed):
                self.runs_again, self._lane(fact.label).timed = False, fact
            elif isinstance(fact, Event) and self._running is not None:
                self._running.answer.apply([fact])

    @property
    def plain_speed(self) -> MeasuredSpeed | None:
        """That of the plain lane; None while it cannot be told."""
        plain = self.lanes[0] if self.lanes else None
        if plain is None or not plain.is_timed or plain.answer.finished is None:
            return None
        return plain.timed.speed if plain.timed else speed_of(plain.answer.finished)

    @property
    def comparison(self) -> Comparison | None:
        """The last lane against the plain one; None while that cannot be told."""
        plain, last = self.plain_speed, self.lanes[-1] if self.lanes else None
        if plain is None or last is None or last.comparison is None or not last.is_timed:
            return None
        return replace(last.comparison, drafted_rate=last.tokens_per_second, plain_rate=plain.tokens_per_second)

    @property
    def running(self) -> RaceLane | None:
        """The lane that runs, or ran last, while lanes are seen."""
        return self._running

    def _lane(self, label: str) -> RaceLane:
        found = next((lane for lane in self.lanes if lane.label == label), None)
        if found is None:
            found = RaceLane(label)
            self.lanes.append(found)
        return found
