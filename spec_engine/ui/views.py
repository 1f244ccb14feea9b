"""What every widget shows, given the state of the workspace.

Job: turn the workspace into updates of widgets, all at once.
Non-job: following a job (`following`), changing the workspace (`handlers`), markup (`render`, `readouts`).
"""

from typing import Any

import gradio as gr
from gradio.blocks import Block

from spec_engine.chat.absent import absence
from spec_engine.ui import examples, render, render_document, render_models, text
from spec_engine.ui.components import Page
from spec_engine.ui.fields import Fields, Given
from spec_engine.ui.job import Job
from spec_engine.ui.listing import branch_lines, lines
from spec_engine.ui.live import LiveAnswer
from spec_engine.ui.race import LiveRace, lanes
from spec_engine.ui.readouts import SpeedView, readouts
from spec_engine.ui.recalled import recalled, recalled_race, recalled_speed
from spec_engine.ui.settings import SettingFields
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.state import BACKGROUND, Fact, Seen, events_of
from spec_engine.ui.workspace import Workspace

Updates = dict[Block, object]


class Views:
    """The page as a function of the workspace."""

    def __init__(self, page: Page, workspace: Workspace, shelf: PresetShelf) -> None:
        self._page = page
        self._shelf = shelf
        self._workspace = workspace
        self.fields = Fields(page, workspace)
        self.settings = SettingFields(page, workspace)
        self._doc, self._chat, self._speed = page.document, page.chat, page.speed

    @property
    def streamed(self) -> list[Block]:
        """The light widgets that follow a running job."""
        chat = self._chat
        controls = [chat.ask, chat.stop, chat.go_on]
        return [chat.live, chat.race, self._speed.readouts, chat.authors, *controls, chat.beat, chat.aside]

    @property
    def figure_outputs(self) -> list[Block]:
        """What changes when only figures are new."""
        return [self._speed.readouts, self._speed.compare, self._speed.answers, self._chat.stop]

    @property
    def all_outputs(self) -> list[Block]:
        """Every widget that an action may change."""
        doc, chat = self._doc, self._chat
        return [
            doc.fold,
            doc.preset,
            doc.preset_note,
            doc.fit_row,
            doc.fit_note,
            *doc.fit_others,
            doc.drop,
            doc.sample,
            doc.add,
            doc.add_note,
            doc.paste.add,
            doc.locked_row,
            doc.password,
            doc.card,
            doc.preview_box,
            doc.preview,
            chat.chat,
            chat.branches,
            chat.authors_of,
            chat.notice,
            chat.examples_row,
            *chat.examples,
            chat.box,
            chat.new_chat,
            self._speed.compare,
            self._speed.answers,
            *self.history_outputs,
            *self.fields.outputs,
            *self.settings.outputs,
            chat.seen,
            *self.streamed,
        ]

    @property
    def history_outputs(self) -> list[Block]:
        """The list of conversations, and what belongs to the one that is shown."""
        history = self._page.history
        return [history.box, history.found, history.listing, history.tools, history.exports]

    # --- all at once --------------------------------------------------------------------------------------------------

    def everything(self, notice: str | None, given: Given | None = None) -> Updates:
        """All widgets. `notice` is a sentence to show, "" to show none, None to leave what stands there; what the last
        job did besides is said below it. Fields that were `given` the same before are left as they are."""
        beat = self._beat()  # before all else: what a job that ends meanwhile has changed is then sent once more
        remark = render.notice(self._workspace.remark, "info")
        shown: Updates = {} if notice is None else {self._chat.notice: render.notice(notice) + remark}
        if not notice and self._workspace.waiting:
            shown = {self._chat.notice: render.notice(text.OPENS_LATER, "info")}
        return {
            **self._document(),
            **self._conversation(),
            **self._controls(),
            **self._results(),
            **self.conversations(),
            **self.fields.updates(given),
            self._chat.seen: Seen(self._workspace.view),
            self._chat.beat: beat,
            self._chat.aside: "",
            **shown,
        }

    def result(self, given: Given | None, typed: str | None = None, *settings: Any) -> Updates:
        """All widgets once a job has ended: with its trouble, or the question whose answer was stopped too early. That
        goes back into its box unless something is being `typed` there. `settings` is what stands in their fields."""
        question, trouble = self._workspace.take_back_question(), self._workspace.trouble
        is_free = not typed or not typed.strip()
        asked = "" if is_free or not question else f" {text.QUESTION_WAS.format(question=question)}"
        in_box = text.STOPPED_EDIT if self._workspace.is_edited else text.STOPPED_EARLY
        early = (in_box if is_free else text.STOPPED_WHILE_TYPING) if question else ""
        # A refusal while the job ran has no reason now.
        updates = self.everything((trouble or early) + asked, given)
        self._workspace.told = trouble, self._workspace.remark
        updates |= self.settings.others(*settings) if settings else self.settings.all()
        return {**updates, self._chat.box: self.box(question)} if question and is_free else updates

    def _beat(self) -> str:
        """The moment that a page has come to which is given all this; in doubt while a job runs that it may not be able
        to follow."""
        return self._workspace.moment.replace("+", "?")

    def search(self, words: str) -> Updates:
        """The list after something was typed into its search field; other updates keep to it."""
        self._workspace.search = words
        return self.conversations()

    def conversations(self) -> Updates:
        """The list of conversations as it was searched, the one that is shown marked."""
        history, talk = self._page.history, self._workspace.talk
        kept, found = talk.summaries(), talk.summaries(self._workspace.search)
        is_lost = bool(self._workspace.search.strip()) and not found
        number = text.count(len(kept)) if len(found) == len(kept) else f"{len(found):,} of {len(kept):,}"
        shown = next((one for one in kept if one.id == talk.conversation), None)
        is_listed = shown is not None and any(one.id == shown.id for one in found)
        return {
            history.found: render.nothing_found(self._workspace.search) if is_lost else "",
            history.box: gr.update(label=f"{text.HISTORY_LABEL} ({number})"),
            history.listing: gr.update(choices=lines(found, kept), value=shown.id if shown and is_listed else None),
            history.tools: gr.update(visible=shown is not None),
            history.exports: render.exports(shown.id) if shown else "",
        }

    def figures(self) -> Updates:
        """The figures after a measurement."""
        return {
            self._speed.readouts: self._readouts(self._last_answer()),
            self._speed.compare: self._compare_button(),
            self._speed.answers: render.answers(self._workspace.talk.path),
            self._chat.stop: self._stop_button(),
        }

    def box(self, value: str) -> object:
        """The question box with other text."""
        return gr.update(value=value, placeholder=self._workspace.why_not_ask or text.ASK_READY)

    def range_note(self, first: int, last: int) -> str:
        """What a range of parts would take."""
        opened = self._workspace.opened
        return render_document.range_note(opened.whole_budget, first, last) if opened and opened.whole_budget else ""

    def _document(self) -> Updates:
        """Model and document."""
        doc, workspace = self._doc, self._workspace
        preset, opened, offered = workspace.preset, workspace.opened, workspace.offered
        facts = [f"{text.count(preset.context_length)} tokens of context"] if preset else []
        if workspace.reuse_trouble and preset:
            facts.append(workspace.reuse_trouble)
        others = offered.others if offered else ()
        has_choice = offered is not None or workspace.locked is not None  # in the pane, which must not be folded then
        is_fine = opened is not None and (opened.budget is None or opened.budget.fits) and not has_choice
        buttons: Updates = {
            button: gr.update(value=others[number].title if number < len(others) else "", visible=number < len(others))
            for number, button in enumerate(doc.fit_others)
        }
        return {
            doc.fold: render_document.fold(opened.used) if opened and is_fine else "",
            doc.preset: gr.update(choices=self._shelf.choices(), value=preset.name if preset else None),
            doc.fit_row: gr.update(visible=offered is not None),
            doc.fit_note: render_models.fit_note(offered, preset.title if preset else "") if offered else "",
            **buttons,
            doc.preset_note: render_models.preset_note(preset.description, facts) if preset else "",
            doc.card: render_document.document_card(
                opened.used if opened else None,
                opened.budget if opened else None,
                reliable_length=preset.reliable_length if preset else 0,
            ),
            doc.sample: gr.update(variant="secondary" if opened else "primary"),  # the shortest way to see it work
            doc.preview_box: gr.update(visible=opened is not None),
            doc.preview: render_document.preview(*(opened.used, opened.budget) if opened else (None,)),
            doc.add: gr.update(visible=opened is not None, interactive=not workspace.is_answering),
            doc.add_note: gr.update(visible=opened is not None and bool(workspace.talk.path)),
            doc.paste.add: gr.update(visible=opened is not None),
            doc.locked_row: gr.update(visible=workspace.locked is not None),
            doc.password: "" if workspace.locked is None else gr.skip(),  # somebody may be typing
        }

    def _conversation(self) -> Updates:
        """The turns, and the question that is being answered."""
        workspace, path = self._workspace, self._workspace.talk.path
        job = workspace.active_job
        is_answering = job is not None and job.kind == "answer"
        messages = [message for turn in (path[:-1] if is_answering else path) for message in render.messages(turn)]
        if is_answering:
            cut = workspace.cut_of(job)
            messages.append(render.message("user", cut.turn.question if cut else workspace.pending_question))
            messages += [render.message("assistant", cut.kept)] if cut and cut.kept.strip() else []
        branches = workspace.talk.branches()
        shown = path[-1].id if path else None
        choices = [(line, last) for line, (last, *_) in zip(branch_lines(branches), branches, strict=True)]
        return {
            self._chat.chat: messages,
            self._chat.live: self._live_line(),
            self._chat.branches: gr.update(choices=choices, value=shown, visible=len(branches) > 1),
        }

    def _live_line(self) -> str:
        """The line below the conversation when nothing streams."""
        job, path = self._workspace.active_job, self._workspace.talk.path
        if job is None or job.kind in ("calibrate", "read"):
            if not path:
                return ""
            return render.ending(path[-1], self._workspace.why_not_go_on) + self._absence(path[-1].question)
        if self._workspace.cut_of(job):
            return self._live(job)
        return render.working(text.RACING if job.kind == "compare" else text.STARTING)

    def _live(self, job: Job[Fact]) -> str:
        """The answer of a running job as far as it has come."""
        answer, kept = self._begun(job)
        answer.apply(events_of(job.facts))
        return render.live_answer(answer, kept)

    def _absence(self, question: str) -> str:
        """What was asked about and does not stand in the document."""
        opened = self._workspace.opened
        words = absence(opened.used.text, question) if opened else ""
        return render.notice(words, "info") if words else ""

    def _controls(self) -> Updates:
        """What can be pressed now."""
        chat, workspace = self._chat, self._workspace
        job = workspace.active_job
        is_busy = job is not None and job.kind not in ("calibrate", "read")
        reason = workspace.why_not_ask
        updates: Updates = {
            chat.box: gr.update(placeholder=reason or text.ASK_READY),
            chat.ask: gr.update(visible=not is_busy, interactive=not reason),
            chat.stop: self._stop_button(),
            chat.go_on: gr.update(visible=workspace.can_go_on and not is_busy),
            chat.new_chat: gr.update(interactive=bool(workspace.turns) and not is_busy),
            self._speed.compare: self._compare_button(),
        }
        opened = workspace.opened
        questions = examples.suggest(opened.used) if opened and not reason and not workspace.turns else ()
        updates[chat.examples_row] = gr.update(visible=bool(questions) and not is_busy)
        for index, button in enumerate(chat.examples):
            is_used = index < len(questions)
            updates[button] = gr.update(value=questions[index] if is_used else "", visible=is_used)
        return updates

    def _stop_button(self) -> object:
        """There while something can be stopped that somebody waits for. What gives way by itself may begin and end
        unseen, so only who follows it to its end shows the button."""
        job = self._workspace.active_job
        return gr.update(visible=job is not None and job.kind not in BACKGROUND, interactive=True)

    def _compare_button(self) -> object:
        """The button that starts the plain run."""
        workspace = self._workspace
        return gr.update(interactive=workspace.can_compare)

    def _results(self) -> Updates:
        """The figures and the coloured text of the last answer."""
        answer = self._last_answer()
        return {
            self._speed.readouts: self._readouts(answer),
            self._speed.answers: render.answers(self._workspace.talk.path),
            **self._authors(answer),
            self._chat.race: self._race(),
        }

    def authors(self, number: int) -> str:
        """Who wrote which token of an earlier answer of this conversation, counted from 0."""
        path = self._workspace.talk.path
        stretches = self._workspace.stretches(path[number]) if 0 <= number < len(path) else []
        return render.authors(stretches, text.AUTHORS_UNKNOWN)

    def _authors(self, answer: LiveAnswer | None) -> Updates:
        """The last answer token by token, and the choice of another one."""
        path = self._workspace.talk.path
        choices = [(f"{number}: {turn.question}"[:80], number - 1) for number, turn in enumerate(path, 1)]
        last = len(path) - 1
        shown = (
            render.authors(answer.stretches) if answer and answer.stretches else self.authors(last) if path else None
        )
        return {
            self._chat.authors_of: gr.update(choices=choices, value=last if path else None, visible=len(path) > 1),
            self._chat.authors: shown if path else render.authors(()),
        }

    def _race(self) -> str:
        """The last race behind this answer."""
        job, preset = self._workspace.race_job, self._workspace.preset
        if job is None or preset is None:
            return ""
        race = LiveRace(lanes(preset.draft))
        race.apply(job.facts)
        return render.race(race, is_running=job.is_running)

    # --- figures ------------------------------------------------------------------------------------------------------

    def _last_answer(self) -> LiveAnswer | None:
        """The last answer as far as its job has come, or as it was kept."""
        job, kept = self._workspace.answer_job, self._workspace.kept_answer
        if job is None:
            return recalled(kept) if kept else None
        answer, _ = self._begun(job)
        answer.apply(events_of(job.facts))
        return answer

    def _begun(self, job: Job[Fact]) -> tuple[LiveAnswer, str]:
        """The answer of a job before its first event, and what of its text is kept in the conversation."""
        cut = self._workspace.cut_of(job)
        return (LiveAnswer(cut.turn.answer, cut.stretches), cut.kept) if cut else (LiveAnswer(), "")

    def _readouts(self, answer: LiveAnswer | None, progress: str = "") -> str:
        """The panel of figures."""
        workspace = self._workspace
        kept = workspace.kept_answer
        plain = workspace.baseline or (recalled_speed(kept) if kept else None)
        race = workspace.comparison or (recalled_race(kept) if kept else None)
        speed = SpeedView(plain, race, progress, workspace.why_not_race)
        return readouts(answer, workspace.drafting, speed, workspace.locate, workspace.memory)
