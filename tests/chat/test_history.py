"""Documents are kept as long as a conversation is about them; an answer is on disk before it is shown."""

from pathlib import Path

import pytest

from spec_engine.chat.history import FLUSH_S, AnswerKeeper, DocumentRef, History
from spec_engine.documents.layout import Line
from spec_engine.errors import StoreError
from spec_engine.events import Event, Finished, PromptReady, TokensAccepted
from spec_engine.metrics import MetricsRecorder, StepRecord

LINES = (Line("recognised", 0.0, 1.0, 2.0, 3.0),)
STEP = StepRecord(1, 1, 2, 1, 0.0, 0.0)


def accepted(text: str, *token_ids: int) -> TokensAccepted:
    flags = (True,) * (len(token_ids) - 1) + (False,)
    return TokensAccepted(token_ids, flags, text, (text,), STEP, 0.0)


def finished(text: str, *token_ids: int) -> Finished:
    return Finished("stop", token_ids, text, MetricsRecorder(1, 0).summary(1.0))


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "data")


def test_a_document_is_copied_once_and_found_again(history: History, tmp_path: Path) -> None:
    path = tmp_path / "report ä.txt"
    path.write_text("Some text.")
    ref = history.keep([path])
    path.unlink()
    assert history.find(ref)[0].read_text() == "Some text."
    assert DocumentRef.load(DocumentRef(ref.files, (2, 4)).dump()) == DocumentRef(ref.files, (2, 4))
    assert DocumentRef.load("") is None
    old = '{"files": [["0123", "report.txt"]], "chosen": [2, 4]}'  # by the numbers of larger parts
    assert DocumentRef.load(old) == DocumentRef((("0123", "report.txt"),))
    old = old.replace("report.txt", "report.PDF")  # pages are what they were
    assert DocumentRef.load(old) == DocumentRef((("0123", "report.PDF"),), (2, 4))
    mail = '{"files": [["0123", "letter.eml"]], "parts": [2, 4]'
    assert DocumentRef.load(mail + "}") == DocumentRef((("0123", "letter.eml"),))  # of its codes as they were stored
    assert DocumentRef.load(mail + ', "text": "ab"}') == DocumentRef((("0123", "letter.eml"),), (2, 4), "ab")
    assert history.keep(history.find(ref)) == ref
    assert [path.name for path in history.find(ref)[0].parent.iterdir()] == ["report ä.txt"]


def test_what_is_gone_is_said(history: History, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"report\.pdf is gone"):
        history.find(DocumentRef((("0" * 32, "report.pdf"),)))
    with pytest.raises(StoreError, match=r"nothing.txt could not be kept.*lack its document"):
        history.keep([tmp_path / "nothing.txt"])


def test_a_document_goes_with_the_last_conversation_about_it(history: History, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Text.")
    ref = history.keep([path])
    history.scans.pages_of(b"Text.", "1").keep(0, LINES)
    history.scans.pages_of(b"Other.", "1").keep(0, LINES)
    first, second = (history.store.begin("t", ref.dump()) for _ in range(2))
    history.delete(first)
    assert history.find(ref)[0].is_file()
    assert history.scans.pages_of(b"Text.", "1").get(0) == LINES
    history.delete(second)
    with pytest.raises(StoreError, match="gone"):
        history.find(ref)
    assert history.scans.pages_of(b"Text.", "1").get(0) is None
    assert history.scans.pages_of(b"Other.", "1").get(0) == LINES


@pytest.mark.parametrize(
    ("of_other", "is_forgotten"), [("ab", False), ("cd", True), ("", False)], ids=["same", "other", "not noted"]
)
def test_what_was_computed_of_a_text_goes_with_the_last_conversation(
    tmp_path: Path, of_other: str, is_forgotten: bool
) -> None:
    forgotten: list[str] = []
    history = History(None, forget_computed=forgotten.append)
    files = (("0123", "a.txt"),)
    noted = history.store.begin("t", DocumentRef(files, None, "ab").dump())
    other = history.store.begin("t", DocumentRef(files, None, of_other).dump())
    history.delete(noted)
    assert forgotten == ["ab"] * is_forgotten
    history.delete(other, text_hash="ab")  # as it is open, whether that was noted or not
    assert set(forgotten) == {"ab", of_other or "ab"}
    history.close()


def test_nothing_is_left_behind_without_a_folder() -> None:
    history = History(None)
    path = Path(__file__)
    (kept,) = history.find(history.keep([path]))
    assert kept.is_file()
    pages = history.scans.pages_of(b"", "1")
    history.close()
    pages.keep(0, LINES)  # of a reading that ends later
    assert not kept.parent.parent.parent.exists()


def test_tokens_are_on_disk_before_they_are_handed_out(history: History) -> None:
    conversation, now = history.store.begin("t"), [0.0]
    turn = history.store.add_turn(conversation, None, "q", model="m", preset="p")
    keeper = AnswerKeeper(history.store, turn, lambda: now[0])
    shown: list[Event] = []

    def take(event: Event) -> str:
        """Let an event in; the text that is on disk then."""
        for given in keeper.take(event):
            shown.append(given)
            on_disk = history.store.path(conversation)[0].answer
            assert on_disk.startswith("".join(e.text for e in shown if isinstance(e, TokensAccepted)))
        return history.store.path(conversation)[0].answer

    assert take(PromptReady(3, 0)) == ""
    assert len(shown) == 1
    assert take(accepted("a", 1)) == ""  # a moment after the last commit: it waits
    now[0] += FLUSH_S
    assert take(accepted("b", 2, 3)) == "ab"
    assert len(shown) == 3
    assert take(accepted("c", 4)) == "ab"
    assert take(finished("abc", 1, 2, 3, 4)) == "abc"  # the end waits for nothing
    assert [type(event).__name__ for event in shown] == ["PromptReady", *["TokensAccepted"] * 3, "Finished"]
    keeper.finish("abc", 4, "stop", {})
    assert history.store.path(conversation)[0].token_ids == (1, 2, 3, 4)
    assert keeper.trouble == ""


def test_an_answer_is_lengthened_from_its_first_new_token_on(history: History) -> None:
    conversation = history.store.begin("t")
    turn = history.store.add_turn(conversation, None, "q", model="m", preset="p")
    history.store.extend(turn, "ab\ufffd", [1, 2], [False, True])
    history.store.finish(turn, "ab\ufffd", 2, "length", {"seed": 3})
    (before,) = history.store.path(conversation)
    keeper = AnswerKeeper(history.store, turn, lambda: 0.0, before=before)
    list(keeper.take(PromptReady(9, 8, 0, "ab")))
    assert history.store.path(conversation) == [before]
    list(keeper.take(accepted("ö", 3)))
    list(keeper.flush())
    list(keeper.take(accepted("d", 4)))
    list(keeper.flush())
    (kept,) = history.store.path(conversation)
    assert (kept.answer, kept.token_ids, kept.reason) == ("aböd", (1, 2, 3, 4), "interrupted")
    keeper.finish("aböd", 4, "stop", {})
    (kept,) = history.store.path(conversation)
    assert (kept.answer, kept.token_ids, kept.reason) == ("aböd", (1, 2, 3, 4), "stop")


def test_an_answer_goes_on_when_it_cannot_be_kept(history: History) -> None:
    turn = history.store.add_turn(history.store.begin("t"), None, "q", model="m", preset="p")
    keeper = AnswerKeeper(history.store, turn, lambda: 0.0)
    history.store.close()
    events = [accepted("a", 1), accepted("b", 2), finished("ab", 1, 2)]
    assert [given for event in events for given in keeper.take(event)] == events
    keeper.finish("ab", 2, "stop", {})
    assert keeper.trouble.startswith("From here on this answer is not kept.")


def test_copies_that_nobody_is_about_are_tidied_away(tmp_path: Path) -> None:
    history = History(tmp_path / "data")
    used, unused = tmp_path / "used.txt", tmp_path / "unused.txt"
    used.write_text("used")
    unused.write_text("unused")
    conversation = history.store.begin("What?")
    history.store.add_turn(conversation, None, "What?", model="m", preset="p")
    history.store.set_document(conversation, history.keep([used]).dump())
    left = history.keep([unused])
    for path in (used, unused):
        history.scans.pages_of(path.read_bytes(), "1").keep(0, LINES)
    history.tidy()
    assert history.find(left)  # perhaps another window has just kept it
    history.tidy(older_than_s=-1.0)
    with pytest.raises(StoreError, match="is gone"):
        history.find(left)
    ref = DocumentRef.load(history.store.conversations()[0].document)
    assert ref is not None
    assert history.find(ref)
    assert history.scans.pages_of(b"used", "1").get(0) == LINES
    assert history.scans.pages_of(b"unused", "1").get(0) is None
    history.close()


def test_what_was_computed_of_a_file_that_is_read_anew_in_another_way_goes_too() -> None:
    forgotten: list[str] = []
    history = History(None, forget_computed=forgotten.append)
    noted = history.store.begin("t", DocumentRef((("0123", "a.eml"),), None, "as before").dump())
    history.delete(noted, text_hash="as now")
    assert sorted(forgotten) == ["as before", "as now"]
    history.close()
