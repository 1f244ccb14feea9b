"""Beginnings of texts on disk: keys and values that need not be computed again.

Job: `PrefixStore`: one safetensors file a prefix, written atomically, found by owner and tokens, checked when it is
read, the least recently used deleted first when the folder is full. `TextMemory` is what a cache offers for that.
Non-job: what an owner is and whether rows are right for a model (`prefixes`).

A file holds the tokens, the rows of every layer, and a checksum of each tensor. One that is damaged or was written by
something else is deleted, never used.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_SUFFIX: Final = ".safetensors"
_FORMAT: Final = "spec-engine prefix 1"
_TOKENS: Final = "token_ids"
_CHECKSUMS: Final = "checksums"
_OWN: Final = (_TOKENS, _CHECKSUMS)
_DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_LEFT_FREE: Final = 1 << 30  # bytes of the disk that are not used
_OLD_PART_S: Final = 86_400.0  # an unfinished file of that age belongs to a program that ended


class TextMemory(Protocol):
    """Keys and values of a text, the beginning of which can be kept."""

    def rows(self, token_ids: Sequence[int]) -> Mapping[str, Tensor] | None:
        """What is held for the text's beginning `token_ids`, as views by name; None where that is not held."""

    def room(self, num_tokens: int) -> Mapping[str, Tensor]:
        """Forget everything; the places of what a text of so many tokens holds, to be written to."""

    def filled(self, token_ids: Sequence[int]) -> None:
        """What `room` gave was written to: these are the tokens."""


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """A file of the store, and the tokens that it is about."""

    path: Path
    num_tokens: int


class PrefixStore:
    """Files in `folder`, which take `max_bytes` together at most.

    What cannot be written, for lack of space or rights, is not kept; nothing here raises for it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        for part in self._files(".part"):
            if time.time() - part.stat().st_mtime > _OLD_PART_S:
                part.unlink(missing_ok=True)

    @property
    def num_bytes(self) -> int:
        """What the files take."""
        return sum(path.stat().st_size for path in self._files(_SUFFIX))

    def find(self, owner: str, token_ids: Sequence[int]) -> StoredPrefix | None:
        """The longest kept text of `owner` that `token_ids` begin with. Reads the tokens of its files, no rows."""
        found: StoredPrefix | None = None
        for path in self._files(_SUFFIX, f"{_short(owner)}-*"):
            kept = _tokens_of(path, owner)
            if kept is None:
                path.unlink(missing_ok=True)
            elif kept == list(token_ids[: len(kept)]) and (found is None or len(kept) > found.num_tokens):
                found = StoredPrefix(path, len(kept))
        return found

    def load(self, stored: StoredPrefix, into: Mapping[str, Tensor]) -> bool:
        """Fill `into` from a file. False for one that is damaged or holds other things; it is deleted."""
        try:
            with safe_open(stored.path, "pt", device="cpu") as file:  # type: ignore[no-untyped-call]
                if set(file.keys()) != {*into, *_OWN}:
                    return self._refuse(stored)
                checksums = file.get_tensor(_CHECKSUMS).tolist()
                for name, checksum in zip([_TOKENS, *sorted(into)], checksums, strict=True):
                    tensor = file.get_tensor(name)
                    if zlib.crc32(_bytes_of(tensor)) != checksum:
                        return self._refuse(stored)
                    if name != _TOKENS:
                        if tensor.shape != into[name].shape or tensor.dtype != into[name].dtype:
                            return self._refuse(stored)
                        into[name].copy_(tensor)
            os.utime(stored.path)
        except (OSError, SafetensorError, ValueError):
            return self._refuse(stored)
        return True

    def save(
        self,
        owner: str,
        label: str,
        token_ids: Sequence[int],
        tensors: Mapping[str, Tensor],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Keep `tensors` for the text `token_ids` of `owner`; whether it is there afterwards.

        `label` names what the text is about, for `forget`. Looked at between two tensors, a yes of `cancelled` ends it
        without a trace.
        """
        tokens = torch.tensor(list(token_ids), dtype=torch.int64)
        digest = hashlib.sha256(_bytes_of(tokens)).hexdigest()[:16]
        path = self._folder / f"{_short(owner)}-{_short(label)}-{digest}{_SUFFIX}"
        size = sum(tensor.nbytes for tensor in tensors.values()) + tokens.nbytes
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            if path.is_file():
                os.utime(path)
                return True
            self._folder.mkdir(parents=True, exist_ok=True)
            if size > self._max_bytes or size > shutil.disk_usage(self._folder).free - _LEFT_FREE:
                return False
            with _private(part) as file:
                is_whole = _write(file, owner, {_TOKENS: tokens, **dict(sorted(tensors.items()))}, cancelled)
            if is_whole:
                part.replace(path)
                self._make_room(path)
            return is_whole
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def refuse(self, stored: StoredPrefix) -> None:
        """Delete a file that turned out to be wrong."""
        self._refuse(stored)

    def forget(self, label: str) -> None:
        """Delete what is about `label`."""
        for path in self._files(_SUFFIX, f"*-{_short(label)}-*"):
            path.unlink(missing_ok=True)

    def _refuse(self, stored: StoredPrefix) -> bool:
        with contextlib.suppress(OSError):
            stored.path.unlink(missing_ok=True)
        return False

    def _make_room(self, newest: Path) -> None:
        """Delete the files that were not used for the longest time until all fit."""
        paths = sorted(self._files(_SUFFIX), key=lambda path: (path == newest, path.stat().st_mtime))
        excess = sum(path.stat().st_size for path in paths) - self._max_bytes
        sizes = itertools.accumulate(path.stat().st_size for path in paths[:-1])
        for path, freed in zip(paths, [0, *sizes], strict=False):
            if freed < excess:
                path.unlink(missing_ok=True)

    def _files(self, suffix: str, pattern: str = "*") -> list[Path]:
        try:
            return [path for path in self._folder.glob(f"{pattern}{suffix}") if path.is_file()]
        except OSError:
            return []


def _short(words: str) -> str:
    """A name for a file."""
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, in order."""
    flat = tensor.contiguous().flatten().view(torch.uint8)
    return flat.numpy().data


def _tokens_of(path: Path, owner: str) -> list[int] | None:
    """The tokens that a file is about; None for one that is not of this store or not of `owner`."""
    try:
        with safe_open(path, "pt", device="cpu") as file:  # type: ignore[no-untyped-call]
            if file.metadata() != {"format": _FORMAT, "owner": owner}:
                return None
            token_ids: list[int] = file.get_tensor(_TOKENS).tolist()
            return token_ids
    except (OSError, SafetensorError):
        return None


@contextlib.contextmanager
def _private(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner may read: it tells what a document says."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write(file: BinaryIO, owner: str, tensors: Mapping[str, Tensor], cancelled: Callable[[], bool]) -> bool:
    """A safetensors file tensor by tensor, so that memory for one of them suffices; the checksums come last."""
    header: dict[str, object] = {"__metadata__": {"format": _FORMAT, "owner": owner}}
    end = 0
    entries = [(name, _DTYPES[tensor.dtype], list(tensor.shape), tensor.nbytes) for name, tensor in tensors.items()]
    for name, dtype, shape, size in [*entries, (_CHECKSUMS, "I64", [len(tensors)], 8 * len(tensors))]:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    file.write(len(words).to_bytes(8, "little") + words)
    checksums = []
    for tensor in tensors.values():
        if cancelled():
            return False
        content = _bytes_of(tensor.detach().cpu())
        checksums.append(zlib.crc32(content))
        file.write(content)
    file.write(_bytes_of(torch.tensor(checksums, dtype=torch.int64)))
    return True
