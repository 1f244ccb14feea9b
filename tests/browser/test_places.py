"""Places of the document over the page, and earlier answers token by token."""

import re
from pathlib import Path

from tests.browser.conftest import Opener, playwright, unfold
from tests.browser.test_page import ask, bot_messages, drop, report

__all__ = ["report"]  # a fixture

expect = playwright.expect
LINK = "Object.assign(document.createElement('a'), {{href: '{}', className: 'se-place-link'}})"


def test_a_page_of_the_document_opens_over_the_page(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    expect(page.locator("#se-document")).to_contain_text("2 parts")
    page.locator("#se-preview > button").click()
    page.locator("#se-preview h4 a.se-place-link").first.click()
    dialog = page.locator("dialog#se-place")
    expect(dialog).to_be_visible()
    expect(dialog.locator("h2")).to_have_text("p. 1")
    picture = dialog.locator("img")
    expect(picture).to_be_visible()
    assert page.wait_for_function("document.querySelector('#se-place img').naturalWidth > 500")
    dialog.get_by_role("link", name="p. 2 ›").click()
    expect(dialog.locator("h2")).to_have_text("p. 2")
    dialog.get_by_text("The text as the model reads it").click()
    expect(dialog).to_contain_text("Line 13: the fund of district 13 was closed")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#se-box textarea")).to_be_visible()


def test_words_are_found_in_the_document(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    expect(page.locator("#se-document")).to_contain_text("2 parts")
    page.locator("#se-preview > button").click()
    field = page.locator("#se-preview input[type=search]")
    field.fill("the FUND  of district 1")
    field.press("Enter")
    dialog = page.locator("dialog#se-place")
    found = dialog.locator(".se-found li")
    expect(found.first).to_contain_text("the fund of district 1")
    assert found.count() == int(dialog.get_by_role("status").inner_text().split()[0])
    found.last.get_by_role("link").click()
    expect(dialog.locator("h2")).to_have_text("p. 2")
    dialog.get_by_text("The text as the model reads it").click()
    expect(dialog.locator("mark")).to_have_text("the fund of district 1")
    dialog.get_by_role("link", name="‹ All places").click()
    dialog.locator("input[type=search]").fill("nowhere <b>")
    dialog.get_by_role("button", name="Search").click()
    expect(dialog.get_by_role("status")).to_have_text("“nowhere <b>” does not stand in what was read.")
    expect(dialog.locator(".se-found li")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(field).to_have_value("the FUND  of district 1")


def test_the_marked_passage_is_in_view(open_page: Opener, tmp_path: Path) -> None:
    path = tmp_path / "long.md"
    path.write_text("# Long\n\n" + " ".join(f"Sentence {number} of a part that is long." for number in range(300)))
    page = open_page()
    drop(page, path)
    page.locator("#se-ask:enabled").wait_for()
    page.evaluate(f"document.body.appendChild({LINK.format('document/at/4000?n=32')}).click()")
    expect(page.locator("dialog#se-place mark")).to_be_in_viewport()
    assert page.locator("dialog#se-place").evaluate("dialog => dialog.scrollTop") > 100


def test_the_picture_of_a_page_opens_at_its_mark(open_page: Opener, report: Path) -> None:
    page = open_page((1200, 320))  # of a page at a time little is seen
    drop(page, report)
    page.locator("#se-ask:enabled").wait_for()
    page.evaluate(f"document.body.appendChild({LINK.format('document/find?words=district 12')}).click()")
    dialog = page.locator("dialog#se-place")
    dialog.locator(".se-found a").first.click()
    is_seen = """() => {
        const picture = document.querySelector("#se-place img[data-mark]");
        if (!picture?.naturalHeight) return false;
        const { top, height } = picture.getBoundingClientRect();
        const dialog = picture.closest("dialog").getBoundingClientRect();
        const mark = top + picture.dataset.mark * height;
        return dialog.top < mark && mark < dialog.bottom - 10;
    }"""
    page.wait_for_function(is_seen)
    assert dialog.evaluate("dialog => dialog.scrollTop") > 20


def test_earlier_answers_show_their_authors(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    unfold(page.locator("#se-settings > button"))
    page.locator("#se-settings input[type=number]").first.fill("24")
    page.keyboard.press("Tab")
    for number, question in enumerate(("When was the fund closed?", "And by whom was it closed?"), 1):
        ask(page, question)
        expect(bot_messages(page)).to_have_count(number)
        expect(page.locator("#se-ask")).to_be_visible()
    page.locator("#se-answers .se-looked a.se-place-link").first.click()  # of the first answer
    expect(page.locator("dialog#se-place h2")).to_have_text(re.compile(r"p\. \d"))
    page.keyboard.press("Escape")
    page.locator("#se-authors > button").click()
    shown = page.locator("#se-authors .se-authors")
    last = shown.inner_text()
    page.locator("#se-authors-of input").click()
    page.get_by_role("option", name="1: When was the fund closed?").click()
    expect(shown).not_to_have_text(last)
    expect(page.locator("#se-authors .se-legend")).to_have_text(re.compile(r"confirmed: \d+.*large model: \d+"))


def test_escape_in_the_dialog_stops_nothing_else(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    expect(page.locator("#se-document")).to_contain_text("2 parts")
    page.locator("#se-preview > button").click()
    link = page.locator("#se-preview h4 a.se-place-link").first
    expect(link).to_be_visible()
    ask(page, "When was the fund closed?")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    link.click()
    dialog = page.locator("dialog#se-place")
    expect(dialog).to_be_visible()
    assert page.evaluate("document.activeElement.className") == "se-close"
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#se-stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".se-phase")).to_contain_text("stopped by you")
