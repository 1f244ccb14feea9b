"""Presentations: what stands on the slides, in the order in which it is read."""

import io
from pathlib import Path

import pytest
from pptx import Presentation
from pptx.presentation import Presentation as Slides
from pptx.util import Inches

from spec_engine.documents.read import read_document
from spec_engine.errors import UnreadableDocument


def saved(presentation: Slides, path: Path) -> Path:
    out = io.BytesIO()
    presentation.save(out)
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A title slide with notes, one with boxes, a table and a group, and an empty one."""
    presentation = Presentation()
    first = presentation.slides.add_slide(presentation.slide_layouts[0])
    first.shapes.title.text = "Budget 2026"
    first.placeholders[1].text = "What changed"
    first.notes_slide.notes_text_frame.text = "Say hello."
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    for top, left, text in ((4, 1, "below"), (1, 5, "above, right"), (1, 1, "above, left")):
        second.shapes.add_textbox(Inches(left), Inches(top), Inches(2), Inches(1)).text_frame.text = text
    table = second.shapes.add_table(2, 2, Inches(1), Inches(5), Inches(4), Inches(1)).table
    for row in range(2):
        for column in range(2):
            table.cell(row, column).text = f"r{row} c{column}"
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(Inches(1), Inches(7), Inches(2), Inches(1)).text_frame.text = "in a group"
    presentation.slides.add_slide(presentation.slide_layouts[6])
    presentation.core_properties.title = "The Budget"
    return saved(presentation, tmp_path / "talk.pptx")


def test_slides_are_read_as_a_person_reads_them(slides: Path) -> None:
    document = read_document(slides)
    assert document.title == "The Budget"
    assert [block.anchor.label for block in document.blocks] == ["slide 1", "slide 2"]
    assert document.blocks[0].text == "Budget 2026\n\nWhat changed\n\nNotes: Say hello."
    shown = ["above, left", "above, right", "below", "r0 c0 | r0 c1\nr1 c0 | r1 c1", "in a group"]
    assert document.blocks[1].text.split("\n\n") == shown
    assert [problem.message for problem in document.problems] == ["slide 3 has no text (a picture?)"]


def test_a_presentation_without_text_is_explained(tmp_path: Path) -> None:
    presentation = Presentation()
    presentation.slides.add_slide(presentation.slide_layouts[6])
    with pytest.raises(UnreadableDocument, match="without any text"):
        read_document(saved(presentation, tmp_path / "empty.pptx"))


def test_a_damaged_presentation_is_explained(slides: Path) -> None:
    data = slides.read_bytes()
    slides.write_bytes(data[:-200])
    with pytest.raises(UnreadableDocument, match="damaged"):
        read_document(slides)
