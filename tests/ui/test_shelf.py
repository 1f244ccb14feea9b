"""Presets of the user's own beside those that are shipped."""

import re
from pathlib import Path

import pytest

from spec_engine.config import load_preset
from spec_engine.errors import PresetError
from spec_engine.model.load import load_tokenizer
from spec_engine.ui import render_models
from spec_engine.ui.server import ServeOptions, offered_presets
from spec_engine.ui.shelf import PresetShelf

SHIPPED = [load_preset(name) for name in ("builtin", "qwen3-8b")]
SOURCE = """title = "Mine"
description = "A copy."
context_length = 4096
[target]
id = "builtin/target"
[draft]
kind = "lookup"
"""


@pytest.fixture
def shelf(tmp_path: Path) -> PresetShelf:
    return PresetShelf(SHIPPED, tmp_path / "presets", "cpu", lambda: 16 * 10**9)


def test_what_does_not_fit_comes_last_and_says_why(shelf: PresetShelf) -> None:
    first, second = shelf.choices()
    assert first[1] == "builtin"
    assert re.fullmatch(r"Built-in quoting model · \d+ MB", first[0])
    assert second == (f"{SHIPPED[1].title} · needs 44 GB, 16 GB are free · to be downloaded", "qwen3-8b")


def test_a_preset_that_does_not_fit_says_by_part_why_and_what_would(shelf: PresetShelf) -> None:
    fit = shelf.fit(SHIPPED[1])
    assert fit.need is not None
    assert not fit.is_enough
    assert fit.need.total == sum(size for _, size in fit.need.parts)
    shown = render_models.fit_note(fit, "Tiny")
    assert "Tiny stays loaded." in shown
    assert "needs 44 GB of memory with its context of 16,384 tokens; 16 GB are free" in shown
    assert all(name in shown for name in ("weights 33 GB", "document and chat 4.8 GB", "draft 6.2 GB"))
    assert [other.target.quantization for other in fit.others] == ["4bit"]
    assert shelf.fit(SHIPPED[0]).is_enough
    assert shelf.fit(SHIPPED[0]).is_here


def test_a_preset_of_the_users_that_is_given_by_its_file_is_theirs(shelf: PresetShelf, tmp_path: Path) -> None:
    shelf.save("mine", SOURCE)
    given = load_preset(str(tmp_path / "presets" / "mine.toml"))
    again = PresetShelf([*SHIPPED, given], tmp_path / "elsewhere" / ".." / "presets")
    assert again.problems == []
    assert again.is_own("mine")
    assert again["mine"] is given
    again.save("mine", SOURCE.replace("A copy.", "Changed."))
    again.delete("mine")
    assert [name for _, name in again.choices()] == ["builtin", "qwen3-8b"]


def test_the_file_of_a_preset_is_its_own(shelf: PresetShelf, tmp_path: Path) -> None:
    for name in ("mine", "mine-given"):
        shelf.save(name, SOURCE)
    (tmp_path / "presets" / "mine-given.toml").unlink()  # another page has deleted it
    shelf.delete("mine-given")
    assert shelf.source("mine") == SOURCE


def test_a_file_called_like_a_shipped_preset_does_not_hide_it(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    path = folder / "builtin.toml"
    path.write_text(SOURCE)
    path.with_name("builtin-given.toml").write_text("# another preset")
    presets, named = offered_presets(ServeOptions(preset=str(path)), print)
    assert named is not None
    shelf = PresetShelf(presets, tmp_path / "presets", "cpu", lambda: 16 * 10**9)
    assert (shelf["builtin"].title, named.title) == (SHIPPED[0].title, "Mine (home/builtin.toml)")
    assert named.name in [name for _, name in shelf.choices()]
    assert shelf.source(named.name) == SOURCE
    shipped, asked_for = offered_presets(ServeOptions(preset=str(SHIPPED[0].folder / "builtin.toml")), print)
    assert asked_for in shipped
    assert len(shipped) == len(presets) - 1


def test_a_preset_is_saved_found_again_and_deleted(shelf: PresetShelf, tmp_path: Path) -> None:
    saved = shelf.save(" mine ", SOURCE)
    assert (saved.name, saved.title, shelf["mine"]) == ("mine", "Mine", saved)
    again = PresetShelf(SHIPPED, tmp_path / "presets")
    assert any(label.startswith("Mine · ") and name == "mine" for label, name in again.choices())
    assert again.is_own("mine")
    assert again.source("mine") == SOURCE
    load_tokenizer(saved, saved.target)  # models beside the shipped presets are found from everywhere
    again.delete("mine")
    assert [name for _, name in again.choices()] == ["builtin", "qwen3-8b"]
    assert list((tmp_path / "presets").iterdir()) == []


def test_a_copy_of_a_shipped_preset_is_valid(shelf: PresetShelf) -> None:
    for name in ("builtin", "qwen3-8b"):
        assert shelf.check(f"my-{name}", shelf.source(name)).target == shelf[name].target


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("", SOURCE, "lower-case"),
        ("../mine", SOURCE, "lower-case"),
        ("Mine", SOURCE, "lower-case"),
        ("builtin", SOURCE, "comes with the app"),
        ("mine", "title = ", "cannot be read"),
        ("mine", SOURCE.replace("context_length", "context_lenght"), "Did you mean 'context_length'"),
        ("mine", SOURCE.replace("4096", "0"), "between 1 and"),
        ("mine", SOURCE.replace("lookup", "eagle3"), "draft.model"),
        ("mine", 'name = "x"\n' + SOURCE, "'name' cannot be set"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    shelf: PresetShelf, tmp_path: Path, name: str, source: str, words: str
) -> None:
    with pytest.raises(PresetError, match=words):
        shelf.save(name, source)
    assert not (tmp_path / "presets").exists()


def test_a_broken_file_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(SOURCE)
    (tmp_path / "bad.toml").write_text("title = 3")
    (tmp_path / "builtin.toml").write_text(SOURCE)
    shelf = PresetShelf(SHIPPED, tmp_path)
    assert [name for _, name in shelf.choices()] == ["builtin", "good", "qwen3-8b"]  # what is here comes first
    assert shelf["builtin"] is SHIPPED[0]
    assert len(shelf.problems) == 2


def test_shipped_ones_cannot_be_deleted_and_without_a_folder_none_saved(shelf: PresetShelf) -> None:
    with pytest.raises(PresetError, match="your own"):
        shelf.delete("builtin")
    with pytest.raises(PresetError, match="--data-dir"):
        PresetShelf(SHIPPED).save("mine", SOURCE)


def test_the_preset_that_was_loaded_last_is_remembered(shelf: PresetShelf, tmp_path: Path) -> None:
    assert shelf.last == ""
    shelf.remember(SHIPPED[1])
    assert PresetShelf(SHIPPED, tmp_path / "presets").last == "qwen3-8b"
    assert PresetShelf(SHIPPED[:1], tmp_path / "presets").last == ""  # it is gone
    (tmp_path / "presets" / ".last").write_bytes(b"\xff\xfe")
    assert shelf.last == ""
    PresetShelf(SHIPPED).remember(SHIPPED[0])  # nowhere to note it


def test_the_picker_asks_for_free_memory_once() -> None:
    """Asking may walk through a whole engine, and the picker is made anew with every action."""
    asked: list[int] = []

    def free() -> int:
        asked.append(1)
        return 10**10

    PresetShelf(SHIPPED, device="cpu", free=free).choices()
    assert len(asked) == 1
