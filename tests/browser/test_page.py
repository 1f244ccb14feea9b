"""What a person does on the page, in headless Chromium, with the real engine."""

import re
import time
from pathlib import Path

import pytest

from tests.browser.conftest import Opener, playwright, unfold
from tests.documents.files import make_pdf, paragraph, show

expect = playwright.expect
ATTACK = (
    "<img src=x onerror=\"window.hit='element'\">${window.hit='template'}{{7*7}}</div>"
    "<script>window.hit='script'</script>"
)
LINES = [
    f"Line {number}: the fund of district {number} was closed by the board in {1950 + number}." for number in range(24)
]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A PDF of two pages."""
    path = tmp_path / "report.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, LINES[:12])), show(paragraph(60, 740, LINES[12:]))], "Funds"))
    return path


def drop(page: "playwright.Page", path: Path) -> None:
    page.locator("#se-drop input[type=file]").set_input_files(str(path))


def ask(page: "playwright.Page", question: str) -> None:
    page.locator("#se-ask:enabled").wait_for()
    page.locator("#se-box textarea").fill(question)
    page.keyboard.press("Enter")


def limit_answers(page: "playwright.Page", num_tokens: int) -> None:
    """Set the longest answer, once nothing else changes on the page: no person is as fast as a test that types into a
    field in the moment in which it appears."""
    page.locator("#se-ask:enabled").wait_for()
    page.locator("#se-settings > button").click()
    field = page.get_by_label("Longest answer")
    field.wait_for()
    page.wait_for_timeout(500)
    field.fill(str(num_tokens))
    page.keyboard.press("Tab")


def ask_briefly(page: "playwright.Page", question: str) -> None:
    """Ask, and stop once something of the answer is there."""
    before = bot_messages(page).count()
    ask(page, question)
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.locator("#se-stop").click()
    expect(bot_messages(page)).to_have_count(before + 1)
    page.locator("#se-ask:enabled").wait_for()


def bot_messages(page: "playwright.Page") -> "playwright.Locator":
    return page.locator("#se-chat .bot-row")


def test_upload_ask_watch_stop_ask_again_new_chat(open_page: Opener, report: Path) -> None:
    page = open_page()
    expect(page.locator("#se-ask")).to_be_disabled()
    drop(page, report)
    expect(page.locator("#se-document")).to_contain_text(re.compile(r"[\d,]+ of 16,384 tokens"))
    expect(page.locator("#se-document")).to_contain_text("report.pdf")
    expect(page.locator("#se-ask")).to_be_enabled()

    ask(page, "When was the fund closed?")
    expect(page.locator("#se-chat .user-row")).to_contain_text("When was the fund closed?")
    live = page.locator("#se-live .se-live:not(.se-live--waiting)")
    live.wait_for()
    lengths = []
    for _ in range(4):
        lengths.append(len(live.text_content() or ""))
        page.wait_for_timeout(250)
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0] > 0
    assert bot_messages(page).count() == 0  # the conversation is written once, at the end

    started = time.monotonic()
    page.locator("#se-stop").click()
    expect(page.locator("#se-ask")).to_be_visible()
    assert time.monotonic() - started < 3.0
    expect(bot_messages(page)).to_have_count(1)
    expect(page.locator(".se-phase")).to_contain_text("stopped by you")
    expect(page.locator("#se-readouts")).to_contain_text("tokens/pass")
    expect(page.locator("#se-readouts")).to_contain_text(re.compile(r"reused [\d,]+ · new [\d,]+"))

    ask(page, "And the next one?")
    expect(page.locator("#se-readouts")).to_contain_text(re.compile(r"reused [1-9]"))
    live.wait_for()  # a stop before the first word would give the question back
    page.locator("#se-stop").click()
    expect(bot_messages(page)).to_have_count(2)

    page.locator("#se-new").click()
    expect(bot_messages(page)).to_have_count(0)
    expect(page.locator("#se-document")).to_contain_text("report.pdf")


def test_lanes_stay_in_view_as_they_grow_until_somebody_scrolls(open_page: Opener, report: Path) -> None:
    page = open_page((1440, 620))
    drop(page, report)
    limit_answers(page, 160)
    for number in (1, 2):  # less than 100 points from the end Gradio keeps the end of the conversation in view
        ask(page, "When was the fund closed?")
        expect(bot_messages(page)).to_have_count(number)
        page.locator("#se-ask:visible:enabled").wait_for()
    race, lanes = page.locator("#se-compare:enabled"), page.locator("#se-race .se-lanes")
    race.click()
    page.locator("#se-race .se-lane--running").wait_for()
    page.locator("#se-race .se-lane--running").wait_for(state="detached")
    page.wait_for_timeout(800)  # what stands above them comes back
    bottom = "() => Math.round(document.querySelector('#se-race .se-lanes').getBoundingClientRect().bottom)"
    view = "() => Math.round(document.querySelector('#se-talk').getBoundingClientRect().bottom)"
    expect(lanes).to_be_in_viewport()
    assert page.evaluate(bottom) <= page.evaluate(view) + 1
    race.click()
    page.locator("#se-race .se-lane--running").wait_for()
    page.locator("#se-talk").hover(position={"x": 100, "y": 20})  # above the lanes, which scroll by themselves
    top = "() => document.querySelector('#se-talk').scrollTop"
    for _ in range(5):  # a busy browser may miss one
        page.mouse.wheel(0, -2000)
        page.wait_for_timeout(100)
        if page.evaluate(top) == 0:
            break
    page.locator("#se-race .se-lane--running").wait_for(state="detached")
    page.wait_for_timeout(800)
    assert page.evaluate(top) == 0


def test_the_plain_run_shows_an_identical_text_and_a_measured_speed_up(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    page.locator("#se-settings > button").click()
    page.locator("#se-settings input[type=number]").first.fill("48")
    page.keyboard.press("Tab")
    ask(page, "When was the fund closed?")
    expect(bot_messages(page)).to_have_count(1)
    tile = page.locator(".se-tile", has_text="speed-up")
    expect(tile.locator("b")).to_have_text(re.compile(r"[\d.]+×"))  # the short calibration behind the answer
    page.locator("#se-compare").click()
    expect(page.locator("#se-readouts .se-verdict")).to_have_text("Text identical, 48 tokens")
    lanes = page.locator(".se-lane")
    expect(lanes.first).to_be_in_viewport()
    expect(lanes.locator("h4")).to_have_text(["Plain decoding", "Drafting, no retrieval", "Drafting with retrieval"])
    expect(lanes.locator(".se-verdict")).to_have_text(["identical text: 48 tokens"] * 2)
    texts = lanes.locator(".se-lane-text").all_inner_texts()
    assert len(set(texts)) == 1
    page.locator("#se-authors > button").click()
    authors = page.locator("#se-authors .se-authors")
    expect(authors.locator(".se-target").first).to_be_visible()
    legend = page.locator("#se-authors .se-legend").inner_text()
    assert sum(int(number) for number in re.findall(r"\d+", legend)) == 48  # every token has an author
    expect(page.locator(".se-strip i").first).to_have_attribute("title", re.compile("p. 1"))


def test_foreign_text_never_runs(open_page: Opener, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=window.hit=1>.txt"
    path.write_text(f"{ATTACK}\n\nA report about {ATTACK} and funds.\n", encoding="utf-8")
    page = open_page()
    drop(page, path)
    page.locator("#se-ask:enabled").wait_for()
    page.locator("#se-preview > button").click()
    expect(page.locator("#se-preview")).to_contain_text("${window.hit='template'}{{7*7}}")
    ask(page, ATTACK)
    expect(page.locator("#se-chat .user-row")).to_contain_text("{{7*7}}")
    page.locator("#se-live .se-live").first.wait_for()
    page.locator("#se-stop").click()
    page.locator("#se-ask").wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate("window.hit") is None
    assert page.locator("#se-main img[src=x]").count() == 0


def test_a_reloaded_page_and_a_second_tab_find_the_running_answer(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    ask(page, "When was the fund closed?")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.reload()
    live = page.locator("#se-live .se-live:not(.se-live--waiting)")
    live.wait_for()
    before = len(live.text_content() or "")
    page.wait_for_timeout(400)
    assert len(live.text_content() or "") > before
    expect(page.locator("#se-chat .user-row")).to_contain_text("When was the fund closed?")

    other = open_page()
    expect(other.locator("#se-stop")).to_be_visible()
    other.locator("#se-box textarea").fill("A second question?")
    other.locator("#se-box textarea").press("Enter")
    expect(other.locator("#se-notice")).to_contain_text("An answer is still being written")
    other.locator("#se-stop").click()
    for tab in (page, other):
        expect(tab.locator("#se-ask")).to_be_visible()
        expect(bot_messages(tab)).to_have_count(1)


def test_a_document_that_does_not_fit_waits_for_a_choice(open_page: Opener, tmp_path: Path) -> None:
    path = tmp_path / "long.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, LINES[:20])) for _ in range(16)]))
    page = open_page()
    drop(page, path)
    expect(page.locator("#se-document")).to_contain_text("too many")
    expect(page.locator("#se-ask")).to_be_disabled()
    expect(page.locator("#se-range .se-range--ok")).to_be_visible()
    page.locator("#se-range-use").click()
    expect(page.locator("#se-ask")).to_be_enabled()
    expect(page.locator("#se-document")).to_contain_text("were chosen")
    page.locator("#se-range-all").click()
    expect(page.locator("#se-ask")).to_be_disabled()


def test_a_question_from_a_tab_that_shows_something_else_is_not_asked(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    ask_briefly(page, "When was the fund closed?")
    other = page.context.new_page()
    other.goto(page.url)
    expect(bot_messages(other)).to_have_count(1)
    other.locator("#se-new").click()
    expect(bot_messages(other)).to_have_count(0)
    ask(page, "And by whom?")
    expect(page.locator("#se-notice")).to_contain_text("Nothing was asked.")
    expect(bot_messages(page)).to_have_count(0)
    expect(page.locator("#se-box textarea")).to_have_value("And by whom?")
    ask_briefly(page, "And by whom?")  # it is meant for the new conversation


def test_settings_that_are_typed_are_used_and_bounds_are_said(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    unfold(page.get_by_role("button", name="Settings").first)
    temperature, longest = page.get_by_label("Temperature"), page.get_by_label("Longest answer")
    temperature.fill("0.8")
    temperature.press("Tab")
    page.wait_for_timeout(400)  # nobody types in two fields at once
    longest.fill("-5")
    expect(page.get_by_text("Used: at most")).to_be_hidden()  # it is still being typed
    longest.press("Enter")
    expect(page.get_by_text("Used: at most 1 token, temperature 0.8, seed 0.")).to_be_visible()
    expect(longest).to_have_value("1")
    temperature.fill("")
    seed = page.get_by_label("Seed")
    seed.fill("99999999999999999999999")
    expect(temperature).to_have_value("0.8")
    seed.press("Tab")
    expect(seed).to_have_value("9007199254740991")
    longest.fill("7")
    longest.press("Enter")
    expect(page.get_by_text("Used: at most")).to_be_hidden()
    ask(page, "When was the fund closed?")
    expect(bot_messages(page)).to_have_count(1)
    expect(page.locator("#se-readouts")).to_contain_text("7 tokens")
    expect(temperature).to_have_value("0.8")


def test_a_page_whose_stream_is_lost_shows_the_document_and_the_answer(open_page: Opener, report: Path) -> None:
    """The line over which Gradio tells what happens never answers; requests of their own still do."""
    page = open_page()
    page.route("**/queue/data**", lambda route: None)
    drop(page, report)
    expect(page.locator("#se-document")).to_contain_text(report.name, timeout=10_000)
    ask(page, "When was the fund closed?")
    expect(page.locator("#se-live .se-live:not(.se-live--waiting)")).to_be_visible(timeout=10_000)
    page.locator("#se-stop").click()
    expect(bot_messages(page)).to_have_count(1, timeout=10_000)
    expect(page.locator("#se-ask:enabled")).to_be_visible()


def test_what_is_typed_while_an_answer_is_written_stays(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    ask(page, "When was the fund closed?")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    unfold(page.get_by_role("button", name="Conversations").first)
    expect(page.locator("#se-title input")).to_have_value("When was the fund closed?")
    page.wait_for_timeout(500)  # as a person takes who has just seen it
    page.locator("#se-title input").fill("Half a ti")
    unfold(page.get_by_role("button", name="Settings").first)
    page.get_by_label("Temperature").fill("0.7")
    page.locator("#se-stop").click()
    expect(bot_messages(page)).to_have_count(1)
    expect(page.locator("#se-ask:enabled")).to_be_visible()
    page.wait_for_timeout(300)  # the figures of the answer come behind it
    expect(page.locator("#se-title input")).to_have_value("Half a ti")
    expect(page.get_by_label("Temperature")).to_have_value("0.7")
    page.locator("#se-rename").click()
    expect(page.locator("#se-history")).to_contain_text("Half a ti")


def test_a_question_that_is_typed_survives_a_reload_and_a_sent_one_does_not(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    page.locator("#se-ask:enabled").wait_for()
    page.locator("#se-box textarea").fill("When was the")
    page.reload()
    expect(page.locator("#se-box textarea")).to_have_value("When was the")
    page.locator("#se-ask:enabled").wait_for()
    ask_briefly(page, "When was the fund closed?")
    expect(bot_messages(page)).to_have_count(1)
    page.wait_for_timeout(600)
    page.reload()
    expect(bot_messages(page)).to_have_count(1)
    expect(page.locator("#se-box textarea")).to_have_value("")


def test_what_is_copied_is_the_message_and_what_is_shown_again_is_its_end(open_page: Opener, tmp_path: Path) -> None:
    question = "Is <b>this</b> &lt; `<i>`, ![x](y)?"
    path = tmp_path / "notes.txt"
    path.write_text("The fund was closed by the board in 1950. " * 20)
    page = open_page((1000, 420))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drop(page, path)
    limit_answers(page, 300)
    ask(page, question)
    expect(bot_messages(page)).to_have_count(1, timeout=60_000)
    expect(page.locator("#se-live")).to_contain_text("reached its limit, 300 tokens")
    row = page.locator("#se-chat .user-row")
    row.hover()
    row.get_by_label("Copy message").click()
    page.wait_for_function("async (wanted) => await navigator.clipboard.readText() === wanted", arg=question)
    page.evaluate("navigator.clipboard.writeText('')")
    row.locator(".message-content").evaluate("element => getSelection().selectAllChildren(element)")
    page.keyboard.press("Control+c")
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('Is <b>this</b> &lt; ')")
    page.reload()
    expect(bot_messages(page)).to_have_count(1)
    page.wait_for_timeout(1800)
    talk = page.locator("#se-talk")
    assert talk.evaluate("talk => talk.scrollTop") > 50
    assert talk.evaluate("talk => talk.scrollHeight - talk.clientHeight - talk.scrollTop") < 4


def test_a_narrow_page_has_a_way_to_the_chat(open_page: Opener) -> None:
    page = open_page()
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator("#se-box")).not_to_be_in_viewport()
    page.get_by_role("link", name="Go to the chat").click()
    expect(page.locator("#se-box")).to_be_in_viewport()


def test_a_long_word_makes_no_narrow_page_wider(open_page: Opener, report: Path) -> None:
    page = open_page((420, 860))
    drop(page, report)
    ask_briefly(page, f"What is https://example.org/{'a-long-path/' * 30}?{'x' * 300}")
    for part in ("#se-left", "#se-middle", "#se-right", "#se-chat .user-row .prose"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 420


def test_a_locked_file_asks_for_its_password(open_page: Opener, tmp_path: Path) -> None:
    path = tmp_path / "locked.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, LINES[:12]))], password="sesame"))
    page = open_page()
    drop(page, path)
    field = page.locator("#se-password input")
    field.fill("wrong")
    field.press("Enter")
    expect(page.locator("#se-notice .se-notice")).to_be_visible()
    field.fill("sesame")
    page.locator("#se-unlock").click()
    expect(page.locator("#se-document")).to_contain_text("locked.pdf")
    expect(page.locator("#se-password")).to_be_hidden()


def test_what_cannot_be_read_is_explained(open_page: Opener, tmp_path: Path) -> None:
    path = tmp_path / "broken.pdf"
    path.write_bytes(b"this is no PDF")
    page = open_page()
    drop(page, path)
    expect(page.locator("#se-notice .se-notice")).to_contain_text("broken.pdf")
    expect(page.locator("body")).not_to_contain_text("Traceback")


def test_another_model_keeps_document_and_chat(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    ask(page, "When was the fund closed?")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.locator("#se-stop").click()
    expect(bot_messages(page)).to_have_count(1)
    page.locator("#se-preset input").click()
    page.get_by_role("option", name="Missing files").click()
    expect(page.locator("#se-notice .se-notice")).to_contain_text("Tiny pair stays loaded")
    expect(page.locator("#se-preset input")).to_have_value(re.compile("^Tiny pair"))
    page.locator("#se-preset input").click()
    page.get_by_role("option", name="Short context").click()
    expect(page.locator("#se-document")).to_contain_text("of 1,024 tokens")
    expect(bot_messages(page)).to_have_count(1)


def test_the_sample_report_offers_questions_that_can_be_pressed(open_page: Opener) -> None:
    page = open_page()
    page.locator("#se-sample").click()
    expect(page.locator("#se-document")).to_contain_text("spectrum-policy-report.txt")
    page.locator("#se-range-use").click()
    limit_answers(page, 24)
    questions = page.locator("#se-examples button")
    expect(questions.first).to_be_visible()
    edges = [page.locator(".se-welcome b").bounding_box(), questions.first.bounding_box()]
    assert len({edge and edge["x"] for edge in edges}) == 1, "the questions stand under the text above them"
    question = questions.first.inner_text()
    questions.first.click()
    expect(page.locator("#se-chat .user-row")).to_have_text([question])
    expect(bot_messages(page)).to_have_count(1, timeout=60_000)
    expect(questions.first).to_be_hidden()


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)], ids=["wide", "medium", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_size_scrolls_sideways_and_both_schemes_are_legible(
    open_page: Opener, report: Path, size: tuple[int, int], scheme: str
) -> None:
    page = open_page(size, scheme)
    drop(page, report)
    page.locator("#se-ask:enabled").wait_for()
    page.locator(".se-example:visible").first.click()
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    shades = page.evaluate(
        """() => ['body', '.se-card', '.se-tile b'].map(name => {
            const style = getComputedStyle(document.querySelector(name));
            return [style.color, style.backgroundColor];
        })"""
    )
    ink = sum(int(part) for part in re.findall(r"\d+", shades[2][0])[:3])
    paper = sum(int(part) for part in re.findall(r"\d+", shades[1][1])[:3])
    assert (ink > paper) == (scheme == "dark")
    assert abs(ink - paper) > 400
    page.locator("#se-stop").click()
    expect(bot_messages(page)).to_have_count(1)


def test_conversations_are_kept_branched_found_and_saved(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    page.locator("#se-settings > button").click()
    page.locator("#se-settings input[type=number]").first.fill("24")
    page.keyboard.press("Tab")
    ask(page, "When was the fund closed?")
    expect(bot_messages(page)).to_have_count(1)
    ask(page, "Which district?")
    expect(bot_messages(page)).to_have_count(2)
    expect(page.locator("#se-answers tbody tr:not(.se-looked)")).to_have_count(2)

    users = page.locator("#se-chat .user-row")
    users.first.hover()
    users.first.get_by_label("Edit").click()
    page.locator("#se-chat textarea").fill("Who closed the fund?")
    page.locator("#se-chat").get_by_label("Submit").click()
    expect(users).to_have_text(["Who closed the fund?"])
    expect(bot_messages(page)).to_have_count(1)
    page.locator("#se-branches input").click()
    page.get_by_role("option", name="1: Which district?").click()
    expect(users).to_have_text(["When was the fund closed?", "Which district?"])

    bot_messages(page).last.hover()
    bot_messages(page).last.get_by_label("Retry").click()
    expect(page.locator("#se-notice")).to_contain_text("the same word for word")

    page.locator("#se-new").click()
    expect(users).to_have_count(0)
    unfold(page.locator("#se-history > button"))
    listed = page.locator("#se-conversations label")
    expect(listed).to_have_count(1)
    page.locator("#se-search input").fill("no such thing")
    expect(listed).to_have_count(0)
    page.locator("#se-search input").fill("DISTRICT")
    expect(listed).to_have_count(1)
    listed.first.click()
    expect(users).to_have_count(2)
    page.locator("#se-title input").fill("Funds <img src=x onerror=alert(1)>")
    page.locator("#se-rename").click()
    expect(listed.first).to_contain_text("Funds <img src=x onerror=alert(1)>")
    with page.expect_download() as saved:
        page.locator(".se-exports a", has_text="Markdown").click()
    assert "> Which district?" in saved.value.path().read_text("utf-8")

    page.locator("#se-delete").click()
    page.locator("#se-delete-really").click()
    expect(users).to_have_count(0)
    expect(listed).to_have_count(0)
    expect(page.locator("#se-document")).to_contain_text("No document yet")  # its file was the copy that is gone


def test_several_files_are_read_as_one_document(open_page: Opener, report: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("# Notes\n\nThe fund was opened again in 2001.")
    page = open_page()
    page.locator("#se-drop input[type=file]").set_input_files([str(report), str(notes)])
    expect(page.locator("#se-document")).to_contain_text("2 documents")
    expect(page.locator("#se-document")).to_contain_text("report.pdf, notes.md")
    page.locator("#se-preview > button").click()
    labels = ["report.pdf p. 1", "report.pdf p. 2", "notes.md § Notes"]
    expect(page.locator(".se-preview h4")).to_contain_text(labels)
    expect(page.locator(".se-preview h4 .se-tokens").first).to_have_text(re.compile(r"[\d,]+ tokens"))
    page.locator(".se-parts summary").click()
    expect(page.locator(".se-parts li")).to_contain_text(labels)


def test_a_preset_is_copied_checked_as_it_is_typed_saved_and_chosen(open_page: Opener) -> None:
    page = open_page()
    unfold(page.locator("#se-editor > button"))
    page.locator("#se-editor-name input").fill("Mine!")
    source = 'title = "Mine"\ndescription = "x"\ncontext_length = 2048\n[target]\nid = "builtin/target"\n'
    page.locator("#se-editor-source textarea").fill(source)
    verdict = page.locator("#se-editor-verdict")
    expect(verdict).to_contain_text("lower-case letters")
    page.locator("#se-editor-name input").fill("mine")
    expect(verdict).to_contain_text("drafts by none")
    page.locator("#se-editor-source textarea").fill(source + '[draft]\nkind = "lm"\n')
    expect(verdict).to_contain_text("needs a [draft.model] table")
    page.locator("#se-editor-source textarea").fill(source + '[draft]\nkind = "lookup"\n')
    expect(verdict).to_contain_text("valid preset: Mine")
    page.locator("#se-editor-save").click()
    expect(verdict).to_contain_text("Saved")
    page.locator("#se-preset input").click()
    page.get_by_role("option", name="Mine").click()
    expect(page.locator("#se-preset input")).to_have_value(re.compile("^Mine"))
    expect(page.locator(".se-chip")).to_contain_text("copy from context", timeout=60_000)


def test_keys_stop_focus_and_begin_anew(open_page: Opener, report: Path) -> None:
    page = open_page()
    drop(page, report)
    page.locator("#se-ask:enabled").wait_for()
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("/")
    page.keyboard.type("When was the fund closed?")
    page.keyboard.press("Enter")
    page.locator("#se-live .se-live:not(.se-live--waiting)").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".se-phase")).to_contain_text("stopped by you")
    expect(bot_messages(page)).to_have_count(1)
    page.keyboard.press("Alt+n")
    expect(bot_messages(page)).to_have_count(0)
