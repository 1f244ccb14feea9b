"""Models on the page: a download that is stopped and goes on, and one that does not fit."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spec_engine.config import MemoryFigures, ModelRef, Preset
from tests.browser.conftest import Opener, playwright
from tests.hub_server import Hub, serving, use_hub

expect = playwright.expect


@pytest.fixture
def hub(presets: list[Preset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The working pair, on a hub with a slow line."""
    pair = {
        f"tests/{part}": {path.name: path.read_bytes() for path in (presets[0].folder / part).iterdir()}
        for part in ("target", "draft")
    }
    with serving(Hub(pair)) as running:
        running.repos["tests/target"]["extra.txt"] = bytes(3_000_000)
        use_hub(running.address, str(tmp_path / "hub"), monkeypatch)
        yield running


@pytest.fixture
def more_presets(presets: list[Preset]) -> list[Preset]:
    """One that lies on the hub, one that is gated, one that is far too large."""
    tiny = presets[0]
    draft = replace(tiny.draft, model=ModelRef("tests/draft"))
    remote = replace(tiny, name="remote", title="From the hub", target=ModelRef("tests/target"), draft=draft)
    gated = replace(remote, name="gated", title="Gated model", target=ModelRef("tests/gated"))
    large = replace(tiny, name="large", title="Large model", target=ModelRef("tests/large"), context_length=8192)
    return [*presets, remote, gated, replace(large, memory=MemoryFigures(0.5, 10.0, 0.0, 0.0))]


def pick(page: "playwright.Page", name: str) -> None:
    page.locator("#se-preset input").click()
    page.get_by_role("option", name=name).click()


def test_a_download_is_shown_stopped_and_taken_up_again(open_page: Opener, hub: Hub) -> None:
    page = open_page()
    hub.bytes_per_second = 1_500_000
    pick(page, "From the hub")
    live = page.locator("#se-live")
    expect(live).to_contain_text("Downloading tests/target")
    expect(live.locator(".se-files li")).to_contain_text(["extra.txt"])
    expect(live).to_contain_text("MB/s")
    started = time.monotonic()
    page.locator("#se-stop").click()
    expect(page.locator("#se-notice")).to_contain_text("Loading was stopped; what was downloaded is kept.")
    assert time.monotonic() - started < 2.0
    expect(page.locator("#se-notice")).to_contain_text("Tiny pair stays loaded.")
    expect(page.locator("#se-preset input")).to_have_value(re.compile("^Tiny pair"))
    hub.bytes_per_second = None
    hub.gets.clear()
    pick(page, "From the hub")
    expect(page.locator("#se-preset input")).to_have_value(re.compile("^From the hub"), timeout=30_000)
    assert all(start > 0 for name, start in hub.gets if name == "extra.txt")
    expect(page.locator("#se-readouts")).to_contain_text("Memory:")


def test_a_second_choice_while_the_first_loads_is_refused_and_the_page_goes_on(open_page: Opener, hub: Hub) -> None:
    page = open_page()
    hub.bytes_per_second = 1_500_000
    pick(page, "From the hub")
    expect(page.locator("#se-live")).to_contain_text("Downloading tests/target")
    pick(page, "Gated model")
    expect(page.locator("#se-notice")).to_contain_text("A model is being loaded.")
    pick(page, "Tiny pair")  # the one that is loaded
    hub.bytes_per_second = None
    expect(page.locator("#se-preset input")).to_have_value(re.compile("^From the hub"), timeout=30_000)
    expect(page.locator("#se-stop")).to_be_hidden()
    expect(page.locator("#se-ask")).to_be_visible()
    expect(page.locator("#se-notice")).to_be_empty()


def test_a_gated_model_says_what_to_do(open_page: Opener, hub: Hub) -> None:
    hub.refusals["tests/gated"] = (401, "GatedRepo")
    page = open_page()
    pick(page, "Gated model")
    notice = page.locator("#se-notice")
    expect(notice).to_contain_text("Accept the terms on https://huggingface.co/tests/gated")
    expect(notice).to_contain_text("hf auth login")
    expect(notice).to_contain_text("Tiny pair stays loaded.")


def test_what_does_not_fit_is_not_loaded_and_less_is_offered(open_page: Opener, hub: Hub) -> None:
    page = open_page()
    pick(page, "Large model")
    fit = page.locator("#se-fit")
    expect(fit).to_contain_text("Large model needs 21 GB of memory with its context of 8,192 tokens")
    expect(fit).to_contain_text("What would fit instead")
    expect(fit.get_by_role("button", name="Load it all the same")).to_be_visible()
    expect(fit.get_by_role("button", name="Large model, 3,072 tokens")).to_be_visible()
    fit.get_by_role("button", name="Load it all the same").click()
    expect(page.locator("#se-notice")).to_contain_text("There is no model 'tests/large'")
    expect(fit).to_be_hidden()
    assert hub.gets == []
