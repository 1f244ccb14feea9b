"""Real PDFs of other producers, when their folder lies beside the repository."""

import re
import time

import pytest

from spec_engine.documents import ocr
from spec_engine.documents.anchors import Document
from spec_engine.documents.read import read_document
from spec_engine.errors import PasswordRequired, UnreadableDocument
from tests.documents.files import SAMPLES

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the folder of sample documents is not here")

PASSWORDS = {"libreoffice-writer-password.pdf": "openpassword"}


def read(name: str) -> Document:
    return read_document(SAMPLES / name, PASSWORDS.get(name))


NUM_PAGES = {
    "GeoTopo-komprimiert.pdf": 117,
    "google-doc-document.pdf": 1,
    "habibi.pdf": 1,
    "imagemagick-images.pdf": 6,
    "libreoffice-writer-password.pdf": 1,
    "mistitled_outlines_example.pdf": 4,
    "multicolumn.pdf": 3,
    "pdflatex-4-pages.pdf": 4,
    "pdflatex-forms.pdf": 1,
    "pdflatex-outline.pdf": 4,
    "with-attachment.pdf": 1,
}
BESIDE = {
    "with-attachment.pdf": ["image.png is attached and was not read; save it and add it as a file of its own"],
}


@pytest.mark.parametrize("name", sorted(NUM_PAGES))
def test_every_sample_reads_clean(name: str) -> None:
    document = read(name)
    of_pages = {problem.anchor_label for problem in document.problems if problem.anchor_label}
    of_all = [problem.message for problem in document.problems if not problem.anchor_label]
    assert of_all == BESIDE.get(name, [])
    pages = {block.anchor.label for block in document.blocks} | of_pages
    assert pages == {f"p. {i + 1}" for i in range(NUM_PAGES[name])}
    assert not re.search("[\x00-\x08\x0b-\x1f\ufffe\ufeff\ue000-\uf8ff\ufb00-\ufb06\xad]", document.text)
    prose = re.findall(r"[^\W\d_]+", document.text)
    too_long = [word for word in prose if len(word) > 34]
    assert len(too_long) <= len(prose) / 1_000, too_long
    assert document.sha256 == read(name).sha256


def test_password() -> None:
    path = SAMPLES / "libreoffice-writer-password.pdf"
    with pytest.raises(PasswordRequired, match="needs a password"):
        read_document(path)
    with pytest.raises(PasswordRequired, match="does not open"):
        read_document(path, "wrong")
    text = read(path.name).text
    assert text.startswith(
        "Lorem ipsum dolor sit amet, consetetur sadipscing elitr, sed diam nonumy eirmod tempor invidunt"
    )
    assert "\n" not in text


def test_columns_follow_one_another_and_hyphens_are_gone() -> None:
    document = read("multicolumn.pdf")
    first = document.blocks[0].text
    order = [
        "Abstract",
        "adipiscing elit. Ut purus",
        "Nam dui ligula",
        "Quisque ullamcorper",
        "Fusce mauris",
        "Nam feugiat",
    ]
    assert [first.index(words) for words in order] == sorted(first.index(words) for words in order)
    assert not re.search(r"\w-\s", first)
    assert document.blocks[1].text.startswith("lacus vel est.")
    table = document.blocks[2].text
    assert "Country | Population (millions) | Area (km²) | Capital | Official Language\nAustria | 8.9 | 83,879" in table


def test_paragraphs_of_a_latex_report() -> None:
    document = read("pdflatex-outline.pdf")
    paragraphs = document.blocks[1].text.split("\n\n")
    assert [p for p in paragraphs if len(p) < 10] == ["1 Foo", "2 Bar", "3 Baz", "4 Foo", "2"]
    assert all("\n" not in paragraph for paragraph in paragraphs)


def test_lines_that_stand_alone_stay_alone() -> None:
    text = read("google-doc-document.pdf").text
    assert "Beautiful is better than ugly.\nExplicit is better than implicit.\nSimple" in text
    assert "Population | 273.879.750¹ | 83,190,556² | 8,935,112³" in text
    assert "¹ 2021 estimate" in text


def test_right_to_left_word() -> None:
    text = read("habibi.pdf").text
    assert text.count("ح\u064eبيبي") == 2
    assert "habibi" in text


def test_scanned_pages_are_named() -> None:
    document = read("imagemagick-images.pdf")
    cause = ", and none was found in its picture" if ocr.is_installed() else " (a scan?)"
    assert [p.message for p in document.problems if "has no text" in p.message] == [
        f"p. 4 has no text{cause}",
        f"p. 5 has no text{cause}",
    ]


def test_long_script_is_fast_and_whole() -> None:
    start = time.perf_counter()
    document = read("GeoTopo-komprimiert.pdf")
    assert time.perf_counter() - start < 15
    assert document.title == "Geometrie und Topologie"
    text = document.blocks[1].text
    assert "(Schwarz-Weiß, Ringbindung)" in text
    assert "Übungsaufgaben und Lösungen" in text
    assert "nicht zum R² oder zu einem Torus T². Für den R² müsste" in text
    assert "1.4 Zusammenhang … 11\n1.5 Kompaktheit … 14" in document.blocks[3].text
    assert document.anchor_at(document.text.index("Betti-Zahl, 41")).label == "p. 115"


@pytest.mark.parametrize("name", sorted(NUM_PAGES))
def test_half_a_file_is_refused(name: str, tmp_path) -> None:
    data = (SAMPLES / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises((UnreadableDocument, PasswordRequired), match=r"damaged|encrypted"):
        read_document(path, PASSWORDS.get(name))
