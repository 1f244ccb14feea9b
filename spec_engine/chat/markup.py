"""Texts for a Markdown file that mean nothing but themselves.

Job: `escaped`: tags, entities and images stay text in whatever shows the file, code stays as it is.
Non-job: the conversation on the page, which has other fences (`ui.render`).

Where a file is opened is not known, so nothing is left to it: only what is code beyond doubt is not escaped. Those are
fences at the very beginning of a line and code spans within a line, as long as no other tick or tilde of the text could
pair with theirs. A fence that is left open is closed, or it would end at the next one in the file. An indented fence is
one wherever it stands if no line in it is indented less, and none could end it but one that is indented as it is. From
four blanks on it may be none: it is escaped, and so is all up to the next sure one, but no other text is in doubt.
"""

import re
from collections.abc import Sequence
from typing import Final

_FENCE: Final = re.compile(
    r"""^(?:(?P<fence>`{3,})[^`\n]*|(?P<tildes>~{3,})[^\n]*)$
    (?:\n(?:.*?\n)??[ ]{0,3}(?:(?P=fence)`*|(?P=tildes)~*)[ \t]*$|(?P<is_open>(?s:.*)\Z))""",
    re.MULTILINE | re.VERBOSE | re.DOTALL,
)
_INDENTED: Final = re.compile(
    r"""^(?P<blanks>[ ]+)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)\n
    (?P<content>(?:(?![ ]*(?P=fence))(?:(?P=blanks)[^\n]*|[ \t]*)\n)*?)
    (?P=blanks)(?P=fence)[ ]*$""",
    re.MULTILINE | re.VERBOSE,
)
_FENCE_LIKE: Final = re.compile(r"^[ ]*(?:`{3}|~{3})", re.MULTILINE)
_TABBED: Final = re.compile(r"^ *\t[ \t]*(?:`{3}|~{3})", re.MULTILINE)  # as far in as what stands before it says
_SPAN: Final = re.compile(r"(?<![`\\])(`+)(?!`)[^\n|]+?(?<!`)\1(?!`)")
_MARKUP: Final = re.compile(r"(?P<slashes>\\*)(?:<(?=[A-Za-z/!?])|&(?=#?\w+;)|!(?=\[))")


def escaped(texts: Sequence[str]) -> list[str]:
    """Texts for one Markdown file, between which it has blank lines. If it is in doubt where the fences of one are,
    nothing in any of them is taken for code."""
    texts = [re.sub(r"\r\n?", "\n", text) for text in texts]
    pieces = [_by_fences(text) for text in texts]
    is_open = any(fence in piece for own in pieces for piece in own[::2] for fence in ("```", "~~~"))
    if is_open or any(_TABBED.search(text) for text in texts):
        return [_plain(text) for text in texts]
    return ["".join(piece if number % 2 else _with_spans(piece) for number, piece in enumerate(own)) for own in pieces]


def _by_fences(text: str) -> list[str]:
    """What is before a fence, the fence with its content, what is behind it, and so on."""
    pieces, end = [], 0
    for found in _FENCE.finditer(text):
        is_open, fence = found["is_open"] is not None, found["fence"] or found["tildes"]
        pieces += _by_indented(text[end : found.start()])
        pieces.append(f"{found.group().rstrip()}\n{fence}" if is_open else found.group())
        end = found.end()
    return [*pieces, *_by_indented(text[end:])]


def _by_indented(text: str) -> list[str]:
    """The same for fences that are indented, in text without others."""
    pieces, end = [], 0
    for found in _INDENTED.finditer(text):
        if len(found["blanks"]) < 4:
            pieces += [*_by_unsure(text[end : found.start()]), found.group()]
            end = found.end()
    return [*pieces, *_by_unsure(text[end:])]


def _by_unsure(text: str) -> list[str]:
    """The same for fences that may be none: where there is one, all is escaped, as ticks could pair across it."""
    pieces, end = [], 0
    for found in _INDENTED.finditer(text):
        if not _FENCE_LIKE.search(found["content"]):
            pieces += [_plain(text[end : found.start()]), _plain(found.group())]
            end = found.end()
    return [*pieces, _plain(text[end:]) if pieces else text]


def _with_spans(text: str) -> str:
    """Text without fences; its code spans stay as they are if all ticks belong to one."""
    if "`" in _SPAN.sub("", text):
        return _plain(text)
    parts, end = [], 0
    for found in _SPAN.finditer(text):
        parts += [_plain(text[end : found.start()]), found.group()]
        end = found.end()
    return "".join([*parts, _plain(text[end:])])


def _plain(text: str) -> str:
    """Text with a backslash before whatever would be markup, unless it has one that counts."""
    return _MARKUP.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    is_escaped = len(match["slashes"]) % 2 == 1
    return match.group() if is_escaped else f"{match['slashes']}\\{match.group()[-1]}"
