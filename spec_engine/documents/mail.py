"""E-mails, mailboxes (MBOX) and web archives (MHT, MHTML) as blocks, through the standard library's MIME parser.

Job: the text parts of a message, decoded, in order: HTML through its reader, plain text as it is, of alternatives the
richest that holds text; messages within it and behind it in a mailbox; who wrote to whom and when as a short head.
What is attached is named, and what was damaged on its way.
Non-job: HTML (`html`), opening attachments, pictures, checking signatures.
"""

import base64
import codecs
import contextlib
import email
import re
from collections.abc import Iterator
from email import policy
from email.errors import (
    InvalidBase64CharactersDefect,
    InvalidBase64LengthDefect,
    InvalidBase64PaddingDefect,
    MessageError,
)
from email.header import decode_header, make_header
from email.message import Message

from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.encoding import decode
from spec_engine.documents.html import NoText, read_html
from spec_engine.documents.mailbox import letters
from spec_engine.documents.names import not_read, shown_name
from spec_engine.documents.sections import split_long
from spec_engine.errors import UnreadableDocument, UnsupportedFormat

SUFFIXES = frozenset((".eml", ".mbox", ".mht", ".mhtml"))
HEAD_BYTES = 32_768  # within which the head of a message ends, or is not looked for further
MAX_MESSAGE_BYTES = 64 << 20  # the parser takes about ten times as much memory

_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/=\s]")
_BEHIND_PAD = re.compile(r"=\s*[A-Za-z0-9+/]")
_HEAD_NAMES = ("From", "To", "Cc", "Date", "Subject")
_LONGEST_HEADER = 20_000  # characters; a longer list of addresses is shown as it stands
_SIGNATURES = frozenset(("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"))
_SEALED = frozenset(("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"))
_PAGES = frozenset(("text/html", "application/xhtml+xml"))
_NO_WORDS = frozenset(("text/calendar", "text/rfc822-headers"))
_LOOKS = frozenset(("text/css", "text/javascript", "application/javascript", "application/x-javascript"))
_SEEN = frozenset(("image", "font", "audio", "video"))
_PART = re.compile(r"part \d+")
_DAMAGE = (InvalidBase64CharactersDefect, InvalidBase64LengthDefect, InvalidBase64PaddingDefect)
_DEPTH = 40  # of parts within parts
_TOO_DEEP = "holds parts within parts too deeply to be read. Save its text alone."
_BAD_HEADER = (MessageError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def read_mail(data: bytes, name: str, stem: str) -> Document:
    """Read a message, the messages of a mailbox, or a page that a browser saved as one.

    Raises:
        UnreadableDocument: without text, or parts lie in parts without end, or a message takes too much memory; of a
            mailbox such a message is left out, which its problems say.
        UnsupportedFormat: its text is encrypted.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    found = letters(data.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n"))
    reader, title = _Reader(name, stem), stem
    for letter in found:
        number = reader.num_messages + 1
        try:
            message = _read_letter(reader, letter, name, is_one=len(found) == 1)
        except UnreadableDocument as error:
            if len(found) == 1:
                raise
            reader.leave_out(number, str(error))
            continue
        title = _header(message, "Subject") if len(found) == 1 else stem
    if reader.is_sealed and not reader.num_texts:
        raise UnsupportedFormat(
            f"{name} is an e-mail that is encrypted or sealed, so its text cannot be read. Open it in your "
            "mail program and save its text from there."
        )
    if not reader.blocks:
        advice = "Save what is attached to it and open that."
        if reader.problems and len(found) > 1:
            first = reader.problems[0].message
            advice = first[:1].upper() + first[1:]
        raise UnreadableDocument(f"{name} is a message without any text to read. {advice}")
    return Document(title or stem, name, tuple(reader.blocks), tuple(reader.problems))


class _Reader:
    """Goes through a message once."""

    def __init__(self, name: str, stem: str) -> None:
        self.blocks: list[Block] = []
        self.problems: list[Problem] = []
        self.num_texts = 0  # blocks that are no heads
        self.num_messages = 0  # with those within others
        self.is_sealed = False  # some of it
        self._name, self._stem = name, stem
        self._num_parts = 0
        self._label = ""  # what stands before the labels of a message within another
        self._attached: list[str] = []  # to the message that is being read

    def read(self, message: Message, depth: int = 0) -> None:
        """Read a message with its head; of a page that was saved as one the head says nothing."""
        self.num_messages += 1
        before = self._label, self._num_parts, self._attached
        self._label, self._num_parts, self._attached = f"message {self.num_messages} " if depth else "", 0, []
        sender = _header(message, "From")
        if sender and ("saved by" not in sender.lower() or "@" in sender):
            lines = [f"{header}: {value}" for header in _HEAD_NAMES if (value := _header(message, header))]
            attached = [_file_name(part) for part in _attachments(message)]
            lines += [f"Attached: {', '.join(attached)}"] if attached else []
            self.blocks.append(Block(Anchor("section", f"{self._label}head", 0), "\n".join(lines)))
        self._read_part(message, depth)
        self._tell_attached()
        self._label, self._num_parts, self._attached = before

    def leave_out(self, number: int, reason: str) -> None:
        """Say that message `number`, as labels count, is left out. What was read of it before stays."""
        self._tell_attached()
        self.num_messages, self._label, self._num_parts = max(self.num_messages, number), "", 0
        self.problems.append(Problem(None, f"message {number} was left out or broken off: {reason}"))

    def _tell_attached(self) -> None:
        """Name what is attached to the message that is being read."""
        if self._attached:
            self._remark(not_read(self._attached))
        self._attached = []

    def _remark(self, words: str) -> None:
        """Tell something of the message that is being read."""
        self.problems.append(Problem(None, f"{self._label.strip()}: {words}" if self._label else words))

    def _read_part(self, part: Message, depth: int) -> None:
        """Read one part with what is in it, and what stands behind it."""
        if depth > _DEPTH:
            raise UnreadableDocument(f"{self._name} {_TOO_DEEP}")
        self._read_kind(part, part.get_content_type(), depth)
        behind = part.epilogue or ""  # footers of mailing lists, and letters whose beginning nobody could tell
        if behind.strip() and part.get_content_type() not in _SEALED:
            self._add_text(behind.encode("ascii", "surrogateescape"), None, "what stands behind its last part")

    def _read_kind(self, part: Message, kind: str, depth: int) -> None:
        """Read what is in one part."""
        if kind in _SEALED:
            self.is_sealed = True
            self._remark("a part of it is encrypted or sealed, so its text was not read")
        elif kind == "message/rfc822":
            for message in _messages(part):
                self.read(message, depth + 1)
        elif part.get_content_maintype() == "multipart" and not part.is_multipart():
            self._remark("its parts could not be told apart and are shown as they are stored")
            self._read_text(part)
        elif kind == "multipart/alternative":
            self._read_richest(_inside(part), depth + 1)
        elif part.is_multipart():
            for inner in _inside(part):
                if _is_attachment(inner):
                    self._attached.append(_file_name(inner))
                elif kind != "multipart/related" or not _belongs_to_page(inner):
                    self._read_part(inner, depth + 1)
        elif kind in _PAGES:
            self._read_page(part)
        elif kind == "text/plain" or _is_words(part):
            self._read_text(part)
        elif kind not in _SIGNATURES | _LOOKS:
            self._attached.append(_file_name(part))

    def _read_richest(self, parts: list[Message], depth: int) -> None:
        """Read the last of several forms of a text that holds any; one that nobody knows how to read comes last."""
        num_before = self.num_texts
        self._attached += map(_file_name, filter(_is_attachment, parts))
        forms = [part for part in reversed(parts) if not _is_attachment(part)]
        known = _PAGES | {"text/plain"}
        for part in sorted(forms, key=lambda one: not one.is_multipart() and one.get_content_type() not in known):
            self._read_part(part, depth)
            if self.num_texts > num_before:
                return

    def _read_text(self, part: Message) -> None:
        """Read a text, if there is any in it."""
        self._add_text(self._payload(part), part.get_content_charset(), _file_name(part))

    def _add_text(self, payload: bytes, charset: str | None, what: str) -> None:
        """Take over a text, if there is any in it."""
        if not payload.strip():
            return
        try:
            decoded = decode(payload, self._name, charset)
        except UnreadableDocument:
            self._remark(f"{what} holds no readable text and was left out")
            return
        texts = split_long(decoded.text.replace("\r\n", "\n"))
        self._add([Block(Anchor("section", f"part {n}", n - 1), text) for n, text in enumerate(texts, 1)])
        self.problems += decoded.problems

    def _read_page(self, part: Message) -> None:
        """Read an HTML page; one that only holds pictures is passed over."""
        payload = self._payload(part)
        if not payload.strip():
            return
        try:
            page = read_html(payload, self._name, self._stem, part.get_content_charset())
        except NoText:
            return
        except UnreadableDocument as error:
            self._remark(str(error))
            return
        self._add(page.blocks)
        self.problems += page.problems

    def _payload(self, part: Message) -> bytes:
        """A part's content, decoded; of one whose parts could not be told apart, as it is stored. Damage is told."""
        _tidy_encoding(part)
        payload = part.get_payload(decode=True)
        defects = [defect for defect in part.defects if isinstance(defect, _DAMAGE)]
        stored = str(part.get_payload()) if defects else ""
        if (joined := _joined(stored)) is not None:
            return joined
        is_other = any(not isinstance(defect, InvalidBase64CharactersDefect) for defect in defects)
        if is_other or _NO_BASE64.search(stored) or _BEHIND_PAD.search(stored):  # blanks at line ends are no damage
            words = "was damaged on its way (base64): some of it may be missing or wrong. Save or send it again"
            self._remark(f"its text {words}")
        return payload if isinstance(payload, bytes) else b""

    def _add(self, blocks: list[Block] | tuple[Block, ...]) -> None:
        """Take blocks over; what is called by a number alone is counted on through the message."""
        for block in blocks:
            label = block.anchor.label
            if _PART.fullmatch(label):
                self._num_parts += 1
                label = f"part {self._num_parts}"
            self.blocks.append(
                Block(Anchor(block.anchor.kind, self._label + label, block.anchor.index), block.text, block.separator)
            )
            self.num_texts += 1


def _read_letter(reader: _Reader, letter: bytes, name: str, is_one: bool) -> Message:
    """Read a letter, the only one or one of several, and return it as it was parsed."""
    try:
        message = _parsed(letter, name)
        reader.read(message, int(not is_one))
    except RecursionError as error:
        raise UnreadableDocument(f"{name} {_TOO_DEEP}") from error
    return message


def _parsed(data: bytes, name: str) -> Message:
    """A message. The older policy leaves headers as they are: the newer one takes long for those made to take long."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise UnreadableDocument(
            f"{name} holds a message of {len(data) >> 20:,} MiB, which takes ten times that in memory; at most "
            f"{MAX_MESSAGE_BYTES >> 20} MiB can be read. Save its text and what is attached to it as files."
        )
    return email.message_from_bytes(data, policy=policy.compat32)


def _tidy_encoding(part: Message) -> None:
    """Name the encoding as the parser knows it, without blanks and what follows it."""
    named = str(part.get("Content-Transfer-Encoding", ""))
    plain = named.partition(";")[0].strip()
    if plain != named:
        part.replace_header("Content-Transfer-Encoding", plain)


def _joined(stored: str) -> bytes | None:
    """What base64 says that was encoded piece by piece, each filled up at its end, where the parser stops; None for
    what is none."""
    if _NO_BASE64.search(stored) or not _BEHIND_PAD.search(stored):
        return None
    pieces = re.split(r"(?<==)(?=[^=])", "".join(stored.split()))
    with contextlib.suppress(ValueError):
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    return None


def _inside(part: Message) -> list[Message]:
    """The parts of a part."""
    payload = part.get_payload() if part.is_multipart() else []
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []


def _messages(part: Message) -> list[Message]:
    """The messages in a part, also where they were encoded once more, which they must not be."""
    found = _inside(part)
    if found and not found[0].keys() and str(part.get("Content-Transfer-Encoding", "")).strip().lower() == "base64":
        with contextlib.suppress(ValueError):
            inner = base64.b64decode(str(found[0].get_payload()))
            return [email.message_from_bytes(inner, policy=policy.compat32)]
    return found


def _is_attachment(part: Message) -> bool:
    """Whether a part is a file beside the text. Messages and containers within one are read."""
    return part.get_content_disposition() == "attachment" and not part.is_multipart()


def _is_words(part: Message) -> bool:
    """Whether a part is a text without a name, of whatever kind."""
    kind = part.get_content_type()
    return part.get_content_maintype() == "text" and kind not in _LOOKS | _NO_WORDS and not _given_name(part)


def _belongs_to_page(part: Message) -> bool:
    """Whether a part beside a page is what the page shows or is laid out with."""
    kind = part.get_content_maintype()
    if kind in _SEEN:
        return True
    is_read = part.is_multipart() or kind in ("text", "message") or part.get_content_type() in _PAGES | _SEALED
    return not is_read and not _given_name(part)


def _attachments(message: Message) -> Iterator[Message]:
    """The files that hang on a message, without those of the messages in it."""
    for part in _inside(message):
        if _is_attachment(part):
            yield part
        elif part.get_content_maintype() == "multipart":
            yield from _attachments(part)


def _file_name(part: Message) -> str:
    """What a part calls itself, or its kind."""
    return _given_name(part) or f"a part of the kind {part.get_content_type()}"


def _given_name(part: Message) -> str:
    """What a part calls itself, "" where it has no name."""
    try:
        return _decoded(part.get_filename() or "")
    except _BAD_HEADER:
        return ""


def _header(message: Message, name: str) -> str:
    """A header on one line, decoded; as it stands where the parser cannot read it."""
    return _decoded(next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), ""))


def _decoded(raw: str) -> str:
    """Words of a header, on one line."""
    with contextlib.suppress(UnicodeEncodeError):  # bytes beyond ASCII, which should not be there and mostly are UTF-8
        raw = raw.encode("ascii", "surrogateescape").decode("utf-8", "replace")
    if len(raw) <= _LONGEST_HEADER:
        with contextlib.suppress(*_BAD_HEADER):
            raw = str(make_header(decode_header(raw)))
    return " ".join(shown_name(raw).split())
