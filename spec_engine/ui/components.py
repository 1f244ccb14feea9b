"""The names of the page's widgets.

Job: values that `layout` fills and `handlers` reads.
Non-job: making widgets, reacting.
"""

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True, slots=True)
class DocumentPane:
    """Left: model, document, settings."""

    preset: gr.Dropdown
    preset_note: gr.HTML
    fit_row: gr.Column  # shown while a preset that does not fit is picked
    fit_note: gr.HTML
    fit_others: tuple[gr.Button, ...]
    fit_anyway: gr.Button
    drop: gr.File
    sample: gr.Button
    locked_row: gr.Column
    password: gr.Textbox
    unlock: gr.Button
    card: gr.HTML
    range_row: gr.Column
    range_first: gr.Dropdown
    range_last: gr.Dropdown
    range_note: gr.HTML
    range_use: gr.Button
    range_all: gr.Button
    preview: gr.HTML
    max_tokens: gr.Number
    temperature: gr.Number
    seed: gr.Number
    settings_note: gr.HTML


@dataclass(frozen=True, slots=True)
class ChatPane:
    """Middle: the conversation."""

    chat: gr.Chatbot
    live: gr.HTML
    race: gr.HTML
    branches: gr.Dropdown
    notice: gr.HTML
    examples_row: gr.Row
    examples: tuple[gr.Button, ...]
    box: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    new_chat: gr.Button
    authors_of: gr.Dropdown  # which answer
    authors: gr.HTML
    has_job: gr.State  # whether the last action began a job, or a running one was found
    seen: gr.State  # the number of the view that this page shows
    given: gr.State  # the keys of what this page's fields were given


@dataclass(frozen=True, slots=True)
class EditorPane:
    """Left, at the end: presets of the user's own."""

    name: gr.Textbox
    source: gr.Textbox
    verdict: gr.HTML
    copy: gr.Button
    save: gr.Button
    delete: gr.Button


@dataclass(frozen=True, slots=True)
class HistoryPane:
    """Left, below: the conversations that are kept."""

    box: gr.Accordion
    search: gr.Textbox
    listing: gr.Radio
    tools: gr.Column  # what can be done with the one that is shown
    title: gr.Textbox
    rename: gr.Button
    delete: gr.Button
    confirm: gr.Row
    delete_really: gr.Button
    delete_not: gr.Button
    exports: gr.HTML


@dataclass(frozen=True, slots=True)
class SpeedPane:
    """Right: the figures."""

    readouts: gr.HTML
    compare: gr.Button
    answers: gr.HTML  # a line for each answer of the conversation


@dataclass(frozen=True, slots=True)
class Page:
    """Every widget that an event reads or writes."""

    document: DocumentPane
    history: HistoryPane
    editor: EditorPane
    chat: ChatPane
    speed: SpeedPane
