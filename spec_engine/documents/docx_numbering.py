"""Numbers and bullets that Word draws before list items and headings and that stand nowhere in the text.

Job: count, and write a level's label ("2.1", "b)", "-"). Non-job: reading paragraphs.
Source: ECMA-376 part 1, section 17.9 (numbering).
"""

import re
from dataclasses import dataclass

from lxml import etree

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"

_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"))
_ROMAN_UNITS = ((9, "ix"), (5, "v"), (4, "iv"), (1, "i"))
_PLACE = re.compile(r"%([1-9])")
_MAX_NUMBER = 100_000


@dataclass(frozen=True, slots=True)
class _Level:
    format: str
    template: str
    start: int


class Numbering:
    """Definitions and running counters of one document."""

    def __init__(self, root: etree._Element | None) -> None:
        """Takes the root of the numbering part, None when the document has none."""
        self._levels: dict[tuple[str, int], _Level] = {}
        self._abstract: dict[str, str] = {}
        self._overrides: dict[tuple[str, int], int] = {}
        self._counters: dict[tuple[str, int], int] = {}
        if root is not None:
            self._read(root)

    def label(self, num_id: str, level: int) -> str:
        """Count one paragraph of a list and give what stands before it, "" for nothing."""
        abstract = self._abstract.get(num_id)
        definition = self._levels.get((abstract or "", level))
        if abstract is None or definition is None:
            return "" if num_id == "0" else "-"
        if definition.format == "bullet":
            return "-"
        start = self._overrides.pop((num_id, level), None)
        if start is not None or (abstract, level) not in self._counters:
            self._counters[abstract, level] = start if start is not None else definition.start
        else:
            self._counters[abstract, level] += 1
        for deeper in [key for key in self._counters if key[0] == abstract and key[1] > level]:
            del self._counters[deeper]
        return _PLACE.sub(lambda match: self._number(abstract, int(match.group(1)) - 1), definition.template).strip()

    def _number(self, abstract: str, level: int) -> str:
        definition = self._levels.get((abstract, level))
        if definition is None:
            return ""
        return _formatted(self._counters.get((abstract, level), definition.start), definition.format)

    def _read(self, root: etree._Element) -> None:
        for abstract in root.iter(W + "abstractNum"):
            name = abstract.get(W + "abstractNumId", "")
            for level in abstract.iter(W + "lvl"):
                number = _integer(level.get(W + "ilvl"), 0)
                self._levels[name, number] = _Level(
                    _value(level, "numFmt") or "decimal",
                    _value(level, "lvlText") or "",
                    _integer(_value(level, "start"), 1),
                )
        for num in root.iter(W + "num"):
            num_id = num.get(W + "numId", "")
            self._abstract[num_id] = _value(num, "abstractNumId") or ""
            for override in num.iter(W + "lvlOverride"):
                start = _value(override, "startOverride")
                if start is not None:
                    self._overrides[num_id, _integer(override.get(W + "ilvl"), 0)] = _integer(start, 1)


def _value(element: etree._Element, tag: str) -> str | None:
    child = element.find(W + tag)
    return None if child is None else child.get(W + "val")


def _integer(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else default


def _formatted(number: int, form: str) -> str:
    """A counter's value in Word's number format; unknown formats count in figures."""
    if form == "none":
        return ""
    if not 0 < number < _MAX_NUMBER:
        return str(number)
    if form in ("lowerLetter", "upperLetter"):
        text = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
    elif form in ("lowerRoman", "upperRoman"):
        text = ""
        for value, digit in _ROMAN + _ROMAN_UNITS:
            text += digit * (number // value)
            number %= value
    else:
        return str(number)
    return text.upper() if form.startswith("upper") else text
