"""Files of this process: what pages have sent, what was pasted, and the open document.

Job: `upload_folder`, where what a page sends arrives, and `forget_uploads`; `OwnFiles`, pasted texts as files and files
that stay while they are in use; `file_name`, which makes a name safe.
Non-job: the folders that they lie in (`own_folders`), reading them (`documents.read`), keeping them with a conversation
(`chat.history`).

Gradio names an upload by its content, in one folder for all programs of the machine, and takes away what it received
when it ends, and after a day. Of two programs that were sent the same file, the first to end would take it from the
other; and where the folder belongs to another user nothing could be sent at all.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from spec_engine.documents.read import is_text_name
from spec_engine.errors import RequestError, StoreError
from spec_engine.ui import text
from spec_engine.ui.own_folders import OwnFolder, sweep

_UPLOADS: Final = "uploads"
_FILES: Final = "files"
_MAX_NAME_BYTES: Final = 120
_MAX_BEGINNING: Final = 40  # characters of a text that stand for its name
_NOT_IN_NAMES: Final = frozenset('/\\:*?"<>|')  # on one system or another


def upload_folder() -> Path:
    """The folder of this process in which uploads arrive, from the first call to the end of the process.

    It lies where ``GRADIO_TEMP_DIR`` says, or where the system has its temporary files. Gradio is told by that variable
    and asks for it as a page is built. What killed programs have left is deleted first. Raises `StoreError` when it
    cannot be made.
    """
    return _uploads().path


@cache
def _uploads() -> OwnFolder:
    above = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    try:
        above.mkdir(parents=True, exist_ok=True)
        sweep(_UPLOADS, above)
        sweep(_FILES)
        folder = OwnFolder(_UPLOADS, above)
    except OSError as error:
        raise StoreError(
            f"Files that a page sends cannot be kept in {above}: {error}. Make room there, or name another folder by "
            "the variable GRADIO_TEMP_DIR."
        ) from error
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)
    return folder


def forget_uploads() -> None:
    """Delete what pages have sent. Done at the end of the process besides, where that is an ordinary one."""
    _uploads().close()


class OwnFiles:
    """Files in a folder that goes with the process; each lies in a folder of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: OwnFolder | None = None
        self._held: dict[Path, Path] = {}  # an upload, and the file that stays for it

    def write(self, words: str, name: str) -> Path:
        """A text as a file. Raises `RequestError` for a blank one, and when it cannot be written."""
        if not words.strip():
            raise RequestError(text.PASTE_EMPTY)
        try:
            path = self._place(file_name(name if name.strip() else _own(words)))
            # With the mark of UTF-8 its first letters are never taken for those of another kind of file.
            path.write_text(words, "utf-8-sig", errors="replace", newline="")
        except OSError as error:
            raise RequestError(text.PASTE_FAILED.format(reason=error)) from error
        return path

    def hold(self, paths: Sequence[Path]) -> tuple[Path, ...]:
        """The files that are in use from now on; in place of an upload, one that stays. Those held before are let go.

        An upload that cannot be linked or copied is used as it is.
        """
        there = {upload: path for upload, path in self._held.items() if path.is_file()}
        held = {path: there.get(path) or self._linked(path) for path in paths if _is_upload(path)}
        in_use = tuple(held.get(path, path) for path in paths)
        kept = {upload: path for upload, path in (self._held | held).items() if path in in_use}
        for path in set(self._held.values()) - set(kept.values()):
            shutil.rmtree(path.parent, ignore_errors=True)
        self._held = {upload: path for upload, path in kept.items() if path != upload}
        return in_use

    def close(self) -> None:
        """Forget the files; conversations have copies of theirs."""
        with self._lock:
            folder, self._folder = self._folder, None
        self._held.clear()
        if folder:
            folder.close()

    def _linked(self, upload: Path) -> Path:
        """A second name of an upload's content, or a copy of it."""
        try:
            path = self._place(upload.name)
            try:
                os.link(upload, path)
            except OSError:  # another file system, or one without links
                shutil.copyfile(upload, path)
        except OSError:
            return upload
        return path

    def _place(self, name: str) -> Path:
        """Where a file of this name can lie."""
        with self._lock:
            self._folder = self._folder or OwnFolder(_FILES)
            self._folder.path.mkdir(mode=0o700, exist_ok=True)  # a cleaner may have taken it
            return Path(tempfile.mkdtemp(dir=self._folder.path)) / name


def _is_upload(path: Path) -> bool:
    return path.resolve().is_relative_to(upload_folder())


def _own(words: str) -> str:
    """What a text is called that nobody named: how it begins, which tells it from other pasted ones."""
    beginning = text.shortened(" ".join(words.strip()[: 2 * _MAX_BEGINNING].split()), _MAX_BEGINNING)
    return text.PASTED_WITHOUT_NAME.format(beginning=beginning) if beginning.strip(". ") else ""


def file_name(name: str) -> str:
    """A name under which a text can lie in any folder and is read as it stands: the given one as far as possible."""
    spelled = "".join(letter if letter.isprintable() and letter not in _NOT_IN_NAMES else " " for letter in name)
    plain = " ".join(spelled.split()).strip(". ") or text.PASTED_NAME
    short = plain.encode()[:_MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ")
    is_ending = not set(Path(short).suffix) & {" ", "…"}  # else "1. Minutes" would be called "1"
    return short if is_ending and is_text_name(short) else f"{short}.txt"  # a text called report.pdf is no PDF
