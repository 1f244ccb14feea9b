"""The switch for light and dark, in headless Chromium."""

import re

import pytest

from tests.browser.conftest import Opener, playwright

expect = playwright.expect


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_are_switched_and_stay_so(open_page: Opener, scheme: str) -> None:
    page = open_page(scheme=scheme)
    button = page.get_by_role("button", name="Dark colours")
    before, after = (str(scheme == "dark").lower(), str(scheme != "dark").lower())
    expect(button).to_have_attribute("aria-pressed", before)

    def is_dark() -> bool:
        red = re.findall(r"\d+", str(page.evaluate("getComputedStyle(document.body).backgroundColor")))[0]
        return int(red) < 128

    assert is_dark() == (scheme == "dark")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", after)
    assert is_dark() != (scheme == "dark")
    page.reload()
    expect(button).to_have_attribute("aria-pressed", after)
    assert is_dark() != (scheme == "dark")
    first_ground = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--bg-dark')")
    assert (first_ground == "#0f1218") == (scheme != "dark")  # before the page is there
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")  # what was chosen is chosen
    page.wait_for_timeout(200)
    assert is_dark() != (scheme == "dark")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    button.click()
    expect(button).to_have_attribute("aria-pressed", before)
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")  # as the system has it again
    expect(button).to_have_attribute("aria-pressed", after)
