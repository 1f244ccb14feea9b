"""The page's widgets and where they stand.

Job: build every component once and hand them to `handlers.connect`.
Non-job: reacting (`handlers`), the server (`server`).
"""

from typing import Final

import gradio as gr

from spec_engine.ui import render, render_document, text
from spec_engine.ui.components import ChatPane, DocumentPane, EditorPane, HistoryPane, Page, PasteBox, SpeedPane
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.workspace import Workspace

NUM_EXAMPLES: Final = 3
LOOK_EVERY_S: Final = 1.5
NUM_OTHERS: Final = 3  # variants of a preset that would fit
UPLOAD_AGE_S: Final = (3600, 86400)  # uploads are looked at hourly and deleted after a day


def build_page(workspace: Workspace, shelf: PresetShelf) -> gr.Blocks:
    """The page over a workspace, with the presets of a shelf."""
    blocks: gr.Blocks
    with gr.Blocks(title=text.TITLE, fill_width=True, analytics_enabled=False, delete_cache=UPLOAD_AGE_S) as blocks:
        with gr.Row(elem_id="se-main"):
            with gr.Column(elem_id="se-left", scale=0, min_width=0):
                _html(render.brand())
                fold = _html(elem_id="se-fold")
                history = _history_pane()
                document = _document_pane(shelf, fold)
                editor = _editor_pane()
            with gr.Column(elem_id="se-middle", scale=1, min_width=0):
                chat = _chat_pane()
            with gr.Column(elem_id="se-right", scale=0, min_width=0):
                speed = _speed_pane()
        Handlers(Page(document, history, editor, chat, speed), workspace, shelf).connect(blocks)
    return blocks


def _html(value: str = "", elem_id: str | None = None, autoscroll: bool = False, visible: bool = True) -> gr.HTML:
    """Markup made by `render` or `readouts`, which escaped everything in it."""
    return gr.HTML(
        value, elem_id=elem_id, js_on_load=None, apply_default_css=False, autoscroll=autoscroll, visible=visible
    )


def _document_pane(shelf: PresetShelf, fold: gr.HTML) -> DocumentPane:
    """Model, document, settings."""
    preset = gr.Dropdown(
        choices=shelf.choices(),
        value=None,
        label=text.PRESET_LABEL,
        elem_id="se-preset",
        filterable=False,
    )
    preset_note = _html()
    with gr.Column(visible=False, elem_id="se-fit") as fit_row:
        fit_note = _html()
        fit_others = tuple(gr.Button("", size="sm", elem_classes="se-example") for _ in range(NUM_OTHERS))
        fit_anyway = gr.Button(text.NEED_ANYWAY, size="sm", elem_id="se-fit-anyway")
    drop = gr.File(label=text.DROP_LABEL, type="filepath", file_count="multiple", height=72, elem_id="se-drop")
    sample = gr.Button(text.SAMPLE_BUTTON, size="sm", variant="primary", elem_id="se-sample")
    paste = _pasting()
    with gr.Column(visible=False, elem_id="se-locked") as locked_row:
        password = gr.Textbox(label=text.PASSWORD_LABEL, type="password", elem_id="se-password")
        unlock = gr.Button(text.PASSWORD_BUTTON, size="sm", elem_id="se-unlock")
    card = _html(render_document.document_card(None, None), "se-document")
    add = gr.UploadButton(text.ADD_BUTTON, file_count="multiple", size="sm", visible=False, elem_id="se-add")
    add_note = _html(render.quiet(text.ADD_NOTE), visible=False)
    range_row, range_first, range_last, range_note, range_use, range_all = _parts()
    with gr.Accordion(text.PREVIEW_LABEL, open=False, visible=False, elem_id="se-preview") as preview_box:
        _html(render_document.search_form())
        preview = _html(render_document.preview(None))
    max_tokens, temperature, seed, settings_note, settings_known = _settings()
    return DocumentPane(
        fold=fold,
        preset=preset,
        preset_note=preset_note,
        fit_row=fit_row,
        fit_note=fit_note,
        fit_others=fit_others,
        fit_anyway=fit_anyway,
        drop=drop,
        sample=sample,
        paste=paste,
        add=add,
        add_note=add_note,
        locked_row=locked_row,
        password=password,
        unlock=unlock,
        card=card,
        range_row=range_row,
        range_first=range_first,
        range_last=range_last,
        range_note=range_note,
        range_use=range_use,
        range_all=range_all,
        preview_box=preview_box,
        preview=preview,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        settings_note=settings_note,
        settings_known=settings_known,
    )


def _parts() -> tuple[gr.Column, gr.Dropdown, gr.Dropdown, gr.HTML, gr.Button, gr.Button]:
    """The choice of parts, hidden at first: all of it, the first and the last, what they take, and two buttons."""
    with gr.Column(visible=False, elem_id="se-range") as row:
        _html(f'<p class="se-range-heading">{text.RANGE_HEADING}</p>')
        with gr.Row(equal_height=True):
            first = gr.Dropdown(choices=[], label=text.RANGE_FIRST, min_width=80, elem_id="se-range-first")
            last = gr.Dropdown(choices=[], label=text.RANGE_LAST, min_width=80, elem_id="se-range-last")
        note = _html()
        with gr.Row():
            use = gr.Button(text.RANGE_BUTTON, size="sm", variant="primary", min_width=80, elem_id="se-range-use")
            whole = gr.Button(text.RANGE_ALL_BUTTON, size="sm", min_width=80, elem_id="se-range-all")
    return row, first, last, note, use, whole


def _pasting() -> PasteBox:
    """A text that is in no file."""
    with gr.Accordion(text.PASTE_LABEL, open=False, elem_id="se-paste") as box:
        words = gr.Textbox(label=text.PASTE_WORDS, lines=6, max_lines=6, elem_id="se-paste-words")
        name = gr.Textbox(label=text.PASTE_NAME, placeholder=text.PASTED_NAME, max_lines=1, elem_id="se-paste-name")
        use = gr.Button(text.PASTE_BUTTON, size="sm", variant="primary", elem_id="se-paste-use")
        add = gr.Button(text.PASTE_ADD_BUTTON, size="sm", visible=False, elem_id="se-paste-add")
        return PasteBox(box, words, name, use, add)


def _settings() -> tuple[gr.Number, gr.Number, gr.Number, gr.HTML, gr.State]:
    """How answers are sampled, a note for what is out of its bounds, and what the fields were given (`settings`)."""
    with gr.Accordion(text.SETTINGS_LABEL, open=False, elem_id="se-settings"):
        max_tokens = gr.Number(value=512, label=text.MAX_TOKENS_LABEL)
        temperature = gr.Number(value=0.0, step=0.1, label=text.TEMPERATURE_LABEL)
        seed = gr.Number(value=0, label=text.SEED_LABEL)
        return max_tokens, temperature, seed, _html(), gr.State((512, 0.0, 0))


def _editor_pane() -> EditorPane:
    """Presets of the user's own, made and changed here."""
    with gr.Accordion(text.EDITOR_LABEL, open=False, elem_id="se-editor"):
        _html(f'<p class="se-quiet">{text.EDITOR_HELP}</p>')
        copy = gr.Button(text.EDITOR_COPY, size="sm", elem_id="se-editor-copy")
        name = gr.Textbox(label=text.EDITOR_NAME, max_lines=1, elem_id="se-editor-name")
        source = gr.Textbox(label=text.EDITOR_SOURCE, lines=10, max_lines=24, elem_id="se-editor-source")
        verdict = _html(elem_id="se-editor-verdict")
        with gr.Row():
            save = gr.Button(text.EDITOR_SAVE, size="sm", variant="primary", min_width=80, elem_id="se-editor-save")
            delete = gr.Button(text.EDITOR_DELETE, size="sm", min_width=80, elem_id="se-editor-delete")
        return EditorPane(name, source, verdict, copy, save, delete, *_confirm("se-editor-"))


def _confirm(prefix: str) -> tuple[gr.Column, gr.HTML, gr.Button, gr.Button]:
    """A question whether to delete something, hidden at first, and its two answers."""
    with gr.Column(visible=False, elem_id=f"{prefix}confirm", elem_classes="se-confirm", min_width=0) as column:
        words = _html()
        with gr.Row():
            really = gr.Button(
                text.DELETE_REALLY, size="sm", variant="stop", min_width=80, elem_id=f"{prefix}delete-really"
            )
            keep = gr.Button(text.DELETE_NOT, size="sm", min_width=80, elem_id=f"{prefix}delete-not")
    return column, words, really, keep


def _history_pane() -> HistoryPane:
    """The conversations that are kept, and what can be done with the one on the page."""
    with gr.Accordion(text.HISTORY_LABEL, open=False, elem_id="se-history") as box:
        search = gr.Textbox(
            label=text.HISTORY_SEARCH,
            placeholder=text.HISTORY_SEARCH,
            show_label=False,
            max_lines=1,
            elem_id="se-search",
        )
        found = _html()
        listing = gr.Radio(choices=[], label=text.HISTORY_LABEL, show_label=False, elem_id="se-conversations")
        with gr.Column(visible=False, elem_id="se-conversation-tools") as tools:
            title = gr.Textbox(label=text.TITLE_LABEL, elem_id="se-title", max_lines=1)
            with gr.Row():
                rename = gr.Button(text.RENAME_BUTTON, size="sm", min_width=80, elem_id="se-rename")
                delete = gr.Button(text.DELETE_BUTTON, size="sm", min_width=80, elem_id="se-delete")
            confirm = _confirm("se-")
            exports = _html()
    return HistoryPane(box, search, found, listing, tools, title, rename, delete, *confirm, exports)


def _chat_pane() -> ChatPane:
    """The conversation, and below it what is asked next."""
    with gr.Column(elem_id="se-talk", min_width=0):
        chat = gr.Chatbot(
            elem_id="se-chat",
            show_label=False,
            container=False,
            layout="panel",
            height=None,
            buttons=["copy"],
            editable="user",
            sanitize_html=True,
            allow_tags=False,
            feedback_options=None,
            placeholder=render.welcome(),
            autoscroll=False,
        )
        live = _html(elem_id="se-live", autoscroll=True)
        go_on = gr.Button(
            text.CONTINUE_BUTTON, size="sm", visible=False, elem_id="se-continue", elem_classes="se-example"
        )
        race = _html(elem_id="se-race")
        with gr.Row(visible=False, elem_id="se-examples") as examples_row:
            examples = tuple(gr.Button("", size="sm", elem_classes="se-example") for _ in range(NUM_EXAMPLES))
    branches = gr.Dropdown(
        choices=[], label=text.BRANCHES_LABEL, visible=False, filterable=False, elem_id="se-branches"
    )
    notice = _html(elem_id="se-notice")
    box, ask, stop, new_chat = _composer()
    authors_of, authors = _authors()
    return ChatPane(
        chat=chat,
        live=live,
        go_on=go_on,
        race=race,
        branches=branches,
        notice=notice,
        examples_row=examples_row,
        examples=examples,
        box=box,
        ask=ask,
        stop=stop,
        new_chat=new_chat,
        authors_of=authors_of,
        authors=authors,
        seen=gr.State(None),
        given=gr.State(None),
        beat=_hidden("se-beat"),
        aside=_hidden("se-aside"),
        doubt=gr.State(""),
        stale=_hidden("se-stale"),
        clock=gr.Timer(LOOK_EVERY_S),
    )


def _composer() -> tuple[gr.Textbox, gr.Button, gr.Button, gr.Button]:
    """The question, and what can be pressed beside it: ask, stop, begin anew."""
    with gr.Row(elem_id="se-composer", equal_height=True):
        box = gr.Textbox(
            show_label=False,
            label=text.QUESTION_LABEL,
            placeholder=text.ASK_NEEDS_ENGINE,
            max_lines=6,
            container=False,
            scale=1,
            elem_id="se-box",
        )
        ask = gr.Button(text.ASK_BUTTON, variant="primary", scale=0, min_width=84, interactive=False, elem_id="se-ask")
        stop = gr.Button(text.STOP_BUTTON, variant="stop", scale=0, min_width=84, visible=False, elem_id="se-stop")
        new_chat = gr.Button(text.NEW_CHAT_BUTTON, scale=0, min_width=96, elem_id="se-new")
    return box, ask, stop, new_chat


def _hidden(elem_id: str) -> gr.Textbox:
    """What a page keeps without showing it."""
    return gr.Textbox(visible="hidden", elem_id=elem_id)


def _authors() -> tuple[gr.Dropdown, gr.HTML]:
    """An answer token by token: which one, and its coloured text."""
    with gr.Accordion(text.AUTHORS_LABEL, open=False, elem_id="se-authors"):
        picker = gr.Dropdown(
            choices=[], label=text.AUTHORS_OF, visible=False, filterable=False, elem_id="se-authors-of"
        )
        return picker, _html(render.authors(()))


def _speed_pane() -> SpeedPane:
    """The figures of the last answer."""
    readouts = _html(elem_id="se-readouts")
    compare = gr.Button(text.COMPARE_BUTTON, size="sm", interactive=False, elem_id="se-compare")
    answers = _html(elem_id="se-answers")
    return SpeedPane(readouts, compare, answers)
