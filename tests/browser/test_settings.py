"""What happens to settings that are typed while other things happen, in headless Chromium, with the real engine."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from spec_engine.config import Preset
from tests.browser.conftest import Opener, playwright, unfold
from tests.browser.test_page import ask, bot_messages, drop, report

__all__ = ["report"]  # a fixture
expect = playwright.expect


@pytest.fixture
def more_presets(presets: list[Preset]) -> list[Preset]:
    """A second model, whose answers are usually longer."""
    more = replace(presets[0].generation, max_tokens=700)
    return [*presets, replace(presets[0], name="second", title="Second pair", generation=more)]


def settings_of(page: "playwright.Page") -> "playwright.Locator":
    """The fields: longest answer, temperature, seed, once the page has been given what is in force."""
    unfold(page.get_by_role("button", name="Settings").first)
    fields = page.locator("#se-settings input[type=number]")
    expect(fields.nth(0)).not_to_have_value("512")  # what stands there before
    return fields


def test_a_setting_that_is_being_typed_survives_a_model_and_a_new_chat(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    page.locator("#se-ask:enabled").wait_for()
    fields = settings_of(page)
    page.locator("#se-preset input").click()
    page.get_by_role("option", name="Second pair").click()
    fields.nth(1).fill("0.7")
    expect(fields.nth(0)).to_have_value("700", timeout=60_000)  # the model's own, which nobody typed in
    expect(fields.nth(1)).to_have_value("0.7")
    fields.nth(0).fill("3")
    fields.nth(0).press("Enter")
    ask(page, "When was the fund closed?")
    expect(bot_messages(page)).to_have_count(1)
    page.locator("#se-new:enabled").wait_for()
    fields.nth(2).fill("5")
    page.keyboard.press("Alt+n")
    expect(bot_messages(page)).to_have_count(0)
    page.wait_for_timeout(500)
    expect(fields.nth(2)).to_have_value("5")


def test_an_answer_uses_what_the_settings_show_however_late_they_are_told(open_page: Opener, report: Path) -> None:
    """That a field was left is told in a request of its own, which may come after the question."""
    page, goes_on = open_page(), threading.Event()
    drop(page, report)
    page.locator("#se-ask:enabled").wait_for()
    field = settings_of(page).nth(0)
    page.locator("#se-box textarea").fill("When was the fund closed?")
    held: list[playwright.Route] = []

    def hold(route: "playwright.Route") -> None:
        data = (route.request.post_data_json or {}).get("data", [])
        if not goes_on.is_set() and len(data) == 4 and data[0] == 7:
            held.append(route)
        else:
            route.continue_()

    page.route("**/run/predict**", hold)
    field.fill("7")
    page.locator("#se-ask").click()
    expect(bot_messages(page)).to_have_count(1)
    assert held, "the field was left"
    goes_on.set()
    for route in held:
        route.continue_()
    expect(page.locator("#se-readouts")).to_contain_text("7 tokens")


def test_a_field_that_is_passed_by_puts_nothing_back(open_page: Opener, report: Path) -> None:
    one, other = open_page(), open_page()
    drop(one, report)
    one.locator("#se-ask:enabled").wait_for()
    fields, fields_of_other = settings_of(one), settings_of(other)
    fields_of_other.nth(0).fill("7")
    fields_of_other.nth(0).press("Tab")
    expect(fields.nth(0)).to_have_value("7")  # what is shown is what is used, whoever has set it
    fields.nth(1).focus()
    one.keyboard.press("Tab")  # nothing was changed here
    expect(fields.nth(0)).to_have_value("7")
    ask(one, "When was the fund closed?")
    expect(bot_messages(one)).to_have_count(1)
    expect(one.locator("#se-readouts")).to_contain_text("7 tokens")
