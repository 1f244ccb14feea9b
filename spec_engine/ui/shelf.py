"""The presets that the page offers: those shipped, and the user's own.

Job: which there are and which of them this machine has the memory for; reading, checking, saving and deleting the
user's own, which are files in a folder of theirs.
Non-job: what a preset may hold (`config`), loading its models (`workspace`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from spec_engine.config import Preset, load_preset, parse_preset, preset_names
from spec_engine.errors import PresetError
from spec_engine.ui import text

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")


class PresetShelf:
    """Presets by name, in the order in which they are offered.

    Args:
        shipped: those that cannot be changed.
        folder: of the user's own; None: there are none and none can be saved.
        free_gb: memory of the device that models would be loaded on; None if the system does not tell.
    """

    def __init__(self, shipped: Sequence[Preset], folder: Path | None = None, free_gb: float | None = None) -> None:
        self._shipped = {preset.name: preset for preset in shipped}
        self._own: dict[str, Preset] = {}
        self._folder = folder
        self._free_gb = free_gb
        self.problems: list[str] = []  # what is wrong with files of the user's
        for name in preset_names(folder) if folder is not None and folder.is_dir() else ():
            try:
                if name in self._shipped:
                    raise PresetError(text.PRESET_TAKEN.format(name=name))
                self._own[name] = load_preset(name, folder)
            except PresetError as error:
                self.problems.append(str(error))

    def __getitem__(self, name: str) -> Preset:
        return self._own[name] if name in self._own else self._shipped[name]

    def is_own(self, name: str) -> bool:
        """Whether a preset is one of the user's."""
        return name in self._own

    def choices(self) -> list[tuple[str, str]]:
        """Label and name of each preset, those first that fit this machine."""
        offered = [*self._shipped.values(), *self._own.values()]
        return [(self._label(preset), preset.name) for preset in sorted(offered, key=lambda one: not self._fits(one))]

    def source(self, name: str) -> str:
        """A preset's file as text."""
        preset = self[name]
        return (preset.folder / f"{preset.name}.toml").read_text("utf-8")

    def check(self, name: str, source: str) -> Preset:
        """The preset that `source` describes. Raises `PresetError` with what is wrong, in words."""
        name = name.strip()
        if self._folder is None:
            raise PresetError(text.PRESET_NO_FOLDER)
        if not _NAME.fullmatch(name):
            raise PresetError(text.PRESET_NAME_RULE)
        if name in self._shipped:
            raise PresetError(text.PRESET_TAKEN.format(name=name))
        return parse_preset(source, self._folder / f"{name}.toml")

    def save(self, name: str, source: str) -> Preset:
        """Check, then write the file. Raises `PresetError`; then nothing was changed."""
        preset = self.check(name, source)
        path = preset.folder / f"{preset.name}.toml"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            partial.write_text(source, "utf-8")
            partial.replace(path)
        except OSError as error:
            raise PresetError(f"The preset could not be saved in {path}: {error}. Check the folder.") from error
        self._own[preset.name] = preset
        return preset

    def delete(self, name: str) -> None:
        """Forget one of the user's presets and its file. Raises `PresetError` for another one."""
        if name not in self._own:
            raise PresetError(text.PRESET_NOT_OWN)
        preset = self._own.pop(name)
        (preset.folder / f"{preset.name}.toml").unlink(missing_ok=True)

    def _fits(self, preset: Preset) -> bool:
        return self._free_gb is None or preset.min_memory_gb <= self._free_gb

    def _label(self, preset: Preset) -> str:
        if self._fits(preset):
            return preset.title
        return text.PRESET_TOO_LARGE.format(title=preset.title, needs=preset.min_memory_gb, free=self._free_gb or 0.0)
