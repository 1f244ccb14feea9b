"""The fields that people fill in, and how not to write over what stands in them.

Job: what each such field shows, with a key that is the same as long as the program would write the same again.
Non-job: widgets that only show something (`views`), what a filled field does (`handlers`), settings (`settings`).

A page keeps the keys of what it was given. When a job ends, only fields whose key has changed since are written:
whoever types a title while an answer is being written, or a document read, keeps what was typed.
"""

from collections.abc import Hashable, Mapping

import gradio as gr
from gradio.blocks import Block

from spec_engine.ui import render, render_document, text
from spec_engine.ui.components import Page
from spec_engine.ui.workspace import Workspace

Given = Mapping[str, Hashable]


class Fields:
    """The fields of the page as a function of the workspace."""

    def __init__(self, page: Page, workspace: Workspace) -> None:
        self._page = page
        self._workspace = workspace

    @property
    def outputs(self) -> list[Block]:
        """All of them, and the keys that a page keeps."""
        doc, history = self._page.document, self._page.history
        parts = [doc.range_row, doc.range_first, doc.range_last, doc.range_note, doc.range_all]
        return [*parts, history.title, history.confirm, history.confirm_words, self._page.chat.given]

    def updates(self, given: Given | None = None) -> dict[Block, object]:
        """All fields, but for those whose keys are as in `given`."""
        groups = {"title": self._title(), "parts": self._parts()}
        keys = {name: key for name, (key, _) in groups.items()}
        new = {name: fields for name, (key, fields) in groups.items() if given is None or given.get(name) != key}
        return {self._page.chat.given: keys} | {
            field: value for fields in new.values() for field, value in fields.items()
        }

    def _title(self) -> tuple[Hashable, dict[Block, object]]:
        """The title of the conversation, and the question whether to delete it."""
        history, talk = self._page.history, self._workspace.talk
        shown = next((one for one in talk.summaries() if one.id == talk.conversation), None)
        title = shown.title if shown else ""
        return (talk.conversation, title), {
            history.title: title,
            history.confirm: gr.update(visible=False),
            history.confirm_words: render.question(text.DELETE_ASKS.format(title=title)),
        }

    def _parts(self) -> tuple[Hashable, dict[Block, object]]:
        """The choice of parts: offered when the whole document does not fit."""
        doc, opened = self._page.document, self._workspace.opened
        if opened is None or opened.whole_budget is None or opened.whole_budget.fits:
            return None, {doc.range_row: gr.update(visible=False)}
        budget = opened.whole_budget
        choices = [(f"{index + 1} · {label}", index) for index, label in enumerate(budget.labels)]
        first, last = opened.chosen or (0, budget.last_fitting_block or 0)
        return (hash(tuple(budget.labels)), first, last, opened.chosen is None), {
            doc.range_row: gr.update(visible=True),
            doc.range_all: gr.update(visible=opened.chosen is not None),
            doc.range_first: gr.update(choices=choices, value=first),
            doc.range_last: gr.update(choices=choices, value=last),
            doc.range_note: render_document.range_note(budget, first, last),
        }
