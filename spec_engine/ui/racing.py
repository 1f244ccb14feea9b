"""The running of a race.

Job: `raced`: answer the last question again in each lane, compare the texts with the plain one, and go on until the
speeds can be told.
Non-job: which lanes there are (`race`), when a race may begin (`workspace`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from spec_engine.chat.compare import compare
from spec_engine.chat.session import Session
from spec_engine.config import DrafterKind
from spec_engine.events import Event, Finished
from spec_engine.ui.engines import PageEngine
from spec_engine.ui.race import Lane, LaneCompared, LanesRunAgain, LaneStarted, LaneTimed, RaceFact
from spec_engine.ui.speed import TIMED_S, speed_of

AGAIN_S: Final = 4.0  # that lanes run again at most, but for the last round


def raced(
    session: Session, engine: PageEngine, kind: DrafterKind, planned: Sequence[Lane], cancelled: Callable[[], bool]
) -> Iterator[RaceFact | Event]:
    """What happens while the last answer, all of it, is replayed in each of the `planned` lanes, the plain one first.

    `engine` drafts by `kind`, and is the lane that is set up as it is. Where a run took less than `TIMED_S` all lanes
    run again, in turn and every second time in the reverse order, and the first runs, in which a machine still warms
    up, are not counted.
    """
    runners = {
        lane.label: engine
        if lane.kind == kind and lane.use_retrieval is None
        else engine.with_drafter(lane.kind, use_retrieval=lane.use_retrieval)
        for lane in planned
    }
    first: dict[str, Finished] = {}
    for label, runner in runners.items():
        yield LaneStarted(label)
        for event in session.replay(runner, is_whole=True, cancelled=cancelled):
            yield event
            if isinstance(event, Finished):
                first[label] = event
        if cancelled() or label not in first:
            return
        plain = first[planned[0].label]
        if label != planned[0].label and plain.token_ids:
            comparison = compare(first[label], plain, session.last_question_token_ids, engine.logits_after)
            yield LaneCompared(label, comparison)
    if min(run.metrics.decode_s for run in first.values()) < TIMED_S:
        yield LanesRunAgain()
        yield from _timed(session, runners, cancelled)


def _timed(session: Session, runners: dict[str, PageEngine], cancelled: Callable[[], bool]) -> Iterator[LaneTimed]:
    """The lanes' speeds over further runs; nothing where those are stopped, or together too short to tell."""
    deadline = time.monotonic() + AGAIN_S
    runs: dict[str, list[Finished]] = {label: [] for label in runners}
    order = list(runners)
    while not runs[order[0]] or (_is_short(runs) and time.monotonic() < deadline):
        for label in order:
            events = session.replay(runners[label], is_whole=True, cancelled=cancelled)
            runs[label] += [event for event in events if isinstance(event, Finished)]
            if cancelled():
                return
        order.reverse()
    speeds = {label: speed_of(*own) for label, own in runs.items()}
    for label, speed in speeds.items():
        if speed is not None:
            yield LaneTimed(label, speed, len(runs[label]))


def _is_short(runs: dict[str, list[Finished]]) -> bool:
    return min(sum(run.metrics.decode_s for run in own) for own in runs.values()) < TIMED_S
