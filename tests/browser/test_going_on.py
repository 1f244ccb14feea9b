"""Continuing an answer that was cut, in headless Chromium, with the real engine."""

import re
from pathlib import Path

from tests.browser.conftest import Opener, playwright
from tests.browser.test_page import ask, bot_messages, drop, report

__all__ = ["report"]  # a fixture
expect = playwright.expect


def limited_to(page: "playwright.Page", num_tokens: int) -> None:
    longest = page.get_by_label("Longest answer")
    if not longest.is_visible():
        page.locator("#se-settings > button").click()
    longest.fill(str(num_tokens))
    longest.press("Tab")
    page.wait_for_timeout(400)


def last_answer(page: "playwright.Page") -> str:
    """As it is saved; what the page shows is Markdown."""
    (turn,) = page.request.get(f"{page.url}conversations/1.json").json()["turns"]
    return str(turn["answer"])


def test_an_answer_is_continued_through_a_reload_in_two_tabs_stopped_and_continued_by_key(
    open_page: Opener, report: Path
) -> None:
    page = open_page()
    drop(page, report)
    limited_to(page, 24)
    ask(page, "When was the fund closed?")
    more = page.locator("#se-continue")
    expect(more).to_be_visible()
    expect(page.locator("#se-live")).to_contain_text("reached its limit, 24 tokens.")
    first = last_answer(page)

    limited_to(page, 4000)
    more.click()
    expect(more).to_be_hidden()
    live = page.locator("#se-live .se-live:not(.se-live--waiting)")
    expect(live).to_have_attribute("aria-live", "off")  # something new is there
    page.reload()
    expect(live).to_have_attribute("aria-live", "off")
    other = page.context.new_page()
    other.goto(page.url)
    for tab in (page, other):
        tab_live = tab.locator("#se-live .se-live:not(.se-live--waiting)")
        tab_live.wait_for()
        before = len(tab_live.text_content() or "")
        tab.wait_for_timeout(500)
        assert len(tab_live.text_content() or "") > before
        expect(tab.locator("#se-chat .user-row")).to_have_count(1)
        expect(tab.locator("#se-continue")).to_be_hidden()
    other.locator("#se-stop").click()
    for tab in (page, other):
        expect(tab.locator("#se-ask:enabled")).to_be_visible()
        expect(bot_messages(tab)).to_have_count(1)
        expect(tab.locator("#se-continue")).to_be_visible()
    second = last_answer(page)
    assert second.startswith(first)
    assert len(second) > len(first)
    assert bot_messages(page).inner_text() == bot_messages(other).inner_text()

    page.keyboard.press("Alt+c")
    expect(page.locator("#se-stop")).to_be_visible()
    expect(live).to_have_attribute("aria-live", "off")
    page.keyboard.press("Escape")
    expect(more).to_be_visible()
    assert last_answer(page).startswith(second)
    expect(bot_messages(page)).to_have_count(1)
    expect(page.locator("#se-answers tbody tr:not(.se-looked)")).to_have_count(1)
    expect(page.locator(".se-phase")).to_have_text(re.compile(r"[\d,]+ more tokens, stopped by you"))


def test_all_of_it_is_raced_and_every_token_has_an_author(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    limited_to(page, 24)
    ask(page, "When was the fund closed?")
    page.locator("#se-continue").click()
    expect(page.locator("#se-live")).to_contain_text("ends here, at 48 tokens")
    expect(page.locator(".se-phase")).to_have_text("24 more tokens, reached the length limit")
    expect(page.locator("#se-answers tbody td").nth(1)).to_have_text("48")
    page.locator("#se-authors > button").click()
    legend = page.locator("#se-authors .se-legend").inner_text()
    assert sum(int(number) for number in re.findall(r"\d+", legend)) == 48
    page.locator("#se-compare:enabled").click()
    expect(page.locator("#se-readouts .se-verdict")).to_have_text("Text identical, 48 tokens", timeout=30_000)
    page.reload()
    expect(page.locator("#se-continue")).to_be_visible()
    page.locator("#se-preset input").click()
    page.get_by_role("option", name="Short context").click()
    expect(page.locator("#se-document")).to_contain_text("of 1,024 tokens")
    expect(page.locator("#se-continue")).to_be_hidden()  # the document does not fit there
