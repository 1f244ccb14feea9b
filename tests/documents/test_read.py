"""The front door: which reader, and which refusal."""

import contextlib
import io
import os
import random
import zipfile
from pathlib import Path

import docx
import pytest

from spec_engine.documents.read import SUPPORTED_SUFFIXES, read_document
from spec_engine.errors import DocumentError, PasswordRequired, UnreadableDocument, UnsupportedFormat
from tests.documents.files import make_pdf, paragraph, show

TEXT = "The quick brown fox jumps over the lazy dog."
PDF = make_pdf([show(paragraph(50, 700, [TEXT]))])


@pytest.fixture
def place(tmp_path: Path):
    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def word_document() -> bytes:
    package = docx.Document()
    package.add_paragraph(TEXT)
    out = io.BytesIO()
    package.save(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.pdf", PDF, "page"),
        ("a.txt", PDF, "page"),
        ("a", b"\xef\xbb\xbf\n" + PDF, "page"),
        ("junk.pdf", b"HTTP/1.1 200 OK\r\n\r\n" + PDF, "page"),
        ("a.docx", word_document(), "section"),
        ("a.zip", word_document(), "section"),
        ("a.html", f"<p>{TEXT}</p>".encode(), "section"),
        ("a.txt", f"<!DOCTYPE html><html><p>{TEXT}</p>".encode(), "section"),
        ("a.md", f"# H\n\n{TEXT}".encode(), "heading"),
        ("a.txt", TEXT.encode(), "line"),
        ("a.unknown", TEXT.encode(), "line"),
        ("Makefile", TEXT.encode(), "line"),
        ("BM.txt", b"BM " + TEXT.encode(), "line"),
        ("a.xml", f'<!DOCTYPE x [<!ENTITY a "b">]><x>{TEXT}</x>'.encode(), "line"),
    ],
)
def test_format_by_content_and_suffix(place, name: str, data: bytes, kind: str) -> None:
    seen: list[tuple[int, int]] = []
    document = read_document(place(name, data), on_progress=lambda n, m: seen.append((n, m)))
    assert TEXT in document.text
    assert {block.anchor.kind for block in document.blocks} == {kind}
    assert document.source_name == name
    assert seen == [(1, 1)]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"", "empty"),
        ("a.pdf", b"just text", "named .pdf but holds no PDF"),
        ("a.pdf", b"<!doctype html><html>Not found", "HTML page"),
        ("a.docx", b"just text", "named .docx but holds no DOCX"),
        ("a.docx", word_document()[:2_000], "damaged or incomplete archive"),
        ("a.pdf", PDF[: len(PDF) // 2], "damaged or incomplete"),
        ("a.bin", bytes(range(256)) * 10, "binary data"),
        ("a.txt", b" \n\n ", "blank"),
    ],
)
def test_unreadable(place, name: str, data: bytes, words: str) -> None:
    with pytest.raises(UnreadableDocument, match=words) as caught:
        read_document(place(name, data))
    assert str(caught.value).startswith(name)


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name in names:
            target.writestr(name, "x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.xlsx", archive("xl/workbook.xml"), "Excel"),
        ("a.odt", archive("mimetype", "content.xml"), "OpenDocument"),
        ("a.zip", archive("a.txt"), "zip archive"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Office file"),
        (
            "a.docx",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "protected by a password",
        ),
        ("a.rtf", b"{\\rtf1 text}", "RTF"),
        ("a.gz", b"\x1f\x8b\x08" + bytes(20), "gzip"),
        ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(20), "film"),
    ],
)
def test_unsupported_names_the_kind_and_what_can_be_read(place, name: str, data: bytes, words: str) -> None:
    with pytest.raises(UnsupportedFormat, match=words) as caught:
        read_document(place(name, data))
    assert "PDF, DOCX, PPTX, EPUB, HTML, Markdown, e-mails, plain text" in str(caught.value)


def test_missing_file_folder_and_pipe(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="There is no file"):
        read_document(tmp_path / "none.pdf")
    with pytest.raises(UnreadableDocument, match="is a folder"):
        read_document(tmp_path)
    with pytest.raises(UnreadableDocument, match="cannot be read"):
        read_document(tmp_path / ("x" * 5_000))
    with pytest.raises(UnreadableDocument, match="cannot be read"):
        read_document(Path("nul\0byte"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UnreadableDocument, match="not an ordinary file"):
            read_document(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no POSIX permissions")
def test_no_permission(place) -> None:
    path = place("a.txt", b"text")
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)  # root may read everything, nobody may not
    try:
        with pytest.raises(UnreadableDocument, match="may not be read"):
            read_document(path)
    finally:
        if is_root:
            os.seteuid(0)


def test_huge_file_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(UnreadableDocument, match="300 MiB"):
        read_document(path)


def test_password_reaches_the_reader(place) -> None:
    path = place("a.pdf", make_pdf([show(paragraph(50, 700, [TEXT]))], password="open"))
    with pytest.raises(PasswordRequired):
        read_document(path)
    assert read_document(path, password="open").text == TEXT


def test_cut_files_of_every_format_never_raise_anything_else(place) -> None:
    samples = {"a.pdf": PDF, "a.docx": word_document(), "a.html": f"<h1>x</h1><p>{TEXT}</p>".encode() * 5}
    for name, data in samples.items():
        for end in range(1, len(data), max(1, len(data) // 40)):
            with contextlib.suppress(DocumentError):  # anything else fails the test
                assert read_document(place(name, data[:end])).text


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert {".pdf", ".docx", ".html", ".md", ".txt", ".py"} <= SUPPORTED_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUPPORTED_SUFFIXES)


def test_random_damage_never_raises_anything_else(place) -> None:
    rng = random.Random(0)
    samples = {
        "a.pdf": PDF,
        "a.docx": word_document(),
        "a.html": b"<ul><li>x<table><tr><td>a<sup>2</sup></table><pre>q" * 3,
    }
    for name, data in samples.items():
        for _ in range(60):
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 5, 40))):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            with contextlib.suppress(DocumentError):
                read_document(place(name, bytes(damaged)))
