"""Beginnings of texts on disk: found, checked, refused, made room for."""

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from spec_engine.cache import store as store_module
from spec_engine.cache.store import PrefixStore

TOKENS = list(range(100, 150))
PLENTY = 1 << 30


def made(seed: int = 0, size: int = 50) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(2, 80, 8, generator=generator)[:, :size]  # as a cache gives them: a part of a larger one
    return {"keys.000": keys, "values.000": keys.bfloat16() + 1}


def empty(size: int = 50) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in made(size=size).items()}


def saved(
    folder: Path, owner: str = "me", tokens: list[int] = TOKENS, seed: int = 0, label: str = "doc"
) -> PrefixStore:
    store = PrefixStore(folder, PLENTY)
    assert store.save(owner, label, tokens, made(seed, len(tokens)))
    return store


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_kept_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved(tmp_path)
    store = PrefixStore(tmp_path, PLENTY)  # of another process
    found = store.find("me", [*TOKENS, 1, 2])
    assert found is not None
    assert found.num_tokens == 50
    into = empty()
    assert store.load(found, into)
    assert all(torch.equal(into[name], tensor) for name, tensor in made().items())


def test_a_file_is_one_that_others_can_read_and_only_the_owner_may(tmp_path: Path) -> None:
    saved(tmp_path)
    path = only_file(tmp_path)
    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        assert set(file.keys()) == {"token_ids", "keys.000", "values.000", "checksums"}
        assert torch.equal(file.get_tensor("keys.000"), made()["keys.000"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("owner", "asked"), [("you", TOKENS), ("me", TOKENS[:-1]), ("me", [*TOKENS[:-1], 7]), ("me", [])]
)
def test_only_a_whole_beginning_of_the_same_owner_is_found(tmp_path: Path, owner: str, asked: list[int]) -> None:
    assert saved(tmp_path).find(owner, asked) is None


def test_the_longest_is_found(tmp_path: Path) -> None:
    store = saved(tmp_path, tokens=TOKENS[:20])
    saved(tmp_path, tokens=TOKENS[:40])
    saved(tmp_path, tokens=TOKENS[:30])
    found = store.find("me", TOKENS)
    assert found is not None
    assert found.num_tokens == 40


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_flipped_bit_anywhere_is_noticed_and_the_file_deleted(tmp_path: Path, place: float) -> None:
    store = saved(tmp_path)
    path = only_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    found = store.find("me", TOKENS)
    assert found is None or not store.load(found, empty())
    assert store.find("me", TOKENS) is None


def test_a_file_that_was_cut_short_or_is_none_is_refused(tmp_path: Path) -> None:
    store = saved(tmp_path)
    path = only_file(tmp_path)
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:300], b"", b"x" * 500):
        path.write_bytes(content)
        assert store.find("me", TOKENS) is None
        assert not path.exists()


def test_rows_of_another_form_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"keys.000": torch.zeros(2, 50, 8)},
        {**empty(), "keys.000": torch.zeros(2, 49, 8)},
        {**empty(), "keys.000": torch.zeros(2, 50, 8, dtype=torch.float16)},
    ):
        store = saved(tmp_path)
        found = store.find("me", TOKENS)
        assert found is not None
        assert not store.load(found, wrong)
        assert store.find("me", TOKENS) is None


def test_the_least_recently_used_gives_way(tmp_path: Path) -> None:
    store = saved(tmp_path, label="a")
    size = only_file(tmp_path).stat().st_size
    for number in (1, 2):
        saved(tmp_path, tokens=[number, *TOKENS[1:]])
    for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)):
        os.utime(path, (1e9 - age, 1e9 - age))
    first = store.find("me", TOKENS)
    assert first is not None
    assert store.load(first, empty())  # used just now
    small = PrefixStore(tmp_path, 3 * size)
    assert small.save("me", "doc", [3, *TOKENS[1:]], made())
    kept = [number for number in (100, 1, 2, 3) if store.find("me", [number, *TOKENS[1:]])]
    assert kept == [100, 2, 3]
    assert small.num_bytes <= 3 * size


def test_what_is_too_large_for_the_store_or_the_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not PrefixStore(tmp_path / "small", 1000).save("me", "doc", TOKENS, made())
    monkeypatch.setattr(store_module, "_LEFT_FREE", 1 << 60)
    assert not PrefixStore(tmp_path / "full", PLENTY).save("me", "doc", TOKENS, made())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = PrefixStore(blocked, PLENTY)
    assert not store.save("me", "doc", TOKENS, made())
    assert store.find("me", TOKENS) is None
    assert store.num_bytes == 0


def test_a_save_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    answers = iter([False, False, True])
    store = PrefixStore(tmp_path, PLENTY)
    assert not store.save("me", "doc", TOKENS, made(), lambda: next(answers))
    assert list(tmp_path.iterdir()) == []


def test_what_is_about_a_label_is_forgotten(tmp_path: Path) -> None:
    store = saved(tmp_path)
    saved(tmp_path, owner="you")
    saved(tmp_path, label="another", tokens=TOKENS[:20])
    store.forget("doc")
    assert store.find("you", TOKENS) is None
    found = store.find("me", TOKENS)
    assert found is not None
    assert found.num_tokens == 20


def test_parts_of_a_program_that_ended_are_cleared_away(tmp_path: Path) -> None:
    old, new = tmp_path / "a.7.part", tmp_path / "b.8.part"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    PrefixStore(tmp_path, PLENTY)
    assert [path.name for path in tmp_path.iterdir()] == ["b.8.part"]
