"""E-mails and web archives (EML, MHT, MHTML) as blocks, through the standard library's MIME parser.

Job: the text parts of a message, decoded, in order: HTML through its reader, plain text as it is, of alternatives the
richest that holds text; messages within it; who wrote to whom and when as a short head. What is attached is named.
Non-job: HTML (`html`), opening attachments, pictures, checking signatures.
"""

import contextlib
import email
import re
from collections.abc import Iterator
from email import policy
from email.errors import MessageError
from email.message import EmailMessage, Message

from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.encoding import decode
from spec_engine.documents.html import read_html
from spec_engine.documents.sections import split_long
from spec_engine.errors import UnreadableDocument, UnsupportedFormat

SUFFIXES = frozenset((".eml", ".mht", ".mhtml"))
HEAD_BYTES = 32_768  # within which the head of a message ends, or is not looked for further

_HEAD_LINE = re.compile(rb"(?:[!-9;-~]+:[^\n]*|[ \t]+[^\n]*)\Z")
_HEAD_NAMES = ("From", "To", "Cc", "Date", "Subject")
_LONGEST_HEADER = 20_000  # characters; a longer list of addresses is shown as it stands
_SIGNATURES = frozenset(("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"))
_SEALED = frozenset(("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"))
_DEPTH = 40  # of parts within parts


def is_mail(head: bytes) -> bool:
    """Whether a file that begins like this is a message: header lines, among them the version of MIME."""
    names = set[bytes]()
    for line in head.replace(b"\r\n", b"\n").split(b"\n")[:-1]:
        if not line:
            break
        if not _HEAD_LINE.match(line) or (not names and line[:1].isspace()):
            return False
        names.add(line.partition(b":")[0].lower())
    return {b"mime-version", b"content-type"} <= names


def read_mail(data: bytes, name: str, stem: str) -> Document:
    """Read a message, or a page that a browser saved as one.

    Raises:
        UnreadableDocument: without text, or parts lie in parts without end.
        UnsupportedFormat: its text is encrypted.
    """
    try:
        message = email.message_from_bytes(data.lstrip(b"\r\n"), policy=policy.default)
        reader = _Reader(name, stem)
        reader.read(message)
    except RecursionError as error:
        raise UnreadableDocument(
            f"{name} holds parts within parts too deeply to be read. Save its text alone."
        ) from error
    if not reader.blocks:
        raise UnreadableDocument(
            f"{name} is a message without any text to read. Save what is attached to it and open that."
        )
    return Document(_header(message, "Subject") or stem, name, tuple(reader.blocks), tuple(reader.problems))


class _Reader:
    """Goes through a message once."""

    def __init__(self, name: str, stem: str) -> None:
        self.blocks: list[Block] = []
        self.problems: list[Problem] = []
        self._name = name
        self._stem = stem
        self._num_messages = 0
        self._label = ""  # what stands before the labels of a message within another

    def read(self, message: Message, depth: int = 0) -> None:
        """Read a message with its head; of a page that was saved as one the head says nothing."""
        self._num_messages += 1
        before, self._label = self._label, f"message {self._num_messages} " if depth else ""
        sender = _header(message, "From")
        if sender and "saved by" not in sender.lower():
            lines = [f"{header}: {value}" for header in _HEAD_NAMES if (value := _header(message, header))]
            attached = [_file_name(part) for part in _attachments(message)]
            lines += [f"Attached: {', '.join(attached)}"] if attached else []
            self.blocks.append(Block(Anchor("section", f"{self._label}head", 0), "\n".join(lines)))
        self._read_part(message, depth)
        self._label = before

    def _read_part(self, part: Message, depth: int) -> None:
        """Read one part with what is in it."""
        kind = part.get_content_type()
        if depth > _DEPTH:
            raise RecursionError
        if kind in _SEALED:
            raise UnsupportedFormat(
                f"{self._name} is an e-mail that is encrypted or sealed, so its text cannot be read. Open it in your "
                "mail program and save its text from there."
            )
        if kind == "message/rfc822":
            for message in _inside(part):
                self.read(message, depth + 1)
        elif kind == "multipart/alternative":
            self._read_richest(_inside(part), depth + 1)
        elif part.is_multipart():
            for inner in _inside(part):
                if _is_attachment(inner):
                    self._name_attachment(inner)
                elif kind != "multipart/related" or inner.is_multipart() or inner.get_content_maintype() == "text":
                    self._read_part(inner, depth + 1)  # else a picture of the page
        elif kind in ("text/plain", "text/html"):
            self._read_text(part, kind)
        elif kind not in _SIGNATURES and kind != "text/css":
            self._name_attachment(part)

    def _read_richest(self, parts: list[Message], depth: int) -> None:
        """Read the last of several forms of a text that holds any."""
        num_before = len(self.blocks)
        for part in reversed(parts):
            if part.is_multipart() or part.get_content_type() in ("text/plain", "text/html"):
                self._read_part(part, depth)
            if len(self.blocks) > num_before:
                return

    def _read_text(self, part: Message, kind: str) -> None:
        """Read a text, if there is any in it."""
        payload = part.get_payload(decode=True)
        if not isinstance(payload, bytes) or not payload.strip():
            return
        charset = part.get_content_charset()
        if kind == "text/html":
            self._read_page(payload, charset)
            return
        decoded = decode(payload, self._name, charset)
        texts = split_long(decoded.text.replace("\r\n", "\n"))
        self._add([Block(Anchor("section", f"part {n}", n - 1), text) for n, text in enumerate(texts, 1)])
        self.problems += decoded.problems

    def _read_page(self, payload: bytes, charset: str | None) -> None:
        """Read an HTML page; one that only holds pictures is passed over."""
        try:
            page = read_html(payload, self._name, self._stem, charset)
        except UnreadableDocument:
            return
        self._add(page.blocks)
        self.problems += page.problems

    def _add(self, blocks: list[Block] | tuple[Block, ...]) -> None:
        for block in blocks:
            anchor = Anchor(block.anchor.kind, f"{self._label}{block.anchor.label}", block.anchor.index)
            self.blocks.append(Block(anchor, block.text, block.separator))

    def _name_attachment(self, part: Message) -> None:
        """Say of a part that it is not read."""
        message = f"{_file_name(part)} is attached and was not read; save it and add it as a file of its own"
        self.problems.append(Problem(None, message))


def _inside(part: Message) -> list[Message]:
    """The parts of a part."""
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []


def _is_attachment(part: Message) -> bool:
    """Whether a part is a file beside the text. Messages and containers within one are read."""
    is_file = isinstance(part, EmailMessage) and part.get_content_disposition() == "attachment"
    return is_file and not part.is_multipart()


def _attachments(message: Message) -> Iterator[Message]:
    """The files that hang on a message, without those of the messages in it."""
    for part in _inside(message):
        if _is_attachment(part):
            yield part
        elif part.get_content_maintype() == "multipart":
            yield from _attachments(part)


def _file_name(part: Message) -> str:
    """What a part calls itself, or its kind."""
    try:
        name = part.get_filename()
    except (MessageError, ValueError, LookupError, TypeError, AttributeError):  # of a header that is no header
        name = None
    return " ".join((name or f"a part of the kind {part.get_content_type()}").split())


def _header(message: Message, name: str) -> str:
    """A header on one line, decoded; as it stands where the parser cannot read it."""
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
    if len(raw) <= _LONGEST_HEADER:
        with contextlib.suppress(MessageError, ValueError, LookupError, TypeError, AttributeError):
            raw = str(message.get(name, ""))
    return " ".join(raw.encode("utf-8", "replace").decode().split())
