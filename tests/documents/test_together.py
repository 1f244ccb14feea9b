"""Several documents read as one."""

from pathlib import Path

import pytest

from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.budget import select
from spec_engine.documents.pdf_page import page_picture
from spec_engine.documents.together import join, new_among, read_documents
from spec_engine.errors import PasswordRequired, RequestError, UnreadableDocument
from tests.documents.files import make_pdf, paragraph, show

BETWEEN = "(The text up to here is a.pdf. What follows is b.pdf.)\n\n"


def document(name: str, *texts: str) -> Document:
    blocks = tuple(Block(Anchor("page", f"p. {n}", n - 1), text) for n, text in enumerate(texts, 1))
    return Document(name.title(), name, blocks, (Problem("p. 9", "p. 9 has no text"),))


def test_every_place_names_its_file() -> None:
    both = join([document("a.pdf", "One.", "Two."), document("b.pdf", "Three.")])
    assert [block.anchor.label for block in both.blocks] == ["a.pdf p. 1", "a.pdf p. 2", "b.pdf p. 1"]
    assert both.text == f"One.\n\nTwo.\n\n{BETWEEN}# b.pdf\n\nThree."
    assert both.source_name == "a.pdf, b.pdf"
    assert [problem.message for problem in both.problems] == ["a.pdf: p. 9 has no text", "b.pdf: p. 9 has no text"]


def test_a_file_more_leaves_the_text_before_it() -> None:
    files = [document("a.pdf", "One.", "Two."), document("b.pdf", "Three."), document("c.pdf", "Four.")]
    alone, both, all_of_them = (join(files[:number]).text for number in (1, 2, 3))
    assert both.startswith(alone)
    assert all_of_them == f"{both}\n\n# c.pdf\n\nFour."


def test_a_password_is_not_tried_on_a_file_that_needs_none(tmp_path: Path) -> None:
    """One that restricts printing alone is encrypted, and opens with no password but the right one or none."""
    paths = [tmp_path / "a.pdf", tmp_path / "b.pdf"]
    for path, password in zip(paths, ("", "sesame"), strict=True):
        path.write_bytes(make_pdf([show(paragraph(50, 700, [f"The words of {path.name}."]))], password=password))
    assert "The words of a.pdf." in read_documents(paths, ["sesame"]).text
    with pytest.raises(PasswordRequired, match=r"b\.pdf is encrypted and does not open with this password"):
        read_documents(paths, ["wrong"])
    with pytest.raises(PasswordRequired, match=r"b\.pdf is encrypted and needs a password"):
        read_documents(paths)
    for path in paths:
        assert page_picture(path, 0, passwords=["wrong", "sesame"])


def test_what_took_a_password_is_locked_alone_in_part_and_with_others(tmp_path: Path) -> None:
    paths = [tmp_path / "free.pdf", tmp_path / "printing.pdf", tmp_path / "locked.pdf"]
    for path, password in zip(paths, (None, "", "sesame"), strict=True):
        pages = [show(paragraph(50, 700, [f"Page {page} of {path.name}."])) for page in (1, 2)]
        path.write_bytes(make_pdf(pages, password=password))
    assert [read_documents([path], ["sesame"]).is_locked for path in paths] == [False, False, True]
    both = read_documents([paths[0], paths[2]], ["sesame"])
    assert both.is_locked
    assert select(both, 0, 2).is_locked
    assert not read_documents(paths[:2], ["sesame"]).is_locked


def test_a_part_of_several_says_nothing_of_what_is_left_out() -> None:
    both = join([document("a.pdf", "One."), document("b.pdf", "Two.", "Three.")])
    assert select(both, 1, 2).text == "# b.pdf\n\nTwo.\n\nThree."
    assert select(both, 0, 0).text == "One."


def test_files_of_one_name_are_told_apart() -> None:
    both = join([document("a.pdf", "One."), document("a.pdf", "Two.")])
    assert [block.anchor.label for block in both.blocks] == ["a.pdf p. 1", "a.pdf (2) p. 1"]


def test_a_single_one_stays_as_it_is_and_none_is_an_error() -> None:
    alone = document("a.pdf", "One.")
    assert join([alone]) is alone
    with pytest.raises(RequestError, match="at least one"):
        join([])


def test_the_parts_of_a_divided_text_stay_together() -> None:
    blocks = [Block(Anchor("line", f"line 1 ({n} of 2)", 0), text, " ") for n, text in ((1, "One."), (2, "Two."))]
    divided = Document("A", "a.txt", tuple(blocks))
    assert divided.text == "One. Two."
    both = join([divided, document("b.pdf", "Three.")])
    assert both.text == f"One. Two.\n\n{BETWEEN.replace('a.pdf', 'a.txt')}# b.pdf\n\nThree."
    assert both.text[slice(*both.span(1))] == "Two."
    assert both.anchor_at(both.text.index("Two.") - 1).label == "a.txt line 1 (1 of 2)"


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.txt", "same.txt", "other.txt"))
    for path, words in ((one, "One."), (same, "One."), (other, "Other.")):
        path.write_text(words)
    assert new_among([same, other, other], [one]) == [other]
    assert new_among([one, same], []) == [one]
    with pytest.raises(UnreadableDocument, match=r"gone\.txt"):
        new_among([tmp_path / "gone.txt"], [one])
