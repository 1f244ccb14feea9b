"""What the light widgets show while a job runs.

Job: `Following`: updates of the widgets that follow loading, opening, reading ahead, answers, races and measurements;
and finding out when a page has lost what it should have been told.
Non-job: the page at rest (`views`), the jobs (`workspace`).

A stream can be lost: where one ends while another begins, Gradio's client (6.31) takes the line for open that the
server has just closed, and hears nothing more. So a page carries the moment that it has come to, and looks now and then
whether that is where the workspace is, in a request of its own. One that is behind twice in a row is sent what is new.
"""

import math
import time
from collections.abc import Iterator
from typing import Any, Final

import gradio as gr

from spec_engine.model.watch import LoadProgress
from spec_engine.ui import render, render_models, text
from spec_engine.ui.fields import Given
from spec_engine.ui.job import Job
from spec_engine.ui.live import LiveAnswer
from spec_engine.ui.race import LiveRace, lanes
from spec_engine.ui.state import BACKGROUND, Fact, events_of
from spec_engine.ui.time_left import TimeLeft
from spec_engine.ui.views import Updates, Views

AUTHORS_INTERVAL_S: Final = 0.4  # between two updates of the coloured text, which is as long as the answer …
READOUTS_INTERVAL_S: Final = 0.2  # … of the figures, which nobody reads faster …
BUTTONS_INTERVAL_S: Final = 1.0  # … and of the buttons; Gradio builds such a widget anew each time


class _Every:
    """Says when it is time again: at once, and then once in so many seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s, self._last = interval_s, -math.inf

    def is_due(self, *, at_once: bool = False) -> bool:
        """Whether it is time; it was then."""
        now = time.monotonic()
        is_due = at_once or now - self._last > self._interval_s
        self._last = now if is_due else self._last
        return is_due


class Following(Views):
    """The page as a function of the workspace, also while it changes."""

    def follow(self, beat: str = "") -> Iterator[Updates]:
        """Updates of the light widgets until the running job has ended; none when nothing runs. `beat` is what the page
        has come to: one that was shown less than that the job has begun is left in doubt."""
        running = f"{self._workspace.moment[:-1]}+"
        job, is_told = self._workspace.active_job, beat[:-1] != running[:-1]
        yield {self._chat.beat: gr.skip()}  # without an update all widgets would be cleared
        if job is None:
            return
        buttons, was_cancelled = _Every(BUTTONS_INTERVAL_S), False
        for updates in self._followed(job):
            if job.kind in BACKGROUND:
                yield {**updates, self._chat.aside: job.kind if job.is_running else ""}
                continue
            # What another event has shown from before the job may come in between, so these are told again and again.
            shown, is_cancelled = dict(updates), job.is_cancelled()
            if job.is_running and buttons.is_due(at_once=is_cancelled != was_cancelled):
                was_cancelled = is_cancelled
                shown[self._chat.ask] = shown[self._chat.go_on] = gr.update(visible=False)
                shown[self._chat.stop] = gr.update(visible=True, interactive=not is_cancelled)
            if not (is_told and job.is_running):  # the last one too: the result is still to come
                shown[self._chat.beat] = running
            is_told = True
            yield shown

    def look(self, beat: str, doubt: str, aside: str = "", *settings: Any) -> Updates:
        """Whether a page that has come to `beat` is where the workspace is, and what it follows `aside` still runs; it
        is behind if it was so the last time. Settings that another tab has changed are shown at once."""
        others = self.settings.others(*settings) if settings else {}
        return {**(others if len(others) > 1 else {}), **self._looked(beat, doubt, aside)}

    def _looked(self, beat: str, doubt: str, aside: str) -> Updates:
        """What a look says of the moment."""
        chat, moment, job = self._chat, self._workspace.moment, self._workspace.active_job
        is_over = bool(aside) and (job is None or job.kind != aside)
        if beat == moment and not is_over:
            return {chat.doubt: ""}
        if doubt != f"{beat} {moment} {aside}":
            return {chat.doubt: f"{beat} {moment} {aside}"}
        return {chat.doubt: "", chat.stale: f"{moment} {time.monotonic()}"}

    def catch_up(self, beat: str, given: Given | None, typed: str | None = None, *settings: Any) -> Updates:
        """What a page needs that is behind: everything, or of a job that it knows of what is new."""
        job = self._workspace.active_job
        if job is None or job.kind in BACKGROUND:
            return self.result(given, typed, *settings)
        if beat != self._beat():
            return self.everything(None, given)
        answer = self._last_answer()
        new: Updates = {self._chat.race: self._race(), self._speed.readouts: self._readouts(answer)}
        return {**new, self._chat.live: self._live(job)} if answer and job.kind == "answer" else new

    def _followed(self, job: Job[Fact]) -> Iterator[Updates]:
        if job.kind == "answer":
            return self._follow_answer(job)
        if job.kind in ("load", "open"):
            return self._follow_loading(job)
        if job.kind == "read":
            return self._follow_reading(job)
        return self._follow_race(job) if job.kind == "compare" else self._follow_plain(job)

    def _follow_answer(self, job: Job[Fact]) -> Iterator[Updates]:
        """The answer, the figures, and now and then the coloured text."""
        answer, kept = self._begun(job)
        figures, authors = _Every(READOUTS_INTERVAL_S), _Every(AUTHORS_INTERVAL_S)
        for batch in job.watch():
            answer.apply(events_of(batch))
            updates: Updates = {self._chat.live: render.live_answer(answer, kept)}
            if figures.is_due(at_once=not job.is_running):
                updates[self._speed.readouts] = self._readouts(answer)
            if authors.is_due():
                updates[self._chat.authors] = render.authors(answer.stretches)
            yield updates

    def _follow_loading(self, job: Job[Fact]) -> Iterator[Updates]:
        """What the loader says, with the seconds it takes."""
        started, latest, left = time.monotonic(), LoadProgress(text.STARTING), TimeLeft()
        for batch in job.watch(interval_s=0.2):
            latest = next((fact for fact in reversed(batch) if isinstance(fact, LoadProgress)), latest)
            now = time.monotonic()
            is_download = bool(latest.files) or latest.share is None
            left_s = left.told(latest.seconds_left, now) if is_download else left.by_share(latest.share or 0.0, now)
            yield {self._chat.live: render_models.loading(latest, now - started, left_s)}

    def _follow_reading(self, job: Job[Fact]) -> Iterator[Updates]:
        """How far the engine has read ahead; a question can be asked meanwhile."""
        reading, line = LiveAnswer(), self._live_line()
        for batch in job.watch(interval_s=0.2):
            reading.apply(events_of(batch))
            yield {
                self._chat.live: line + render.reading_ahead(reading),
                self._chat.stop: gr.update(visible=job.is_running, interactive=True),
            }
        yield {self._chat.live: line, self._chat.stop: self._stop_button()}

    def _follow_race(self, job: Job[Fact]) -> Iterator[Updates]:
        """The lanes side by side."""
        preset = self._workspace.preset
        race = LiveRace(lanes(preset.draft) if preset else ())
        for batch in job.watch(interval_s=0.15):
            race.apply(batch)
            yield {self._chat.race: render.race(race, is_running=True)}

    def _follow_plain(self, job: Job[Fact]) -> Iterator[Updates]:
        """The last answer's figures, and how far the plain run is."""
        drafted, plain = self._last_answer(), LiveAnswer()
        for batch in job.watch(interval_s=0.15):
            plain.apply(events_of(batch))
            rate = plain.metrics.tokens_per_second
            speed = f" · {text.rate(rate)} tokens/s" if rate else ""
            progress = f"{text.MEASURING_PLAIN}: {text.plural(len(plain.token_ids), 'token')}{speed}"
            yield {self._speed.readouts: self._readouts(drafted, progress)}
