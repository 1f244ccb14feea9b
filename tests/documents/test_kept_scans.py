"""What was recognised of scanned pages is kept: by a reader that counts, and once by the real engine."""

import multiprocessing
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from spec_engine.documents import ocr
from spec_engine.documents.anchors import Document
from spec_engine.documents.kept_scans import ScanStore
from spec_engine.documents.layout import Line
from spec_engine.documents.pdf import read_pdf
from spec_engine.documents.together import read_documents
from spec_engine.errors import MissingDependency, Stopped
from tests.documents.files import INLINE_IMAGE, make_pdf, paragraph, show
from tests.documents.test_ocr import LINES, needs_ocr, picture_pdf, scanned

WIDTHS = (600, 700, 800)  # of the pages, in the pixels that they are drawn with
DATA = picture_pdf(*(Image.new("L", (width, 900), 255) for width in WIDTHS))
OTHER_DATA = picture_pdf(Image.new("L", (750, 900), 255))


class Readings:
    """Stands for the engine: reads "wide 600" from a page of that width, and notes it."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.version: str | None = "1.0-1"

    def read(self, picture: Image.Image) -> tuple[Line, ...] | None:
        width = min((*WIDTHS, 750), key=lambda width: abs(width / 900 - picture.width / picture.height))
        self.widths.append(width)
        return (Line(f"wide {width} \ud800", 10.1, 200.3, -50.7, 12.9), Line("ends", 10.1, 1 / 3, -70.0, 12.9))

    def taken(self) -> list[int]:
        """What was read since the last call."""
        widths, self.widths = self.widths, []
        return widths


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    readings = Readings()
    monkeypatch.setattr(ocr, "is_installed", lambda: True)
    monkeypatch.setattr(ocr, "version", lambda: readings.version)
    monkeypatch.setattr(ocr, "Reader", lambda: readings)
    return readings


@pytest.fixture
def store(tmp_path: Path) -> ScanStore:
    return ScanStore(tmp_path / "data" / "scans")


def read(store: ScanStore | None, data: bytes = DATA, password: str | None = None) -> Document:
    return read_pdf(data, "a.pdf", "a", password, None, store)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "scans").iterdir())


@contextmanager
def full_after(num_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_page_is_recognised_twice(readings: Readings, store: ScanStore, tmp_path: Path) -> None:
    first = read(store)
    assert readings.taken() == list(WIDTHS)
    assert read(store) == first
    assert read(ScanStore(tmp_path / "data" / "scans")) == first  # another start of the program
    assert readings.taken() == []
    assert "wide 800" in first.text
    assert read(None) == first  # kept only where it is wanted
    assert readings.taken() == list(WIDTHS)


def test_a_file_behind_it_is_all_that_is_recognised(readings: Readings, store: ScanStore, tmp_path: Path) -> None:
    paths = tmp_path / "a.pdf", tmp_path / "b.pdf"
    for path, data in zip(paths, (DATA, OTHER_DATA), strict=True):
        path.write_bytes(data)
    read_documents(paths[:1], kept=store)
    readings.taken()
    document = read_documents(paths, ["not needed"], kept=store)
    assert readings.taken() == [750]
    assert "wide 600" in document.text


@needs_ocr
def test_what_the_engine_reads_comes_back_to_the_letter(store: ScanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    left = paragraph(50, 700, [f"Left line {i} is about as long as these lines get" for i in range(8)])
    right = paragraph(310, 694, [f"Right line {i} is about as long as these lines" for i in range(8)])
    data = picture_pdf(scanned(show([*left, *right])), scanned(show(paragraph(50, 700, LINES, size=12, pitch=15)), 2))
    first = read(store, data)

    def refuse() -> None:
        raise AssertionError("the engine is not to be loaded")

    monkeypatch.setattr(ocr, "Reader", refuse)
    assert read(store, data) == first


def test_reading_goes_on_where_it_was_stopped(readings: Readings, store: ScanStore) -> None:
    def stop(num_done: int, num_pages: int) -> None:
        if num_done == 2:
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        read_pdf(DATA, "a.pdf", "a", None, stop, store)
    assert readings.taken() == [600, 700]
    read(store)
    assert readings.taken() == [800]


def test_another_version_reads_anew(readings: Readings, store: ScanStore) -> None:
    read(store)
    readings.taken()
    for version in ("2.0-1", "2.0-2", None, None):
        readings.version = version
        read(store)
        assert readings.taken() == list(WIDTHS)
    readings.version = "1.0-1"
    read(store)
    assert readings.taken() == []


@needs_ocr
def test_the_version_names_engine_and_rules() -> None:
    assert str(ocr.version()).startswith("3.")
    assert str(ocr.version()).endswith(f"-{ocr.RULES}")


def test_pages_without_text_and_broken_ones(readings: Readings, store: ScanStore, monkeypatch) -> None:
    """That there is nothing is kept; that the engine broke down is not."""
    data = make_pdf([show(paragraph(50, 700, LINES)), INLINE_IMAGE])
    for result, num_again in ((None, 1), ((), 1), ((), 0)):
        monkeypatch.setattr(readings, "read", lambda picture, r=result: readings.widths.append(1) or r)
        assert "p. 2 has no text" in read(store, data).problems[0].message
        assert len(readings.taken()) == num_again


def test_kept_pages_do_without_an_engine_that_does_not_load(
    readings: Readings, store: ScanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(store)

    def fail() -> None:
        raise MissingDependency("no library")

    monkeypatch.setattr(ocr, "Reader", fail)
    assert read(store) == first


@pytest.mark.parametrize("place", ["front", "middle", "end", "all", "empty"])
def test_damage_costs_what_is_damaged(place: str, readings: Readings, store: ScanStore, tmp_path: Path) -> None:
    first = read(store)
    readings.taken()
    (path,) = files(tmp_path)
    whole = bytearray(path.read_bytes())
    if place in ("front", "middle"):
        whole[{"front": 3, "middle": len(whole) // 2}[place]] ^= 1
    path.write_bytes({"end": whole[:-9], "all": os.urandom(5_000), "empty": b""}.get(place, bytes(whole)))
    assert read(store) == first
    lost = {"front": WIDTHS[:1], "middle": WIDTHS[1:2], "end": WIDTHS[2:]}.get(place, WIDTHS)
    assert readings.taken() == list(lost)
    assert read(store) == first
    assert readings.taken() == []


def test_a_full_disk_is_no_trouble(readings: Readings, store: ScanStore) -> None:
    with full_after(250):
        first = read(store)
        assert readings.taken() == list(WIDTHS)
        assert read(store) == first
        assert 0 < len(readings.taken()) < 3  # what had room is there, what was half written is not
    assert read(store) == first
    readings.taken()
    assert read(store) == first
    assert readings.taken() == []


def test_a_folder_that_cannot_be_used_is_no_trouble(readings: Readings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        store = ScanStore(folder)
        for _ in range(2):
            assert "wide 600" in read(store).text
            assert readings.taken() == list(WIDTHS)
        store.forget("")


def test_only_the_user_may_read_it(readings: Readings, store: ScanStore, tmp_path: Path) -> None:
    read(store)
    (path,) = files(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_of_a_locked_file_nothing_is_kept(readings: Readings, store: ScanStore, tmp_path: Path) -> None:
    data = make_pdf([INLINE_IMAGE], password="open")
    for _ in range(2):
        assert "ends" in read(store, data, "open").text
        assert len(readings.taken()) == 1
    assert files(tmp_path) == []
    path = tmp_path / "restricted.pdf"
    path.write_bytes(make_pdf([INLINE_IMAGE], password=""))  # anybody can read it
    for num_again in (1, 0):
        assert "ends" in read_documents([path], ["open"], kept=store).text
        assert len(readings.taken()) == num_again


def test_the_least_recently_used_go_first(readings: Readings, tmp_path: Path) -> None:
    store = ScanStore(tmp_path / "data" / "scans", 700)
    documents = [picture_pdf(Image.new("L", (width, 900), 255)) for width in range(500, 504)]
    for data in documents[:3]:
        read(store, data)
    size = files(tmp_path)[0].stat().st_size
    store = ScanStore(tmp_path / "data" / "scans", 3 * size + size // 2)
    for number, path in enumerate(sorted(files(tmp_path), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (number, number))
    read(store, documents[0])
    readings.taken()
    read(store, documents[3])  # for which the second has to go
    assert len(readings.taken()) == 1
    for data, num_again in ((documents[0], 0), (documents[2], 0), (documents[3], 0), (documents[1], 1)):
        read(store, data)
        assert len(readings.taken()) == num_again
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 3.5 * size


def test_one_document_takes_no_more_than_there_is(readings: Readings, tmp_path: Path) -> None:
    store = ScanStore(tmp_path / "data" / "scans", 250)
    for expected in (3, 1):
        read(store)
        assert len(readings.taken()) >= expected
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 250
    nothing = ScanStore(tmp_path / "none", 0)
    read(nothing)
    assert list((tmp_path / "none").iterdir()) == []


def test_what_is_forgotten_meanwhile_stays_forgotten(readings: Readings, store: ScanStore, tmp_path: Path) -> None:
    """A reading may end after its conversation was deleted."""

    def forget(num_done: int, num_pages: int) -> None:
        if num_done == 2:
            (path,) = files(tmp_path)
            store.forget(path.name[:32])

    read_pdf(DATA, "a.pdf", "a", None, forget, store)
    assert files(tmp_path) == []


def _keep_many(folder: Path, first: int) -> None:
    pages = ScanStore(folder).pages_of(b"data", "1")
    for index in range(first, first + 300):
        pages.keep(index, [Line(f"page {index}", 0.0, 1.0, 2.0, 3.0)] * 20)


def test_two_programs_write_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "scans"
    context = multiprocessing.get_context("spawn")
    programs = [context.Process(target=_keep_many, args=(folder, first)) for first in (0, 200)]
    for program in programs:
        program.start()
    for program in programs:
        program.join(60)
        assert program.exitcode == 0
    pages = ScanStore(folder).pages_of(b"data", "1")
    assert [(pages.get(index) or [])[19].text for index in range(500)] == [f"page {index}" for index in range(500)]
    assert pages.get(500) is None
