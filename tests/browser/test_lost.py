"""The program ends while its page is open, and is started again."""

from urllib.parse import urlsplit

from spec_engine.config import Preset
from tests.browser.conftest import WIDE, playwright, unfold
from tests.browser.server import running_server
from tests.browser.test_places import LINK

expect = playwright.expect


def test_a_lost_connection_is_told_in_plain_words_and_nothing_typed_is_lost(
    chromium: "playwright.Browser", presets: list[Preset]
) -> None:
    context = chromium.new_context(viewport={"width": WIDE[0], "height": WIDE[1]})
    page = context.new_page()
    page.set_default_timeout(30_000)
    box, words = page.locator("#se-box textarea"), page.locator("#se-paste-words textarea")
    with running_server(presets) as address:
        page.goto(address)
        page.locator(".se-chip").wait_for()
        unfold(page.locator("#se-paste > button"))
        words.fill("A text that is not used yet.")
        box.fill("What was closed?")
        page.wait_for_timeout(500)
    toast = page.locator(".toast-body")
    expect(toast).to_contain_text("The program behind this page has ended", timeout=20_000)
    expect(toast).to_contain_text("Nothing is lost")
    expect(toast).not_to_contain_text("Attempting")
    expect(toast).not_to_contain_text("Error")
    page.evaluate(f"document.body.appendChild({LINK.format('document/find?words=fund')}).click()")
    dialog = page.locator("dialog#se-place")
    expect(dialog).to_contain_text("The program does not answer. Start it again, then reload this page.")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.evaluate("window.isOld = true")
    with running_server(presets, urlsplit(address).port or 0):
        page.wait_for_function("!window.isOld")
        page.locator(".se-chip").wait_for()
        expect(toast).to_have_count(0)
        expect(box).to_have_value("What was closed?")
        unfold(page.locator("#se-paste > button"))
        expect(words).to_have_value("A text that is not used yet.")
        page.locator("#se-paste-use").click()
        expect(words).to_have_value("")
        page.reload()
        unfold(page.locator("#se-paste > button"))
        page.wait_for_timeout(1000)
        expect(words).to_have_value("")
        context.close()
