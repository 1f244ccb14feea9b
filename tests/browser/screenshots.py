"""Takes the pictures of the documentation: ``python -m tests.browser.screenshots [--preset NAME] [--folder DIR]``.

Drives the page with the preset's real engine over the bundled report; needs playwright and Chromium.
"""

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from spec_engine.config import load_preset
from tests.browser.server import ARGUMENTS, CHROMIUM, running_server

QUESTIONS = (
    'Continue the text after "Auctions are a market-driven solution"',
    'Quote the passage about "relocation cost".',
)


FILM_SIZE = (960, 600)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="builtin")
    parser.add_argument("--folder", type=Path, default=Path("docs/screenshots"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        with running_server([load_preset(given.preset)]) as address:
            page = opened(browser, address, (1440, 900), "light")
            page.locator("#se-sample").click()
            film(page, "Make an outline.", given.folder / "streaming.gif")
            for number, question in enumerate(QUESTIONS, start=2):
                answer(page, question, number)
            page.locator("#se-compare").click()
            expect(page.locator("#se-readouts .se-verdict")).to_be_visible(timeout=300_000)
            page.locator("#se-talk").evaluate("talk => talk.scrollTo(0, talk.scrollHeight)")
            save(page, given.folder / "race.png")
            page.locator("#se-authors > button").click()
            page.locator("#se-history > button").click()
            save(page, given.folder / "wide-light.png")
            dark = opened(browser, address, (1440, 900), "dark")
            save(dark, given.folder / "wide-dark.png")
            phone = opened(browser, address, (390, 844), "light")
            phone.locator("#se-middle").scroll_into_view_if_needed()
            save(phone, given.folder / "phone.png")
        browser.close()


def opened(browser: Browser, address: str, size: tuple[int, int], scheme: str) -> Page:
    """The page in a window of its own."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(address)
    page.locator(".se-chip").wait_for()
    return page


def answer(page: Page, question: str, number: int) -> None:
    """Ask and wait for the end of answer `number`."""
    page.locator("#se-ask:enabled").wait_for()
    page.locator("#se-box textarea").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator("#se-chat .bot-row")).to_have_count(number, timeout=300_000)


def film(page: Page, question: str, path: Path) -> None:
    """A moving picture of an answer as it is written, from the question to the end."""
    page.locator("#se-ask:enabled").wait_for()
    page.locator("#se-box textarea").fill(question)
    page.keyboard.press("Enter")
    frames = []
    while page.locator("#se-chat .bot-row").count() == 0:
        frames.append(Image.open(io.BytesIO(page.screenshot())))
    frames += [Image.open(io.BytesIO(page.screenshot()))] * 8  # the end stands for a while
    rows = [frame.convert("RGB").resize(FILM_SIZE, Image.Resampling.LANCZOS) for frame in frames]
    palette = rows[-1].quantize(128, Image.Quantize.FASTOCTREE)  # one for all, or colours would flicker
    small = [row.quantize(palette=palette, dither=Image.Dither.NONE) for row in rows]
    small[0].save(path, save_all=True, append_images=small[1:], duration=160, loop=0, optimize=True)


def save(page: Page, path: Path) -> None:
    """What is seen now, after everything has settled."""
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
