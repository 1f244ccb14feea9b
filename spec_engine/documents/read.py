"""Opens a file as a document.

Job: load, find out the format from the content and the suffix, call the reader of that format, refuse what none can
read. Non-job: the formats (`pdf`, `docx`, `pptx`, `epub`, `html`, `mail`, `plain`), what fits a context (`budget`).
"""

import hashlib
import io
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spec_engine.documents.anchors import Document
from spec_engine.documents.docx import read_docx
from spec_engine.documents.epub import read_epub
from spec_engine.documents.html import read_html
from spec_engine.documents.kept_scans import ScanStore
from spec_engine.documents.mail import HEAD_BYTES, read_mail
from spec_engine.documents.mail import SUFFIXES as MAIL_SUFFIXES
from spec_engine.documents.mailbox import is_mail
from spec_engine.documents.pdf import read_pdf
from spec_engine.documents.plain import read_markdown, read_plain
from spec_engine.documents.pptx import read_pptx
from spec_engine.errors import UnreadableDocument, UnsupportedFormat

MAX_FILE_BYTES = 256 << 20

_HTML_SUFFIXES = frozenset((".html", ".htm", ".xhtml"))
_MARKDOWN_SUFFIXES = frozenset((".md", ".markdown", ".mdown", ".mkd", ".qmd", ".rmd"))
# fmt: off
_TEXT_SUFFIXES = frozenset(
    (
        ".txt", ".text", ".log", ".rst", ".adoc", ".org", ".tex", ".bib", ".csv", ".tsv", ".json", ".jsonl",
        ".ndjson", ".xml", ".svg", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".env", ".properties",
        ".srt", ".vtt", ".ipynb", ".diff", ".patch", ".py", ".pyi", ".js", ".mjs", ".cjs", ".ts", ".tsx",
        ".jsx", ".css", ".scss", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh", ".java", ".kt", ".kts",
        ".scala", ".go", ".rs", ".swift", ".m", ".mm", ".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".hs",
        ".ml", ".ex", ".exs", ".erl", ".clj", ".lisp", ".scm", ".el", ".sh", ".bash", ".zsh", ".fish", ".ps1",
        ".bat", ".cmd", ".sql", ".proto", ".graphql", ".cmake", ".gradle", ".dockerfile", ".make", ".mk", ".nix",
        ".tf", ".vue", ".svelte", ".f90", ".f95", ".asm", ".s", ".vb", ".cs", ".fs", ".dart", ".zig", ".v", ".vhd",
    )
)
# fmt: on
_OTHER_SUFFIXES = frozenset((".pdf", ".docx", ".pptx", ".epub"))
SUPPORTED_SUFFIXES = _OTHER_SUFFIXES | MAIL_SUFFIXES | _HTML_SUFFIXES | _MARKDOWN_SUFFIXES | _TEXT_SUFFIXES
"""Suffixes worth offering in a file picker. Text under any other name is read too."""

_SUPPORTED = "PDF, DOCX, PPTX, EPUB, HTML, Markdown, e-mails, plain text and source code can be read"

_MAGIC = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"BM", "a BMP picture"),
    (b"RIFF", "a sound, film or WebP picture"),
    (b"ID3", "an MP3 sound"),
    (b"OggS", "an Ogg sound or film"),
    (b"fLaC", "a FLAC sound"),
    (b"\x1aE\xdf\xa3", "a Matroska film"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"(\xb5/\xfd", "a Zstandard archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90", "a program"),
    (b"SQLite format 3", "an SQLite database"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
    (b"AT&TFORM", "a DjVu document"),
)
_OFFICE_FOLDERS = (("xl/", "an Excel workbook"), ("visio/", "a Visio drawing"))
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = b"PK\x03\x04"
_SNIFF_BYTES = 1_024


def read_document(
    path: Path,
    password: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    kept: ScanStore | None = None,
) -> Document:
    """Read a file into anchored text. Nothing is cut; what could not be read stands in `Document.problems`.

    Args:
        password: for encrypted PDFs.
        on_progress: called with the parts done and the parts in all (pages of a PDF; other formats have one part).
        kept: where text that is recognised in scanned pages is kept and found again; None: nowhere.

    Raises:
        UnreadableDocument: missing, not a file, not permitted, empty, too large, damaged, or without any text.
        PasswordRequired: encrypted, and the password is missing or wrong.
        UnsupportedFormat: of a kind that no reader handles.
    """
    path = Path(path)
    data = _load(path)
    name, stem = path.name, path.stem
    kind = _kind(data, path)
    if kind == "pdf":
        return read_pdf(data, name, stem, password, on_progress, kept)
    readers = {
        "docx": read_docx,
        "epub": read_epub,
        "html": read_html,
        "mail": read_mail,
        "markdown": read_markdown,
        "plain": read_plain,
        "pptx": read_pptx,
    }
    document = readers[kind](data, name, stem)
    if on_progress is not None:
        on_progress(1, 1)
    return document


def check_file(path: Path) -> None:
    """Raise `UnreadableDocument` for what is no file that could be read, before anything of it is."""
    with _in_words(path):
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableDocument(f"{path.name or path} is a folder. Give a file inside of it.")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableDocument(f"{path.name} is not an ordinary file. Copy its content into one.")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableDocument(
                f"{path.name} has {status.st_size >> 20:,} MiB; at most {MAX_FILE_BYTES >> 20} MiB can be read. "
                "Split it, or leave its pictures out."
            )


def content_hash(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes. Raises `UnreadableDocument`."""
    check_file(path)
    with _in_words(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_text_name(name: str) -> bool:
    """Whether a text under this name is read as it stands, not as another format."""
    return Path(name).suffix.lower() not in _OTHER_SUFFIXES | MAIL_SUFFIXES | _HTML_SUFFIXES


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What the system says of a file, as an `UnreadableDocument`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableDocument(f"There is no file {path}. Check the name and the folder.") from error
    except PermissionError as error:
        raise UnreadableDocument(f"{path.name} may not be read by this user. Change its permissions.") from error
    except (OSError, ValueError) as error:
        raise UnreadableDocument(f"{path.name} cannot be read ({error}). Check the name and the disk.") from error


def _load(path: Path) -> bytes:
    """Content of a regular file."""
    check_file(path)
    with _in_words(path):
        data = path.read_bytes()
    if not data:
        raise UnreadableDocument(f"{path.name} is empty (0 bytes). Check that it was saved or downloaded whole.")
    return data


def _kind(data: bytes, path: Path) -> str:
    """Name of the reader: content first, suffix where content alone does not tell."""
    suffix = path.suffix.lower()
    head = data[:_SNIFF_BYTES]
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in head):
        return "pdf"
    if data.startswith(_ZIP):
        return _zip_kind(data, path)
    _refuse_known(data, path)
    looks_like_html = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
    if suffix in _OTHER_SUFFIXES:
        found = "an HTML page (an error page, perhaps)" if looks_like_html else "something else, or damaged data"
        raise UnreadableDocument(
            f"{path.name} is named {suffix} but holds no {suffix[1:].upper()} document: it is {found}. "
            "Download or export it again, or give it the right suffix."
        )
    is_text = suffix in _TEXT_SUFFIXES - {".txt", ".text"} or suffix in _MARKDOWN_SUFFIXES
    if suffix in MAIL_SUFFIXES or (not is_text and is_mail(data[:HEAD_BYTES])):
        return "mail"
    if suffix in _HTML_SUFFIXES or (looks_like_html and suffix not in _TEXT_SUFFIXES - {".txt", ".text"}):
        return "html"
    return "markdown" if suffix in _MARKDOWN_SUFFIXES else "plain"


def _zip_kind(data: bytes, path: Path) -> str:
    """Which of the many formats that are zip archives this is."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, RuntimeError, OSError) as error:
        raise UnreadableDocument(
            f"{path.name} is a damaged or incomplete archive (DOCX, PPTX and EPUB files are archives). "
            "Download or save it again."
        ) from error
    if any(name.startswith("word/") for name in names):
        return "docx"
    if any(name.startswith("ppt/") for name in names):
        return "pptx"
    for folder, description in _OFFICE_FOLDERS:
        if any(name.startswith(folder) for name in names):
            raise _unsupported(path, description)
    if "META-INF/container.xml" in names:
        return "epub"
    if "mimetype" in names and "content.xml" in names:
        raise _unsupported(path, "an OpenDocument file")
    raise _unsupported(path, "a zip archive")


def _refuse_known(data: bytes, path: Path) -> None:
    """Name what is no document, instead of calling it binary junk."""
    if data.startswith(_OLE):
        encrypted = "EncryptedPackage".encode("utf-16-le") in data
        is_mail = "__substg1.0_".encode("utf-16-le") in data
        kind = "an Office file protected by a password" if encrypted else "an old Office file (.doc, .xls, .ppt)"
        kind = "an e-mail of Outlook (.msg), which Outlook saves as text or HTML too" if is_mail else kind
        raise _unsupported(path, kind)
    for magic, description in _MAGIC:
        is_text = all(byte < 128 for byte in magic) and b"\0" not in data[:_SNIFF_BYTES] and len(magic) < 4
        if data.startswith(magic) and not is_text:
            raise _unsupported(path, description)
    if data[4:8] == b"ftyp":
        raise _unsupported(path, "a film or sound")


def _unsupported(path: Path, description: str) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"{path.name} is {description}, which is not supported. {_SUPPORTED}. Export the file to one of these."
    )
