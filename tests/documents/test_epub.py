"""EPUB books: reading order, anchors, and what is refused."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from spec_engine.documents.anchors import Document
from spec_engine.documents.read import read_document
from spec_engine.errors import UnreadableDocument, UnsupportedFormat

CONTAINER = """<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">
<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
ENCRYPTION = """<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"
xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData><enc:EncryptionMethod Algorithm="{}"/>
</enc:EncryptedData></encryption>"""
CHAPTERS = {
    "text/one.xhtml": "<html><body><h1>The Loan</h1><p>It was &#8220;due&#8221; in May.</p></body></html>",
    "text/two%20b.xhtml": "<html><body><p>Nothing was paid.</p></body></html>",
}


def book(chapters: Mapping[str, str], order: Sequence[str], more: Mapping[str, str] | None = None) -> bytes:
    """A book with these chapters; `order` names their keys, `more` holds other files or replaces some."""
    items = "".join(
        f'<item id="c{n}" href="{path}" media-type="application/xhtml+xml"/>' for n, path in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="c{list(chapters).index(path)}"/>' for path in order)
    package = f"""<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A Small Book</dc:title></metadata>
<manifest>{items}<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/></manifest>
<spine><itemref idref="nav"/>{spine}<itemref idref="missing"/></spine></package>"""
    parts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": package,
        "OEBPS/nav.xhtml": "<html><body><p>Contents</p></body></html>",
        **{f"OEBPS/{path}".replace("%20", " "): content for path, content in chapters.items()},
        **(more or {}),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in parts.items():
            archive.writestr(path, content)
    return out.getvalue()


def read(tmp_path: Path, data: bytes) -> Document:
    path = tmp_path / "book.epub"
    path.write_bytes(data)
    return read_document(path)


def test_chapters_come_in_reading_order_with_their_headings(tmp_path: Path) -> None:
    document = read(tmp_path, book(CHAPTERS, ["text/two%20b.xhtml", "text/one.xhtml"]))
    assert document.title == "A Small Book"
    assert [block.anchor.label for block in document.blocks] == ["chapter 1", "ch. 2 § The Loan"]
    assert document.blocks[0].text == "Nothing was paid."
    assert document.blocks[1].text == "The Loan\n\nIt was \u201cdue\u201d in May."
    assert "Contents" not in document.text
    assert document.problems == ()


def test_the_mark_of_a_note_is_set_apart_from_its_word(tmp_path: Path) -> None:
    page = """<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><body><p>It was
    due<a epub:type="noteref" href="#n1">1</a> in May.</p><aside epub:type="footnote" id="n1"><p>1. Of 1954.</p></aside>
    </body></html>"""
    assert read(tmp_path, book({"one.xhtml": page}, ["one.xhtml"])).text == "It was due [1] in May.\n\n1. Of 1954."


def test_a_chapter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    chapters = CHAPTERS | {"text/picture.xhtml": "<html><body><img src='a.png'/></body></html>"}
    document = read(tmp_path, book(chapters, list(chapters)))
    assert [problem.message for problem in document.problems] == ["chapter 3 has no text (a picture?)"]


def test_copy_protection_is_named_and_hidden_fonts_do_not_matter(tmp_path: Path) -> None:
    name, order = "META-INF/encryption.xml", list(CHAPTERS)
    fonts = book(CHAPTERS, order, {name: ENCRYPTION.format("http://www.idpf.org/2008/embedding")})
    assert len(read(tmp_path, fonts).blocks) == 2
    with pytest.raises(UnsupportedFormat, match="DRM"):
        read(tmp_path, book(CHAPTERS, order, {name: ENCRYPTION.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")}))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"META-INF/container.xml": "<container/>"}, "damaged"),
        ({"META-INF/container.xml": ""}, "damaged"),
        ({"OEBPS/book.opf": "<package"}, "damaged|without any text"),
        ({"OEBPS/book.opf": "no xml at all"}, "damaged|without any text"),
    ],
)
def test_a_damaged_book_is_explained(tmp_path: Path, more: dict[str, str], words: str) -> None:
    with pytest.raises(UnreadableDocument, match=words):
        read(tmp_path, book(CHAPTERS, list(CHAPTERS), more))


def test_a_book_without_text_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="without any text"):
        read(tmp_path, book(CHAPTERS, []))


def test_entities_from_outside_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    package = f"""<!DOCTYPE package [<!ENTITY x SYSTEM "file://{secret}">]><package><metadata>
    <dc:title xmlns:dc="http://purl.org/dc/elements/1.1/">A &x; title</dc:title></metadata><manifest>
    <item id="c" href="text/one.xhtml" media-type="text/html"/></manifest>
    <spine><itemref idref="c"/></spine></package>"""
    document = read(tmp_path, book(CHAPTERS, list(CHAPTERS), {"OEBPS/book.opf": package}))
    assert "hidden" not in document.title
