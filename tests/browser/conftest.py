"""The page with a real engine behind it, and a real browser in front.

The models have random weights, so the answers mean nothing; everything between the key press and the token is real.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import torch

from spec_engine.config import GenerationDefaults, ModelRef, Preset, RetrievalConfig
from tests.browser.server import ARGUMENTS, CHROMIUM, running_server
from tests.fakes import END_ID, pair_preset, perturbed, save_pair, tiny_lm

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")

LEFT_STREAM: Final = ("AbortError", "Connection errored out")  # what a page says when it is reloaded while it follows
# … and what it may say before that, of a stream that it opens while the server lets go of its last one
LEAVING: Final = ("Unexpected error 404", "ERR_INCOMPLETE_CHUNKED_ENCODING", "TypeError: network error")
LEAVES_WITHIN_S: Final = 3.0
WIDE: Final = (1440, 900)
_NUM_LAYERS: Final = 16  # so many that an answer is still being written when a test on a slow machine looks at it

playwright.expect.set_options(timeout=15_000)  # machines are shared, and three times as slow at times

Opener = Callable[..., "playwright.Page"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here drives a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator["playwright.Browser"]:
    """A headless browser."""
    if CHROMIUM is None:
        pytest.skip("browser tests need Chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def presets(tmp_path_factory: pytest.TempPathFactory) -> list[Preset]:
    """A working pair, the same with a short context, and one whose files are missing."""
    folder = tmp_path_factory.mktemp("pair")
    target = tiny_lm("llama", num_hidden_layers=_NUM_LAYERS)
    with torch.no_grad():
        target.get_output_embeddings().weight[END_ID] = 0.0  # answers end at their length limit, not by chance
    save_pair(folder, target, perturbed(target, 0.02))
    retrieval = RetrievalConfig(chunk_size=32, top_k=8, num_recent=64)
    tiny = replace(
        pair_preset(folder, "lm", context_length=16384, retrieval=retrieval),
        title="Tiny pair",
        description="Random weights.",
        generation=GenerationDefaults(max_tokens=8000),
    )
    short = replace(tiny, name="short", title="Short context", context_length=1024)
    broken = replace(tiny, name="broken", title="Missing files", target=ModelRef(str(folder / "nowhere")))
    return [tiny, short, broken]


@pytest.fixture
def more_presets(presets: list[Preset]) -> list[Preset]:
    """What the page offers."""
    return presets


@pytest.fixture
def address(more_presets: list[Preset]) -> Iterator[str]:
    """A fresh server with the first preset loaded."""
    with running_server(more_presets) as address:
        yield address


def listen(page: "playwright.Page", address: str, complaints: list[str]) -> None:
    """Note script errors, dialogs, errors in the console and requests to anywhere else."""

    leaving: list[tuple[float, str]] = []  # complaints that are none if the page is left now

    def console(line: "playwright.ConsoleMessage") -> None:
        is_left_stream = any(words in line.text for words in LEFT_STREAM)
        if line.type == "error" and not is_left_stream:
            complaints.append(f"console: {line.text} {line.location}")
            if any(words in line.text for words in LEAVING):
                leaving.append((time.monotonic(), complaints[-1]))

    def navigated(frame: "playwright.Frame") -> None:
        if frame == page.main_frame:
            since = time.monotonic() - LEAVES_WITHIN_S
            for complaint in [complaint for at, complaint in leaving if at > since]:
                complaints.remove(complaint)
            leaving.clear()

    def request(sent: "playwright.Request") -> None:
        if not sent.url.startswith((address, "data:", "blob:")):
            complaints.append(f"foreign request: {sent.url}")

    def dialog(shown: "playwright.Dialog") -> None:
        complaints.append(f"dialog: {shown.message}")
        shown.dismiss()

    page.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
    page.on("dialog", dialog)
    page.on("console", console)
    page.on("framenavigated", navigated)
    page.on("request", request)


def unfold(button: "playwright.Locator") -> None:
    """Open a part of the page, and wait until it has been drawn: Gradio (6.31) fills its fields once more in the next
    frame, over what a program that is faster than any person typed before it."""
    button.click()
    button.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.fixture
def open_page(chromium: "playwright.Browser", address: str) -> Iterator[Opener]:
    """Opens the page; in the end nothing must have failed and nothing must have been asked of another machine."""
    complaints: list[str] = []
    contexts = []

    def open_it(size: tuple[int, int] = WIDE, scheme: str = "light") -> "playwright.Page":
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        listen(page, address, complaints)
        page.goto(address)
        page.locator("#se-box textarea").wait_for()
        page.locator(".se-chip").wait_for()
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []
