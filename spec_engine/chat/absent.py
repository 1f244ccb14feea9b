"""What a question asks about and the document does not hold, as far as words alone can tell.

Job: `absent_from`: phrases that a question quotes, or asks for what is said about, none of whose words occurs;
`absence`, the same for people.
Non-job: telling whether an answer is right.

A model answers such a question too, with whatever comes nearest, and nothing in the answer shows it. A false alarm is
worse than none, so the test is a strict one: one word of a phrase is enough, with any ending, and what may be an order
to the model rather than a question about the text is left alone.
"""

import re
import unicodedata

_QUOTED = re.compile(r"(?<![\w.])(?:\"([^\"\n]*+)\"|[“„]([^”“\"\n]*+)[”“\"]|«([^»\n]*+)»)")
_ORDER = re.compile(r"\b(?:answer|call|name|print|reply|respond|return|say|translate|use|with|write)\b", re.IGNORECASE)
_SAID = re.compile(
    r"\b(?:anything|mentions?|paragraphs?|passages?|said|says?|sentences?|something|written)\s+about\s+"
    r"((?:[\w'’-]++\s*+){1,4})[?.!]*\s*\Z",
    re.IGNORECASE,
)
_MARKS = re.compile("[-\u00ad\u0300-\u036f]")
_WORD = re.compile(r"[^\W_]{3,}")
_LONGEST = 80  # characters of a phrase
_EMPTY = frozenset(
    """about all and any anything are both chapter document does each else file for former from have her here
    herself him himself his how into its itself last latter many most much not one ones other others our
    page paragraph part passage report said section sentence she some something such summary text that the
    their them there these they thing things this those topic what when where which who whom whose why with
    yes you your""".split()
)
_NO_TOPIC = frozenset("again and at briefly exactly if in on or overall please then".split())
_ENDING, _LEAST = 3, 3  # letters at the end of a word that may differ, as in its plural; letters that must not


def absence(text: str, question: str) -> str:
    """A sentence about what is absent; "" where nothing is."""
    phrases = [f"“{phrase}”" for phrase in absent_from(text, question)]
    if not phrases:
        return ""
    named = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} or {phrases[-1]}"
    return f"The document has no word of {named}. The answer is what came nearest, and may be about something else."


def absent_from(text: str, question: str) -> tuple[str, ...]:
    """The phrases of `question` that `text` holds no word of, in order, each once; () where it names none."""
    wanted = {phrase: _stems(phrase) for phrase in _named(question)}
    if not any(wanted.values()):
        return ()
    folded = _folded(text)
    return tuple(
        phrase for phrase, stems in wanted.items() if stems and not any(_begins_a_word(stem, folded) for stem in stems)
    )


def _named(question: str) -> list[str]:
    """Phrases that the question quotes, or the one that it asks what is said about."""
    quoted = [(found.start(), "".join(filter(None, found.groups())).strip()) for found in _QUOTED.finditer(question)]
    if quoted:
        is_order = _ORDER.search(question, 0, quoted[0][0]) and not _SAID.search(question[: quoted[0][0]] + "it")
        return [] if is_order else [phrase for _, phrase in quoted if len(phrase) <= _LONGEST]
    said = _SAID.search(question)
    phrase = said.group(1).strip() if said else ""
    return [] if not phrase or _NO_TOPIC & set(phrase.casefold().split()) else [phrase]


def _stems(phrase: str) -> list[str]:
    """Beginnings of the words of a phrase that mean something; none where it holds a number, which is no topic."""
    words = _WORD.findall(_folded(phrase))
    if any(word.isdigit() for word in words):
        return []
    return [word[: max(_LEAST, len(word) - _ENDING)] for word in words if word not in _EMPTY]


def _folded(text: str) -> str:
    """As two spellings of one word are the same: without case, accents and hyphens."""
    return _MARKS.sub("", unicodedata.normalize("NFKD", text.casefold()))


def _begins_a_word(stem: str, folded: str) -> bool:
    """Whether a word of the text begins so; in scripts that may not divide words, whether it occurs."""
    start = r"(?<![^\W_])" if stem.isascii() else ""
    return re.search(start + re.escape(stem), folded) is not None
