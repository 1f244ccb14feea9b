"""Pasted texts as files, so that they are read, kept and found again as dropped ones are.

Job: `PastedTexts`, a folder of this process for them; `file_name`, which makes a name safe.
Non-job: reading them (`documents.read`), keeping them with a conversation (`chat.history`).
"""

import tempfile
import threading
from pathlib import Path
from typing import Final

from spec_engine.documents.read import is_text_name
from spec_engine.errors import RequestError
from spec_engine.ui import text

_MAX_NAME_BYTES: Final = 120
_MAX_BEGINNING: Final = 40  # characters of a text that stand for its name
_NOT_IN_NAMES: Final = frozenset('/\\:*?"<>|')  # on one system or another


class PastedTexts:
    """Files of pasted texts in a folder that goes with the process; each lies in a folder of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def write(self, words: str, name: str) -> Path:
        """A text as a file. Raises `RequestError` for a blank one, and when it cannot be written."""
        if not words.strip():
            raise RequestError(text.PASTE_EMPTY)
        try:
            with self._lock:
                self._folder = self._folder or tempfile.TemporaryDirectory(prefix="spec-engine-pasted-")
                path = Path(tempfile.mkdtemp(dir=self._folder.name)) / file_name(name if name.strip() else _own(words))
            # With the mark of UTF-8 its first letters are never taken for those of another kind of file.
            path.write_text(words, "utf-8-sig", errors="replace", newline="")
        except OSError as error:
            raise RequestError(text.PASTE_FAILED.format(reason=error)) from error
        return path

    def close(self) -> None:
        """Forget the files; conversations have copies of theirs."""
        with self._lock:
            folder, self._folder = self._folder, None
        if folder:
            folder.cleanup()


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
