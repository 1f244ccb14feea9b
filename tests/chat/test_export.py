"""A conversation as Markdown and JSON."""

import json
from dataclasses import replace

from spec_engine.chat.export import footer, to_json, to_markdown
from spec_engine.chat.store import StoredTurn
from spec_engine.metrics import MetricsRecorder, StepRecord

RECORDER = MetricsRecorder(1040, 1000)
RECORDER.prefilled(0.5)
RECORDER.add(StepRecord(4, 3, 4, 4, 0.1, 0.1))
DETAILS = {
    "metrics": RECORDER.summary(0.25).as_dict(),
    "plain_tokens_per_second": 8.0,
    "read": "all of a.pdf",
    "looked_at": ["p. 3", "p. 12"],
}
TURNS = [
    StoredTurn(
        1,
        None,
        "Why?\nReally?",
        "Because.\n\n- one",
        (5, 6, 7, 8),
        (True,) * 3 + (False,),
        "m@",
        "p",
        "stop",
        DETAILS,
        86400.0,
    ),
    StoredTurn(2, 1, "And?", "Half", (9,), (False,), "m@", "p", "interrupted", {}, 86400.0),
]


def test_the_footer_names_what_is_known() -> None:
    assert footer(TURNS[0]) == (
        "4 tokens · 16.0 tokens/s · 2.0 × plain decoding · 4.0 tokens a pass · reused 1,000 · new 40 · "
        "read all of a.pdf · looked at p. 3, p. 12"
    )
    assert footer(TURNS[1]) == "1 token · broken off, the program ended"


def test_markdown_keeps_questions_answers_and_places() -> None:
    text = to_markdown("A title", "report.pdf", TURNS)
    assert text.startswith("# A title\n\nAbout: report.pdf\n\n> Why?\n> Really?\n\nBecause.\n\n- one\n\n*4 tokens")
    assert "looked at p. 3, p. 12*" in text
    assert "About" not in to_markdown("A title", "", TURNS)


def test_markup_in_a_conversation_is_text_in_the_file() -> None:
    live = "<img src=x onerror=alert(1)>"
    turn = replace(TURNS[0], question=f"Is {live}\nsafe?", answer=f"{live}\n\n```\n{live}\n```", details={"read": live})
    text = to_markdown(live, live, [turn])
    assert text.count(live) == 6
    assert text.count(f"\\{live}") == 5  # not the one in a fence
    assert f"> Is \\{live}\n> safe?" in text


def test_branches_that_are_not_in_the_file_are_mentioned() -> None:
    assert "2 other branches of this conversation are not in this file" in to_markdown("A", "", TURNS, 2)
    assert "1 other branch of this conversation is not in this file" in to_markdown("A", "", TURNS, 1)
    assert "branch" not in to_markdown("A", "", TURNS)
    assert json.loads(to_json("A", "", TURNS, 2))["num_other_branches"] == 2


def test_an_answer_that_is_being_written_is_not_called_broken_off() -> None:
    assert footer(replace(TURNS[1], reason="writing")) == "1 token · still being written"


def test_json_holds_everything() -> None:
    table = json.loads(to_json("Ä", "report.pdf", TURNS))
    assert (table["format"], table["title"], table["document"]) == (1, "Ä", "report.pdf")
    first, second = table["turns"]
    assert first["token_ids"] == [5, 6, 7, 8]
    assert first["is_drafted"] == [1, 1, 1, 0]
    assert first["created_at"] == "1970-01-02T00:00:00+00:00"
    assert first["metrics"]["mean_acceptance_length"] == 4.0
    assert (second["answer"], second["reason"]) == ("Half", "interrupted")
