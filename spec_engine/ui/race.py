"""The race: one question answered several ways on the same machine, shown side by side.

Job: which lanes run, and what is known of them while they do. A lane is one whole run after another, never at once: two
would slow each other down.
Non-job: running them (`workspace`), markup (`render`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from spec_engine.chat.compare import Comparison
from spec_engine.config import DraftConfig, DrafterKind
from spec_engine.events import Event
from spec_engine.ui import text
from spec_engine.ui.live import LiveAnswer


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


@dataclass(slots=True)
class RaceLane:
    """A lane as far as it has come."""

    label: str
    answer: LiveAnswer = field(default_factory=LiveAnswer)
    comparison: Comparison | None = None


def lanes(draft: DraftConfig) -> tuple[Lane, ...]:
    """Plain decoding, then drafting; where retrieval feeds the drafter, once without it and once with it."""
    plain = Lane(text.RACE_PLAIN, "none")
    if draft.kind == "none":
        return (plain,)
    if not draft.retrieves:
        return plain, Lane(text.RACE_DRAFTED, draft.kind)
    return plain, Lane(text.RACE_WITHOUT, draft.kind, False), Lane(text.RACE_WITH, draft.kind, True)


class LiveRace:
    """A race as far as it has come. A lane that was not planned, but ran, comes behind the others."""

    def __init__(self, planned: Iterable[Lane]) -> None:
        self.lanes = [RaceLane(lane.label) for lane in planned]
        self._running: RaceLane | None = None

    def apply(self, facts: Iterable[object]) -> None:
        """Fold facts in, in order; others than those of a race are left out."""
        for fact in facts:
            if isinstance(fact, LaneStarted):
                self._running = self._lane(fact.label)
            elif isinstance(fact, LaneCompared):
                self._lane(fact.label).comparison = fact.comparison
            elif isinstance(fact, Event) and self._running is not None:
                self._running.answer.apply([fact])

    @property
    def running(self) -> RaceLane | None:
        """The lane that runs, or ran last."""
        return self._running

    def _lane(self, label: str) -> RaceLane:
        found = next((lane for lane in self.lanes if lane.label == label), None)
        if found is None:
            found = RaceLane(label)
            self.lanes.append(found)
        return found
