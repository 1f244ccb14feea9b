"""Downloads from a hub on loopback: what goes well, what goes wrong, and what is said."""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from spec_engine.errors import ModelDownloadError, ModelError, ModelNotFound, Stopped
from spec_engine.model import hub as hub_module
from spec_engine.model.hub import as_it_is_here, fetch_repository, is_cached
from spec_engine.model.watch import LoadProgress, LoadWatch, amounts, spoken, watching
from tests.hub_server import COMMIT, Hub, serving, use_hub

WEIGHTS = bytes(range(256)) * 8000  # 2 MB
FILES = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
REPO = "some/model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({REPO: FILES})) as running:
        use_hub(running.address, str(tmp_path / "cache"), monkeypatch)
        yield running


def bodies(hub: Hub) -> list[str]:
    return [name for name, _ in hub.gets]


def test_a_download_tells_each_file_and_all(hub: Hub) -> None:
    seen: list[LoadProgress] = []
    with watching(LoadWatch(seen.append)):
        folder = fetch_repository(REPO, None, weights=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    last = seen[-1]
    assert (last.num_done, last.num_bytes, last.share) == (sum(map(len, FILES.values())),) * 2 + (1.0,)
    assert {file.name for file in last.files} == set(FILES)
    shares = [progress.share for progress in seen if progress.share is not None]
    assert shares == sorted(shares)
    assert not list((folder.parent.parent / "blobs").glob("*.part*"))


def test_what_is_here_is_not_asked_for_again(hub: Hub) -> None:
    first = fetch_repository(REPO, None, weights=True)
    num_requests = hub.num_requests
    assert fetch_repository(REPO, None, weights=True) == first
    assert fetch_repository(REPO, None, weights=False) == first
    assert hub.num_requests == num_requests


def test_configuration_first_weights_later(hub: Hub) -> None:
    fetch_repository(REPO, None, weights=False)
    assert sorted(bodies(hub)) == ["config.json", "tokenizer.json"]
    fetch_repository(REPO, None, weights=True)
    assert sorted(bodies(hub)) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_of_several_kinds_of_weights_one_is_taken(hub: Hub) -> None:
    index = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()
    hub.repos[REPO] = {
        "config.json": b"{}",
        "tokenizer.model": b"t",
        "model.safetensors.index.json": index,
        "model-1-of-2.safetensors": b"one",
        "model-2-of-2.safetensors": b"two",
        "consolidated.safetensors": b"the same again",
        "pytorch_model.bin": b"and again",
        "original/consolidated.00.pth": b"and again",
        "onnx/model.safetensors": b"and again",
    }
    folder = fetch_repository(REPO, None, weights=True)
    assert {path.name for path in folder.glob("*.safetensors")} == {
        "model-1-of-2.safetensors",
        "model-2-of-2.safetensors",
    }
    assert len(bodies(hub)) == 5
    (folder / "model-2-of-2.safetensors").unlink()  # incomplete: the hub is asked for it again
    fetch_repository(REPO, None, weights=True)
    assert (folder / "model-2-of-2.safetensors").read_bytes() == b"two"


def test_a_cut_transfer_goes_on_where_it_was(hub: Hub) -> None:
    hub.cut_after, hub.num_cuts = 700_000, 2
    folder = fetch_repository(REPO, None, weights=True)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    starts = [start for name, start in hub.gets if name == "model.safetensors"]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert starts[1] > 0


def test_a_line_that_stays_cut_is_said_and_taken_up_later(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.cut_after, hub.num_cuts = 0, 1000
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(ModelDownloadError, match=r"broke off 4 times.*kept; choose the model again"):
        fetch_repository(REPO, None, weights=True)
    hub.num_cuts = 0
    fetch_repository(REPO, None, weights=True)


def test_stop_and_go_on(hub: Hub) -> None:
    hub.bytes_per_second = 4e6
    stopped: list[float] = []

    def report(progress: LoadProgress) -> None:
        if progress.num_done > 500_000 and not stopped:
            stopped.append(time.monotonic())

    with watching(LoadWatch(report, lambda: bool(stopped))), pytest.raises(Stopped, match="go on"):
        fetch_repository(REPO, None, weights=True)
    assert time.monotonic() - stopped[0] < 0.3
    hub.bytes_per_second = None
    hub.gets.clear()
    folder = fetch_repository(REPO, None, weights=True)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    (name, start), after = hub.gets
    assert name == "model.safetensors"
    assert start >= 500_000
    assert after == ("config.json", 0)  # the last: it says that the others are here


def test_a_damaged_part_is_found_and_dropped(hub: Hub) -> None:
    hub.bytes_per_second = 1_000_000  # slow enough to be stopped before all is here
    stop = False

    def report(progress: LoadProgress) -> None:
        nonlocal stop
        stop = stop or progress.num_done > 300_000

    with watching(LoadWatch(report, lambda: stop)), pytest.raises(Stopped):
        fetch_repository(REPO, None, weights=True)
    (part,) = Path(constants.HF_HUB_CACHE).rglob("*.part")
    part.write_bytes(b"\0" * part.stat().st_size)
    hub.bytes_per_second = None
    with pytest.raises(ModelDownloadError, match="damaged"):
        fetch_repository(REPO, None, weights=True)
    folder = fetch_repository(REPO, None, weights=True)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_server_without_ranges(hub: Hub) -> None:
    hub.cut_after, hub.num_cuts, hub.ignores_ranges = 700_000, 1, True
    seen: list[LoadProgress] = []
    with watching(LoadWatch(seen.append)):
        folder = fetch_repository(REPO, None, weights=True)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert max(progress.num_done for progress in seen) == seen[-1].num_bytes


def test_a_slow_line_shows_its_speed(hub: Hub) -> None:
    hub.bytes_per_second = 3e6
    seen: list[LoadProgress] = []
    with watching(LoadWatch(seen.append)):
        fetch_repository(REPO, None, weights=True)
    speeds = [progress.bytes_per_second for progress in seen if progress.bytes_per_second]
    assert speeds
    assert all(1e6 < speed < 4e6 for speed in speeds[len(speeds) // 2 :])
    assert any(progress.seconds_left is not None for progress in seen)


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (401, "GatedRepo", ModelNotFound, r"owner asks for a consent.*Accept the terms.*hf auth login"),
        (403, "GatedRepo", ModelNotFound, r"Accept the terms on https://huggingface.co/some/model"),
        (401, "RepoNotFound", ModelNotFound, r"no model 'some/model'.*hf auth login"),
        (404, "RepoNotFound", ModelNotFound, r"no model 'some/model' on the hub.*Check the spelling"),
        (404, "RevisionNotFound", ModelNotFound, r"no revision 'v9'"),
        (500, "", ModelDownloadError, r"did not deliver"),
    ],
)
def test_refusals_in_words(hub: Hub, status: int, code: str, error: type[ModelError], words: str) -> None:
    hub.refusals[REPO] = (status, code)
    with pytest.raises(error, match=words):
        fetch_repository(REPO, "v9", weights=True)


def test_a_token_is_sent_and_named_when_it_does_not_suffice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.refusals[REPO] = (403, "GatedRepo")
    with pytest.raises(ModelNotFound, match="token of this machine") as caught:
        fetch_repository(REPO, None, weights=True)
    assert "hf_secret" not in str(caught.value)
    assert "Bearer hf_secret" in hub.tokens


def test_a_repository_without_a_model(hub: Hub) -> None:
    hub.repos[REPO] = {"README.md": b"a dataset"}
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        fetch_repository(REPO, None, weights=True)


def test_the_disk_is_checked_first(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage._replace(free=400_000_000))
    with pytest.raises(ModelDownloadError, match=r"GB on the disk.*Nothing was downloaded.*HF_HOME"):
        fetch_repository(REPO, None, weights=True)
    assert hub.gets == []


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelDownloadError, match="cannot be reached"):
        fetch_repository(REPO, None, weights=True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    folder = fetch_repository(REPO, None, weights=True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch_repository(REPO, None, weights=True) == folder


def test_a_head_has_no_tokenizer_and_works_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub.repos[REPO]["tokenizer.json"]
    folder = fetch_repository(REPO, None, weights=True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch_repository(REPO, None, weights=True) == folder


def test_offline_mode(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelDownloadError, match="cannot be reached"):
        fetch_repository(REPO, None, weights=True)


@pytest.mark.parametrize("name", ["a/b/c", "..", "a b"])
def test_names_that_cannot_be_on_the_hub(hub: Hub, name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such folder"):
        fetch_repository(name, None, weights=True)


def test_progress_in_words(hub: Hub) -> None:
    lines: list[str] = []
    with watching(spoken(lines.append, every_s=0.0)):
        fetch_repository(REPO, None, weights=True)
    assert lines[0] == "Asking the hub for some/model"
    assert lines[-1].startswith("Downloading some/model · 2.0 of 2.0 MB")
    assert amounts(LoadProgress("Reading")) == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full.*what was downloaded is kept"),
        (OSError("connection reset"), "failed: connection reset"),
    ],
    ids=["disk", "broken"],
)
def test_troubles_of_the_machine(hub: Hub, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(hub_module, "receive", fail)
    with pytest.raises(ModelDownloadError, match=words):
        fetch_repository(REPO, None, weights=True)


def test_a_server_that_sends_too_much_is_not_asked_for_ever(hub: Hub) -> None:
    hub.extra_bytes = 10
    with pytest.raises(ModelDownloadError, match="sent more than the 2,048,000 bytes"):
        fetch_repository(REPO, None, weights=True)
    assert bodies(hub).count("model.safetensors") == 2


def test_a_busy_server_is_asked_again(hub: Hub) -> None:
    hub.num_busy = 2
    folder = fetch_repository(REPO, None, weights=True)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("index", [b"{}", b"not json", b"[1]", b'{"weight_map": 3}'])
def test_an_odd_index_is_no_complete_model(hub: Hub, index: bytes) -> None:
    folder = fetch_repository(REPO, None, weights=True)
    (folder / "model.safetensors.index.json").write_bytes(index)
    assert not is_cached(REPO, None, weights=True)


def test_a_copy_that_was_stopped_is_not_complete_by_its_commit(hub: Hub) -> None:
    hub.repos[REPO] = {"config.json": b"{}", "tokenizer.json": b"{}", "tokenizer_config.json": bytes(3000)}
    is_stopped = False

    def report(progress: LoadProgress) -> None:
        nonlocal is_stopped
        is_stopped = is_stopped or progress.num_done >= 2

    with watching(LoadWatch(report, lambda: is_stopped)), pytest.raises(Stopped):
        fetch_repository(REPO, COMMIT, weights=False)
    folder = fetch_repository(REPO, COMMIT, weights=False)
    assert (folder / "tokenizer_config.json").is_file()


def test_heads_are_complete_without_a_tokenizer_and_sizes_ask_nobody(hub: Hub) -> None:
    del hub.repos[REPO]["tokenizer.json"]
    folder = fetch_repository(REPO, None, weights=True, has_tokenizer=False)
    num_requests = hub.num_requests
    assert fetch_repository(REPO, None, weights=True, has_tokenizer=False) == folder
    with as_it_is_here():
        assert fetch_repository(REPO, None, weights=False) == folder
    assert hub.num_requests == num_requests


def test_waiting_for_another_program_can_be_stopped(hub: Hub) -> None:
    seen: list[str] = []
    etag = hashlib.sha256(WEIGHTS).hexdigest()
    blobs = Path(constants.HF_HUB_CACHE) / "models--some--model" / "blobs"
    blobs.mkdir(parents=True)
    is_waiting = lambda: "Another program is downloading this file" in seen  # noqa: E731
    watch = LoadWatch(lambda progress: seen.append(progress.message), is_waiting)
    with WeakFileLock(blobs / f"{etag}.part.lock"), watching(watch), pytest.raises(Stopped):
        fetch_repository(REPO, None, weights=True)
