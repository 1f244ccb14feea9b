"""E-mails and web archives."""

import time
from base64 import b64encode
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from spec_engine.documents.anchors import Document
from spec_engine.documents.read import read_document
from spec_engine.errors import UnreadableDocument, UnsupportedFormat

ARCHIVE = """From: <Saved by Blink>\r
Snapshot-Content-Location: https://example.org/report\r
Subject: =?utf-8?Q?The=20f=C3=BCnd?=\r
MIME-Version: 1.0\r
Content-Type: multipart/related;\r
\ttype="text/html";\r
\tboundary="----b"\r
\r
------b\r
Content-Type: text/html\r
Content-Transfer-Encoding: quoted-printable\r
Content-Location: https://example.org/report\r
\r
<!DOCTYPE html><html><head><title>The f=C3=BCnd</title></head><body><h1>Scope</h1><p class=3D"a">The f=C3=BCnd was=\r
 closed by the board.</p><img src=3D"cid:1"></body></html>\r
------b\r
Content-Type: text/css\r
\r
p { color: red }\r
------b\r
Content-Type: image/png\r
Content-Transfer-Encoding: base64\r
\r
iVBORw0KGgo=\r
------b\r
Content-Type: text/html\r
Content-ID: <frame-2@mhtml.blink>\r
\r
<html><body><p>A frame.</p></body></html>\r
------b--\r
"""


def read(tmp_path: Path, data: bytes | EmailMessage, name: str = "letter.eml") -> Document:
    path = tmp_path / name
    path.write_bytes(data.as_bytes(policy=policy.SMTP) if isinstance(data, EmailMessage) else data)
    return read_document(path)


def letter(words: str = "The fund was closed.") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "Zoë Müller <z@example.org>", "b@example.org, c@example.org"
    message["Date"], message["Subject"] = "Tue, 01 Dec 2026 10:00:00 +0000", "Fünd, second half"
    message.set_content(words)
    return message


def test_an_email_is_read_with_its_head_and_its_attachments_are_named(tmp_path: Path) -> None:
    message = letter("Plain words.")
    message.add_alternative(
        "<html><body><h2>Fund</h2><p>It was <b>closed</b> by Zoë.</p></body></html>", subtype="html"
    )
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="bill.pdf")
    document = read(tmp_path, message)
    assert document.title == "Fünd, second half"
    assert document.text == (
        "From: Zoë Müller <z@example.org>\nTo: b@example.org, c@example.org\nDate: Tue, 01 Dec 2026 10:00:00 +0000\n"
        "Subject: Fünd, second half\nAttached: bill.pdf\n\nFund\n\nIt was closed by Zoë."
    )
    assert [block.anchor.label for block in document.blocks] == ["head", "§ Fund"]
    assert ["bill.pdf is attached and was not read" in problem.message for problem in document.problems] == [True]


def test_plain_text_is_taken_as_it_is_and_where_html_holds_pictures_alone(tmp_path: Path) -> None:
    message = letter("  Two\n\n  indented <lines>, a = b.\n")
    message.add_alternative("<html><body><img src=x></body></html>", subtype="html")
    assert read(tmp_path, message).text.endswith("\n\n  Two\n\n  indented <lines>, a = b.")


@pytest.mark.parametrize(("charset", "coding"), [("koi8-r", "base64"), ("iso-2022-jp", "7bit"), ("nonsense", "8bit")])
def test_text_is_decoded_as_its_part_says(tmp_path: Path, charset: str, coding: str) -> None:
    words = {"koi8-r": "Фонд был закрыт советом, и деньги вернули.", "iso-2022-jp": "基金は閉鎖されました。"}.get(
        charset, "Fünd"
    )
    message = letter(words) if charset == "nonsense" else letter()
    if charset != "nonsense":
        message.set_content(words, charset=charset, cte=coding)
    data = message.as_bytes().replace(b'charset="utf-8"', f'charset="{charset}"'.encode())
    assert words in read(tmp_path, data).text


def test_a_message_within_a_message_is_read_with_its_own_head(tmp_path: Path) -> None:
    message = letter("See below.")
    inner = letter("The first letter.")
    inner.add_attachment("a,b", filename="table.csv")
    message.add_attachment(inner)
    document = read(tmp_path, message)
    assert document.text.count("From: Zoë") == 2
    assert document.text.endswith("The first letter.")
    assert [block.anchor.label for block in document.blocks] == ["head", "part 1", "message 2 head", "message 2 part 1"]
    assert [problem.message.partition(" is ")[0] for problem in document.problems] == ["message 2: table.csv"]


@pytest.mark.parametrize("name", ["page.mhtml", "page.mht", "page.txt", "page", "page.html"])
def test_a_saved_page_is_read_as_the_page_it_was(tmp_path: Path, name: str) -> None:
    document = read(tmp_path, ARCHIVE.encode(), name)
    assert document.title == "The fünd"
    assert document.text == "Scope\n\nThe fünd was closed by the board.\n\nA frame."
    assert document.problems == ()


def test_what_only_talks_of_mail_stays_text(tmp_path: Path) -> None:
    words = "Content-Type: a header.\nIt says what follows.\nMIME-Version: 1.0\n\nNo message."
    assert read(tmp_path, words.encode(), "a.txt").text == words
    code = "mime-version: 1.0\ncontent-type: text/plain\n\nno message"
    assert read(tmp_path, code.encode(), "a.yaml").text == code
    assert read(tmp_path, b"No head at all, in two\n\nparagraphs.").text == "No head at all, in two\n\nparagraphs."


def test_what_cannot_be_read_is_explained(tmp_path: Path) -> None:
    sealed = b"From: a@b\nMIME-Version: 1.0\nContent-Type: application/pkcs7-mime; name=smime.p7m\n\nAAAA\n"
    with pytest.raises(UnsupportedFormat, match="encrypted or sealed"):
        read(tmp_path, sealed)
    with pytest.raises(UnreadableDocument, match="without any text"):
        read(tmp_path, b"MIME-Version: 1.0\nContent-Type: image/png\n\nAAAA\n", "a.mhtml")
    boundaries = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(2_000))
    with pytest.raises(UnreadableDocument, match="too deeply"):
        read(tmp_path, f"From: a@b\nMIME-Version: 1.0\n{boundaries}\nWords.".encode())


@pytest.mark.parametrize(
    "header", ["From: =?utf-8?q?=ff?= <\x00", 'Content-Disposition: attachment; filename*=x"', "Subject: " + "=?" * 999]
)
def test_damaged_heads_do_no_harm(tmp_path: Path, header: str) -> None:
    assert "Words." in read(tmp_path, f"{header}\nTo: @,,;<<>\nMIME-Version: 1.0\n\nWords.\n".encode()).text


def test_a_letter_to_many_and_a_long_one_stay_fast(tmp_path: Path) -> None:
    started = time.perf_counter()
    message = letter("word " * 400_000)
    del message["To"]
    data = b"To: " + b",\n ".join(b"person%d@example.org" % n for n in range(20_000)) + b"\n" + message.as_bytes()
    document = read(tmp_path, data)
    assert "person19999@example.org" in document.text
    assert document.text.count("word") == 400_000
    assert time.perf_counter() - started < 10


def multipart(kind: str, *parts: str) -> bytes:
    """A letter of these parts, each with its own head."""
    body = "".join(f"--b\r\n{part}\r\n" for part in parts)
    head = f'From: a@b.org\r\nMIME-Version: 1.0\r\nContent-Type: multipart/{kind}; boundary="b"\r\n\r\n'
    return f"{head}{body}--b--\r\n".encode()


PLAIN = "Content-Type: text/plain\r\n\r\nThe real words."


def words_of(document: Document) -> list[str]:
    return [block.text for block in document.blocks[1:]]


def told(document: Document) -> str:
    return "; ".join(problem.message for problem in document.problems)


@pytest.mark.parametrize("charset", ["idna", "undefined", "punycode", "unicode_escape", '"a\0b"', "nothing"])
def test_a_letter_with_an_odd_charset_is_read(tmp_path: Path, charset: str) -> None:
    head = f"From: a@b.org\nMIME-Version: 1.0\nContent-Type: text/plain; charset={charset}\n\n"
    document = read(tmp_path, head.encode() + "Der Fund wurde geschlossen: \\x41 für immer.".encode("cp1252"))
    assert words_of(document) == ["Der Fund wurde geschlossen: \\x41 für immer."]


@pytest.mark.parametrize("kind", ["alternative", "mixed"])
def test_parts_without_a_border_are_shown_as_stored_and_told(tmp_path: Path, kind: str) -> None:
    data = multipart(kind, PLAIN).replace(b'; boundary="b"', b"")
    document = read(tmp_path, data)
    assert "The real words." in document.text
    assert "could not be told apart" in told(document)


def test_of_forms_the_one_that_can_be_read_is_and_none_is_lost_in_silence(tmp_path: Path) -> None:
    enriched = "Content-Type: text/enriched\r\n\r\n<bold>Other</bold> words."
    event = "Content-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR"
    page = "Content-Type: text/html\r\nContent-Disposition: attachment; filename=p.html\r\n\r\n<p>A page"
    assert words_of(read(tmp_path, multipart("alternative", PLAIN, enriched))) == ["The real words."]
    assert words_of(read(tmp_path, multipart("alternative", enriched))) == ["<bold>Other</bold> words."]
    assert "text/calendar is attached" in told(read(tmp_path, multipart("alternative", event)))
    document = read(tmp_path, multipart("alternative", PLAIN, page))
    assert words_of(document) == ["The real words."]
    assert "p.html is attached" in told(document)


def test_one_bad_part_does_not_cost_the_others(tmp_path: Path) -> None:
    binary = f"Content-Type: text/plain; name=x.log\r\nContent-Transfer-Encoding: base64\r\n\r\n{'AAECAwQF' * 40}"
    sealed = "Content-Type: message/rfc822\r\n\r\nFrom: c@d.org\r\nContent-Type: application/pkcs7-mime\r\n\r\nMIIB"
    deep = f"Content-Type: text/html\r\n\r\n{'<b>' * 60_000}"
    for part, remark in ((binary, "x.log holds no"), (sealed, "encrypted"), (deep, "too deeply")):
        document = read(tmp_path, multipart("mixed", PLAIN, part))
        assert words_of(document)[0] == "The real words."
        assert remark in told(document)


def test_what_belongs_to_a_page_is_passed_over_and_a_file_beside_it_is_named(tmp_path: Path) -> None:
    page = "Content-Type: application/xhtml+xml\r\n\r\n<html><body><p>A page.</p></body></html>"
    beside = [
        "Content-Type: image/png; name=logo.png\r\n\r\nx",
        "Content-Type: text/javascript\r\n\r\nx()",
        "Content-Type: application/x-font-woff\r\n\r\nx",
        "Content-Type: application/pdf; name=contract.pdf\r\n\r\nx",
    ]
    document = read(tmp_path, multipart("related", page, *beside))
    assert words_of(document) == ["A page."]
    assert told(document) == "contract.pdf is attached and was not read; save it and add it as a file of its own"


@pytest.mark.parametrize(
    ("number", "names"),
    [(2, "0.pdf and 1.pdf are"), (22, f"{', '.join(f'{n}.pdf' for n in range(20))} and 2 more are")],
)
def test_attached_files_are_named_in_one_remark(tmp_path: Path, number: int, names: str) -> None:
    files = [f"Content-Type: application/pdf; name={one}.pdf\r\n\r\nx" for one in range(number)]
    document = read(tmp_path, multipart("mixed", PLAIN, *files))
    want = f"{names} attached and were not read; save them and add each as a file of its own"
    assert [problem.message for problem in document.problems] == [want]


def test_parts_are_counted_through_a_message(tmp_path: Path) -> None:
    document = read(tmp_path, multipart("mixed", PLAIN, PLAIN))
    assert [block.anchor.label for block in document.blocks] == ["head", "part 1", "part 2"]


def test_marks_of_byte_order_and_letters_encoded_once_more(tmp_path: Path) -> None:
    inner = "From: c@d.org\r\nSubject: Inner\r\n\r\nThe inner words."
    again = (
        f"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n{b64encode(inner.encode()).decode()}"
    )
    data = multipart("mixed", PLAIN, again)
    for stored in (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16")):
        document = read(tmp_path, stored)
        assert "The inner words." in words_of(document)
        assert "Subject: Inner" in document.text


def test_a_person_called_saved_by_keeps_the_head(tmp_path: Path) -> None:
    message = letter()
    message.replace_header("From", "Saved by the Bell <bell@example.org>")
    assert read(tmp_path, message).text.startswith("From: Saved by the Bell <bell@example.org>")


def test_headers_that_are_made_to_take_long_do_not(tmp_path: Path) -> None:
    bomb = "".join(f"; a*{number}=b" for number in range(20_000))
    for head in (f"Content-Type: text/plain{bomb}", f"To: {'(' * 19_000}", f"To: {'.' * 19_000}"):
        started = time.monotonic()
        document = read(tmp_path, f"From: a@b.org\nMIME-Version: 1.0\n{head}\n\nThe words.".encode())
        assert words_of(document) == ["The words."]
        assert time.monotonic() - started < 5


MAILBOX = """From a@example.org Tue Dec  1 10:00:00 2026
From: Ada <a@example.org>
Subject: The first
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

The f=C3=BCnd was closed.
From here on it rains.

>From 10:00 in May 2026 it was open.

From b@example.org Tue Dec  1 11:00:00 2026
From: Bob <b@example.org>
Subject: =?utf-8?Q?The_second_f=C3=BCnd?=
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: base64

SXQgd2FzIG9wZW5lZCBhZ2Fpbi4=

"""


@pytest.mark.parametrize("name", ["letters.mbox", "letters", "letters.txt", "letters.eml"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_letters_of_a_mailbox_are_read_one_by_one(tmp_path: Path, name: str, newline: str) -> None:
    document = read(tmp_path, MAILBOX.replace("\n", newline).encode(), name)
    assert document.text == (
        "From: Ada <a@example.org>\nSubject: The first\n\nThe fünd was closed.\nFrom here on it rains.\n\n"
        "From 10:00 in May 2026 it was open.\n\n"
        "From: Bob <b@example.org>\nSubject: The second fünd\n\nIt was opened again."
    )
    labels = ["message 1 head", "message 1 part 1", "message 2 head", "message 2 part 1"]
    assert [block.anchor.label for block in document.blocks] == labels
    assert document.title == "letters"
    assert document.problems == ()


def test_a_message_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_engine.documents.mail.MAX_MESSAGE_BYTES", 2 << 20)
    head = letter().as_bytes()
    with pytest.raises(UnreadableDocument, match=r"a message of 3 MiB.*at most 2 MiB.*Save its text"):
        read(tmp_path, head + b"A line of text.\n" * (3 << 16))
    first, second = MAILBOX.encode().split(b"From b@", 1)
    long = first + b"A line of text.\n" * (1 << 16) + b"\nFrom b@" + second + b"A line of text.\n" * (1 << 16)
    assert read(tmp_path, long[: 3 << 20], "long.mbox").title == "long"  # each of its letters is small enough


@pytest.mark.parametrize(
    ("coded", "is_damaged"),
    [
        (b64encode(b"The fund was closed."), False),
        (b64encode(b"The fund was closed.") + b"  \n \n", False),
        (b64encode(b"The fund was closed.")[:-5], True),
        (b"VGhl!!!" + b64encode(b" fund was closed."), True),
        (b64encode(b"The fund") + b"\n" + b64encode(b" was closed."), False),  # piece by piece
        (b64encode(b"The fund") + b"\nc\n", True),
    ],
)
def test_damage_on_the_way_is_told(tmp_path: Path, coded: bytes, is_damaged: bool) -> None:
    head = b"From: a@example.org\nMIME-Version: 1.0\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n"
    problems = [problem.message for problem in read(tmp_path, head + coded).problems]
    told = "its text was damaged on its way (base64): some of it may be missing or wrong. Save or send it again"
    assert problems == ([told] if is_damaged else [])
