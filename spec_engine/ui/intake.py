"""What happens when a document is brought to the page, and when a part of it is chosen.

Job: `Intake`: files that were dropped, the sample, pasted texts, files that are added, passwords, parts.
Non-job: reading documents (`papers`), the other events (`handlers`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from spec_engine.errors import SpecEngineError
from spec_engine.ui import text
from spec_engine.ui.components import Page
from spec_engine.ui.fields import Given
from spec_engine.ui.own_files import upload_folder
from spec_engine.ui.state import Seen, Wanted
from spec_engine.ui.views import Updates, Views
from spec_engine.ui.wiring import on, one_by_one
from spec_engine.ui.workspace import Workspace

SAMPLE: Final = Path(__file__).parent / "sample" / "spectrum-policy-report.txt"


class Opens(Protocol):
    """Begins to open something and shows that with `begun`, or why it was refused."""

    def __call__(
        self, action: Callable[[], object], given: Given | None = None, begun: Updates | None = None, /
    ) -> Updates:
        """The updates of the page."""


class Intake:
    """The events around the document. Holds no state of its own."""

    def __init__(self, page: Page, workspace: Workspace, views: Views, opens: Opens) -> None:
        self._doc, self._chat = page.document, page.chat
        self._workspace = workspace
        self._views = views
        self._open = opens

    def connect(self, follow: Callable[[Dependency], None], everything: list[Block]) -> None:
        """Every event; `follow` is done after those that may have begun a job."""
        doc, given, seen = self._doc, self._chat.given, self._chat.seen
        follow(on(doc.drop.upload, self.open_files, [doc.drop, given], everything))
        follow(on(doc.sample.click, self.open_sample, [given], everything))
        follow(on(doc.add.upload, self.add_files, [doc.add, seen, given], everything))
        pasted = [doc.paste.words, doc.paste.name]
        emptied = [*everything, *pasted, doc.paste.box]
        follow(on(doc.paste.use.click, self.use_text, [*pasted, given], emptied))
        follow(on(doc.paste.add.click, self.add_text, [*pasted, seen, given], emptied))
        for unlock in (doc.unlock.click, doc.password.submit):
            follow(on(unlock, self.unlock, [doc.password, given], everything))
        chosen = [doc.range_first, doc.range_last]
        on(one_by_one(doc.range_first.input, doc.range_last.input), self.range_note, chosen, [doc.range_note])
        follow(on(doc.range_use.click, self.use_range, [*chosen, given], everything))
        follow(on(doc.range_all.click, self.use_all, None, everything))

    # --- events -------------------------------------------------------------------------------------------------------

    def open_files(self, paths: list[str] | None, given: Given | None) -> Updates:
        """Files were dropped; while they were on their way here, something may have been typed."""
        return {**self._uploaded(paths, lambda files: self._start(files), given), self._doc.drop: None}

    def open_sample(self, given: Given | None) -> Updates:
        """The bundled report was asked for."""
        return self._open(lambda: self._start((SAMPLE,)), given)

    def add_files(self, paths: list[str] | None, seen: Seen | None, given: Given | None) -> Updates:
        """Files are to come behind the open document."""
        return self._uploaded(paths, lambda files: self._workspace.start_adding(files, seen), given)

    def use_text(self, words: str, name: str, given: Given | None) -> Updates:
        """A pasted text is to be the document; if it is refused, it stays in its box."""
        return self._open(lambda: self._start((self._workspace.paste(words, name),)), given, self._paste_emptied)

    def add_text(self, words: str, name: str, seen: Seen | None, given: Given | None) -> Updates:
        """A pasted text is to come behind the open document; if it is refused, it stays in its box."""
        return self._open(
            lambda: self._workspace.start_adding([self._workspace.paste(words, name)], seen),
            given,
            self._paste_emptied,
        )

    def unlock(self, password: str, given: Given | None) -> Updates:
        """A password was given for the file or the conversation that waits for one."""
        return self._open(lambda: self._workspace.unlock(password), given)

    def range_note(self, first: int | None, last: int | None) -> str:
        """The chosen range changed."""
        return self._views.range_note(first or 0, last or 0)

    def use_range(self, first: int | None, last: int | None, given: Given | None) -> Updates:
        """The chosen range is to be used; if it is refused, it stays in its fields, to be corrected."""
        try:
            self._workspace.choose_range(first or 0, last or 0)
        except SpecEngineError as error:
            return self._views.everything(str(error), given)
        return self._views.everything(notice="")

    def use_all(self) -> Updates:
        """The whole document is to be used again."""
        opened = self._workspace.opened
        return self.use_range(0, len(opened.whole.blocks) - 1 if opened else 0, None)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _start(self, files: Sequence[Path]) -> object:
        """Begin to read files as the document."""
        return self._workspace.start_opening(Wanted(tuple(files)))

    def _uploaded(self, paths: list[str] | None, start: Callable[[list[Path]], object], given: Given | None) -> Updates:
        """Begin something with files that this page has sent: paths come from the browser and may name nothing else."""
        folder = upload_folder()
        if not paths or not all(Path(path).resolve().is_relative_to(folder) for path in paths):
            return self._views.everything(text.NOT_AN_UPLOAD, given)
        return self._open(lambda: start([Path(path) for path in paths]), given)

    @property
    def _paste_emptied(self) -> Updates:
        """The boxes of a pasted text once it is on its way."""
        paste = self._doc.paste
        return {paste.words: "", paste.name: "", paste.box: gr.update(open=False)}
