"""What happens in the editor for presets of the user's own.

Job: connect its widgets to the shelf: copying a preset, checking what is typed, saving, deleting.
Non-job: what a preset may hold (`config`), files (`shelf`), choosing one (`handlers`).
"""

import gradio as gr

from spec_engine.errors import SpecEngineError
from spec_engine.ui import render, render_models, text
from spec_engine.ui.components import Page
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.wiring import on, one_by_one


class Editing:
    """The events of the editor. Holds no state of its own."""

    def __init__(self, page: Page, shelf: PresetShelf) -> None:
        self._page = page
        self._shelf = shelf

    def connect(self) -> None:
        """Every event of the editor."""
        editor, picker = self._page.editor, self._page.document.preset
        written = [editor.name, editor.source]
        on(editor.copy.click, self.copy_preset, [picker], [*written, editor.verdict])
        on(one_by_one(editor.name.change, editor.source.change), self.check_preset, written, [editor.verdict])
        on(editor.save.click, self.save_preset, written, [picker, editor.verdict])
        asking = [editor.confirm, editor.confirm_words, editor.verdict]
        on(editor.delete.click, self.ask_to_delete_preset, [editor.name], asking)
        for kept in (editor.delete_not.click, editor.name.change):
            on(kept, lambda: gr.update(visible=False), None, [editor.confirm])
        asked = [editor.name, editor.confirm_words]
        on(editor.delete_really.click, self.delete_preset, asked, [picker, editor.verdict, editor.confirm])

    def copy_preset(self, name: str | None) -> tuple[str, str, str]:
        """The chosen preset is to be changed; one of the user's own keeps its name."""
        if not name:
            return "", "", ""
        source = self._shelf.source(name)
        return name if self._shelf.is_own(name) else f"my-{name}", source, ""

    def check_preset(self, name: str, source: str) -> str:
        """Something was typed."""
        if not source.strip():
            return ""
        try:
            return render_models.preset_verdict(self._shelf.check(name, source))
        except SpecEngineError as error:
            return render.notice(str(error))

    def save_preset(self, name: str, source: str) -> tuple[object, str]:
        """The preset is to be kept."""
        try:
            preset = self._shelf.save(name, source)
        except SpecEngineError as error:
            return gr.skip(), render.notice(str(error))
        return gr.update(choices=self._shelf.choices()), render_models.preset_verdict(preset, is_saved=True)

    def ask_to_delete_preset(self, name: str) -> tuple[object, str, str]:
        """Whether to forget the preset, if it is one of the user's."""
        name = name.strip()
        if not self._shelf.is_own(name):
            return gr.update(visible=False), "", render.notice(text.PRESET_NOT_OWN)
        return gr.update(visible=True), render.question(text.EDITOR_DELETE_ASKS.format(name=name)), ""

    def delete_preset(self, name: str, asked: str) -> tuple[object, str, object]:
        """The preset that was `asked` for is to be forgotten; not one whose name was typed since."""
        closed = gr.update(visible=False)
        name = name.strip()
        if asked != render.question(text.EDITOR_DELETE_ASKS.format(name=name)):
            return gr.skip(), "", closed
        try:
            self._shelf.delete(name)
        except SpecEngineError as error:
            return gr.skip(), render.notice(str(error)), closed
        return gr.update(choices=self._shelf.choices()), render.notice(text.PRESET_DELETED, "info"), closed
