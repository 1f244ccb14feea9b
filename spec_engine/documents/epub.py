"""EPUB books as blocks, in reading order, through the archive and lxml.

Job: the chapters that the package document lists, each read as an HTML page; its headings are the anchors, and where a
chapter has none its number. Books under copy protection are refused by name.
Non-job: HTML (`html`), pictures, the table of contents (headings say the same).
"""

import posixpath
import zipfile
import zlib
from urllib.parse import unquote, urlsplit

from lxml import etree

from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.archive import open_archive
from spec_engine.documents.html import read_html
from spec_engine.errors import UnreadableDocument, UnsupportedFormat

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_FONT_OBFUSCATION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # fonts only: no matter
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read_epub(data: bytes, name: str, stem: str) -> Document:
    """Read an EPUB book.

    Raises:
        UnreadableDocument: damaged, unreasonably large once unpacked, or without text.
        UnsupportedFormat: its text is encrypted (copy protection).
    """
    archive = open_archive(data, name, _damaged(name))
    try:
        _refuse_encrypted(archive, name)
        package = _package_path(archive)
        root = _parsed(archive.read(package))
        chapters = _spine(root, posixpath.dirname(package))
        blocks, problems = _chapters(archive, chapters, stem)
    except (KeyError, ValueError, IndexError, zipfile.BadZipFile, zlib.error, etree.XMLSyntaxError, OSError) as error:
        raise UnreadableDocument(_damaged(name)) from error
    if not blocks:
        raise UnreadableDocument(f"{name} is a book without any text. If its pages are pictures, run OCR on them.")
    title = root.findtext(".//{http://purl.org/dc/elements/1.1/}title") or stem
    return Document(title, name, tuple(blocks), tuple(problems))


def _damaged(name: str) -> str:
    return f"{name} is damaged and cannot be opened as an EPUB book. Download it again, or convert it to PDF or HTML."


def _refuse_encrypted(archive: zipfile.ZipFile, name: str) -> None:
    """Copy protection encrypts the chapters; hidden fonts alone do not matter."""
    if _ENCRYPTION not in archive.namelist():
        return
    methods = _parsed(archive.read(_ENCRYPTION)).iter("{http://www.w3.org/2001/04/xmlenc#}EncryptionMethod")
    if any(method.get("Algorithm") not in _FONT_OBFUSCATION for method in methods):
        raise UnsupportedFormat(
            f"{name} is protected against copying (DRM), so its text cannot be read. Open a copy without protection."
        )


def _parsed(content: bytes) -> etree._Element:
    """XML without external entities or network access. Raises `ValueError` where there is no element at all."""
    root = etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True, recover=True))
    if root is None:
        raise ValueError("no element")
    return root


def _package_path(archive: zipfile.ZipFile) -> str:
    """Where the package document lies. Raises `KeyError` where the container does not say."""
    rootfile = _parsed(archive.read(_CONTAINER)).find(".//{*}rootfile")
    path = rootfile.get("full-path") if rootfile is not None else None
    if not path:
        raise KeyError("full-path")
    return str(path)


def _spine(root: etree._Element, folder: str) -> list[str]:
    """Paths of the chapters in reading order."""
    manifest = {item.get("id"): item for item in root.iter("{*}item")}
    paths = []
    for reference in root.iter("{*}itemref"):
        item = manifest.get(reference.get("idref"))
        if item is None or item.get("media-type") not in _PAGES or "nav" in (item.get("properties") or "").split():
            continue
        paths.append(posixpath.normpath(posixpath.join(folder, unquote(urlsplit(item.get("href", "")).path))))
    return paths


def _chapters(archive: zipfile.ZipFile, paths: list[str], stem: str) -> tuple[list[Block], list[Problem]]:
    """Blocks of all chapters, and which of them could not be read."""
    blocks: list[Block] = []
    problems: list[Problem] = []
    for number, path in enumerate(paths, start=1):
        label = f"chapter {number}"
        try:
            page = read_html(archive.read(path), posixpath.basename(path), stem)
        except (KeyError, UnreadableDocument):
            problems.append(Problem(label, f"{label} has no text (a picture?)"))
            continue
        for block in page.blocks:
            shown = f"ch. {number} {block.anchor.label}" if block.anchor.kind == "heading" else label
            blocks.append(Block(Anchor(block.anchor.kind, shown, number - 1), block.text))
        problems.extend(Problem(label, f"{label}: {problem.message}") for problem in page.problems)
    return blocks, problems
