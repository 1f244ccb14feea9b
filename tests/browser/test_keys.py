"""The page by keyboard alone."""

import re
from pathlib import Path

from tests.browser.conftest import Opener, playwright
from tests.browser.test_page import ask_briefly, drop, report

expect = playwright.expect
__all__ = ["report"]


def test_a_question_is_edited_and_a_chat_begun_without_a_mouse(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    box, press = page.locator("#se-box textarea"), page.keyboard.press
    ask_briefly(page, "When was it closed?")
    ask_briefly(page, "And by whom?")
    asked, field = page.locator("#se-chat .user-row"), page.locator("#se-chat textarea")
    edit = page.locator("#se-chat button[aria-label=Edit]").first
    edit.focus()
    press("Enter")
    expect(field).to_be_focused()
    expect(page.locator("#se-chat .message-buttons:has(button[aria-label=Submit])")).to_have_css("opacity", "1")
    field.fill("What else?")
    press("Escape")
    expect(field).to_have_count(0)
    expect(asked).to_have_text([re.compile("When was it closed"), re.compile("And by whom")])
    expect(box).to_be_focused()
    edit.focus()
    press("Enter")
    field.fill("Which fund,")
    press("Shift+Enter")
    field.type("of whom?")
    press("Enter")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    press("Escape")
    page.locator("#se-ask:enabled").wait_for()
    expect(asked).to_have_text([re.compile(r"Which fund,\s*of whom")])
    page.locator("#se-new:enabled").focus()
    press("Enter")
    expect(asked).to_have_count(0)
    expect(box).to_be_focused()


def test_arrows_go_through_the_conversations_and_enter_opens_one(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    press, asked = page.keyboard.press, page.locator("#se-chat .user-row")
    for question in ("First?", "Second?", "Third?"):
        ask_briefly(page, question)
        page.keyboard.press("Alt+KeyN")
        expect(asked).to_have_count(0)
    page.locator("#se-history > button").focus()
    press("Enter")
    one = page.locator("#se-conversations input[type=radio]")
    one.first.focus()
    press("Shift+Tab")
    expect(page.locator("#se-search input, #se-search textarea")).to_be_focused()
    press("Tab")  # one stop for all of them, where one was last
    expect(one.first).to_be_focused()
    for number in (1, 2, 0, 1):
        press("ArrowDown")
        expect(one.nth(number)).to_be_focused()
    page.wait_for_timeout(500)
    expect(asked).to_have_count(0)
    press("Enter")
    expect(asked).to_have_text([re.compile(r"Second\?")])
    page.locator("#se-delete").focus()
    press("Enter")
    page.locator("#se-delete-not").focus()
    press("Enter")
    expect(page.locator("#se-delete")).to_be_focused()
    press("Enter")
    page.locator("#se-delete-really").focus()
    press("Enter")
    expect(one).to_have_count(2)
    expect(page.locator("#se-search input, #se-search textarea")).to_be_focused()


def test_behind_an_open_list_the_next_field_is_the_next_stop(open_page: Opener) -> None:
    page = open_page()
    page.locator("#se-preset input").focus()
    page.locator("#se-preset ul, ul[role=listbox]").first.wait_for()
    page.keyboard.press("Tab")
    expect(page.locator("#se-drop button").first).to_be_focused()


def test_what_is_chosen_by_key_keeps_the_focus(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    press, asked = page.keyboard.press, page.locator("#se-chat .user-row")
    ask_briefly(page, "First?")
    page.locator("#se-chat button[aria-label=Edit]").first.click()
    page.locator("#se-chat textarea").fill("Second?")
    press("Enter")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.locator("#se-stop").click()
    page.locator("#se-ask:enabled").wait_for()
    branches, preset = page.locator("#se-branches input"), page.locator("#se-preset input")
    for field, chosen in ((branches, "First"), (preset, "Short context")):
        field.focus()
        page.locator("ul[role=listbox] [role=option]", has_text=chosen).wait_for()
        active = page.locator("ul[role=listbox] .active")
        for _ in range(3):
            page.wait_for_timeout(300)
            if chosen in "".join(active.all_inner_texts()):
                break
            press("ArrowDown")
        press("Enter")
        expect(field).to_have_value(re.compile(chosen))
        page.wait_for_timeout(2000)
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-expanded", "false")
        expect(asked).to_have_text([re.compile("First")])
