"""A narrow window, as on a phone: the left pane folds, and what is new can be seen."""

from pathlib import Path

import pytest

from tests.browser.conftest import Opener, playwright, unfold
from tests.browser.test_page import ask, ask_briefly, bot_messages, drop, limit_answers, report
from tests.documents.files import make_pdf, paragraph, show

__all__ = ["report"]  # a fixture
expect = playwright.expect
PHONE = (390, 844)


@pytest.mark.parametrize("size", [PHONE, (700, 900)], ids=["phone", "tablet"])
def test_a_document_folds_the_left_pane_and_it_opens_again(
    open_page: Opener, report: Path, size: tuple[int, int]
) -> None:
    page = open_page(size)
    fold, card = page.locator(".se-fold"), page.locator("#se-document")
    expect(fold).to_have_count(0)
    expect(card).to_be_visible()
    drop(page, report)
    expect(fold).to_contain_text("Funds")  # the title of the document
    expect(card).to_be_hidden()
    expect(page.locator("#se-box")).to_be_in_viewport(ratio=1)
    page.wait_for_timeout(600)  # longer than the page takes to see that another document is shown, which folds it
    fold.focus()
    page.keyboard.press("Enter")
    expect(fold).to_have_attribute("aria-expanded", "true")
    expect(card).to_contain_text("report.pdf")
    fold.click()
    expect(fold).to_have_attribute("aria-expanded", "false")
    expect(card).to_be_hidden()
    page.set_viewport_size({"width": 1440, "height": 900})
    expect(fold).to_be_hidden()
    expect(card).to_be_visible()


def test_the_left_pane_folds_when_a_conversation_is_chosen_and_stays_when_one_is_deleted(
    open_page: Opener, report: Path
) -> None:
    page = open_page(PHONE)
    drop(page, report)
    ask_briefly(page, "When was the fund closed?")
    page.locator("#se-new").click()
    expect(bot_messages(page)).to_have_count(0)
    ask_briefly(page, "By whom?")
    fold, listed = page.locator(".se-fold"), page.locator("#se-conversations label")
    fold.click()
    unfold(page.locator("#se-history > button"))
    listed.filter(has_text="When was the fund closed?").click()
    expect(fold).to_have_attribute("aria-expanded", "false")
    expect(listed.first).to_be_hidden()
    expect(page.locator("#se-chat .user-row")).to_have_text(["When was the fund closed?"])
    fold.click()
    page.locator("#se-delete").click()
    page.locator("#se-delete-really").click()
    expect(listed).to_have_count(1)
    page.wait_for_timeout(600)  # longer than the page takes to see that another conversation is shown
    expect(listed).to_be_visible()


def test_a_deletion_that_was_refused_leaves_the_pane_to_fold(open_page: Opener, report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Another text.")
    page = open_page(PHONE)
    drop(page, report)
    ask_briefly(page, "When was the fund closed?")
    ask(page, "By whom?")
    page.locator("#se-stop:enabled").wait_for()
    expect(page.locator("#se-chat .user-row")).to_have_count(2)
    page.locator(".se-fold").click()
    unfold(page.locator("#se-history > button"))
    page.locator("#se-delete").click()
    page.locator("#se-delete-really").click()
    expect(page.locator("#se-notice")).to_contain_text("An answer is still being written")
    page.keyboard.press("Escape")
    page.locator("#se-ask:enabled").wait_for()
    drop(page, other)
    expect(page.locator(".se-fold")).to_contain_text("other")
    expect(page.locator(".se-fold")).to_have_attribute("aria-expanded", "false")
    expect(page.locator("#se-document")).to_be_hidden()


def open_settings(page: "playwright.Page") -> None:
    """Open the pane on the left, and the settings in it, once the page has folded it for a new document."""
    page.locator(".se-fold").wait_for()
    page.wait_for_timeout(900)
    page.locator(".se-fold").click()
    unfold(page.locator("#se-settings > button"))


def test_a_file_that_opens_can_be_seen_below_an_open_pane(open_page: Opener, report: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.pdf"
    lines = [f"Line {number}: the fund of district {number} was closed." for number in range(60)]
    path.write_bytes(make_pdf([show(paragraph(60, 780, lines))] * 500))
    page = open_page(PHONE)
    drop(page, report)
    open_settings(page)
    expect(page.locator("#se-live")).not_to_be_in_viewport()
    drop(page, path)
    expect(page.locator("#se-live .se-live")).to_contain_text("Reading long.pdf")
    expect(page.locator("#se-live .se-live")).to_be_in_viewport(ratio=1)
    expect(page.locator("#se-live .se-live")).to_contain_text("Reading long.pdf")


def test_a_file_that_opens_can_be_seen_also_if_something_else_was_going_on(open_page: Opener, report: Path) -> None:
    page = open_page(PHONE)
    drop(page, report)
    open_settings(page)
    expect(page.locator("#se-live .se-live")).to_have_count(0)
    beat = page.locator("#se-beat textarea, #se-beat input")
    page.evaluate("""() => {
        document.querySelector("#se-live").insertAdjacentHTML("beforeend", "<div class='se-live'>Reading ahead.</div>");
    }""")
    page.wait_for_timeout(1000)
    expect(page.locator("#se-live .se-live")).not_to_be_in_viewport()
    beat.evaluate("field => { field.value = '99.1+'; }")
    expect(page.locator("#se-live .se-live")).to_be_in_viewport(ratio=0.9, timeout=2000)


def test_the_left_pane_stays_open_while_something_is_to_be_chosen_there(open_page: Opener, tmp_path: Path) -> None:
    path = tmp_path / "long.pdf"
    lines = [f"Line {number}: the fund of district {number} was closed." for number in range(40)]
    path.write_bytes(make_pdf([show(paragraph(60, 740, lines)) for _ in range(16)]))
    page = open_page(PHONE)
    drop(page, path)
    page.locator("#se-range-use").click()
    expect(page.locator(".se-fold")).to_be_visible()
    expect(page.locator("#se-range-use")).to_be_hidden()
    expect(page.locator("#se-box")).to_be_in_viewport(ratio=1)


def test_a_remark_is_brought_into_view_and_leaves_the_suggestions_there(
    open_page: Opener, report: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"this is no PDF")
    page = open_page(PHONE)
    page.locator("h1").click()
    drop(page, broken)
    remark = page.locator("#se-notice .se-notice")
    expect(remark).to_be_in_viewport(ratio=1)
    drop(page, report)
    suggestions = page.locator(".se-example:visible")
    expect(suggestions.first).to_be_in_viewport(ratio=1)
    expect(page.locator(".se-fold")).to_be_in_viewport(ratio=1)
    page.locator(".se-fold").click()
    drop(page, broken)
    expect(remark).to_be_in_viewport(ratio=1)
    page.locator(".se-fold").click()
    for suggestion in suggestions.all():
        expect(suggestion).to_be_in_viewport(ratio=1)


def test_the_choice_of_branches_is_whole_below_a_long_conversation(open_page: Opener, report: Path) -> None:
    page = open_page((1280, 480))
    drop(page, report)
    limit_answers(page, 300)
    ask(page, "When was the fund closed?")
    expect(bot_messages(page)).to_have_count(1, timeout=60_000)
    page.locator("#se-chat .user-row").hover()
    page.locator("#se-chat .user-row").get_by_label("Edit").click()
    page.locator("#se-chat textarea").fill("Who closed it?")
    page.locator("#se-chat").get_by_label("Submit").click()
    field = page.locator("#se-branches input")
    field.wait_for()
    expect(bot_messages(page)).to_have_count(1, timeout=60_000)
    cut = "box => box.querySelector('#se-branches').getBoundingClientRect().bottom - box.getBoundingClientRect().bottom"
    assert page.locator("#se-middle > .form", has=field).evaluate(cut) <= 0
