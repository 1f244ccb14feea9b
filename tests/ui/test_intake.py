"""Documents that are brought to the page: pasted texts, and files that come behind the open document."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from spec_engine.chat.history import History
from spec_engine.documents.pdf_page import page_picture
from spec_engine.errors import RequestError
from spec_engine.ui import own_folders, text
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.own_files import OwnFiles, file_name, upload_folder
from spec_engine.ui.own_folders import sweep
from spec_engine.ui.state import Wanted
from spec_engine.ui.workspace import Workspace
from tests.documents.files import make_pdf, paragraph, show
from tests.ui.test_following import handlers, workspace
from tests.ui.test_workspace import Loader, done, preset, ready, report

__all__ = ["handlers", "report", "workspace"]  # fixtures


def opened_names(workspace: Workspace) -> str:
    assert workspace.opened is not None
    return workspace.opened.whole.source_name


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.md"
    path.write_text("# Notes\n\nThe fund was opened again in 2001.")
    return path


# --- pasted texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", "Pasted text"),
        (" \n\u202e", "Pasted text"),
        ("...", "Pasted text"),
        ("Minutes", "Minutes"),
        ("minutes.md", "minutes.md"),
        ("../../etc/passwd", "etc passwd"),
        ("a\\b:c\x00d", "a b c d"),
        (".hidden", "hidden"),
        ("report.pdf", "report.pdf.txt"),
        ("1. Minutes of May", "1. Minutes of May.txt"),
        ("page.HTML", "page.HTML.txt"),
        ("ä" * 300, "ä" * 60),
    ],
)
def test_a_name_is_one_that_a_file_can_have(given: str, used: str) -> None:
    assert file_name(given) == used


@pytest.mark.parametrize("words", ["Rar! said the lion.", "%!PS is how PostScript begins.", "a\r\nb\rc", "half \ud83d"])
def test_whatever_a_pasted_text_begins_with_it_is_read_as_text(words: str) -> None:
    workspace = Workspace(Loader())
    workspace.open_documents([workspace.paste(words, "Said")])
    assert workspace.opened is not None
    assert workspace.opened.whole.text == words.replace("\r\n", "\n").replace("\r", "\n").replace("\ud83d", "?")
    workspace.close()


def test_a_pasted_text_is_used_and_found_again(tmp_path: Path, report: Path) -> None:
    workspace = ready(report, Loader(), History(tmp_path / "kept"))
    path = workspace.paste("The board met in 1999.\n\nIt closed the fund.", "Minutes")
    done(workspace.start_opening(Wanted((path,))))
    done(workspace.ask("When?"))
    conversation = workspace.talk.conversation
    assert conversation is not None
    workspace.close()
    assert not path.exists()  # what is kept is the copy of the conversation
    again = Workspace(Loader(), History(tmp_path / "kept"))
    again.open_conversation(conversation)
    assert opened_names(again) == "Minutes"
    assert again.opened is not None
    assert again.opened.whole.text == "The board met in 1999.\n\nIt closed the fund."


def test_pasted_texts_of_one_name_do_not_meet(tmp_path: Path) -> None:
    texts = OwnFiles()
    one, other = texts.write("One.", "Minutes"), texts.write("Other.", "Minutes")
    assert (one.name, other.name) == ("Minutes", "Minutes")
    assert one.read_text("utf-8-sig") == "One."
    texts.close()
    assert not one.exists()
    texts.close()


def test_an_upload_in_use_stays_when_it_is_taken_away(workspace: Workspace, handlers: Handlers) -> None:
    upload = Path(tempfile.mkdtemp(dir=upload_folder())) / "minutes.txt"
    upload.write_text("The board met in 1999.", "utf-8")
    handlers._intake.open_files([str(upload)], None)
    assert workspace.active_job is None or workspace.active_job.join(60)
    upload.unlink()  # as Gradio does after a day, and at the end of another program that was sent the same file
    assert [path.read_text("utf-8") for path in workspace._open_files()] == ["The board met in 1999."]
    assert [path.name for path in workspace._open_files()] == ["minutes.txt"]


def test_uploads_are_held_until_others_are_in_use(tmp_path: Path) -> None:
    files, other = OwnFiles(), tmp_path / "other.txt"
    uploads = [Path(tempfile.mkdtemp(dir=upload_folder())) / "minutes.txt" for _ in range(2)]
    for number, upload in enumerate(uploads):
        upload.write_text(str(number), "utf-8")
    first = files.hold([uploads[0], other])
    assert first[0] != uploads[0]
    assert first[1] == other
    both = files.hold([first[0], uploads[1]])  # one more is added to what is open
    assert [path.read_text("utf-8") for path in both] == ["0", "1"]
    assert both[0] == first[0]
    assert files.hold([uploads[1]]) == (both[1],)
    assert not both[0].exists()
    shutil.rmtree(both[1].parent.parent)  # by a cleaner of temporary files
    again = files.hold([uploads[1]])
    assert again[0].read_text("utf-8") == "1"
    assert files.write("Some words.", "").exists()
    files.close()
    assert not again[0].exists()
    assert all(upload.exists() for upload in uploads)


def test_an_upload_that_cannot_be_held_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    files, upload = OwnFiles(), Path(tempfile.mkdtemp(dir=upload_folder())) / "minutes.txt"
    upload.write_text("One.", "utf-8")
    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    assert files.hold([upload]) == (upload,)
    assert files.hold([]) == ()
    assert upload.exists()
    files.close()


def test_uploads_arrive_in_a_folder_of_this_process() -> None:
    script = (
        "from spec_engine.ui.own_files import upload_folder as own; from gradio.utils import get_upload_folder as told;"
        "print(own(), told()); assert own().is_dir()"
    )
    folders = [subprocess.check_output([sys.executable, "-c", script], text=True).split() for _ in range(2)]
    assert folders[0][0] == folders[0][1]
    assert folders[0] != folders[1]
    assert not Path(folders[0][0]).exists()  # it went with the process


MAKES_A_FOLDER = """
import sys, tempfile
from pathlib import Path
from spec_engine.ui.own_folders import OwnFolder
tempfile.tempdir = sys.argv[1]
folder = OwnFolder("uploads")
(folder.path / "inner").mkdir()
(folder.path / "inner" / "minutes.txt").write_text("We met.")
print(folder.path, flush=True)
input()
"""


def test_what_a_killed_program_has_left_is_deleted_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", MAKES_A_FOLDER, str(tmp_path)]
    programs = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(3)]
    folders = [Path(program.stdout.readline().strip()) for program in programs if program.stdout]
    alike = [
        tmp_path / name for name in ("spec-engine-uploads-other", "spec-engine-notes-1", "spec-engine-uploads-link")
    ]
    alike[0].mkdir()  # without a lock: not made so
    alike[1].mkdir()
    (alike[1] / ".lock").touch()
    alike[2].symlink_to(alike[1], target_is_directory=True)
    programs[0].kill()
    programs[0].wait(10)
    sweep("uploads", tmp_path)
    assert all(folder.is_dir() for folder in folders)  # too new to be told from one that is being made
    monkeypatch.setattr(own_folders, "_NEW_S", -1.0)
    sweep("uploads", tmp_path)
    assert [folder.is_dir() for folder in folders] == [False, True, True]
    assert (folders[1] / "inner" / "minutes.txt").read_text() == "We met."
    assert all(path.exists() for path in [*alike, alike[1] / ".lock"])
    programs[1].communicate("\n", timeout=10)
    assert [folder.exists() for folder in folders] == [False, False, True]
    programs[2].kill()
    programs[2].communicate()
    sweep("uploads", tmp_path)
    assert not folders[2].exists()
    sweep("uploads", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("\n" * 200 + "Dear Sir:\n\n\twe met.", "Pasted – Dear Sir we met"),
        ("word " * 50, f"Pasted – {'word ' * 7}word…"),
        ("...", "Pasted text"),
        ("See page.pdf", "Pasted – See page.pdf.txt"),
    ],
)
def test_a_text_that_nobody_named_is_called_by_its_beginning(words: str, expected: str) -> None:
    texts = OwnFiles()
    assert texts.write(words, " ").name == expected
    texts.close()


def test_a_blank_text_is_refused_and_stays(workspace: Workspace, handlers: Handlers) -> None:
    page, before = handlers._page, workspace.opened
    for react in (
        handlers._intake.use_text,
        lambda words, name, given: handlers._intake.add_text(words, name, None, given),
    ):
        shown = react(" \n", "Minutes", None)
        assert text.PASTE_EMPTY in str(shown[page.chat.notice])
        assert not {page.document.paste.words, page.document.paste.name, page.document.paste.box} & set(shown)
    assert workspace.opened is before


def test_a_text_on_its_way_leaves_its_boxes(workspace: Workspace, handlers: Handlers) -> None:
    paste = handlers._page.document.paste
    shown = handlers._intake.use_text("Some words.", "", None)
    if (job := workspace.job) is not None:  # it may have ended
        done(job)
    assert (shown[paste.words], shown[paste.name]) == ("", "")
    assert opened_names(workspace) == "Pasted – Some words"


def test_a_text_that_is_pasted_while_an_answer_is_written_stays_in_its_box(report: Path, handlers: Handlers) -> None:
    slow = ready(report, Loader(step_s=0.05))
    handlers._workspace = handlers._intake._workspace = handlers._views._workspace = slow
    job = slow.ask("What?")
    shown = handlers._intake.use_text("Some words.", "", None)
    assert text.BUSY in str(shown[handlers._page.chat.notice])
    assert handlers._page.document.paste.words not in shown
    slow.stop()
    done(job)


# --- files that are added ---------------------------------------------------------------------------------------------


def test_a_file_is_added_behind_the_others_and_a_new_conversation_begins(report: Path, notes: Path) -> None:
    workspace = ready(report, Loader())
    more = notes.with_name("more.txt")
    more.write_text("And closed in 2003.")
    done(workspace.ask("What?"))
    done(workspace.start_adding([notes]))
    assert opened_names(workspace) == "report.txt, notes.md"
    assert workspace.turns == ()
    assert [one.title for one in workspace.talk.summaries()] == ["What?"]
    assert workspace.opened is not None
    before = workspace.opened.whole.text
    done(workspace.start_adding([more]))
    assert opened_names(workspace) == "report.txt, notes.md, more.txt"
    assert workspace.opened.whole.text.startswith(before)  # what was computed of it stays valid
    assert workspace.trouble == ""
    done(workspace.ask("And?"))


def test_what_is_in_the_document_already_is_not_added_again(report: Path, notes: Path) -> None:
    workspace = ready(report, Loader())
    done(workspace.ask("What?"))
    before, renamed = workspace.opened, report.with_name("renamed.txt")
    renamed.write_bytes(report.read_bytes())
    done(workspace.start_adding([renamed]))
    assert workspace.trouble == "Nothing was added: renamed.txt is in the document already."
    assert workspace.opened is before
    assert len(workspace.turns) == 1
    done(workspace.start_adding([renamed, notes]))
    assert opened_names(workspace) == "report.txt, notes.md"
    assert "renamed.txt was in the document already" in workspace.remark
    done(workspace.start_adding([workspace.paste("Some words.", "")]))
    done(workspace.start_adding([workspace.paste("Some words.", "Others")]))
    assert opened_names(workspace) == "report.txt, notes.md, Pasted – Some words"


def test_a_choice_of_parts_ends_when_something_is_added_and_that_is_said(report: Path, notes: Path) -> None:
    workspace = ready(report, Loader())
    workspace.choose_range(0, 1)
    done(workspace.start_adding([notes]))
    assert workspace.opened is not None
    assert workspace.opened.chosen is None
    assert (workspace.trouble, workspace.remark) == ("", text.ADDED_TO_PART)


def test_what_was_done_besides_is_no_trouble_and_is_told_until_the_next_job(
    workspace: Workspace, handlers: Handlers, notes: Path
) -> None:
    notice = handlers._page.chat.notice
    workspace.choose_range(0, 1)
    done(workspace.start_adding([notes]))
    shown = str(handlers.show_result("", None)[notice])
    assert text.ADDED_TO_PART in shown
    assert ("se-notice--info" in shown, "se-notice--error" in shown) == (True, False)
    workspace.told = ("", "")
    assert handlers.open_page()[notice] == shown  # nobody has seen it
    both = str(handlers.ask(" ", None)[notice])  # refused
    assert both.index("se-notice--error") < both.index("se-notice--info")
    handlers.show_result("", None)
    assert handlers.open_page()[notice] == ""
    workspace.remark = text.ADDED_TO_PART
    handlers.ask("What?", None)
    done(workspace.answer_job)
    assert handlers.show_result("", None)[notice] == ""


def test_files_of_different_passwords_are_one_document(report: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader())
    paths = [tmp_path / f"{password}.pdf" for password in ("sesame", "tahini")]
    for path in paths:
        page = show(paragraph(60, 740, [f"Some words of {path.stem} on a page."]))
        path.write_bytes(make_pdf([page], password=path.stem))
    workspace.open_documents(paths[:1], "sesame")
    done(workspace.start_adding(paths[1:]))
    assert (workspace.locked, workspace.trouble) == (Wanted(added=(paths[1],)), "")
    done(workspace.unlock("wrong"))
    assert "tahini.pdf is encrypted and does not open with this password" in workspace.trouble
    done(workspace.unlock("tahini"))
    assert opened_names(workspace) == "sesame.pdf, tahini.pdf"
    for part, path in enumerate(paths):
        source = workspace.page_of(workspace.opened.used, part)
        assert source is not None
        assert source[:2] == (path, 0)
        assert page_picture(source[0], source[1], passwords=source[2])

    done(workspace.ask("What?"))
    conversation = workspace.talk.conversation
    workspace.open_documents([report])
    done(workspace.start_opening(Wanted(conversation=conversation)))
    done(workspace.unlock("sesame"))
    assert workspace.locked is not None  # the other one
    done(workspace.unlock("tahini"))
    assert opened_names(workspace) == "sesame.pdf, tahini.pdf"
    assert len(workspace.turns) == 1


def test_what_was_uploaded_and_is_gone_is_added_to_from_its_copy(report: Path, notes: Path, tmp_path: Path) -> None:
    workspace = ready(report, Loader(), History(tmp_path / "kept"))
    done(workspace.ask("What?"))
    report.unlink()
    done(workspace.start_adding([notes]))
    assert opened_names(workspace) == "report.txt, notes.md"
    done(workspace.ask("And?"))
    first = workspace.talk.summaries()[-1].id
    workspace.open_conversation(first)
    assert opened_names(workspace) == "report.txt"  # the conversation before has its own document
    done(workspace.start_adding([notes]))
    assert opened_names(workspace) == "report.txt, notes.md"
    assert workspace.turns == ()


def waiting(report: Path, wanted: Callable[[Workspace], object]) -> Workspace:
    """A workspace that was told something while its second model loaded."""
    workspace = ready(report, Loader())
    load = workspace._load_engine

    def slowly(*arguments: object) -> object:
        time.sleep(0.5)
        return load(*arguments)  # type: ignore[arg-type]

    workspace._load_engine = slowly  # type: ignore[assignment]
    job = workspace.switch(preset("other"))
    wanted(workspace)
    assert workspace.waiting is not None
    done(job)
    return workspace


def test_what_is_added_while_a_model_loads_comes_behind_what_will_be_open(report: Path, notes: Path) -> None:
    other = notes.with_name("other.txt")
    other.write_text("Something else.")
    assert opened_names(waiting(report, lambda it: it.start_adding([notes]))) == "report.txt, notes.md"

    def dropped_and_added(workspace: Workspace) -> None:
        workspace.start_opening(Wanted((other,)))
        workspace.start_adding([notes])

    assert opened_names(waiting(report, dropped_and_added)) == "other.txt, notes.md"
    pasted = waiting(report, lambda it: it.start_opening(Wanted((it.paste("Some words.", ""),))))
    assert opened_names(pasted) == "Pasted – Some words"


def test_nothing_is_added_to_a_document_that_another_tab_opened(
    workspace: Workspace, handlers: Handlers, notes: Path
) -> None:
    seen = handlers._views.everything(None)[handlers._page.chat.seen]
    workspace.open_documents([notes])
    shown = handlers._intake.add_text("Some words.", "", seen, None)  # type: ignore[arg-type]
    assert text.OTHER_DOCUMENT in str(shown[handlers._page.chat.notice])
    with pytest.raises(RequestError, match="Nothing was added"):
        workspace.start_adding([notes], replace(seen))  # type: ignore[type-var]
    assert opened_names(workspace) == "notes.md"


def test_adding_is_offered_where_a_document_is_open(handlers: Handlers, report: Path) -> None:
    doc = handlers._page.document
    for shown_now, is_open in ((ready(report, Loader()), True), (Workspace(Loader()), False)):
        handlers._views._workspace = shown_now
        shown = handlers._views.everything(None)
        assert shown[doc.add]["visible"] is is_open  # type: ignore[index]
        assert shown[doc.paste.add]["visible"] is is_open  # type: ignore[index]
        assert shown[doc.add_note]["visible"] is False  # type: ignore[index]  # nothing was asked yet
