"""Mailboxes: where a letter ends, and what is lost of none."""

import time
from base64 import b64encode
from pathlib import Path

import pytest

from spec_engine.documents.anchors import Document
from spec_engine.documents.mailbox import is_mail
from spec_engine.documents.read import read_document
from spec_engine.errors import UnreadableDocument

MARK = "From a@b.org Tue Dec  1 11:00:00 2026\n"
HEAD = "From: Ada <a@example.org>\nSubject: One\nMIME-Version: 1.0\n"
PARTS = 'Content-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/plain\n\nThe first.\n'
SECOND = "From: Bob <b@example.org>\nSubject: Two\n\nThe second.\n"


def read(tmp_path: Path, data: str | bytes, name: str = "letters.mbox") -> Document:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_document(path)


@pytest.mark.parametrize("between", ["\n" + MARK, MARK, " \n" + MARK, "\nFrom - Tue Dec 01 11:00:00 +0000 2026\n"])
def test_a_letter_begins_behind_a_date_as_mailboxes_write_it(tmp_path: Path, between: str) -> None:
    document = read(tmp_path, MARK + HEAD + PARTS + "--b--\n" + between + SECOND)
    labels = ["message 1 head", "message 1 part 1", "message 2 head", "message 2 part 1"]
    assert [block.anchor.label for block in document.blocks] == labels
    assert document.blocks[-1].text.strip() == "The second."


@pytest.mark.parametrize(
    "between", ["\nFrom a@b.org 2026-12-01 11:00:00\n", "From a@b.org Tue Dec  1 2026\n", "\nList footer\n"]
)
def test_what_stands_behind_the_last_part_is_read(tmp_path: Path, between: str) -> None:
    document = read(tmp_path, MARK + HEAD + PARTS + "--b--\n" + between + SECOND)
    assert "The first." in document.text
    assert between.strip() in document.text
    assert "The second." in document.text


def test_a_letter_without_a_head_is_read(tmp_path: Path) -> None:
    assert (
        "Words with no head." in read(tmp_path, MARK + HEAD + "\nThe first.\n\n" + MARK + "Words with no head.\n").text
    )


def test_lines_of_a_body_that_look_like_a_border_stay(tmp_path: Path) -> None:
    body = "He wrote:\n\nFrom the office at 10:00 on 1 May 2026 came this\nNote: it was late.\nRest of the letter."
    document = read(tmp_path, MARK + HEAD + "\n" + body + "\n")
    assert document.text.endswith(body)


def test_a_line_that_is_long_to_compare_takes_no_time() -> None:
    started = time.perf_counter()
    assert not is_mail(b"From " + b"10:00 2026 " * 2900)
    assert not is_mail(b"From " + b"Mon Jan 1 10:00 2026" * 1600 + b"\n")
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("before", ["", "\n\n"])
@pytest.mark.parametrize("old", ["", ">From c Mon Nov 30 10:00:00 2026 remote from d\n"])
def test_a_mailbox_is_known_by_the_head_of_any_letter(tmp_path: Path, before: str, old: str) -> None:
    coded = f"Content-Transfer-Encoding: base64\n\n{b64encode(b'Coded words.').decode()}\n"
    first = f"{old}From: Ada <a@example.org>\nSubject: One\n\nThe first.\n\n"
    data = before + MARK + first + MARK + HEAD + "Content-Type: text/plain\n" + coded
    document = read(tmp_path, data, "Inbox")
    assert "Coded words." in document.text
    assert document.blocks[0].text.startswith("From: Ada")


def test_a_letter_that_cannot_be_read_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = HEAD
    for depth in range(45):
        deep += f'Content-Type: multipart/mixed; boundary="b{depth}"\n\n--b{depth}\n'
    document = read(tmp_path, MARK + deep + "Content-Type: text/plain\n\nlost\n\n" + MARK + SECOND)
    assert document.text.endswith("The second.")
    told = [problem.message for problem in document.problems]
    assert any(one.startswith("message 1 was left out or broken off: letters.mbox holds parts within") for one in told)
    inside = "Content-Type: message/rfc822\n\n" + SECOND
    counted = read(tmp_path, MARK + HEAD + inside + "\n" + MARK + deep + "\n\nlost\n\n" + MARK + SECOND)
    told = [problem.message for problem in counted.problems]
    assert any(one.startswith("message 3 was left out") for one in told)  # the second is within the first
    assert counted.blocks[-1].anchor.label == "message 4 part 1"
    monkeypatch.setattr("spec_engine.documents.mail.MAX_MESSAGE_BYTES", 1 << 20)
    document = read(tmp_path, MARK + HEAD + "\n" + "A line.\n" * (1 << 18) + "\n" + MARK + SECOND)
    assert document.text == "From: Bob <b@example.org>\nSubject: Two\n\nThe second."
    assert [problem.message[:50] for problem in document.problems] == [
        "message 1 was left out or broken off: letters.mbox"
    ]
    with pytest.raises(UnreadableDocument, match=r"without any text to read\. Message 1 was left out"):
        read(tmp_path, (MARK + HEAD + "\n" + "A line.\n" * (1 << 18) + "\n") * 2)


def test_remarks_say_of_which_letter_they_are(tmp_path: Path) -> None:
    bill = (
        '--b\nContent-Type: application/pdf\nContent-Disposition: attachment; filename="bi\x1b[2Jll.pdf"\n\nx\n--b--\n'
    )
    document = read(tmp_path, (MARK + HEAD + PARTS + bill + "\n") * 2)
    assert [problem.message.partition(" is ")[0] for problem in document.problems] == [
        "message 1: bi [2Jll.pdf",
        "message 2: bi [2Jll.pdf",
    ]
