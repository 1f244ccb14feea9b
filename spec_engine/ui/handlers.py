"""What happens when something is pressed, dropped or opened.

Job: connect widgets to the workspace. Long work never runs in an event: an event starts a job, follows it, and lets
go of it when the page goes away.
Non-job: the rules (`workspace`), what a widget shows (`views`), markup (`render`, `readouts`).

Streaming goes to light widgets only. The conversation widget is written twice an answer, with the question and when
the answer is complete: an update of it costs as much as eight of the light ones, even when nothing in it changes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from spec_engine.errors import SpecEngineError
from spec_engine.ui import render
from spec_engine.ui.components import Page
from spec_engine.ui.editing import Editing
from spec_engine.ui.fields import Given
from spec_engine.ui.following import Following
from spec_engine.ui.intake import Intake
from spec_engine.ui.settings import Known, Number
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.state import Seen, Wanted
from spec_engine.ui.views import Updates
from spec_engine.ui.wiring import each_time, on, one_by_one, stream
from spec_engine.ui.workspace import Workspace


class Handlers:
    """The events of the page. Holds no state of its own.

    Args:
        shelf: the presets that the picker offers.
    """

    def __init__(self, page: Page, workspace: Workspace, shelf: PresetShelf) -> None:
        self._page = page
        self._workspace = workspace
        self._views = Following(page, workspace, shelf)
        self._shelf = shelf
        self._intake = Intake(page, workspace, self._views, self._open)
        self.editing = Editing(page, shelf)

    def connect(self, blocks: gr.Blocks) -> None:
        """Every event, and what follows it."""
        doc, chat, speed = self._page.document, self._page.chat, self._page.speed
        everything, settings = self._views.all_outputs, self._views.settings
        self._follow(on(blocks.load, self.open_page, None, everything))
        for send in (chat.box.submit, chat.ask.click):
            self._follow(on(send, self.ask, [chat.box, chat.seen, *settings.inputs], everything))
        self._follow(on(chat.go_on.click, self.go_on, [chat.seen, *settings.inputs], everything))
        for button in chat.examples:
            self._follow(on(button.click, self.ask, [button, chat.seen, *settings.inputs], everything))
        for again in (
            on(chat.chat.retry, self.regenerate, [chat.seen, *settings.inputs], everything),
            on(chat.chat.edit, self.edit, [chat.seen, *settings.inputs], everything),
        ):
            self._follow(again)
        on(chat.branches.input, self.show_branch, [chat.branches], everything)
        on(chat.authors_of.input, self._views.authors, [chat.authors_of], [chat.authors])
        self._follow(on(speed.compare.click, self.race, None, everything))
        self._follow(on(doc.preset.select, self.switch, [doc.preset], everything))
        self._follow(on(doc.fit_anyway.click, lambda: self.take_offer(None), None, everything))
        for number, button in enumerate(doc.fit_others):
            self._follow(on(button.click, partial(self.take_offer, number), None, everything))
        on(chat.stop.click, self.stop, None, [chat.stop])
        seen = [chat.beat, chat.doubt, chat.aside, *settings.inputs]
        on(chat.clock.tick, self._views.look, seen, [chat.doubt, chat.stale, *settings.outputs])
        on(chat.stale.change, self._views.catch_up, [chat.beat, chat.given, chat.box, *settings.inputs], everything)
        on(chat.new_chat.click, self.new_chat, [chat.given], everything)
        fields = (doc.max_tokens, doc.temperature, doc.seed)
        typed = [event for field in fields for event in (field.submit, field.blur)]  # not while it is being typed
        on(one_by_one(*typed), self.set_settings, settings.inputs, settings.outputs)
        self._intake.connect(self._follow, everything)
        self._connect_history(everything)
        self.editing.connect()

    def _connect_history(self, everything: list[Block]) -> None:
        """The list of conversations."""
        history, listed = self._page.history, self._views.history_outputs
        on(history.search.change, self._views.search, [history.search], listed)
        chosen = each_time(history.listing.input)
        self._follow(on(chosen, self.open_conversation, [history.listing], everything))
        for rename in (history.rename.click, history.title.submit):
            on(rename, self.rename, [history.title], everything)
        on(history.delete.click, lambda: gr.update(visible=True), None, [history.confirm])
        on(history.delete_not.click, lambda: gr.update(visible=False), None, [history.confirm])
        on(history.delete_really.click, self.delete, [self._page.chat.seen], everything)

    def _follow(self, event: Dependency) -> None:
        """After an event that may have begun a job: show it as it runs, then its result, then a calibration if due."""
        views, everything, chat = self._views, self._views.all_outputs, self._page.chat
        followed = stream(event.then, views.follow, [chat.beat], views.streamed)
        known = [chat.beat, chat.given, chat.box, *views.settings.inputs]
        result = on(followed.then, self.show_result, known, everything)
        measured = stream(on(result.then, self.calibrate, None, None).then, views.follow, [chat.beat], views.streamed)
        figures = on(measured.then, views.figures, None, views.figure_outputs)
        on(figures.then, self.show_result, known, everything)  # of a job that was begun meanwhile

    # --- events -------------------------------------------------------------------------------------------------------

    def open_page(self) -> Updates:
        """A page was opened or reloaded. Its search field is empty; a question that was not answered is in its box."""
        self._workspace.search, self._workspace.offered = "", None
        self._workspace.forget_told()
        shown = {**self._views.everything(notice=self._workspace.news), **self._views.settings.all()}
        question = self._workspace.take_back_question()
        return {**shown, self._page.chat.box: self._views.box(question)} if question else shown

    def show_result(self, beat: str, given: Given | None, typed: str | None = None, *settings: Any) -> Updates:
        """A job has ended, perhaps before it could be followed. A page that has come that far is sent nothing, as that
        could undo what another event has just shown; nor is one whose next job is being followed."""
        moment = self._workspace.moment
        if moment == beat or moment.endswith("+"):
            return {self._page.chat.live: gr.skip()}
        return self._views.result(given, typed, *settings)

    def set_settings(self, max_tokens: Number, temperature: Number, seed: Number, known: Known | None) -> Updates:
        """A setting was left."""
        return self._views.settings.take(max_tokens, temperature, seed, known)

    def ask(self, question: str, seen: Seen | None, *settings: Any) -> Updates:
        """A question was sent, with what stands in the settings; if it is refused, it stays in its box."""
        taken = self._take(*settings)
        emptied: Updates = {self._page.chat.box: self._views.box(value="")}
        return self._begin(lambda: self._workspace.ask(question), seen, emptied) | taken

    def go_on(self, seen: Seen | None, *settings: Any) -> Updates:
        """More of the last answer is to be written, with what stands in the settings."""
        taken = self._take(*settings)
        return self._begin(self._workspace.go_on, seen and seen.now) | taken

    def regenerate(self, seen: Seen | None, event: gr.RetryData, *settings: Any) -> Updates:
        """An answer is to be written again."""
        taken = self._take(*settings)
        return self._begin(lambda: self._workspace.regenerate(_turn_number(event.index)), seen and seen.now) | taken

    def edit(self, seen: Seen | None, event: gr.EditData, *settings: Any) -> Updates:
        """A question was changed: it is asked anew, and what followed the old one becomes a branch."""
        taken = self._take(*settings)
        question, number = render.from_markdown(str(event.value)), _turn_number(event.index)
        return self._begin(lambda: self._workspace.ask(question, number), seen and seen.now) | taken

    def show_branch(self, last_turn: int | None) -> Updates:
        """Another branch was chosen."""
        return self._try(lambda: self._workspace.show_branch(last_turn) if last_turn else None)

    def open_conversation(self, conversation: int | None) -> Updates:
        """A conversation was chosen from the list."""
        return self._open(lambda: self._workspace.start_opening(Wanted(conversation=conversation or 0)))

    def rename(self, title: str) -> Updates:
        """The conversation got another title."""
        shown = self._try(lambda: self._workspace.rename_conversation(title))
        if self._workspace.is_busy:
            shown[self._page.chat.seen] = gr.skip()  # what it has begun to open, perhaps
        return {**shown, self._page.chat.beat: gr.skip()}  # a job may be running, and followed

    def delete(self, seen: Seen | None) -> Updates:
        """The conversation that the page shows is to be forgotten."""
        return self._try(lambda: self._workspace.delete_conversation(seen and seen.now))

    def stop(self) -> object:
        """Stop was pressed; what has been written is kept."""
        self._workspace.stop()
        return gr.update(interactive=False)

    def new_chat(self, given: Given | None = None) -> Updates:
        """The conversation is over."""
        return self._try(self._workspace.new_chat, given)

    def race(self) -> Updates:
        """The race was asked for."""
        return self._begin(self._workspace.race)

    def calibrate(self) -> None:
        """An answer is complete: measure plain decoding behind it, if that is due."""
        self._workspace.calibrate()

    def switch(self, name: str) -> Updates:
        """Another model was picked. One that does not fit is not loaded: what would fit is offered."""
        picked = self._shelf[name]
        fit = self._shelf.fit(picked)
        self._workspace.offered = None if fit.is_enough else fit
        if self._workspace.preset is picked or not fit.is_enough:
            return self._views.everything(notice="")
        return self._begin(lambda: self._workspace.switch(picked))

    def take_offer(self, number: int | None) -> Updates:
        """One of the offers was taken, or None of them: the preset as it was picked."""
        offered = self._workspace.offered
        if offered is None:
            return self._views.everything(notice=None)
        chosen = offered.preset if number is None else offered.others[number]
        return self._begin(lambda: self._workspace.switch(chosen))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _take(self, *settings: Any) -> Updates:
        """Use what was changed in the settings and perhaps not left yet."""
        return self._views.settings.take(*settings) if settings else {}

    def _open(self, action: Callable[[], object], given: Given | None = None, begun: Updates | None = None) -> Updates:
        """Begin to open something: this page may ask about it before it is shown it."""
        has_begun: list[object] = []
        shown = self._begin(lambda: has_begun.append(action()), begun=begun, given=given)
        seen = self._page.chat.seen
        return {**shown, seen: self._workspace.soon_seen(shown[seen])} if has_begun else shown

    def _begin(
        self,
        action: Callable[[], object],
        seen: Seen | None = None,
        begun: Updates | None = None,
        given: Given | None = None,
    ) -> Updates:
        """Begin a job and show that with `begun`, or the reason why it was refused: then a job that is running is still
        followed. `seen` is the view that the action was meant for; fields that were `given` the same are left alone."""
        try:
            self._workspace.require_seen(seen)
            action()
        except SpecEngineError as error:
            refused = self._views.everything(str(error), given)
            is_opening = seen and seen.opening and self._workspace.is_busy
            return {**refused, self._page.chat.seen: gr.skip()} if is_opening else refused
        shown = {**self._views.everything("", given), **(begun or {})}
        shown[self._page.chat.beat] = f"{self._workspace.moment[:-1]}?"  # so its result is shown in any case
        return shown

    def _try(self, action: Callable[[], object], given: Given | None = None) -> Updates:
        """Do something and show the result, or the reason why it was refused."""
        try:
            action()
        except SpecEngineError as error:
            return self._views.everything(str(error), given)
        return self._views.everything("", given)


def _turn_number(index: int | tuple[int, int]) -> int:
    """The turn that a message of the conversation belongs to; each has two."""
    return (index if isinstance(index, int) else index[0]) // 2
