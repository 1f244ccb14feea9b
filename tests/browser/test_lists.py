"""Lists: those that open below their fields, by keyboard, and that of conversations."""

from pathlib import Path

import pytest

from tests.browser.conftest import Opener, playwright, unfold
from tests.browser.test_page import ask, ask_briefly, drop, report

__all__ = ["report"]  # a fixture
expect = playwright.expect


@pytest.mark.parametrize("key", ["Tab", "Shift+Tab"])
def test_a_list_closes_when_its_field_is_left_by_keyboard(open_page: Opener, key: str) -> None:
    page = open_page()
    field = page.locator("#se-preset input")
    field.focus()
    expect(page.get_by_role("option")).not_to_have_count(0)
    page.keyboard.press("ArrowDown")
    page.keyboard.press(key)
    page.wait_for_timeout(300)  # Gradio opened it again a moment later
    expect(page.get_by_role("option")).to_have_count(0)
    expect(field).not_to_be_focused()
    assert field.input_value().startswith("Tiny pair")  # what was pointed at was not chosen


def test_escape_closes_an_open_list_before_it_stops_an_answer(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    ask(page, "When was the fund closed?")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.locator("#se-preset input").focus()
    expect(page.get_by_role("option")).not_to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    expect(page.locator("#se-stop")).to_be_enabled()
    page.keyboard.press("Escape")
    page.locator("#se-ask:enabled").wait_for()


def test_a_conversation_is_opened_while_another_one_is_still_being_shown(open_page: Opener, report: Path) -> None:
    page, is_held = open_page(), [True]
    drop(page, report)
    ask_briefly(page, "When was the fund closed?")
    page.locator("#se-new").click()
    expect(page.locator("#se-chat .user-row")).to_have_count(0)
    ask_briefly(page, "Which district?")
    page.locator("#se-new").click()
    unfold(page.locator("#se-history > button"))
    listed, users = page.locator("#se-conversations label"), page.locator("#se-chat .user-row")
    expect(listed).to_have_count(2)
    held: list[playwright.Route] = []

    def hold(route: "playwright.Route") -> None:
        """What the first choice shows comes late, and the second is asked for behind it."""
        if is_held[0]:
            held.append(route)
        else:
            route.continue_()

    page.route("**/run/predict**", hold)
    listed.filter(has_text="When was").click()
    page.wait_for_timeout(300)
    listed.filter(has_text="Which district").click()
    page.wait_for_timeout(300)
    is_held[0] = False
    for route in held:
        route.continue_()
        page.wait_for_timeout(700)
    expect(users).to_have_text(["Which district?"])
    expect(listed.filter(has_text="Which district").locator("input")).to_be_checked()
