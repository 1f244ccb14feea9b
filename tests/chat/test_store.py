"""Conversations on disk: nothing shown is lost, branches stay, old files are brought up to date."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spec_engine.chat import store as store_module
from spec_engine.chat.store import MAX_TITLE, ConversationStore, StoredTurn
from spec_engine.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "deep" / "folder" / "conversations.sqlite")


def answer(store: ConversationStore, conversation: int, parent: int | None, question: str, text: str) -> int:
    """A finished turn of one piece a word."""
    turn = store.add_turn(conversation, parent, question, model="m", preset="p")
    words = text.split(" ")
    for number, word in enumerate(words):
        store.extend(turn, word if number == 0 else f" {word}", [number], [number % 2 == 1])
    store.finish(turn, text, len(words), "stop", {"seed": 3})
    return turn


def questions(turns: list[StoredTurn]) -> list[str]:
    return [turn.question for turn in turns]


def test_a_turn_comes_back_as_it_was_written(store: ConversationStore) -> None:
    conversation = store.begin("  A\ntitle ", "ref")
    turn = answer(store, conversation, None, "Why?", "Because it is so, \x00 äöü 漢字 🎉")
    (kept,) = store.path(conversation)
    assert (kept.id, kept.parent, kept.question, kept.answer) == (
        turn,
        None,
        "Why?",
        "Because it is so, \x00 äöü 漢字 🎉",
    )
    assert kept.token_ids == tuple(range(8))
    assert kept.is_drafted == (False, True) * 4
    assert (kept.model, kept.preset, kept.reason, kept.details) == ("m", "p", "stop", {"seed": 3})
    (summary,) = store.conversations()
    assert (summary.title, summary.document, summary.num_turns) == ("A title", "ref", 1)


def test_pieces_are_there_before_the_answer_is_finished(store: ConversationStore) -> None:
    conversation = store.begin("t")
    turn = store.add_turn(conversation, None, "q", model="m", preset="p")
    store.extend(turn, "Half an", [1, 2], [False, True])
    store.extend(turn, " answer", [3], [True])
    (kept,) = store.path(conversation)
    assert (kept.answer, kept.token_ids, kept.is_drafted) == ("Half an answer", (1, 2, 3), (False, True, True))
    assert kept.reason == "interrupted"


def test_what_was_written_survives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    script = f"""
import os, signal
from pathlib import Path
from spec_engine.chat.store import ConversationStore
store = ConversationStore(Path({str(path)!r}))
turn = store.add_turn(store.begin("t"), None, "q", model="m", preset="p")
for number in range(200):
    store.extend(turn, f"{{number}} ", [number], [False])
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -9
    store = ConversationStore(path)
    (kept,) = store.path(store.conversations()[0].id)
    assert kept.answer == "".join(f"{number} " for number in range(200))
    assert kept.token_ids == tuple(range(200))


def test_a_closing_stop_token_is_no_part_of_the_answer(store: ConversationStore) -> None:
    conversation = store.begin("t")
    turn = store.add_turn(conversation, None, "q", model="m", preset="p")
    store.extend(turn, "Yes.", [5, 6, 2], [False, True, False])
    store.finish(turn, "Yes.", 2, "stop")
    assert store.path(conversation)[0].token_ids == (5, 6)


def test_an_answer_that_is_gone_on_with_is_lengthened_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    store = ConversationStore(path)
    conversation = store.begin("t")
    turn = answer(store, conversation, None, "q", "One two")
    store.begin("used later")
    store.go_on(turn, "One tw")
    store.extend(turn, "elve", [5], [True])
    crashed = ConversationStore(path)  # as another process would find it now
    (kept,) = crashed.path(conversation)
    assert (kept.answer, kept.token_ids, kept.is_drafted) == ("One twelve", (0, 1, 5), (False, True, True))
    assert (kept.reason, kept.details) == ("interrupted", {"seed": 3})
    assert crashed.conversations()[0].id == conversation
    crashed.go_on(turn, "One twelve")
    crashed.extend(turn, " more.", [6, 2], [False, False])
    crashed.finish(turn, "One twelve more.", 4, "stop", {"seed": 4})
    (kept,) = store.path(conversation)
    assert (kept.answer, kept.token_ids, kept.is_drafted) == (
        "One twelve more.",
        (0, 1, 5, 6),
        (False, True, True, False),
    )
    assert (kept.reason, kept.details) == ("stop", {"seed": 4})


def test_a_turn_without_a_token_is_forgotten_and_an_empty_conversation_too(store: ConversationStore) -> None:
    conversation = store.begin("t")
    store.finish(store.add_turn(conversation, None, "q", model="m", preset="p"), "", 0, "cancelled")
    assert store.conversations() == []
    conversation = store.begin("t")
    first = answer(store, conversation, None, "one", "yes")
    store.finish(store.add_turn(conversation, first, "two", model="m", preset="p"), "", 0, "cancelled")
    assert questions(store.path(conversation)) == ["one"]


def test_branches_stay(store: ConversationStore) -> None:
    conversation = store.begin("t")
    one = answer(store, conversation, None, "one", "a")
    two = answer(store, conversation, one, "two", "b")
    other = answer(store, conversation, one, "two, edited", "c")
    first = answer(store, conversation, None, "one, edited", "d")
    assert questions(store.path(conversation)) == ["one, edited"]
    assert store.branches(conversation) == [
        (two, "two", one),
        (other, "two, edited", one),
        (first, "one, edited", None),
    ]
    store.show_branch(conversation, two)
    assert questions(store.path(conversation)) == ["one", "two"]
    stranger = answer(store, store.begin("u"), None, "x", "y")
    with pytest.raises(StoreError, match="does not exist"):
        store.show_branch(conversation, stranger)


def test_the_list_is_searched_whatever_the_case(store: ConversationStore) -> None:
    for title, question, text in (
        ("Budget", "What?", "MÜNCHEN 100%"),
        ("Law", "Who_is", "nobody"),
        ("Äpfel", "q", "a"),
    ):
        answer(store, store.begin(title), None, question, text)
    found = {
        search: [one.title for one in store.conversations(search)]
        for search in ("münchen", "100%", "o_i", "ÄPFEL", "100% Mün", "100% nobody", "")
    }
    assert found == {
        "münchen": ["Budget"],
        "100%": ["Budget"],
        "o_i": ["Law"],
        "ÄPFEL": ["Äpfel"],
        "100% Mün": ["Budget"],
        "100% nobody": [],
        "": ["Äpfel", "Law", "Budget"],
    }


def test_halves_of_pairs_of_surrogates_are_no_error(store: ConversationStore) -> None:
    conversation = store.begin("a\ud800b")
    answer(store, conversation, None, "one", "a b c")
    assert [one.title for one in store.conversations()] == ["a?b"]
    store.rename(conversation, "\udc00c")
    assert store.conversations("\ud800") == store.conversations("?c")


def test_a_full_disk_is_called_that(store: ConversationStore) -> None:
    store._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError, match="disk is full"):
        store.begin("a title", "y" * 100_000)


def test_a_conversation_is_renamed_and_deleted_with_all_of_it(store: ConversationStore) -> None:
    conversation = store.begin("t")
    answer(store, conversation, None, "one", "a b c")
    store.rename(conversation, "x" * 200)
    (summary,) = store.conversations()
    assert len(summary.title) == MAX_TITLE
    with pytest.raises(StoreError, match="empty"):
        store.rename(conversation, "  ")
    store.delete(conversation)
    assert store.conversations() == []
    assert store.path(conversation) == []
    store.delete(conversation)  # no longer there: nothing to do


def test_details_are_added_to(store: ConversationStore) -> None:
    conversation = store.begin("t")
    turn = answer(store, conversation, None, "one", "a")
    store.annotate(turn, {"plain": 2.5})
    assert store.path(conversation)[0].details == {"seed": 3, "plain": 2.5}


def test_an_older_file_is_brought_up_to_date_and_a_newer_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sqlite"
    old = ConversationStore(path)
    answer(old, old.begin("t"), None, "one", "a")
    old.close()
    with monkeypatch.context() as patched:
        added = (*store_module.MIGRATIONS, "ALTER TABLE conversations ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';")
        patched.setattr(store_module, "MIGRATIONS", added)
        newer = ConversationStore(path)
        assert questions(newer.path(newer.conversations()[0].id)) == ["one"]
        newer.close()
    with pytest.raises(StoreError, match="newer version"):
        ConversationStore(path)


def test_a_broken_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.sqlite"
    ConversationStore(path).close()
    with monkeypatch.context() as patched:
        half = "ALTER TABLE conversations ADD COLUMN colour TEXT; ALTER TABLE nothing ADD COLUMN x TEXT;"
        patched.setattr(store_module, "MIGRATIONS", (*store_module.MIGRATIONS, half))
        with pytest.raises(StoreError, match="cannot be used"):
            ConversationStore(path)
    columns = [row[1] for row in sqlite3.connect(path).execute("PRAGMA table_info(conversations)")]
    assert "colour" not in columns
    ConversationStore(path).close()


def test_what_is_no_history_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_text("a shopping list, and a long one at that: " + "milk, " * 300)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"cannot be used.*--data-dir"):
        ConversationStore(path)
    assert path.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        ConversationStore(tmp_path / "file" / "c.sqlite")


def test_threads_and_a_second_process_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    stores = [ConversationStore(path), ConversationStore(path)]

    def write(store: ConversationStore, name: str) -> None:
        for number in range(20):
            answer(store, store.begin(f"{name} {number}"), None, "q", "a b")

    threads = [threading.Thread(target=write, args=(stores[n % 2], str(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0].conversations()) == 80
    assert all(one.num_turns == 1 for one in stores[1].conversations())
