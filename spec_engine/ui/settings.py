"""The settings of answers as fields of the page: what was changed in them, and what they show.

Job: `SettingFields`: the longest answer, the temperature and the seed, each by itself.
Non-job: the other fields (`fields`), sampling (`sampling`).

A page knows of each field what it was last given or what was last taken from it. What stands there and is something
else was typed on this page: it is taken when the field is left or something is asked, and never written over. What
stands there unchanged is nobody's wish: another tab may have set something else, which the page is shown then.
"""

from dataclasses import replace
from typing import Final

from gradio.blocks import Block

from spec_engine.ui import render, text
from spec_engine.ui.components import Page
from spec_engine.ui.workspace import MAX_SEED, Workspace

LONGEST_ANSWER: Final = 8192  # tokens that the settings allow
HOTTEST: Final = 2.0  # temperature

Number = float | None  # None: the field is empty
Known = tuple[Number, Number, Number]


class SettingFields:
    """The three fields as a function of the workspace, and the other way round."""

    def __init__(self, page: Page, workspace: Workspace) -> None:
        doc = page.document
        self._fields = (doc.max_tokens, doc.temperature, doc.seed)
        self._note, self._known = doc.settings_note, doc.settings_known
        self._workspace = workspace

    @property
    def inputs(self) -> list[Block]:
        """What stands in the fields and what the page knows of them: the arguments of `take` and `others`."""
        return [*self._fields, self._known]

    @property
    def outputs(self) -> list[Block]:
        """All that is written here."""
        return [*self._fields, self._note, self._known]

    def all(self) -> dict[Block, object]:
        """The fields of a page that was just opened."""
        now = self._now
        return {**dict(zip(self._fields, now, strict=True)), self._note: "", self._known: now}

    def others(self, max_tokens: Number, temperature: Number, seed: Number, known: Known | None) -> dict[Block, object]:
        """What has changed since the page was given it; a field that something was typed into is left alone."""
        stands, now = (max_tokens, temperature, seed), self._now
        before = known or stands
        is_typed = [one not in (old, new) for one, old, new in zip(stands, before, now, strict=True)]
        shown: dict[Block, object] = {
            field: new
            for field, one, new, typed in zip(self._fields, stands, now, is_typed, strict=True)
            if one != new and not typed
        }
        if shown:
            shown[self._note] = ""  # it was about what is not used any more
        knows = tuple(old if typed else new for old, new, typed in zip(before, now, is_typed, strict=True))
        return {**shown, self._known: knows}

    def take(self, max_tokens: Number, temperature: Number, seed: Number, known: Known | None) -> dict[Block, object]:
        """Use what was changed. An empty field leaves its setting as it was; what is out of range becomes what is
        nearest."""
        stands, before = (max_tokens, temperature, seed), self._workspace.settings
        tokens, heat, number = (
            None if known and one == old else one for one, old in zip(stands, known or stands, strict=True)
        )
        self._workspace.settings = new = replace(
            before,
            max_tokens=before.max_tokens if tokens is None else int(min(max(1, tokens), LONGEST_ANSWER)),
            temperature=before.temperature if heat is None else min(max(0.0, float(heat)), HOTTEST),
            seed=before.seed if number is None else int(min(max(0, number), MAX_SEED)),
        )
        now = self._now
        shown: dict[Block, object] = {
            field: value for field, one, value in zip(self._fields, stands, now, strict=True) if one != value
        }
        is_refused = any(
            one != value for one, value in zip((tokens, heat, number), now, strict=True) if one is not None
        )
        if is_refused or None in stands:
            words = text.SETTINGS_LIMITS.format(
                tokens=text.plural(new.max_tokens, "token"), temperature=new.temperature, seed=new.seed
            )
            shown[self._note] = render.notice(words, "info")
        elif new != before:
            shown[self._note] = ""
        return {**shown, self._known: now}

    @property
    def _now(self) -> tuple[int, float, int]:
        """The settings in force."""
        now = self._workspace.settings
        return now.max_tokens, now.temperature, now.seed
