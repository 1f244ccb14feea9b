"""Bringing documents to the page, in headless Chromium, with the real engine."""

import re
from pathlib import Path

import pytest

from tests.browser.conftest import Opener, playwright, unfold
from tests.browser.test_page import ask, bot_messages, drop, report

__all__ = ["report"]  # a fixture
expect = playwright.expect


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.md"
    path.write_text("# Notes\n\nThe fund was opened again in 2001.")
    return path


def add(page: "playwright.Page", path: Path) -> None:
    """Choose a file behind the button, by keyboard."""
    button = page.locator("#se-add")
    expect(button).to_be_enabled()
    with page.expect_file_chooser() as chooser:
        button.press("Enter")  # focused by itself: an update of the page may take a focus away
    chooser.value.set_files(str(path))


def test_a_pasted_text_is_a_document_that_is_kept(open_page: Opener) -> None:
    page = open_page()
    unfold(page.get_by_role("button", name="Paste a text"))
    page.get_by_role("button", name="Use this text").click()
    expect(page.locator("#se-notice")).to_contain_text("There is no text yet")
    page.get_by_label("The text", exact=True).fill("The board met in 1999.\n\nIt closed the fund of district 7.")
    page.get_by_label("Its name").fill("Minutes of May")
    page.get_by_role("button", name="Use this text").click()
    expect(page.locator("#se-document")).to_contain_text("Minutes of May")
    expect(page.locator("#se-document")).to_contain_text(re.compile(r"\d+ of 16,384 tokens"))
    expect(page.locator("#se-notice")).to_have_text("")
    expect(page.locator("#se-paste-words")).to_be_hidden()
    ask(page, "When did the board meet?")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.locator("#se-stop").click()
    expect(bot_messages(page)).to_have_count(1)

    unfold(page.get_by_role("button", name="Paste a text"))
    expect(page.get_by_label("The text", exact=True)).to_have_value("")
    page.get_by_label("The text", exact=True).fill("And again in 2003.")
    page.get_by_role("button", name="Add it to the document").click()
    expect(page.locator("#se-document")).to_contain_text("Minutes of May, Pasted – And again in 2003")
    expect(bot_messages(page)).to_have_count(0)
    page.locator("#se-history > button").click()
    page.locator("#se-conversations label").click()
    expect(bot_messages(page)).to_have_count(1)
    expect(page.locator("#se-document h2")).to_have_text("Minutes of May")


def test_a_long_pasted_text_is_not_cut(open_page: Opener) -> None:
    page = open_page()
    unfold(page.get_by_role("button", name="Paste a text"))
    line = "The committee met and wrote a line of words.\n"
    field = page.get_by_label("The text", exact=True)
    field.evaluate(
        """(field, line) => {
            Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(field, line.repeat(30000));
            field.dispatchEvent(new Event('input', { bubbles: true }));
        }""",
        line,
    )
    page.get_by_role("button", name="Use this text").click()
    expect(page.locator("#se-document")).to_contain_text("270,000 words", timeout=60_000)


def test_a_file_is_added_to_the_document_and_the_same_one_is_not(open_page: Opener, report: Path, notes: Path) -> None:
    page = open_page()
    expect(page.locator("#se-add")).to_be_hidden()
    drop(page, report)
    add(page, notes)
    expect(page.locator("#se-document")).to_contain_text("report.pdf, notes.md")
    page.locator("#se-ask:enabled").wait_for()
    add(page, notes)
    expect(page.locator("#se-notice")).to_contain_text("Nothing was added: notes.md is in the document already.")
    expect(page.locator("#se-document")).to_contain_text("2 documents")
