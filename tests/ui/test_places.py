"""Places in the open document: found from tokens, shown as text and as pictures."""

import asyncio
import io
import re
import time
from collections import Counter
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageChops

from spec_engine.chat.prompt import WORD_JOINER, build
from spec_engine.config import ModelRef, Preset, load_preset
from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.documents.pdf_page import _find, _letters, mark_height, page_picture
from spec_engine.errors import UnreadableDocument
from spec_engine.model.load import load_tokenizer
from spec_engine.ui import places
from spec_engine.ui.render_document import address_of, found, preview
from spec_engine.ui.server import build_app
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.state import Wanted
from spec_engine.ui.whereabouts import Place, find_place, find_words, most_seen, source_of, standing_out
from spec_engine.ui.workspace import Workspace
from tests.documents.files import make_pdf, paragraph, show
from tests.ui.fakes import ScriptedEngine, WordTokenizer

LINES = [f"Line {number}: district {number} closed its fund in {1950 + number} by vote." for number in range(24)]
ATTACK = "<script>alert(1)</script>"


def pdf(tmp_path: Path, name: str = "report.pdf", password: str = "") -> Path:
    path = tmp_path / name
    pages = [show(paragraph(60, 740, LINES[:12])), show(paragraph(60, 740, LINES[12:]))]
    path.write_bytes(make_pdf(pages, password=password) if password else make_pdf(pages))
    return path


def marked_area(path: Path, index: int, passage: str) -> tuple[int, int, int, int] | None:
    """Bounds of what differs from the unmarked page."""
    one, other = (Image.open(io.BytesIO(page_picture(path, index, words))).convert("RGB") for words in (passage, ""))
    return ImageChops.difference(one, other).getbbox()


def test_the_marked_line_is_the_one_with_the_passage(tmp_path: Path) -> None:
    path = pdf(tmp_path)
    tops = []
    for number in (2, 7):
        area = marked_area(path, 0, LINES[number])
        assert area is not None
        assert area[3] - area[1] < 60  # one line
        tops.append(area[1])
    assert tops[0] < tops[1]
    assert marked_area(path, 0, "words that stand nowhere on this page") is None
    assert marked_area(path, 1, LINES[2]) is None
    assert marked_area(path, 0, f"{LINES[2]} and an end that stands somewhere else altogether, no matter") is not None


def test_pages_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="no page 9"):
        page_picture(pdf(tmp_path), 8)
    with pytest.raises(UnreadableDocument, match="cannot be drawn"):
        page_picture(pdf(tmp_path, "locked.pdf", "sesame"), 0)
    assert page_picture(tmp_path / "locked.pdf", 0, passwords=("wrong", "sesame"))


def test_tokens_are_found_in_the_document() -> None:
    tokenizer = WordTokenizer()
    texts = ["The same words stand here. " * 20 + "One.", "The same words stand here. " * 20 + "Two, the end."]
    document = Document(
        "t", "t.txt", tuple(Block(Anchor("section", f"§ {i}", i), part) for i, part in enumerate(texts))
    )
    prompt = tokenizer.encode(f"<|doc|>Read this.\n\n{document.text}<|end|><|user|>Who?<|end|><|assistant|>")
    seen = ""

    def decode(token_ids: Sequence[int]) -> str:
        return re.sub(r"<\|\w+\|>", "", tokenizer.decode(token_ids))

    for token in range(0, len(prompt), 8):
        place = find_place(document, decode, prompt, token, 8)
        if place is not None:
            start, _ = document.span(place.part)
            passage = document.text[start + place.start : start + place.end]
            assert seen == "" or passage == decode(prompt[token : token + 8]).strip()[: len(passage)]
            seen += passage
    assert seen.replace(" ", "").endswith("Two,theend.")
    assert len(seen) > 0.8 * len(document.text)  # the blanks between two passages belong to none
    assert find_place(document, decode, prompt, len(prompt) - 2, 8) is None


def test_the_file_of_a_part() -> None:
    paths = [Path("/x/a.pdf"), Path("/y/a.pdf"), Path("/z/notes.txt")]
    block = Block(Anchor("page", "a.pdf (2) p. 3", 2), "text")
    assert source_of(block, paths) == (Path("/y/a.pdf"), 2)
    assert source_of(Block(Anchor("page", "a.pdf p. 3", 2), "text"), paths) == (Path("/x/a.pdf"), 2)
    assert source_of(Block(Anchor("line", "notes.txt lines 1-9", 0), "text"), paths) is None
    assert source_of(Block(Anchor("page", "p. 1", 0), "text"), paths[:1]) == (Path("/x/a.pdf"), 0)


@pytest.fixture
def workspace() -> Workspace:
    workspace = Workspace(lambda preset, watch, room: ScriptedEngine("answer"))
    assert workspace.switch(Preset("p", "P", "", ModelRef("p"), 16384)).join(10)
    return workspace


@pytest.fixture
def client(workspace: Workspace) -> TestClient:
    app = build_app(workspace, PresetShelf([]), "127.0.0.1", asyncio.Event())
    return TestClient(app, base_url="http://127.0.0.1")


def test_a_place_is_served_with_its_page(client: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    workspace.open_documents([pdf(tmp_path, "locked.pdf", "sesame")], "sesame")
    assert workspace.opened is not None
    assert workspace.opened.budget is not None
    token = workspace.opened.budget.num_tokens_by_block[0] + 30
    page = client.get(f"/document/at/{token}?n=8")
    assert page.status_code == 200
    assert "<h2>p. 2</h2>" in page.text
    assert "<mark>" in page.text
    assert 'href="/document/parts/0?of=' in page.text
    assert ">‹ p. 1<" in page.text
    address = page.text.partition('<img src="')[2].partition('"')[0].replace("&amp;", "&")
    picture = client.get(address)
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    assert client.get("/document/parts/1").text.count("<mark>") == 0
    assert "<h2>p. 2</h2>" in client.get("/document/named", params={"label": "p. 2"}).text
    assert client.get("/document/named", params={"label": "p. 7"}).status_code == 404


def test_foreign_text_stays_text(client: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "evil.txt"
    path.write_text(f"{ATTACK} and more words. " * 30)
    workspace.open_documents([path])
    shown = client.get("/document/at/12?n=16").text
    assert ATTACK not in shown
    assert "<mark>" in shown
    assert "<img" not in shown


@pytest.mark.parametrize(
    "address",
    [
        "/document/at/5",
        "/document/parts/0",
        "/document/parts/-1",
        "/document/named?label=p",
        "/document/pictures/0.png",
    ],
)
def test_without_a_document_there_are_no_places(client: TestClient, address: str) -> None:
    assert client.get(address).status_code in (404, 422)


def test_places_beyond_the_document(client: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    workspace.start_opening(Wanted((pdf(tmp_path),))).join(10)
    for address in ("/document/at/999999", "/document/parts/7", "/document/pictures/7.png", "/document/parts/-1"):
        assert client.get(address).status_code == 404
    assert client.get("/document/pictures/0.png?start=-5&end=99999999").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        "Short. " * 3 + "naïve 漢字 😀 " * 60,
        " begins with a blank and goes on. " * 20,
        f"A word{WORD_JOINER} joiner of its own, early on, and more words. " * 12,
        "same same same same same same same same same same. " * 12,
    ],
    ids=["short tokens", "blank", "joiner", "repetition"],
)
@pytest.mark.parametrize("num_tokens", [1, 4, 32])
def test_places_are_exact_with_the_built_in_tokenizer(body: str, num_tokens: int) -> None:
    preset = load_preset("builtin")
    tokenizer = load_tokenizer(preset, preset.target)
    document = Document("t", "t.txt", (Block(Anchor("line", "lines 1-9", 0), body),))
    prompt = build(tokenizer, document, [], "What?")
    begins = len(tokenizer.decode(prompt).partition(document.text[:20])[0])
    num_wrong = num_seen = 0
    for token in range(0, len(prompt) - 20, num_tokens):
        before, behind = tokenizer.decode(prompt[:token]), tokenizer.decode(prompt[: token + num_tokens])
        exact = behind[len(before) :].replace(WORD_JOINER, "").strip()
        is_inside = len(before) >= begins and len(behind) <= begins + len(document.text)
        if not exact or "\ufffd" in before[-1:] + exact or not is_inside:
            continue
        place = find_place(document, tokenizer.decode, prompt, token, num_tokens)
        num_seen += 1
        num_wrong += place is None or _plain(document.text[place.start : place.end]) != exact
        if place is not None and exact:
            num_wrong += abs(place.start - (len(before) - begins)) > 2
    assert num_seen > 3
    assert num_wrong == 0


def _plain(words: str) -> str:
    return words.replace(WORD_JOINER, "").strip()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("fund's", ["Fund’s", "fund's"]),
        ("THE fund’s  well-known", ["The Fund’s\n well-known", "the fund's Well–Known"]),
        ('"rule"', ["“rule”"]),
        ("1.5 (", ["1.5\t("]),
        ("15", []),
        (" \n", []),
        ("cafe\u0301", ["café"]),  # as some systems spell what they copy
        ("lost -5 ...", ["lost \N{MINUS SIGN}5 …"]),
        ("lost \N{MINUS SIGN}5 …", ["lost \N{MINUS SIGN}5 …"]),
    ],
)
def test_words_are_found_as_they_are_printed(words: str, found: list[str]) -> None:
    parts = ("", "The Fund’s\n well-known “rule”,", "the fund's Well–Known 1.5\t(net) lost \N{MINUS SIGN}5 … café")
    document = Document("t", "t.txt", tuple(Block(Anchor("page", f"p. {n}", n), part) for n, part in enumerate(parts)))
    places = find_words(document, words)
    assert [document.blocks[place.part].text[place.start : place.end] for place in places] == found


def test_words_are_found_across_the_end_of_a_part(client: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    workspace.open_documents([pdf(tmp_path)])
    assert workspace.opened is not None
    document = workspace.opened.used
    (place,) = find_words(document, "in 1961 by vote. line 12")
    assert place.part == 0
    address = unescape(found(document, "in 1961", [place]).partition('href="')[2].partition('"')[0])
    assert "<mark>in 1961 by vote.\n\nLine 12</mark>" in found(document, "", [place])
    shown = client.get(address).text
    assert "<h2>p. 1</h2>" in shown
    assert "<mark>in 1961 by vote.</mark>" in shown
    assert client.get(address.replace("of=", "of=0")).status_code == 404  # found in another document
    assert "All places of “in 1961”" in shown


def test_places_that_were_found_lead_to_the_next_one(client: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    workspace.open_documents([pdf(tmp_path)])
    assert workspace.opened is not None
    document = workspace.opened.used
    places = find_words(document, "by vote")
    shown = client.get(address_of(document, "by vote", places[11])).text
    assert ">‹ 11 of 24</a>" in shown
    following = unescape(shown.partition("‹ 11 of 24</a>")[2].partition('href="')[2].partition('"')[0])
    shown = client.get(following).text
    assert "<h2>p. 2</h2>" in shown
    assert "<mark>by vote</mark>" in shown
    assert client.get(address_of(document, "by vote", places[0])).text.count("se-place-link") == 2
    assert client.get(address_of(document, "by vote", places[23])).text.count("se-place-link") == 2  # back, and all
    assert client.get(following.replace("of=", "of=0")).status_code == 404


def test_each_place_of_a_word_is_marked_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "twice.pdf"
    lines = ["The fund is here.", "Refunds are not.", "The fund is there.", "A fun day, a fund."]
    path.write_bytes(make_pdf([show(paragraph(60, 740, lines))]))
    body = " ".join(lines)
    tops = []
    for match in re.finditer("fund", body, re.IGNORECASE):
        around = body[: match.start()], body[match.end() :]
        drawn = [page_picture(path, 0, words, around=around) for words in ("fund", "")]
        one, other = (Image.open(io.BytesIO(each)).convert("RGB") for each in drawn)
        area = ImageChops.difference(one, other).getbbox()
        assert area is not None
        tops.append(area[1])
    assert tops == sorted(set(tops))
    assert len(tops) == 4


def test_places_of_a_passage_are_told_apart_by_what_stands_around_them() -> None:
    assert _find("aXbXXc", "a", "X", "b") == (1, 2)
    assert _find("aXbXXc", "abX", "X", "c") == (3, 4)  # more of them than in the part: the nearest
    assert _find("aXaXaXa", "aXa", "X", "a") == (3, 4)
    one, other = "thefirstcolumnsowntext", "whatstandsintheother"  # the page has its columns in another order
    second = len(f"{one}levy{other}")
    assert _find(f"{one}levy{other}levy", other, "levy", f"{one}levy") == (second, second + 4)
    alike = "x" * 45  # nearer than this all places look the same
    assert _find(f"{one}{alike}levy{other}{alike}levy", f"{other}{alike}", "levy", f"{one}{alike}levy")[0] > second


def test_what_was_filled_in_says_nothing_about_where_a_label_stands() -> None:
    """The part has values between the labels, pdfium has them behind all of them."""
    labels = ("town", "signature", "signature", "amountpaid")
    values = ("12may2024", "annalevy", "", "2500")
    page = "".join(labels) + "".join(values)
    before = "town12may2024"
    assert _find(page, before, "signature", "annalevysignatureamountpaid2500") == (4, 13)
    assert _find(page, f"{before}signatureannalevy", "signature", "amountpaid2500") == (13, 22)


def test_a_place_tells_how_far_down_its_picture_it_is(client: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    """The page scrolls to it; a mark near the end of a page was below what is seen."""
    path = pdf(tmp_path)
    workspace.open_documents([path])
    assert workspace.opened is not None
    document = workspace.opened.used
    heights = []
    for place in find_words(document, "by vote")[:12]:
        shown = client.get(address_of(document, "by vote", place)).text
        height = float(shown.partition('data-mark="')[2].partition('"')[0])
        block = document.blocks[place.part].text
        drawn = [
            Image.open(io.BytesIO(page_picture(path, place.part, words, around=around))).convert("RGB")
            for words, around in (
                (block[place.start : place.end], (block[: place.start], block[place.end :])),
                ("", ("", "")),
            )
        ]
        area = ImageChops.difference(*drawn).getbbox()
        assert area is not None
        assert height == pytest.approx(area[1] / drawn[0].height, abs=0.005)
        heights.append(height)
    assert heights == sorted(set(heights))
    assert "data-mark" not in client.get("/document/parts/0").text
    assert mark_height(path, 0, "words that stand nowhere on this page") is None
    path.unlink()
    with pytest.raises(UnreadableDocument):
        mark_height(path, 0, "by vote")


def test_a_letter_that_stands_everywhere_is_found_in_time() -> None:
    started = time.perf_counter()
    assert _find("1" * 12_000, "1" * 6_000, "1", "1" * 5_999) == (6_000, 6_001)
    assert time.perf_counter() - started < 1.5  # 3.4 s where the likeliest was looked for once a place


def test_a_passage_without_letters_is_marked_in_the_text(
    client: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    workspace.open_documents([pdf(tmp_path)])
    assert workspace.opened is not None
    body = workspace.opened.used.blocks[0].text
    for words, is_open in ((".", True), ("fund", False)):
        start = body.index(words)
        shown = client.get(f"/document/parts/0?start={start}&end={start + len(words)}").text
        assert ("<details open>" in shown) == is_open
        assert ("with the passage marked" in shown) == (not is_open)
    assert "as it is printed" in client.get("/document/parts/0").text


def test_a_search_lists_places_and_leads_to_them(client: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "evil.txt"
    path.write_text(f"One & two. {ATTACK} " * 300)
    assert "<li>" not in client.get("/document/find?words=two").text  # no document is open
    workspace.open_documents([path])
    listed = client.get("/document/find", params={"words": ATTACK}).text
    assert ATTACK not in listed
    assert "300 places, of which the first 200 are listed" in listed
    assert listed.count("<li>") == 200
    address = unescape(listed.partition("<li><a")[2].partition('href="')[2].partition('"')[0])
    place = client.get(address).text
    assert f"<mark>{escape(ATTACK)}</mark>" in place
    assert ATTACK not in place
    back = unescape(place.partition("<nav>")[2].partition('href="')[2].partition('"')[0])
    assert client.get(back).text == listed
    assert "“three” does not stand in what was read." in client.get("/document/find?words=three").text
    assert "<li>" not in client.get("/document/find").text
    assert client.get("/document/parts/0?start=-9&end=-5").text.count("<mark>") == 0
    assert client.get("/document/parts/0?start=99999999&end=3").status_code == 200


def test_a_place_is_of_one_document_though_another_is_opened_meanwhile(workspace: Workspace, tmp_path: Path) -> None:
    """While an address is answered: text, mark and picture never come from two of them."""
    workspace.open_documents([pdf(tmp_path)])
    assert workspace.opened is not None
    document = workspace.opened.used
    assert workspace.page_of(document, 0) is not None
    workspace.open_documents([pdf(tmp_path, "other.pdf")])
    assert workspace.page_of(document, 0) is None
    assert workspace.opened.used is not document
    assert workspace.page_of(workspace.opened.used, 0) is not None
    other = tmp_path / "other.txt"
    other.write_text("Entirely different text.")
    shown = places._page(workspace, document, Place(1, 0, 7))  # asked for before, put together after that
    workspace.open_documents([other])
    assert "<img" not in places._page(workspace, document, Place(1, 0, 7)).body.decode()
    assert f"<mark>{document.blocks[1].text[:7]}</mark>" in shown.body.decode()


def test_parts_that_are_listed_are_those_of_their_document(
    client: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    """A page that stayed open shows no part of the document that another tab has opened since."""
    workspace.open_documents([pdf(tmp_path)])
    assert workspace.opened is not None
    listed = preview(workspace.opened.used, workspace.opened.budget)
    addresses = [unescape(address) for address in re.findall(r'href="([^"]+)"', listed)]
    assert len(addresses) == 4  # two parts, each in the list of all and above its text
    assert all(client.get(f"/{address}").status_code == 200 for address in addresses)
    other = tmp_path / "other.txt"
    other.write_text("Entirely different text. " * 9)
    workspace.open_documents([other])
    assert all(client.get(f"/{address}").status_code == 404 for address in addresses)


def test_what_stands_around_a_place_is_whole_words() -> None:
    body = "Begins. " + "Somewhere before it " * 4 + "the fund" + " and somewhere behind it" * 4 + "."
    document = Document(
        "t", "t.txt", (Block(Anchor("page", "p. 1", 0), body), Block(Anchor("page", "p. 2", 1), "漢" * 200))
    )
    shown = re.sub("<[^>]*>", "", found(document, "FUND", find_words(document, "fund")))
    assert "p. 1 … before it Somewhere before it Somewhere before it the fund and somewhere behind it and" in shown
    assert shown.endswith(" behind it and …")
    whole = found(document, "漢", find_words(document, "漢" * 100)[:1])
    assert f"<mark>{'漢' * 100}</mark>{'漢' * 60}" in whole


def test_letters_are_compared_without_accents_and_forms() -> None:
    assert _letters("Résumé, ﬁn ΟΔΟΣ") == _letters("re\u0301sume\u0301fin οδοσ")


def test_only_parts_that_stand_out_are_named() -> None:
    assert standing_out(Counter({"p. 1": 3, "p. 2": 10, "p. 3": 5, "p. 4": 4})) == ["p. 2", "p. 3"]
    assert standing_out(Counter(f"p. {page}" for page in range(9))) == [f"p. {page}" for page in range(6)]
    assert standing_out(Counter()) == []


def test_what_is_kept_of_looks_is_what_is_shown_of_them() -> None:
    """Looks are counted by chunk, so a part with many of them does not count once for a look at all of them."""
    seen = Counter({0: 1, 4: 3, 5: 9, 6: 3, 12: 8, 99: 50})

    def locate(token: int) -> str:
        return f"p. {token // 128 + 1}" if token < 512 else ""

    assert most_seen(seen, 32, locate) == {"p. 2": 5, "p. 4": 12}
    assert most_seen(Counter(), 0, locate) == {}
