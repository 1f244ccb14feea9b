"""Questions about what a document does not hold."""

import time

import pytest

from spec_engine.chat.absent import absence, absent_from

TEXT = (
    "The Contractor's liability is limited. A fee is due; the duty, a tax and the policy of each city. Co-operation by "
    "email. Licences for white spaces are free in Zürich.\nΗ ευθύνη του εργολάβου. 契約の範囲"
)


@pytest.mark.parametrize(
    ("question", "absent"),
    [
        ('What does it say about "bananas"?', ("bananas",)),
        ("Quote the passage about employers.", ("employers",)),
        ("What does it say about the weather?", ("the weather",)),
        ('Compare "bananas" and “liability” and "apples"', ("bananas", "apples")),
        ('Is it "bananas" or "bananas"?', ("bananas",)),
        ('Is there a "syntax"?', ("syntax",)),
        ('Is there "iability"?', ("iability",)),  # the end of a word is none
        ('条約は "漁業権" について?', ("漁業権",)),
        ('Τι λέει για "μπανάνες";', ("μπανάνες",)),
    ],
)
def test_what_no_word_of_is_there_is_absent(question: str, absent: tuple[str, ...]) -> None:
    assert absent_from(TEXT, question) == absent


@pytest.mark.parametrize(
    "question",
    [
        'What about "white spaces"?',
        'What about "WHITE\u00a0elephants"?',  # a word of it is there
        *(f"What does it say about {word}?" for word in ("liabilities", "fees", "taxes", "duties", "cities")),
        *(f"What does it say about {word}?" for word in ("licence", "policies", "e-mail", "cooperation", "this", "it")),
        "What else is said about him?",
        "What is written about Zurich?",
        'Is "Zu\u0308rich" named?',
        "What is this document about?",
        "What is the paper about in short?",
        "What does it say about it in short?",
        "Summarize the document.",
        "Summarize it in about 100 words.",
        "Answer in about three sentences.",
        "What does it say about page 212?",
        "How about a summary?",
        'Answer "maybe" or "never".',
        'If there is nothing, reply "unknown".',
        'Translate with "vous", not "tu".',
        'a 5" pipe bigger than a 6" pipe',
        f'"{90 * "x"}" rather than "fee"?',
        "Who pays?",
        "",
        '""',
        '"',
        'What of "a b"?',  # too short to tell
        'Τι λέει για "ευθύνη";',
    ],
)
def test_there_is_no_false_alarm(question: str) -> None:
    assert absent_from(TEXT, question) == ()


def test_people_are_told_in_a_sentence() -> None:
    assert absence(TEXT, "Quote the passage about white spaces.") == ""
    assert absence(TEXT, 'Is there "a pear"?').startswith("The document has no word of “a pear”.")
    assert "“figs”, “pears” or “plums”" in absence(TEXT, 'Are there "figs", "pears" or "plums"?')


def test_no_question_takes_long() -> None:
    began = time.perf_counter()
    for question in ("say about " + "x" * 100_000 + ";", '"' * 20_001, "say about " * 20_000, "“" * 20_000):
        absent_from("word and word " * 1_000_000, question)
    assert time.perf_counter() - began < 10
