"""Lists that open below their fields, by keyboard."""

from pathlib import Path

import pytest

from tests.browser.conftest import Opener, playwright
from tests.browser.test_page import ask, drop, report

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
