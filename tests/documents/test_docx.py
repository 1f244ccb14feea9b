"""Word documents, made with python-docx and, where it has no words for it, with raw XML."""

import contextlib
import io
import zipfile

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls, qn

from spec_engine.documents.anchors import Document
from spec_engine.documents.docx import read_docx
from spec_engine.errors import UnreadableDocument
from tests.documents.files import replace_part

W = nsdecls("w")


def saved(package) -> bytes:
    out = io.BytesIO()
    package.save(out)
    return out.getvalue()


def read(package) -> Document:
    return read_docx(package if isinstance(package, bytes) else saved(package), "a.docx", "a")


def test_sections_lists_and_tables_in_document_order() -> None:
    package = docx.Document()
    package.core_properties.title = ""
    package.add_paragraph("Before any heading.")
    package.add_heading("Scope", 1)
    package.add_paragraph("First paragraph.")
    package.add_paragraph("one", style="List Bullet")
    package.add_paragraph("two", style="List Bullet")
    package.add_paragraph("first", style="List Number")
    package.add_paragraph("second", style="List Number")
    table = package.add_table(rows=2, cols=2)
    for cell, text in zip([c for row in table.rows for c in row.cells], ["Year", "Sum", "2024", "1\n2"], strict=True):
        cell.text = text
    package.add_paragraph("After the table.")
    package.add_heading("Scope", 2)
    package.add_paragraph("Again.")
    document = read(package)
    assert [(b.anchor.kind, b.anchor.label, b.anchor.index) for b in document.blocks] == [
        ("section", "start", 0),
        ("heading", "§ Scope", 1),
        ("heading", "§ Scope", 2),
    ]
    assert document.title == "Scope"
    assert document.blocks[1].text == (
        "Scope\n\nFirst paragraph.\n\n- one\n- two\n1. first\n2. second\nYear | Sum\n2024 | 1 2\n\nAfter the table."
    )


def test_no_heading_at_all_and_long_sections() -> None:
    package = docx.Document()
    package.add_paragraph("Only text.")
    assert [b.anchor.label for b in read(package).blocks] == ["part 1"]
    for i in range(100):
        package.add_paragraph(f"Paragraph {i} " + "word " * 50)
    document = read(package)
    assert [b.anchor.label for b in document.blocks] == [f"part {i + 1}" for i in range(len(document.blocks))]
    assert 3 <= len(document.blocks) <= 6
    assert document.text.count("Paragraph") == 100


def test_wrapped_text_is_not_lost() -> None:
    package = docx.Document()
    body = package.element.body
    run = "<w:r><w:t>{}</w:t></w:r>"
    box = f"<w:txbxContent><w:p>{run.format('In a box.')}</w:p></w:txbxContent>"
    deleted = "<w:del w:id='2'><w:r><w:delText>Gone</w:delText></w:r></w:del>"
    special = "<w:r><w:noBreakHyphen/><w:t>x</w:t><w:tab/><w:t>y</w:t></w:r>"
    raised = "<w:r><w:rPr><w:vertAlign w:val='superscript'/></w:rPr><w:t>2</w:t></w:r>"
    pieces = [
        f"<w:sdt {W}><w:sdtContent><w:p>{run.format('In a control.')}</w:p></w:sdtContent></w:sdt>",
        f"<w:p {W}><w:ins w:id='1'>{run.format('Inserted')}</w:ins>{deleted}</w:p>",
        f"<w:p {W}><w:hyperlink>{run.format('A link')}</w:hyperlink>{special}</w:p>",
        f"<w:p {W}>{run.format('x')}{raised}</w:p>",
        f"<w:p {W}>{run.format('Host')}<w:r><w:pict>{box}</w:pict></w:r></w:p>",
    ]
    for i, piece in enumerate(pieces):
        body.insert(i, parse_xml(piece))
    assert read(package).text == "In a control.\n\nInserted\n\nA link-x y\n\nx²\n\nHost\n\nIn a box."


def test_merged_cells_appear_once_and_frames_are_opened() -> None:
    package = docx.Document()
    table = package.add_table(rows=2, cols=3)
    for i, cell in enumerate(c for row in table.rows for c in row.cells):
        cell.text = str(i)
    table.cell(0, 0).merge(table.cell(1, 0))
    frame = package.add_table(rows=1, cols=1)
    frame.cell(0, 0).paragraphs[0].style = package.styles["Heading 1"]
    frame.cell(0, 0).paragraphs[0].add_run("Framed")
    document = read(package)
    assert document.blocks[0].text == "0 3 | 1 | 2\n | 4 | 5".replace("\n |", "\n |")
    assert document.blocks[1].anchor.label == "§ Framed"


def test_multilevel_numbers_of_headings() -> None:
    package = docx.Document()
    numbering = package.part.numbering_part.element
    numbering.insert(
        0,
        parse_xml(
            f"<w:abstractNum {W} w:abstractNumId='77'>"
            "<w:lvl w:ilvl='0'><w:start w:val='1'/><w:numFmt w:val='upperRoman'/><w:lvlText w:val='%1.'/></w:lvl>"
            "<w:lvl w:ilvl='1'><w:start w:val='1'/><w:numFmt w:val='lowerLetter'/><w:lvlText w:val='%1%2)'/></w:lvl>"
            "</w:abstractNum>"
        ),
    )
    numbering.append(parse_xml(f"<w:num {W} w:numId='77'><w:abstractNumId w:val='77'/></w:num>"))
    for text, level in [("A", 0), ("B", 1), ("C", 1), ("D", 0), ("E", 1)]:
        heading = package.add_heading(text, 1)
        properties = parse_xml(f"<w:numPr {W}><w:ilvl w:val='{level}'/><w:numId w:val='77'/></w:numPr>")
        heading._p.get_or_add_pPr().append(properties)
    labels = [block.anchor.label for block in read(package).blocks]
    assert labels == ["§ I. A", "§ Ia) B", "§ Ib) C", "§ II. D", "§ IIa) E"]


def test_outline_level_makes_a_heading_in_any_language() -> None:
    package = docx.Document()
    style = package.styles.add_style("Kapitel", docx.enum.style.WD_STYLE_TYPE.PARAGRAPH)
    style.element.get_or_add_pPr().append(parse_xml(f"<w:outlineLvl {W} w:val='0'/>"))
    derived = package.styles.add_style("Kapitel klein", docx.enum.style.WD_STYLE_TYPE.PARAGRAPH)
    derived.base_style = style
    package.add_paragraph("Einleitung", style="Kapitel klein")
    assert read(package).blocks[0].anchor.label == "§ Einleitung"


def test_footnotes_stand_at_the_end() -> None:
    package = docx.Document()
    paragraph = package.add_paragraph("A claim")
    paragraph._p.append(parse_xml(f"<w:r {W}><w:footnoteReference w:id='2'/></w:r>"))
    notes = (
        f"<w:footnotes {W}><w:footnote w:id='2'><w:p><w:r><w:t>The source.</w:t></w:r>"
        "<w:r><w:footnoteReference w:id='2'/></w:r></w:p></w:footnote></w:footnotes>"
    )
    data = replace_part(saved(package), "word/footnotes.xml", notes.encode())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        relations = archive.read("word/_rels/document.xml.rels").decode()
        types = archive.read("[Content_Types].xml").decode()
    base = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    link = f'<Relationship Id="rId99" Type="{base}/footnotes" Target="footnotes.xml"/></Relationships>'
    data = replace_part(data, "word/_rels/document.xml.rels", relations.replace("</Relationships>", link).encode())
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
    override = f'<Override PartName="/word/footnotes.xml" ContentType="{kind}"/></Types>'
    data = replace_part(data, "[Content_Types].xml", types.replace("</Types>", override).encode())
    document = read(data)
    assert document.text == "A claim [1]\n\nNotes\n\n[1] The source."


def test_title_property_comes_first() -> None:
    package = docx.Document()
    package.core_properties.title = "The Title"
    package.add_heading("Heading", 1)
    assert read(package).title == "The Title"


def test_damaged_and_empty_packages() -> None:
    package = docx.Document()
    with pytest.raises(UnreadableDocument, match="without any text"):
        read(package)
    package.add_paragraph("text")
    data = saved(package)
    for broken in (data[: len(data) // 2], replace_part(data, "word/document.xml", b"<not xml"), b"PK\x03\x04junk"):
        with pytest.raises(UnreadableDocument, match="damaged"):
            read(broken)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    with pytest.raises(UnreadableDocument, match="damaged"):
        read(out.getvalue())


def test_entity_bomb_does_not_expand() -> None:
    package = docx.Document()
    package.add_paragraph("text")
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    bomb = (
        f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY l0 "ha">{levels}]>'
        f"<w:document {W}><w:body><w:p><w:r><w:t>seen &l11;</w:t></w:r></w:p></w:body></w:document>"
    )
    data = replace_part(saved(package), "word/document.xml", bomb.encode())
    with contextlib.suppress(UnreadableDocument):  # the parser may refuse it, or leave the entity out
        assert len(read(data).text) < 100


def test_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    package = docx.Document()
    package.add_paragraph("text")
    data = replace_part(saved(package), "word/media/big.xml", bytes(100 << 20))
    assert len(data) < 1 << 20
    with pytest.raises(UnreadableDocument, match="refused for safety"):
        read(data)


def test_style_that_is_based_on_itself() -> None:
    package = docx.Document()
    style = package.styles["Normal"].element
    style.append(parse_xml(f"<w:basedOn {W} w:val='Normal'/>"))
    package.add_paragraph("text")
    assert package.paragraphs[0]._p.find(qn("w:pPr")) is None
    assert read(package).text == "text"
