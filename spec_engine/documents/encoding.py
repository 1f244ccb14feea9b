"""Bytes to text, whatever the encoding.

Job: byte order mark, strict UTF-8, what the file itself states, then a statistical guess that is always reported.
Non-job: opening files, splitting text.
"""

import codecs
import contextlib
import re
from dataclasses import dataclass, field

import charset_normalizer

from spec_engine.documents.anchors import Problem
from spec_engine.errors import UnreadableDocument

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Names that the web uses for Windows-1252 (WHATWG Encoding Standard, section 4.2).
_WESTERN = frozenset(("ascii", "iso8859-1", "cp1252"))
# Codecs of Python that write one text as another.
_NO_CHARSETS = frozenset(
    ("idna", "punycode", "undefined", "unicode_escape", "unicode-escape", "raw_unicode_escape", "raw-unicode-escape")
)
_WESTERN_LANGUAGES = frozenset(
    (
        "Danish",
        "Dutch",
        "English",
        "Finnish",
        "French",
        "German",
        "Italian",
        "Norwegian",
        "Portuguese",
        "Spanish",
        "Swedish",
    )
)
_CONTROL_BYTES = bytes(code for code in range(32) if code not in b"\t\n\r\f\x1b")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f]")
_SYMBOL_IN_WORD = re.compile(r"[^\W\d_][¡-¬®-¶¸-¿×÷][^\W\d_]")
_SAMPLE_BYTES = 65_536
_MAX_CONTROLS = 0.02
_MAX_CONTROLS_UTF8 = 0.2
_MIN_COHERENCE = 0.2


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text of a file and what had to be guessed or left out. The text is kept out of `repr`."""

    text: str = field(repr=False)
    problems: tuple[Problem, ...] = ()


def decode(data: bytes, name: str, stated: str | None = None) -> Decoded:
    """Decode a file.

    Args:
        name: file name, for messages.
        stated: encoding that the file itself names, believed when it is not UTF-8 and decodes.

    Raises:
        UnreadableDocument: the bytes are no text.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _lenient(data[len(bom) :], encoding, name)
    if _looks_like_utf16(data):
        return _lenient(data, "utf-16-le" if data[1:_SAMPLE_BYTES:2].count(0) else "utf-16-be", name)
    codec = _codec(stated)
    if codec and b"\x1b" in data and _decodes(data, codec):
        return _lenient(data, codec, name)
    if _is_mostly_utf8(data):
        return _lenient(data, "utf-8", name)
    sample = data[:_SAMPLE_BYTES]
    if len(sample) - len(sample.translate(None, _CONTROL_BYTES)) > _MAX_CONTROLS * len(sample):
        raise UnreadableDocument(_binary_message(name))
    if codec and _decodes(data, codec):
        return _lenient(data, codec, name)
    guess = _guess(data)
    if guess is None:
        raise UnreadableDocument(_binary_message(name))
    decoded = _lenient(data, guess, name)
    note = Problem(None, f"The file does not state its encoding; it was read as {guess}, so look for odd letters")
    return Decoded(decoded.text, (note, *decoded.problems))


def _lenient(data: bytes, encoding: str, name: str) -> Decoded:
    """Decode, and report what could not be decoded or is no text."""
    text = data.decode(encoding, "replace")
    num_controls = len(_CONTROLS.findall(text))
    if num_controls > _MAX_CONTROLS_UTF8 * len(text):
        raise UnreadableDocument(_binary_message(name))
    num_bad = text.count("\ufffd") - (data.count("\ufffd".encode()) if encoding == "utf-8" else 0)
    problems = []
    if num_bad > 0:
        problems.append(
            Problem(None, f"{_counted(num_bad, 'character is', 'characters are')} damaged and show as \ufffd")
        )
    if num_controls:
        problems.append(
            Problem(None, f"{_counted(num_controls, 'control character was', 'control characters were')} left out")
        )
    return Decoded(text, tuple(problems))


def _counted(number: int, one: str, many: str) -> str:
    """A number and what is counted."""
    return f"{number:,} {one if number == 1 else many}"


def _looks_like_utf16(data: bytes) -> bool:
    """Whether zero bytes fill one half of the byte pairs, as in UTF-16 without a byte order mark."""
    sample = data[:_SAMPLE_BYTES]
    even, odd, num_pairs = sample[::2].count(0), sample[1::2].count(0), max(1, len(sample) // 2)
    return len(data) % 2 == 0 and min(even, odd) == 0 and max(even, odd) > 0.5 * num_pairs


def _is_mostly_utf8(data: bytes) -> bool:
    """Whether the bytes are UTF-8, but for at most one bad sequence in ten or a cut at the end."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        with contextlib.suppress(UnicodeDecodeError):
            data.decode("utf-8", "surrogatepass")  # of some old programs: nothing else looks like that
            return True
        text = data.decode("utf-8", "replace")
        num_bad = text.count("\ufffd")
        num_good = sum(not char.isascii() for char in text) - num_bad
        return num_bad * 10 <= num_good
    return True


def _codec(stated: str | None) -> str | None:
    """The codec for a stated name, or None when it names none, or a Unicode form that has been ruled out already."""
    try:
        codec = codecs.lookup(stated or "").name
        b"\xff".decode(codec, "replace")
    except (LookupError, ValueError):
        return None
    if codec.startswith("utf") or codec in _NO_CHARSETS:
        return None
    return "cp1252" if codec in _WESTERN else codec


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


def _guess(data: bytes) -> str | None:
    """The likeliest encoding, None for no text at all.

    Statistics tell scripts apart well and the Western code pages badly, so what makes sense as Windows-1252 is taken as
    such unless a language that is not written in it has been recognised.
    """
    sample = _sample(data)
    best = charset_normalizer.from_bytes(sample).best()
    if _decodes(data, "cp1252"):
        western = sample.decode("cp1252")
        is_sparse = 3 * sum(byte > 127 for byte in sample) < len(sample)
        is_recognised = best is not None and best.coherence > _MIN_COHERENCE and best.language not in _WESTERN_LANGUAGES
        if best is None or (is_sparse and not is_recognised and not _SYMBOL_IN_WORD.search(western)):
            return "cp1252"
    return None if best is None else best.encoding


def _sample(data: bytes) -> bytes:
    """Lines with letters beyond ASCII, up to a limit: what tells encodings apart."""
    if len(data) <= _SAMPLE_BYTES:
        return data
    lines: list[bytes] = []
    size = 0
    for match in re.finditer(rb"[^\n]{0,4096}[\x80-\xff][^\n]{0,4096}", data):
        lines.append(match.group())
        size += len(match.group())
        if size >= _SAMPLE_BYTES:
            break
    return b"\n".join(lines)


def _binary_message(name: str) -> str:
    return f"{name} holds no readable text (it looks like binary data). Export it as PDF, DOCX, HTML or plain text."
