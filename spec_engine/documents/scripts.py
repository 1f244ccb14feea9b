"""Raised and lowered figures as characters, so that 10⁸ does not turn into 108.

Job: translate what has a Unicode superscript or subscript. Non-job: finding out what is raised or lowered.
"""

import re

_SUPERSCRIPTS = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_FIGURES = re.compile(r"\s*[0-9+\-−=()n]+\s*")


def superscript(text: str) -> str:
    """The text raised, or unchanged when it holds more than figures and signs."""
    return text.translate(_SUPERSCRIPTS) if _FIGURES.fullmatch(text) else text


def subscript(text: str) -> str:
    """The text lowered, or unchanged when it holds more than figures and signs."""
    return text.translate(_SUBSCRIPTS) if _FIGURES.fullmatch(text) else text
