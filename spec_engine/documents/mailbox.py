"""The letters of a mailbox (MBOX).

Job: where one letter ends and the next begins; what a file begins with that is a letter or a mailbox.
Non-job: reading a letter (`mail`).
"""

import codecs
import re
from typing import Final

# The line before each letter, with a date as C's asctime writes it: that of a body that begins with "From" has none.
_POSTMARK: Final = re.compile(
    rb"^From (?:[^\n]{0,200} )?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    rb" +\d\d? +\d\d:\d\d(?::\d\d)?(?: [A-Z]{2,5}| [+-]\d{4})? \d{4}[^\n]{0,40}\r?\n",
    re.MULTILINE,
)
_HEAD: Final = re.compile(rb">?From |[!-9;-~]{1,80}:")
_OLD_MARK: Final = re.compile(rb"\A(?:>From [^\n]*\n)+")  # of machines that a letter went through, in its head
_QUOTED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
_HEAD_LINE: Final = re.compile(rb"(?:[!-9;-~]+:[^\n]*|[ \t]+[^\n]*)\Z")
_LETTER_HEADS: Final = frozenset((b"from", b"date", b"subject", b"received", b"return-path", b"message-id"))


def is_mail(head: bytes) -> bool:
    """Whether a file that begins like this is a message or a mailbox: header lines, and among them the version of MIME
    or, behind the line that begins a mailbox, one that every letter has."""
    head = head.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    postmark = _POSTMARK.match(head)
    names = set[bytes]()
    lines = head[postmark.end() :] if postmark else head
    for line in _OLD_MARK.sub(b"", lines).replace(b"\r\n", b"\n").split(b"\n")[:-1]:
        if not line:
            break
        if not _HEAD_LINE.match(line) or (not names and line[:1].isspace()):
            return False
        names.add(line.partition(b":")[0].lower())
    return {b"mime-version", b"content-type"} <= names or bool(postmark and names & _LETTER_HEADS)


def letters(data: bytes) -> list[bytes]:
    """The messages of a mailbox, each without the line before it; a file that does not begin like one is a single
    message."""
    if not _POSTMARK.match(data):
        return [data]
    marks = [found for found in _POSTMARK.finditer(data) if _is_border(data, found.start(), found.end())]
    ends = [mark.start() for mark in marks[1:]] + [len(data)]
    found = [data[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    return [_QUOTED.sub(rb"\1", _OLD_MARK.sub(b"", letter)) for letter in found]


def _is_border(data: bytes, start: int, end: int) -> bool:
    """Whether a letter begins here: behind a blank line, or before a head."""
    before = data[max(0, start - 80) : start].split(b"\n")  # the last is empty
    is_behind_blank = start == 0 or (len(before) > 2 and not before[-2].strip())
    return is_behind_blank or bool(_HEAD.match(data, end))
