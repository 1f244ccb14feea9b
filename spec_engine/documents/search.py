"""Words found in a text as a reader would find them.

Job: `find_all`: where words stand, whatever their case, accents, ligatures, quotation marks, dashes and line breaks,
and whatever stands between their letters that nobody sees.
Non-job: which part of a document that is (`ui.whereabouts`), where it is on a page (`pdf_page`).

Text and words are folded alike: compatibility forms taken apart (Unicode NFKD), case and accents dropped. Marks that
make another letter rather than an accent, as of Indic vowels and of Japanese voiced sounds, stay: their canonical
combining class is below 200 (Unicode Standard, section 4.3), but for Hebrew and Arabic points, which readers leave out.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

_ALIKE: Final = {  # what a keyboard has for what is printed
    "'": "’‘ʼ´`′‚‹›",
    '"': "“”„«»″",
    "-": "‐‑‒–—\N{MINUS SIGN}",
    "": "\N{SOFT HYPHEN}\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}\N{WORD JOINER}"
    "\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}",
}
_ACCENT: Final = 200  # canonical combining classes of marks above, below and around a letter …
_POINTS: Final = range(10, 36)  # … and of Hebrew and Arabic points


class _Folds(dict[int, str]):
    """What characters become, by code point, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        apart = unicodedata.normalize("NFKD", chr(code)).casefold()
        kept = "".join(letter for letter in unicodedata.normalize("NFKD", apart) if not _is_accent(letter))
        return self.setdefault(code, kept)


def _is_accent(letter: str) -> bool:
    combining = unicodedata.combining(letter)
    return combining >= _ACCENT or combining in _POINTS


_FOLDS: Final = _Folds({ord(letter): plain for plain, letters in _ALIKE.items() for letter in letters})


def find_all(text: str, words: str) -> Iterator[tuple[int, int]]:
    """Start and end of each place of `words` in `text`, in order, none within another; none for words of which nothing
    is left. White space between words stands for any. Of a character only as a whole: the "f" of a ligature is none."""
    pattern = r"\s+".join(map(re.escape, words.translate(_FOLDS).split()))
    if not pattern:
        return
    places = _Places(text)
    for match in re.finditer(pattern, text.translate(_FOLDS)):
        start, end = places.of(match.start()), places.of(match.end())
        if start is not None and end is not None:
            yield start, end


class _Places:
    """From places in the folded text to those in the text."""

    def __init__(self, text: str) -> None:
        odd = {letter: len(fold) for letter in set(text) if len(fold := _FOLDS[ord(letter)]) != 1}
        self._folded: list[int] = []  # where characters that become none or several begin, folded …
        self._plain: list[int] = []  # … and in the text …
        self._lengths: list[int] = []  # … and how many they become
        shift = 0
        for match in re.finditer(f"[{re.escape(''.join(odd))}]", text) if odd else ():
            length = odd[match.group()]
            self._folded.append(match.start() + shift)
            self._plain.append(match.start())
            self._lengths.append(length)
            shift += length - 1

    def of(self, folded: int) -> int | None:
        """The place in the text, behind what became nothing; None for one within a character."""
        number = bisect_right(self._folded, folded) - 1
        if number < 0:
            return folded
        beyond = folded - self._folded[number] - self._lengths[number]
        if beyond >= 0:
            return self._plain[number] + 1 + beyond
        return self._plain[number] if folded == self._folded[number] else None
