"""Models from the Hugging Face hub: which files, how far, and what to do when it fails.

Job: put the files of a repository into the hub's own cache folder, told file by file and in all, stoppable at any
byte and taken up again where it was broken off, with the disk checked first and each refusal in words.
Non-job: moving bytes (`transfer`), what is in the files (`load`, `checkpoint`), how progress is shown.

The hub's library does not go on with a file that was broken off, so the bytes are transferred by `transfer`, into the
library's cache under the file's hash; it then finds them there and files them away. A repository whose files are all
here is used as it is, without asking the hub: a model does not change under a conversation, and a machine without a
network loses nothing.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from fnmatch import fnmatch
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2
from filelock import Timeout
from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from spec_engine.errors import ModelDownloadError, ModelNotFound
from spec_engine.model.transfer import TIMEOUT_S, Meter, RemoteFile, receive
from spec_engine.model.watch import LoadProgress, current_watch

CONFIG_FILES: Final = ("*.json", "*.txt", "*.model", "*.jinja")  # configurations and tokenizers
WEIGHT_FILES: Final = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")  # the first kind that is there
_TOKENIZER_FILES: Final = ("tokenizer*", "vocab*", "spiece*")
_INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SPARE_BYTES: Final = 500_000_000  # that a download leaves free on the disk
_OFFLINE: ContextVar[bool] = ContextVar("offline", default=False)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def fetch_repository(repo: str, revision: str | None, *, weights: bool, has_tokenizer: bool = True) -> Path:
    """The folder of a repository in the hub's cache, with its configuration and tokenizer, and its weights if asked.

    `has_tokenizer` says whether it has one at all, which the head of a drafter has not. Progress goes to
    `current_watch`. Raises `ModelNotFound`, `ModelDownloadError` (the hub is out of reach, the disk too small, a
    transfer broken off) and `Stopped`; what was transferred is kept in each case.
    """
    cached = _cached_folder(repo, revision)
    if cached is not None and (_OFFLINE.get() or _is_complete(cached, weights=weights, has_tokenizer=has_tokenizer)):
        return cached
    try:
        with _in_words(repo, revision):
            return _download(repo, revision, weights=weights)
    except ModelDownloadError:
        if cached is not None and (_has_weights(cached) if weights else (cached / "config.json").is_file()):
            return cached  # a head, which has no tokenizer, on a machine without a network
        raise


def is_cached(repo: str, revision: str | None, *, weights: bool) -> bool:
    """Whether `fetch_repository` would find everything here. A name that cannot be on the hub is not."""
    try:
        folder = _cached_folder(repo, revision)
    except ModelNotFound:
        return False
    if folder is None:
        return False
    return _has_weights(folder) if weights else (folder / "config.json").is_file()


def _cached_folder(repo: str, revision: str | None) -> Path | None:
    """Where the cache keeps this revision, if it has its configuration."""
    with _in_words(repo, revision):
        found = try_to_load_from_cache(repo, "config.json", constants.HF_HUB_CACHE, revision)
    return Path(found).parent if isinstance(found, str) else None


def _is_complete(folder: Path, *, weights: bool, has_tokenizer: bool) -> bool:
    """Whether all files are here, as far as they name one another. The configuration came last."""
    has_spelling = not has_tokenizer or any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES)
    return has_spelling and (not weights or _has_weights(folder))


@contextmanager
def as_it_is_here() -> Iterator[None]:
    """Until the block is left, `fetch_repository` takes a repository whose configuration is here as it is."""
    token = _OFFLINE.set(True)
    try:
        yield
    finally:
        _OFFLINE.reset(token)


def _has_weights(folder: Path) -> bool:
    """Whether every weight file is here: those that an index names, or any."""
    for index in _INDEXES:
        if (folder / index).is_file():
            try:
                shards = set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values())
                return all((folder / shard).is_file() for shard in shards)
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                return False  # it is fetched again, or said to be damaged when it is read
    return any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES)


def _download(repo: str, revision: str | None, *, weights: bool) -> Path:
    """Fetch what is missing."""
    watch = current_watch()
    watch.tell(LoadProgress(f"Asking the hub for {repo}"))
    info = HfApi(endpoint=constants.ENDPOINT).model_info(
        repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S
    )
    assert info.sha is not None, "the hub names the commit"
    files = [RemoteFile(file.rfilename, file.size or 0) for file in info.siblings or ()]
    wanted = _wanted(files, weights=weights)
    if not any(file.name == "config.json" for file in wanted):
        raise ModelNotFound(f"'{repo}' holds no model: it has no config.json. Check the id.")
    missing = [file for file in wanted if not _is_cached(repo, file.name, info.sha)]
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"
    _check_disk(repo, blobs, sum(file.num_bytes for file in missing))
    meter = Meter(f"Downloading {repo}", missing, watch)
    for file in sorted(missing, key=lambda file: file.name == "config.json"):  # last: it says that the others are here
        _transfer(repo, info.sha, file, blobs, meter)
    # Last, the name of the revision: from now on it stands for a complete copy.
    return Path(hf_hub_download(repo, "config.json", revision=revision, cache_dir=constants.HF_HUB_CACHE)).parent


def _wanted(files: Sequence[RemoteFile], *, weights: bool) -> list[RemoteFile]:
    """Configuration and tokenizer, and of the weights the best kind; nothing from folders."""
    flat = [file for file in files if "/" not in file.name]
    chosen = [file for file in flat if any(fnmatch(file.name, pattern) for pattern in CONFIG_FILES)]
    if weights:
        kinds = ([file for file in flat if fnmatch(file.name, pattern)] for pattern in WEIGHT_FILES)
        chosen += next((kind for kind in kinds if kind), [])
    return chosen


def _is_cached(repo: str, name: str, commit: str) -> bool:
    return isinstance(try_to_load_from_cache(repo, name, constants.HF_HUB_CACHE, commit), str)


def _check_disk(repo: str, folder: Path, num_bytes: int) -> None:
    """Raise `ModelDownloadError` unless there is room for what is missing; parts that are here count as missing."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    parts = sum(part.stat().st_size for part in folder.glob("*.part")) if folder.is_dir() else 0
    free = shutil.disk_usage(existing).free
    if num_bytes - parts + _SPARE_BYTES > free:
        raise ModelDownloadError(
            f"'{repo}' needs {(num_bytes - parts) / 1e9:.1f} GB on the disk, {free / 1e9:.1f} GB are free in "
            f"{existing}. Nothing was downloaded. Free space, or set HF_HOME to a folder on another disk."
        )


def _transfer(repo: str, commit: str, file: RemoteFile, blobs: Path, meter: Meter) -> None:
    """One file into the cache."""
    url = hf_hub_url(repo, file.name, revision=commit, endpoint=constants.ENDPOINT)
    metadata = get_hf_file_metadata(url, timeout=TIMEOUT_S)
    assert metadata.etag is not None, "the hub names the content"
    num_bytes = file.num_bytes if metadata.size is None else metadata.size
    blob, part = blobs / metadata.etag, blobs / f"{metadata.etag}.part"
    blobs.mkdir(parents=True, exist_ok=True)
    with _alone(blobs / f"{metadata.etag}.part.lock"):
        if not blob.exists():
            was_begun = part.exists()
            headers = build_hf_headers()
            if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
                headers.pop("authorization", None)  # a storage host gets no token
            meter.begin(file.name, part.stat().st_size if was_begun else 0, num_bytes)
            receive(metadata.location, headers, part, num_bytes, lambda number: meter.add(file.name, number))
            if was_begun and _SHA256.fullmatch(metadata.etag) and _hash(part) != metadata.etag:
                part.unlink()
                raise ModelDownloadError(
                    f"{file.name} of '{repo}' is not what the hub has: the part from an earlier try was damaged and is "
                    "deleted now. Choose the model again to download this file anew."
                )
            part.replace(blob)
    (blobs / f"{metadata.etag}.part.lock").unlink(missing_ok=True)
    hf_hub_download(repo, file.name, revision=commit, cache_dir=constants.HF_HUB_CACHE)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process has this lock until the block is left; waiting for it is told, and can be stopped."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(path, timeout=0.5))
                break
            except Timeout:
                current_watch().tell(LoadProgress("Another program is downloading this file"))
        yield


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _in_words(repo: str, revision: str | None) -> Iterator[None]:
    """What the hub says, in our words."""
    has_token = get_token() is not None
    log_in = (
        "The token of this machine (hf auth whoami) has no access."
        if has_token
        else "Make a token on https://huggingface.co/settings/tokens, then run: hf auth login (or set HF_TOKEN), and "
        "choose the model again."
    )
    try:
        yield
    except GatedRepoError as error:
        raise ModelNotFound(
            f"Access to '{repo}' was refused: its owner asks for a consent. Accept the terms on "
            f"https://huggingface.co/{repo}. {log_in}"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"'{repo}' has no revision '{revision}'. Correct it in the preset.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFound(
            f"There is no model '{repo}' on the hub, and no such folder. Check the spelling. If it is private: {log_in}"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.TransportError, ConnectionError) as error:
        raise ModelDownloadError(_out_of_reach(repo)) from error
    except HfHubHTTPError as error:
        raise ModelDownloadError(f"The hub did not deliver '{repo}': {error}. Try again later.") from error
    except httpx2.HTTPError as error:
        raise ModelDownloadError(f"The hub did not deliver '{repo}': {error}. Try again later.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelDownloadError(
                f"The disk is full: '{repo}' was not stored as a whole. Free space and choose the model again; what "
                "was downloaded is kept."
            ) from error
        raise ModelDownloadError(f"Downloading '{repo}' failed: {error}. Try again.") from error


def _out_of_reach(repo: str) -> str:
    return (
        f"'{repo}' is not on this machine and the hub cannot be reached. Connect to the network, or use the preset "
        "'builtin', which needs no download."
    )
