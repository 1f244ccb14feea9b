"""The names of the page's widgets.

Job: values that `layout` fills and `handlers` reads.
Non-job: making widgets, reacting.
"""

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True, slots=True)
class PasteBox:
    """Left: a text that is in no file."""

    box: gr.Accordion
    words: gr.Textbox
    name: gr.Textbox
    use: gr.Button
    add: gr.Button  # shown while a document is open


@dataclass(frozen=True, slots=True)
class DocumentPane:
    """Left: model, document, settings."""

    fold: gr.HTML  # in a narrow window a line that stands for the pane, once a document can be asked about
    preset: gr.Dropdown
    preset_note: gr.HTML
    fit_row: gr.Column  # shown while a preset that does not fit is picked
    fit_note: gr.HTML
    fit_others: tuple[gr.Button, ...]
    fit_anyway: gr.Button
    drop: gr.File
    sample: gr.Button
    paste: PasteBox
    add: gr.UploadButton  # shown while a document is open
    add_note: gr.HTML
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
    preview_box: gr.Accordion
    preview: gr.HTML
    max_tokens: gr.Number
    temperature: gr.Number
    seed: gr.Number
    settings_note: gr.HTML
    settings_known: gr.State  # what this page's settings were given, or what was taken from them


@dataclass(frozen=True, slots=True)
class ChatPane:
    """Middle: the conversation."""

    chat: gr.Chatbot
    live: gr.HTML
    go_on: gr.Button  # shown below an answer that was cut
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
    seen: gr.State  # what this page shows, a `Seen`
    given: gr.State  # the keys of what this page's fields were given
    beat: gr.Textbox  # the moment of the workspace that this page has come to, hidden
    aside: gr.Textbox  # what this page follows in the background, hidden
    doubt: gr.State  # the moment that it should have come to when it was last looked at
    stale: gr.Textbox  # changes when the page is behind, hidden
    clock: gr.Timer


@dataclass(frozen=True, slots=True)
class EditorPane:
    """Left, at the end: presets of the user's own."""

    name: gr.Textbox
    source: gr.Textbox
    verdict: gr.HTML
    copy: gr.Button
    save: gr.Button
    delete: gr.Button
    confirm: gr.Column  # shown when the preset may be about to be deleted
    confirm_words: gr.HTML
    delete_really: gr.Button
    delete_not: gr.Button


@dataclass(frozen=True, slots=True)
class HistoryPane:
    """Left, below: the conversations that are kept."""

    box: gr.Accordion
    search: gr.Textbox
    found: gr.HTML  # that a search had no hit
    listing: gr.Radio
    tools: gr.Column  # what can be done with the one that is shown
    title: gr.Textbox
    rename: gr.Button
    delete: gr.Button
    confirm: gr.Column
    confirm_words: gr.HTML
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
