"""The running of a race.

Job: `raced`: answer the last question again in each lane, compare the texts with the plain one, and go on until the
speeds can be told.
Non-job: which lanes there are (`race`), when a race may begin (`workspace`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median_high
from typing import Final

from spec_engine.chat.compare import compare
from spec_engine.chat.session import Session
from spec_engine.config import DrafterKind
from spec_engine.events import Event, Finished
from spec_engine.ui.engines import PageEngine
from spec_engine.ui.race import Lane, LaneCompared, LanesRunAgain, LaneStarted, LaneTimed, RaceFact
from spec_engine.ui.speed import MIN_BASELINE_TOKENS, TIMED_S, MeasuredSpeed, speed_of

AGAIN_S: Final = 4.0  # after which no lane runs again that has run again
LONG_S: Final = 2.0  # of decoding: a lane that takes so long runs again once


def raced(
    session: Session, engine: PageEngine, kind: DrafterKind, planned: Sequence[Lane], cancelled: Callable[[], bool]
) -> Iterator[RaceFact | Event]:
    """What happens while the last answer, all of it, is replayed in each of the `planned` lanes, the plain one first.

    `engine` drafts by `kind`, and is the lane that is set up as it is. Where a run took less than `TIMED_S` all lanes
    run again, in rounds and every second time in the reverse order, until each has decoded for so long or `AGAIN_S` are
    over; one whose runs take `LONG_S` runs again once, all others in the same rounds. A lane's speed is that of its
    middle run, of two the faster, so that a moment in which the machine has something else to do speaks neither for
    one lane nor against it. What was seen first, while the machine warmed up, counts only beside a single other run.
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
        yield from _timed(session, runners, first, cancelled)


def _timed(
    session: Session, runners: dict[str, PageEngine], first: dict[str, Finished], cancelled: Callable[[], bool]
) -> Iterator[LaneTimed]:
    """The lanes' speeds over further runs; nothing where those are stopped, or together too short to tell."""
    deadline, order = time.monotonic() + AGAIN_S, list(runners)
    runs: dict[str, list[Finished]] = {label: [] for label in order}
    while any(_is_short(own, time.monotonic() > deadline) for own in runs.values()):
        for label in order:
            own = runs[label]
            is_long = all(run.metrics.decode_s >= LONG_S for run in (first[label], *own))  # held up once it is not
            if own and is_long and not _is_short(own, is_late=False):
                continue
            events = session.replay(runners[label], is_whole=True, cancelled=cancelled)
            own += [event for event in events if isinstance(event, Finished)]
            if cancelled():
                return
        order.reverse()
    for label, own in runs.items():
        told = own if len(own) > 1 else [first[label], *own]
        if (speed := _middle(told)) is not None:
            yield LaneTimed(label, speed, len(told))


def _is_short(runs: Sequence[Finished], is_late: bool) -> bool:
    """Whether a lane has to run again; once it `is_late` one run is enough."""
    seconds, num_tokens = sum(run.metrics.decode_s for run in runs), sum(len(run.token_ids) for run in runs)
    return not runs if is_late else seconds < TIMED_S or num_tokens < MIN_BASELINE_TOKENS


def _middle(runs: Sequence[Finished]) -> MeasuredSpeed | None:
    """The speed of a lane's middle run, of two the faster, as runs are held up and never helped; None where all
    together are too short to tell."""
    told = speed_of(*runs)
    rates = [run.metrics.tokens_per_second for run in runs if run.metrics.tokens_per_second > 0]
    return replace(told, tokens_per_second=median_high(rates)) if told else None
