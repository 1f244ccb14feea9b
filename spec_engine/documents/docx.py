"""DOCX as blocks, one a heading section, through python-docx.

Job: everything a reader of the printed text would read, in document order: headings, paragraphs, list items with their
numbers, tables as rows, text boxes, foot- and endnotes. Tracked deletions are left out, insertions are kept.
Non-job: page numbers (the format has none), headers and footers, comments, pictures.
"""

import io
import re
import zipfile
import zlib

from docx import Document as open_package
from docx.document import Document as Package
from docx.opc.exceptions import PackageNotFoundError
from docx.oxml.parser import parse_xml
from lxml import etree

from spec_engine.documents.anchors import Document
from spec_engine.documents.archive import open_archive
from spec_engine.documents.docx_numbering import Numbering, W
from spec_engine.documents.scripts import subscript, superscript
from spec_engine.documents.sections import SectionBuilder
from spec_engine.errors import UnreadableDocument

_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SKIPPED = frozenset(
    (W + "del", W + "moveFrom", W + "pPr", W + "rPr", W + "sectPr", W + "tblPr", W + "trPr", W + "tcPr", _FALLBACK)
)
_BREAKS = {W + "tab": " ", W + "br": "\n", W + "cr": "\n", W + "noBreakHyphen": "-"}
_NOTE_REFERENCES = {W + "footnoteReference": "footnotes", W + "endnoteReference": "endnotes"}
_HEADING_STYLE = re.compile(r"(?:heading|überschrift|titre) ?\d|title$", re.IGNORECASE)
_MAX_STYLE_DEPTH = 20


def read_docx(data: bytes, name: str, stem: str) -> Document:
    """Read a Word document.

    Raises:
        UnreadableDocument: damaged, unreasonably large once unpacked, or without text.
    """
    open_archive(data, name, _damaged_message(name))
    try:
        package = open_package(io.BytesIO(data))
        reader = _Reader(package)
        reader.read_body()
        title = package.core_properties.title or reader.builder.first_heading or stem
    except (PackageNotFoundError, zipfile.BadZipFile, zlib.error, etree.XMLSyntaxError, EOFError) as error:
        raise UnreadableDocument(_damaged_message(name)) from error
    except (KeyError, ValueError, AttributeError, IndexError, TypeError, RuntimeError, OSError) as error:
        # what python-docx and zipfile raise when parts are missing, misnamed, encrypted or of another kind
        raise UnreadableDocument(_damaged_message(name)) from error
    document = Document(title, name, reader.builder.blocks())
    if not document.blocks:
        raise UnreadableDocument(
            f"{name} is a Word document without any text. If it holds pictures of text, run OCR on them."
        )
    return document


def _damaged_message(name: str) -> str:
    return (
        f"{name} is damaged and cannot be opened as a Word document. "
        "Open it in Word or LibreOffice and save it again as .docx."
    )


class _Reader:
    """One pass over a package."""

    def __init__(self, package: Package) -> None:
        self.builder = SectionBuilder()
        self._package = package
        self._styles = {style.get(W + "styleId"): style for style in package.styles.element.iter(W + "style")}
        self._numbering = Numbering(self._part_root("numbering"))
        self._notes = {kind: self._read_notes(kind) for kind in ("footnotes", "endnotes")}
        self._cited: list[str] = []
        self._boxes: list[etree._Element] = []

    def read_body(self) -> None:
        """Read the body and, as a last section, the notes it cites."""
        self._read_blocks(self._package.element.body)
        if self._cited:
            self.builder.start_section("Notes")
            for number, text in enumerate(self._cited, start=1):
                self.builder.add_paragraph(f"[{number}] {text}", is_tight=True)

    def _part_root(self, kind: str) -> etree._Element | None:
        """Root of a part that the main part refers to, None when there is none."""
        for relation in self._package.part.rels.values():
            if relation.reltype.endswith(f"/{kind}") and not relation.is_external:
                root: etree._Element = parse_xml(relation.target_part.blob)
                return root
        return None

    def _read_notes(self, kind: str) -> dict[str, etree._Element]:
        root = self._part_root(kind)
        return {} if root is None else {note.get(W + "id", ""): note for note in root}

    def _read_blocks(self, parent: etree._Element) -> None:
        """Read paragraphs and tables, wherever content controls and tracked changes have wrapped them."""
        for child in parent:
            if child.tag == W + "p":
                self._read_paragraph(child)
            elif child.tag == W + "tbl":
                self._read_table(child)
            elif child.tag not in _SKIPPED:
                self._read_blocks(child)

    def _read_paragraph(self, paragraph: etree._Element) -> None:
        text = self._text(paragraph).strip()
        styles = self._style_chain(paragraph)
        label = self._label(paragraph, styles) if text else ""
        if text and self._is_heading(paragraph, styles):
            self.builder.start_section(f"{label} {text}" if label not in ("", "-") else text)
        elif text:
            level = _integer_in(_numbering_properties(paragraph, styles), "ilvl")
            prefix = "  " * level + label + " " if label else ""
            self.builder.add_paragraph(prefix + text, is_tight=bool(label))
        boxes, self._boxes = self._boxes, []
        for box in boxes:
            self._read_blocks(box)

    def _read_table(self, table: etree._Element) -> None:
        """Rows as cells divided by bars; a table of a single column only frames its content."""
        rows = [_children(row, "tc") for row in _children(table, "tr")]
        if all(len(cells) == 1 for cells in rows):
            for (cell,) in rows:
                self._read_blocks(cell)
            return
        for cells in rows:
            texts = ["" if _is_merged_away(cell) else self._cell_text(cell) for cell in cells]
            if any(texts):
                self.builder.add_paragraph(" | ".join(texts), is_tight=True)

    def _cell_text(self, cell: etree._Element) -> str:
        paragraphs = [paragraph for paragraph in cell.iter(W + "p") if not _is_within_box(paragraph, cell)]
        text = " ".join(map(self._text, paragraphs))
        boxes, self._boxes = self._boxes, []
        text += "".join(" " + self._text(paragraph) for box in boxes for paragraph in box.iter(W + "p"))
        return " ".join(text.split())

    def _text(self, element: etree._Element) -> str:
        """Text of a paragraph or a part of it; text boxes are set aside."""
        parts: list[str] = []
        for child in element:
            if child.tag in (W + "t", _MATH_TEXT):
                parts.append(child.text or "")
            elif child.tag in _BREAKS:
                parts.append(_BREAKS[child.tag])
            elif child.tag in _NOTE_REFERENCES:
                parts.append(self._cite(child))
            elif child.tag == W + "txbxContent":
                self._boxes.append(child)
            elif child.tag == W + "r":
                parts.append(_raised(child, self._text(child)))
            elif child.tag not in _SKIPPED:
                parts.append(self._text(child))
        return "".join(parts).replace("\xa0", " ").replace("\xad", "")

    def _cite(self, reference: etree._Element) -> str:
        """Keep a note for the end and give its number in brackets."""
        note = self._notes[_NOTE_REFERENCES[reference.tag]].pop(reference.get(W + "id", ""), None)
        if note is None:
            return ""
        text = " ".join(" ".join(self._text(paragraph) for paragraph in note.iter(W + "p")).split())
        self._cited.append(text)
        return f" [{len(self._cited)}]"

    def _style_chain(self, paragraph: etree._Element) -> list[etree._Element]:
        """The paragraph's style and those it is based on, nearest first."""
        chain: list[etree._Element] = []
        style_id = _property(paragraph, "pStyle")
        while style_id in self._styles and len(chain) < _MAX_STYLE_DEPTH:
            chain.append(self._styles[style_id])
            based_on = chain[-1].find(W + "basedOn")
            style_id = None if based_on is None else based_on.get(W + "val")
        return chain

    def _is_heading(self, paragraph: etree._Element, styles: list[etree._Element]) -> bool:
        """Whether the paragraph has an outline level, or a style that is called a heading or a title."""
        level = next((value for element in (paragraph, *styles) if (value := _property(element, "outlineLvl"))), "9")
        names = [name.get(W + "val", "") for style in styles[:1] if (name := style.find(W + "name")) is not None]
        return (level.isdecimal() and int(level) < 9) or any(_HEADING_STYLE.match(name) for name in names)

    def _label(self, paragraph: etree._Element, styles: list[etree._Element]) -> str:
        properties = _numbering_properties(paragraph, styles)
        num_id = next((e.find(W + "numId") for e in properties if e.find(W + "numId") is not None), None)
        if num_id is None:
            return ""
        return self._numbering.label(num_id.get(W + "val", "0"), _integer_in(properties, "ilvl"))


def _children(element: etree._Element, tag: str) -> list[etree._Element]:
    """Rows of a table or cells of a row, also those inside of content controls, not those of nested tables."""
    found: list[etree._Element] = []
    for child in element:
        if child.tag == W + tag:
            found.append(child)
        elif child.tag in (W + "sdt", W + "sdtContent", W + "ins", W + "customXml"):
            found.extend(_children(child, tag))
    return found


def _property(element: etree._Element, tag: str) -> str | None:
    """Value of a paragraph property of a paragraph or a style."""
    found = element.find(f"{W}pPr/{W}{tag}")
    return None if found is None else found.get(W + "val")


def _numbering_properties(paragraph: etree._Element, styles: list[etree._Element]) -> list[etree._Element]:
    found = [element.find(f"{W}pPr/{W}numPr") for element in (paragraph, *styles)]
    return [properties for properties in found if properties is not None]


def _integer_in(properties: list[etree._Element], tag: str) -> int:
    """First value of a numbering property, 0 when none states it."""
    values = [child.get(W + "val", "0") for element in properties if (child := element.find(W + tag)) is not None]
    return int(values[0]) if values and values[0].isdecimal() else 0


def _is_merged_away(cell: etree._Element) -> bool:
    """Whether a cell only continues the one above it."""
    merge = cell.find(f"{W}tcPr/{W}vMerge")
    return merge is not None and merge.get(W + "val") != "restart"


def _is_within_box(paragraph: etree._Element, cell: etree._Element) -> bool:
    ancestors = paragraph.iterancestors(W + "txbxContent", W + "tc")
    return any(ancestor.tag == W + "txbxContent" for ancestor in ancestors if ancestor is not cell)


def _raised(run: etree._Element, text: str) -> str:
    """Text of a run, with figures raised or lowered as the run is."""
    position = run.find(f"{W}rPr/{W}vertAlign")
    kind = None if position is None else position.get(W + "val")
    return {"superscript": superscript, "subscript": subscript}.get(kind or "", str)(text)
