"""What was recognised of scanned pages, kept on disk so that no page is recognised twice.

Job: `ScanStore`: a file of records for each document, found by the SHA-256 of its bytes and by the version of what
recognised it; the least recently used are deleted first when all together take too much.
Non-job: which pages are looked up and kept (`pdf_scans`), what the version is of (`ocr`).

A record is one line with a checksum, appended in one write: so pages are kept one by one, two programs can write to one
file, and what is damaged or half written is not read. What cannot be written is not kept; nothing here raises for it.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Final

from spec_engine.documents.layout import Line

MAX_BYTES: Final = 64_000_000
"""A page of prose takes 5,000 to 6,000."""

_SUFFIX: Final = ".scan"


class ScanStore:
    """Files in `folder`, which take `max_bytes` together at most. The user alone may read them."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def pages_of(self, data: bytes, version: str) -> "KeptPages":
        """The pages of the document with these bytes, as `version` recognises them. The document counts as used now."""
        path = self._folder / f"{hashlib.sha256(data).hexdigest()}-{version}{_SUFFIX}"
        pages: dict[int, tuple[Line, ...]] = {}
        with contextlib.suppress(OSError):
            if self._max_bytes > 0:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            os.utime(path)
            for record in path.read_bytes().splitlines():
                if page := _loaded(record):
                    pages[page[0]] = page[1]
        return KeptPages(self, path, pages)

    def forget(self, sha256: str) -> None:
        """Delete what is about documents whose hash begins so. A reading that is under way keeps nothing more."""
        for path in self._folder.glob(f"{sha256}*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()

    def append(self, path: Path, record: bytes) -> None:
        """Write a record behind the others, if its file is still there."""
        with contextlib.suppress(OSError):
            with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size + len(record) > self._max_bytes:
                    return
                file.write(record)
            self._make_room(path)

    def _make_room(self, newest: Path) -> None:
        """Delete the files that were not used for the longest time until all fit."""
        files = [(path, path.stat()) for path in self._folder.glob(f"*{_SUFFIX}")]
        excess = sum(status.st_size for _, status in files) - self._max_bytes
        for path, status in sorted(files, key=lambda file: (file[0] == newest, file[1].st_mtime)):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= status.st_size


class KeptPages:
    """The recognised pages of one document."""

    def __init__(self, store: ScanStore, path: Path, pages: dict[int, tuple[Line, ...]]) -> None:
        self._store = store
        self._path = path
        self._pages = pages

    def get(self, index: int) -> tuple[Line, ...] | None:
        """The lines of a page; None for one that is not kept."""
        return self._pages.get(index)

    def keep(self, index: int, lines: Sequence[Line]) -> None:
        """Keep the lines of a page."""
        content = json.dumps([index, [astuple(line) for line in lines]], separators=(",", ":")).encode()
        # A line of its own also behind one that was not finished.
        self._store.append(self._path, b"\n%08x %b\n" % (zlib.crc32(content), content))


def _loaded(record: bytes) -> tuple[int, tuple[Line, ...]] | None:
    """A page's index and lines; None when the record is not as it was written."""
    checksum, _, content = record.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(content):
        return None
    try:
        index, lines = json.loads(content)
        return int(index), tuple(Line(*line) for line in lines)
    except (ValueError, TypeError):
        return None
