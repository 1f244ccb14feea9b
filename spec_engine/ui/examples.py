"""Questions that suit the document at hand, made from its own words.

Job: pick phrases that occur once in the document and put them into questions. Pure and deterministic.
Non-job: understanding the document; the phrases are found by length, place and uniqueness.
"""

import re
from typing import Final

from spec_engine.documents.anchors import Document

SUMMARIZE: Final = "Summarize the document."
_ABOUT: Final = 'Quote the passage about "{phrase}".'
_CONTINUE: Final = 'Continue the text after "{phrase}"'
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_COMMON: Final = frozenset(
    (
        *("about", "after", "again", "along", "although", "among", "another", "because", "before", "being", "between"),
        *("could", "during", "either", "every", "first", "further", "however", "might", "never", "often", "other"),
        *("others", "rather", "second", "shall", "should", "since", "still", "such", "their", "there", "therefore"),
        *("these", "third", "those", "though", "through", "thus", "under", "until", "where", "whether", "which"),
        *("while", "whose", "within", "without", "would"),
    )
)  # words of more than four letters that say nothing by themselves


def suggest(document: Document) -> tuple[str, ...]:
    """Up to three questions: a passage about a phrase, a continuation, a summary."""
    sentences = _sentences(document)
    questions = []
    topic = _first_topic(_from(sentences, 0.35), document.text)
    if topic:
        questions.append(_ABOUT.format(phrase=topic))
    opening = _first_opening(_from(sentences, 0.6), document.text)
    if opening:
        questions.append(_CONTINUE.format(phrase=opening))
    return (*questions, SUMMARIZE)


def _sentences(document: Document) -> list[str]:
    """Plain sentences of a fair length."""
    found = [part.strip() for block in document.blocks for part in _SENTENCE_END.split(block.text)]
    return [part for part in found if 60 <= len(part) <= 320 and "\n" not in part and part[0].isupper()]


def _from(sentences: list[str], share: float) -> list[str]:
    """The sentences from a place in the document on, then those before it."""
    start = int(len(sentences) * share)
    return sentences[start:] + sentences[:start]


def _first_topic(sentences: list[str], text: str) -> str:
    """Two or three neighbouring words that say something and stand together once in the text."""
    for sentence in sentences:
        words = list(_WORD.finditer(sentence))
        for size in (3, 2):
            for group in (words[start : start + size] for start in range(1, len(words) - size + 1)):
                phrase = sentence[group[0].start() : group[-1].end()]
                is_telling = all(len(word.group()) > 4 and word.group().lower() not in _COMMON for word in group)
                if is_telling and phrase.count(" ") == size - 1 and text.count(phrase) == 1:
                    return phrase
    return ""


def _first_opening(sentences: list[str], text: str) -> str:
    """The first words of a sentence, if they stand together once in the text."""
    for sentence in sentences:
        words = sentence.split(" ")
        phrase = " ".join(words[:6])
        if len(words) >= 12 and '"' not in phrase and text.count(phrase) == 1:
            return phrase
    return ""
