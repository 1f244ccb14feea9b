"""Small files written by hand for the tests: PDFs with text at given places, and the pieces of Word packages."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "documents"

INLINE_IMAGE = b"q 200 0 0 200 50 50 cm BI /W 1 /H 1 /CS /G /BPC 8 ID x EI Q"
_PAD = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
_FILE_ID = bytes(16)
_PERMISSIONS = -4

Text = tuple[float, float, float, str]
"""x, y, font size, text."""


def show(texts: Sequence[Text]) -> bytes:
    """Content stream in Helvetica; text outside of Windows-1252 goes through a font with a Unicode map."""
    lines = []
    for x, y, size, text in texts:
        try:
            string = text.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
            drawn = b"(" + string + b") Tj"
            font = b"/F1"
        except UnicodeEncodeError:
            drawn = b"<" + text.encode("utf-16-be").hex().encode() + b"> Tj"
            font = b"/F2"
        lines.append(b"BT %b %f Tf 1 0 0 1 %f %f Tm %b ET" % (font, size, x, y, drawn))
    return b"\n".join(lines)


def paragraph(x: float, y: float, lines: Sequence[str], size: float = 10, pitch: float = 12) -> list[Text]:
    """Lines below one another."""
    return [(x, y - i * pitch, size, line) for i, line in enumerate(lines)]


def make_pdf(pages: Sequence[bytes], title: str = "", password: str | None = None) -> bytes:
    """A PDF of the given content streams, encrypted with 40-bit RC4 when a password is given."""
    crypt, security = _security(password)
    unicode_map = (
        b"1 begincodespacerange <0000> <FFFF> endcodespacerange 1 beginbfrange <0000> <FFFF> <0000> endbfrange"
    )
    objects: dict[int, bytes] = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count %d /Kids [%b] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (20 + 2 * i) for i in range(len(pages)))),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: b"<< /Type /Font /Subtype /Type0 /BaseFont /Any /Encoding /Identity-H "
        b"/DescendantFonts [5 0 R] /ToUnicode 6 0 R >>",
        5: b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Any /DW 600 /FontDescriptor 7 0 R "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        6: _stream(crypt(6, unicode_map)),
        7: b"<< /Type /FontDescriptor /FontName /Any /Flags 4 /FontBBox [0 -200 600 800] /Ascent 800 /Descent -200 "
        b"/ItalicAngle 0 /CapHeight 700 /StemV 80 >>",
        8: b"<< /Title <%b> >>" % crypt(8, b"\xfe\xff" + title.encode("utf-16-be")).hex().encode(),
    }
    for i, content in enumerate(pages):
        objects[20 + 2 * i] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>" % (21 + 2 * i)
        )
        objects[21 + 2 * i] = _stream(crypt(21 + 2 * i, content))
    return _assembled(objects, security)


def _stream(data: bytes) -> bytes:
    return b"<< /Length %d >>\nstream\n%b\nendstream" % (len(data), data)


def _assembled(objects: dict[int, bytes], security: bytes) -> bytes:
    out = bytearray(b"%PDF-1.4\n")
    offsets = {}
    for number, body in sorted(objects.items()):
        offsets[number] = len(out)
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 1\n0000000000 65535 f \n"
    for number, offset in offsets.items():
        out += b"%d 1\n%010d 00000 n \n" % (number, offset)
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info 8 0 R %b >>\n" % (max(objects) + 1, security)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def _security(password: str | None) -> tuple[Callable[[int, bytes], bytes], bytes]:
    """How to encrypt an object's data, and the trailer's entries (PDF 1.7, section 7.6, revision 2)."""
    if password is None:
        return (lambda number, data: data), b""
    padded = (password.encode() + _PAD)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    flags = (_PERMISSIONS & 0xFFFFFFFF).to_bytes(4, "little")
    key = hashlib.md5(padded + owner + flags + _FILE_ID).digest()[:5]
    entries = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O <%b> /U <%b> /P %d >> /ID [<%b> <%b>]" % (
        owner.hex().encode(),
        _rc4(key, _PAD).hex().encode(),
        _PERMISSIONS,
        _FILE_ID.hex().encode(),
        _FILE_ID.hex().encode(),
    )

    def crypt(number: int, data: bytes) -> bytes:
        salted = key + number.to_bytes(3, "little") + bytes(2)
        return _rc4(hashlib.md5(salted).digest()[:10], data)

    return crypt, entries


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def replace_part(archive: bytes, part: str, content: bytes) -> bytes:
    """A zip archive with one entry replaced or added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if entry.filename != part:
                target.writestr(entry.filename, source.read(entry.filename))
        target.writestr(part, content)
    return out.getvalue()
