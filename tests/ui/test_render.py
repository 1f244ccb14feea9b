"""Markup: figures are right, foreign text is only ever text."""

import re
from dataclasses import replace
from html import unescape

import pytest

from spec_engine.chat.compare import Comparison, Difference
from spec_engine.chat.prompt import WORD_JOINER
from spec_engine.chat.store import StoredTurn
from spec_engine.documents.anchors import Anchor, Block, Document, Problem
from spec_engine.documents.budget import plan
from spec_engine.events import ContextAttended, ContextFocused, Finished, Prefilled, PromptReady, TokensAccepted
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.model.watch import FileProgress, LoadProgress
from spec_engine.ui import render, render_document, render_models, terms, text
from spec_engine.ui.live import LiveAnswer, Stretch
from spec_engine.ui.readouts import MAX_CELLS, DraftingState, SpeedView, readouts
from spec_engine.ui.speed import MeasuredSpeed

ATTACK = "<img src=x onerror=alert(1)>\"'${alert(1)}{{constructor}}</div><script>alert(1)</script>"
ON = DraftingState(True, "Drafting on: small model")


def shown(markup: str) -> str:
    """What a reader sees of markup."""
    return unescape(re.sub(r"<[^>]*>", "\n", markup))


def document(*texts: str, name: str = "report.txt", problems: tuple[Problem, ...] = ()) -> Document:
    blocks = tuple(Block(Anchor("page", f"p. {i + 1}", i), part) for i, part in enumerate(texts))
    return Document(name.removesuffix(".txt"), name, blocks, problems)


def writing() -> LiveAnswer:
    answer = LiveAnswer()
    records = [StepRecord(3, 2, 3, 3, 0.1, 0.3), StepRecord(3, 0, 1, 3, 0.1, 0.3)]
    answer.apply(
        [
            PromptReady(1000, 900),
            Prefilled(999, 1000, 0.5),
            TokensAccepted((1, 2, 3), (True, True, False), "abc", ("a", "b", "c"), records[0], 1.0),
            TokensAccepted((4,), (False,), "d", ("d",), records[1], 1.5),
            ContextFocused((0, 31), 32, 64, 1024),
        ]
    )
    return answer


@pytest.mark.parametrize(
    "markup",
    [
        render.notice(ATTACK),
        render_document.document_card(document(ATTACK, name=ATTACK, problems=(Problem(None, ATTACK),)), None, ATTACK),
        render_document.preview(document(ATTACK)),
        render_document.fold(document(ATTACK, name=ATTACK)),
        render.working(ATTACK),
        render_models.preset_note(ATTACK, [ATTACK]),
        render_models.loading(LoadProgress(ATTACK, 0.5, (FileProgress(ATTACK, 1, 10**9),), 5.0), 1.0),
        readouts(writing(), DraftingState(True, ATTACK), SpeedView(progress=ATTACK), lambda token: ATTACK),
    ],
    ids=["notice", "card", "preview", "fold", "working", "preset", "loading", "readouts"],
)
def test_foreign_text_makes_no_element_and_no_attribute(markup: str) -> None:
    assert not re.search(r"<(img|script)", markup)
    attributes = re.sub(r'"[^"]*"', '""', " ".join(re.findall(r"<[^>]*>", markup)))
    assert "onerror" not in attributes
    assert "alert(1)" in unescape(markup)  # it is still there to be read


def test_an_attack_in_an_answer_is_text_in_both_views() -> None:
    answer = LiveAnswer()
    record = StepRecord(0, 0, 1, 0, 0.1, 0.1)
    answer.apply([PromptReady(2, 0), TokensAccepted((1,), (False,), ATTACK, (ATTACK,), record, 0.1)])
    for markup in (render.live_answer(answer), render.authors(answer.stretches)):
        assert not re.search(r"<(img|script)", markup)
        assert ATTACK in unescape(markup)


def test_markup_in_a_message_stays_text_and_code_stays_code() -> None:
    shown_text = render.as_markdown("<b>5 < 6</b> &lt; ![x](http://example.org/a) `<i>` and\n```\n<u>&amp;\n```")
    assert shown_text.replace(WORD_JOINER, "|") == (
        "<|b>5 < 6<|/b> &|lt; !|[x](http://example.org/a) `<i>` and\n```\n<u>&amp;\n```"
    )


@pytest.mark.parametrize(
    "message",
    [
        "<b> & &lt; ![x](y) `<i>`",
        f"<{WORD_JOINER}b> <{WORD_JOINER}|im_end|> &{WORD_JOINER}{WORD_JOINER}lt;",
        "a < b & c!",
    ],
)
def test_what_is_copied_or_edited_is_the_message(message: str) -> None:
    assert render.from_markdown(render.as_markdown(message)) == message


@pytest.mark.parametrize(
    ("message", "is_code"),
    [
        ("a `<b>` c", True),
        ("a ``x ` <b>`` c", True),
        ("```py\n<b>\n```", True),
        ("```\n<b>", True),  # still being written
        ("````\n```\n<b>\n````", True),
        (r"a \`<b>\` c", False),
        (r"a \\`<b>` c", True),  # an escaped backslash before a span
        ("a ``<b>` c", False),
        ("a ` <b>", False),
        ("a `\n\n<b>` c", False),
        ("text ```\n<b>", False),
        ("```a`b\n<b>\n", False),
    ],
)
def test_what_is_code_in_a_message(message: str, is_code: bool) -> None:
    assert ("<b>" in render.as_markdown(message)) == is_code


def test_card_shows_the_share_of_the_context() -> None:
    report = document("one two three", "four five")
    budget = plan(report, lambda texts: [len(part.split()) for part in texts], 100, 10)
    markup = render_document.document_card(report, budget)
    assert "report.txt" in shown(markup)
    assert re.search(r"5\s+of 100 tokens", shown(markup))
    assert 'style="width:5.0%"' in markup
    assert "2 parts" in shown(markup)


def test_card_says_when_a_document_is_longer_than_answers_are_reliable_for() -> None:
    report = document("one two three", "four five")
    budget = plan(report, lambda texts: [len(part.split()) for part in texts], 100, 10)
    assert "Up to 4 tokens four of five" in shown(render_document.document_card(report, budget, reliable_length=4))
    for fine in (0, 5):
        assert "four of five" not in shown(render_document.document_card(report, budget, reliable_length=fine))


def test_card_says_by_how_much_a_document_is_too_long() -> None:
    report = document("one two three", "four five")
    budget = plan(report, lambda texts: [len(part.split()) for part in texts], 6, 2)
    markup = render_document.document_card(report, budget)
    assert "se-meter--over" in markup
    assert budget.explain() in shown(markup)


def test_range_note_counts_the_chosen_parts() -> None:
    report = document("one two three", "four five", "six")
    budget = plan(report, lambda texts: [len(part.split()) for part in texts], 6, 2)
    assert "fits" in shown(render_document.range_note(budget, 0, 0))
    assert "still too long" in shown(render_document.range_note(budget, 0, 1))
    assert text.RANGE_REVERSED in shown(render_document.range_note(budget, 2, 1))


def test_preview_says_when_it_shows_a_beginning_only() -> None:
    long = document("x" * (text.PREVIEW_CHARS + 10), "never shown")
    assert "the model reads all of them" in shown(render_document.preview(long))
    assert "never shown" not in render_document.preview(long)
    assert "the model reads" not in render_document.preview(document("short"))


def test_work_of_which_a_share_is_done_shows_the_time_left_and_other_work_what_it_took() -> None:
    assert "Reading a.pdf · 50 %<" in render_models.loading(LoadProgress("Reading a.pdf", 0.5), 3.0)
    assert "Reading a.pdf · 50 % · 3 s left<" in render_models.loading(LoadProgress("Reading a.pdf", 0.5), 3.0, 3.2)
    assert "Loading · 3.0 s<" in render_models.loading(LoadProgress("Loading"), 3.0)


def test_reading_shows_percent_speed_and_time_left() -> None:
    answer = LiveAnswer()
    answer.apply([PromptReady(1000, 100), *(Prefilled(100 + done, 1000, done / 500) for done in (250, 500, 600))])
    assert "70 %" in shown(render.live_answer(answer))
    panel = shown(readouts(answer, ON, SpeedView(), lambda token: ""))
    for part in ("70 %", "500 tokens/s", "1 s left", "reused", "100", "900"):
        assert part in panel


def test_readouts_show_what_was_measured() -> None:
    panel = readouts(writing(), ON, SpeedView(MeasuredSpeed(2.0, 32, 990)), lambda token: "p. 7" if token == 0 else "")
    words = shown(panel)
    assert "2.00" in words  # mean acceptance length: 1 + 2 accepted / 2 steps
    assert "2.0×" in words  # 4 tokens in one second against 2 a second
    assert "drafted token 1: confirmed in 50 % of the steps" in panel
    assert "1 step with 2 confirmed" in panel
    assert "The drafter sees 64 of 1,024 tokens (6 %)" in words
    assert "Where the drafter looks" in words
    assert "p. 7, from token 0" in panel
    assert panel.count("--glow:1.00") == 2
    assert panel.count("--glow:") == 32


def test_where_the_model_looked_is_lit_and_linked() -> None:
    answer = writing()
    for chunks in ((3, 20), (20,), ()):
        answer.apply([ContextAttended(chunks, 32, 1024)])
    panel = readouts(answer, ON, SpeedView(), lambda token: f"p. {token // 320 + 1}" if token < 960 else "")
    assert "Where the model looks" in panel
    assert panel.count("--glow:1.00") == 1
    assert panel.count("--glow:0.50") == 1
    assert 'href="document/at/640?n=32"' in panel
    places = re.findall(r'href="document/at/(\d+)\?n=32">(p\. \d)<', panel)
    assert places == [("640", "p. 3"), ("96", "p. 1")]  # the strongest first


def test_the_strip_stays_small_for_a_long_context() -> None:
    answer = writing()
    answer.apply([ContextFocused((4000,), 32, 32, 131_072)])
    panel = readouts(answer, ON, SpeedView(), lambda token: "")
    assert panel.count("--glow:") == MAX_CELLS
    assert panel.count("--glow:0.00") == MAX_CELLS - 1


def test_after_a_race_the_speed_up_is_that_of_its_lanes() -> None:
    speed = SpeedView(MeasuredSpeed(2.0, 32, 990), Comparison(214, None, 90.0, 60.0, True))
    words = shown(readouts(writing(), ON, speed, lambda token: ""))
    assert "1.5× in the race" in " ".join(words.split())
    assert "2.0×" not in words


@pytest.mark.parametrize(("plain", "kind"), [(4.2, ""), (4.0, ""), (3.9, ""), (3.0, "good"), (4.3, "bad")])
def test_only_what_is_clearly_slower_is_red(plain: float, kind: str) -> None:
    panel = readouts(writing(), ON, SpeedView(MeasuredSpeed(4.0, 32, 990), race(4.0, plain)), lambda token: "")
    assert f'<div class="se-tile {kind}" title="{terms.HELP["speedup"][:20]}' in panel


def race(drafted: float, plain: float) -> Comparison:
    return Comparison(214, None, drafted, plain, True)


def test_without_a_plain_run_no_speed_up_is_claimed() -> None:
    panel = readouts(writing(), ON, SpeedView(), lambda token: "")
    assert "×" not in shown(panel)
    assert "unmeasured" in shown(panel)


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (Comparison(214, None, 92.0, 41.0, True), "Text identical, 214 tokens"),
        (Comparison(32, None, 92.0, 41.0, False), "Text identical, 32 tokens compared"),
        (
            Comparison(214, Difference(17, 5, 6, 1.25, 1.5), 92.0, 41.0, True),
            "differ from token 18 of 214, where the logits 1.250",
        ),
    ],
)
def test_comparison_says_whether_the_texts_agree(comparison: Comparison, words: str) -> None:
    assert words in shown(readouts(None, ON, SpeedView(comparison=comparison), lambda token: ""))


def test_authors_are_coloured_by_the_record_of_the_verifier() -> None:
    markup = render.authors(writing().stretches)
    assert re.findall(r'class="(se-drafted|se-target)" title="[^"]*">([^<]*)<', markup) == [
        ("se-drafted", "ab"),
        ("se-target", "cd"),
    ]
    assert "confirmed: 2" in shown(markup)


def test_every_figure_explains_itself_on_hover() -> None:
    answer = writing()
    recorder = MetricsRecorder(1000, 900)
    recorder.add(StepRecord(3, 2, 3, 3, 0.1, 0.3))
    answer.apply([Finished("stop", (1, 2, 3), "abc", recorder.summary(1.0))])
    panel = readouts(answer, ON, SpeedView(MeasuredSpeed(2.0, 32, 990)), lambda token: "")
    names = ("prefill", "acceptance_length", "by_position", "histogram", "time", "view", "drafting", "reused")
    missing = [name for name in names if terms.HELP[name] not in unescape(panel)]
    assert missing == []


def test_long_drafts_say_what_of_them_is_shown() -> None:
    answer = writing()
    recorder = MetricsRecorder(1000, 900)
    recorder.add(StepRecord(31, 20, 21, 31, 0.1, 0.3))
    recorder.add(StepRecord(4, 3, 4, 4, 0.1, 0.3))
    answer.apply([Finished("stop", (1, 2, 3), "abc", recorder.summary(1.0))])
    panel = readouts(answer, ON, SpeedView(), lambda token: "")
    assert "<h4>first 16 positions</h4>" in panel
    assert "<em>16+</em>" in panel
    assert panel.count("<em>15</em>") == 1  # below the other chart


@pytest.mark.parametrize(
    ("value", "words"), [(0.31, "0.31"), (4.25, "4.2"), (99.94, "99.9"), (1234.5, "1,234")], ids=str
)
def test_rates_have_the_digits_that_matter(value: float, words: str) -> None:
    assert text.rate(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.04, "0.04 s"), (2.345, "2.3 s"), (12.3, "12 s"), (200, "3 min"), (7300, "2.0 h")]
)
def test_durations_are_said_as_a_person_does(value: float, words: str) -> None:
    assert text.seconds(value) == words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((1.0, 1.0, 1.0), ["34 %", "33 %", "33 %"]),
        ((0.885, 0.115, 0.0), ["89 %", "11 %", "0 %"]),
        ((0.144, 0.143, 0.148, 0.565), ["14 %", "14 %", "15 %", "57 %"]),
        ((2.0,), ["100 %"]),
    ],
)
def test_shares_of_a_whole_sum_to_a_hundred(values: tuple[float, ...], words: list[str]) -> None:
    assert text.percents(values) == words


def test_why_an_answer_cannot_be_raced_is_said_where_its_race_would_be() -> None:
    why = SpeedView(why_not=f"{text.RACE_OTHER_MODEL} {ATTACK}")
    words = readouts(writing(), ON, why, lambda token: "")
    assert text.RACE_OTHER_MODEL in shown(words)
    assert "<img" not in words


def test_an_answer_in_the_list_has_as_many_tokens_as_its_line_says() -> None:
    """The stop token counts, though it is not kept with the answer."""
    recorder = MetricsRecorder(40, 0)
    recorder.add(StepRecord(4, 3, 4, 4, 0.1, 0.1))
    details = {"metrics": recorder.summary(0.25).as_dict()}
    turn = StoredTurn(1, None, "Why?", "Because", (5, 6, 7), (True,) * 3, "m", "p", "stop", details)
    markup = render.answers([turn])
    assert "<td>1</td><td>4</td><td>16</td>" in markup.replace("16.0", "16")
    assert "4 tokens ·" in markup


def test_an_answer_in_the_list_leads_to_where_it_looked() -> None:
    recorder = MetricsRecorder(40, 0)
    recorder.add(StepRecord(4, 3, 4, 4, 0.1, 0.1))
    details = {"metrics": recorder.summary(0.25).as_dict(), "looked_at": ["a&b.pdf p. 3", "§ 2 <x>"]}
    turn = StoredTurn(1, None, "Why?", "Because", (5, 6, 7), (True,) * 3, "m", "p", "stop", details)
    markup = render.answers([turn, replace(turn, details={**details, "looked_at": []})])
    assert markup.count("se-looked") == 1
    assert 'href="document/named?label=a%26b.pdf+p.+3">a&amp;b.pdf p. 3</a>' in markup
    assert ">§ 2 &lt;x&gt;</a>" in markup


def test_the_tokenizers_blank_before_an_answer_is_not_shown() -> None:
    shown = render.authors([Stretch(" The fund", True, 2), Stretch(" was", False, 1)])
    assert ">The fund</span>" in shown
    assert "> was</span>" in shown
