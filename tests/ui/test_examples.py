"""Questions made from a document's own words."""

from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.documents.read import read_document
from spec_engine.ui.examples import SUMMARIZE, suggest
from spec_engine.ui.intake import SAMPLE


def test_the_phrases_stand_once_in_the_sample_report() -> None:
    document = read_document(SAMPLE)
    questions = suggest(document)
    assert len(questions) == 3
    for question in questions[:2]:
        phrase = question.split('"')[1]
        assert document.text.count(phrase) == 1
        assert len(phrase.split()) >= 2
    assert questions[2] == SUMMARIZE


def test_the_same_document_gives_the_same_questions() -> None:
    assert suggest(read_document(SAMPLE)) == suggest(read_document(SAMPLE))


def test_a_document_without_sentences_still_offers_a_summary() -> None:
    numbers = Document("table", "table.csv", (Block(Anchor("line", "lines 1-2", 0), "1;2;3\n4;5;6"),))
    assert suggest(numbers) == (SUMMARIZE,)
