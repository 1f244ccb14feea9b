"""The presets that the page offers: those shipped, and the user's own.

Job: which there are and which of them this machine has the memory for, by part; reading, checking, saving and deleting
the user's own, which are files in a folder of theirs.
Non-job: what a preset may hold (`config`), loading its models (`workspace`).
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from spec_engine.config import Preset, load_preset, parse_preset, preset_names
from spec_engine.errors import ModelError, PresetError
from spec_engine.needs import PresetNeed, alternatives, is_downloaded, need_of
from spec_engine.ui import text
from spec_engine.ui.apart import aside

_LAST: Final = ".last"  # file with the name of the preset that was loaded last
_GIVEN: Final = "@given"  # behind the name of a file that is called like a shipped preset; no file is called so
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")


def told_apart(given: Preset, shipped: Sequence[Preset]) -> Preset:
    """A preset that was given by its file, with a name and title of its own if a shipped one is called the same."""
    if all(one.name != given.name or one.folder.resolve() == given.folder.resolve() for one in shipped):
        return given
    title = f"{given.title} ({given.folder.resolve().name}/{given.name}.toml)"
    return replace(given, name=f"{given.name}{_GIVEN}", title=title)


class PresetShelf:
    """Presets by name, in the order in which they are offered.

    Args:
        shipped: those that cannot be changed; one that lies in `folder` is the user's own nevertheless.
        folder: of the user's own; None: there are none and none can be saved.
        device: what models would be loaded on.
        free: bytes that models may take there, those of the engine in use included; None if the system does not tell.
    """

    def __init__(
        self,
        shipped: Sequence[Preset],
        folder: Path | None = None,
        device: str = "auto",
        free: Callable[[], int | None] = lambda: None,
    ) -> None:
        home = None if folder is None else folder.resolve()
        self._own = {preset.name: preset for preset in shipped if preset.folder.resolve() == home}
        self._shipped = {preset.name: preset for preset in shipped if preset.name not in self._own}
        self._folder = folder
        self._device = device
        self._free = free
        self._needs: dict[Preset, PresetNeed | None] = {}  # of presets whose configurations are here, which stay as is
        self.problems: list[str] = []  # what is wrong with files of the user's
        for name in preset_names(folder) if folder is not None and folder.is_dir() else ():
            if name in self._own:
                continue
            try:
                if name in self._shipped:
                    raise PresetError(text.PRESET_TAKEN.format(name=name))
                self._own[name] = load_preset(name, folder)
            except PresetError as error:
                self.problems.append(str(error))

    def __getitem__(self, name: str) -> Preset:
        return self._own[name] if name in self._own else self._shipped[name]

    def __contains__(self, name: str) -> bool:
        return name in self._own or name in self._shipped

    @property
    def last(self) -> str:
        """Name of the preset that was loaded last, perhaps in an earlier run; "" when none is known any more."""
        try:
            name = (self._folder / _LAST).read_text("utf-8").strip() if self._folder else ""
        except (OSError, UnicodeDecodeError):
            return ""
        return name if name in self else ""

    def remember(self, preset: Preset) -> None:
        """Note the preset that is loaded, for the next start; nothing is noted where that fails."""
        if self._folder is not None and preset.name in self:
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / _LAST).write_text(preset.name, "utf-8")

    def is_own(self, name: str) -> bool:
        """Whether a preset is one of the user's."""
        return name in self._own

    def choices(self) -> list[tuple[str, str]]:
        """Label and name of each preset, those first that fit this machine; of these first what is here."""
        free, presets = self._free(), (*self._shipped.values(), *self._own.values())
        fits = aside(lambda: [self._fit(preset, free) for preset in presets])
        ordered = sorted(fits, key=lambda fit: (not fit.is_enough, not fit.is_here))
        return [(_label(fit), fit.preset.name) for fit in ordered]

    def fit(self, preset: Preset) -> "Fit":
        """What a preset needs, what there is, and what would fit instead."""
        return aside(lambda: self._fit(preset, self._free()))

    def _fit(self, preset: Preset, free: int | None) -> "Fit":
        is_here = is_downloaded(preset)
        need = self._needs[preset] if is_here and preset in self._needs else self._need(preset)
        self._needs[preset] = need
        is_enough = need is None or free is None or need.total <= free
        others = () if is_enough or need is None or free is None else tuple(alternatives(preset, need, free))
        return Fit(preset, need, free, is_here, others)

    def _need(self, preset: Preset) -> PresetNeed | None:
        """What it needs; None if that cannot be said, for reasons that are said when it is loaded."""
        try:
            return need_of(preset, self._device)
        except ModelError:
            return None

    def source(self, name: str) -> str:
        """A preset's file as text."""
        return _file_of(self[name]).read_text("utf-8")

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
        _file_of(self._own.pop(name)).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Fit:
    """A preset on this machine.

    Attributes:
        need: bytes by part; None if nothing is known.
        free: bytes that there are; None if the system does not tell.
        is_here: whether nothing has to be downloaded.
        others: what would fit instead.
    """

    preset: Preset
    need: PresetNeed | None
    free: int | None
    is_here: bool
    others: tuple[Preset, ...] = ()

    @property
    def is_enough(self) -> bool:
        """Whether it fits, as far as is known."""
        return self.need is None or self.free is None or self.need.total <= self.free


def _file_of(preset: Preset) -> Path:
    """Where a preset was read from."""
    return preset.folder / f"{preset.name.removesuffix(_GIVEN)}.toml"


def _label(fit: Fit) -> str:
    """A preset in the picker."""
    if fit.need is None:
        facts = [text.PRESET_UNKNOWN]
    elif fit.is_enough:
        facts = [text.gigabytes(fit.need.total)]
    else:
        needs, free = text.gigabytes(fit.need.total), text.gigabytes(fit.free or 0)
        facts = [text.PRESET_TOO_LARGE.format(needs=needs, free=free)]
    return " · ".join([fit.preset.title, *facts, *([] if fit.is_here else [text.PRESET_TO_DOWNLOAD])])
