"""PowerPoint presentations as blocks, one a slide, through python-pptx.

Job: text of all shapes from top to bottom and left to right, tables as rows, groups, and the speaker's notes.
Non-job: pictures, charts, masters and layouts (their text is not the slide's).
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from lxml import etree
from pptx import Presentation
from pptx.exc import PackageNotFoundError
from pptx.shapes.base import BaseShape
from pptx.shapes.graphfrm import GraphicFrame
from pptx.shapes.group import GroupShape
from pptx.slide import Slide

from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.archive import open_archive
from spec_engine.errors import UnreadableDocument

_MAX_DEPTH = 20  # of groups in groups


def read_pptx(data: bytes, name: str, stem: str) -> Document:
    """Read a presentation.

    Raises `UnreadableDocument`: damaged, unreasonably large once unpacked, or without text.
    """
    damaged = f"{name} is damaged and cannot be opened as a presentation. Save it again as .pptx, or as PDF."
    open_archive(data, name, damaged)
    try:
        presentation = Presentation(io.BytesIO(data))
        texts = [_slide_text(slide) for slide in presentation.slides]
        title = presentation.core_properties.title or stem
    except (PackageNotFoundError, zipfile.BadZipFile, zlib.error, etree.XMLSyntaxError, EOFError) as error:
        raise UnreadableDocument(damaged) from error
    except (KeyError, ValueError, AttributeError, IndexError, TypeError, RuntimeError, OSError) as error:
        # what python-pptx and zipfile raise when parts are missing, misnamed, encrypted or of another kind
        raise UnreadableDocument(damaged) from error
    labels = [f"slide {number}" for number in range(1, len(texts) + 1)]
    blocks = [Block(Anchor("slide", label, index), texts[index]) for index, label in enumerate(labels)]
    problems = [
        Problem(label, f"{label} has no text (a picture?)")
        for label, text in zip(labels, texts, strict=True)
        if not text
    ]
    document = Document(title, name, tuple(blocks), tuple(problems))
    if not document.blocks:
        raise UnreadableDocument(f"{name} is a presentation without any text. If it holds pictures of text, run OCR.")
    return document


def _slide_text(slide: Slide) -> str:
    """What stands on a slide, its title first, and its notes."""
    title = slide.shapes.title
    others = [shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id]
    parts = [*([title.text_frame.text] if title is not None else []), *_texts(others, 0)]
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None and frame.text.strip():
        parts.append(f"Notes: {frame.text}")
    return "\n\n".join(part.replace("\v", "\n").strip() for part in parts if part.strip())


def _texts(shapes: Iterable[BaseShape], depth: int) -> Iterator[str]:
    """Texts of shapes in reading order."""
    if depth > _MAX_DEPTH:
        return
    for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
        if isinstance(shape, GroupShape):
            yield from _texts(shape.shapes, depth + 1)
        elif isinstance(shape, GraphicFrame) and shape.has_table:
            rows = (" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in shape.table.rows)
            yield "\n".join(rows)
        elif shape.has_text_frame:
            yield shape.text_frame.text  # type: ignore[attr-defined]  # has_text_frame says so
