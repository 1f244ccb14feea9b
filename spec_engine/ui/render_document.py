"""Values in, markup out: the document.

Job: its card with the share of the context that it takes, its beginning and its parts, what a choice of parts takes,
the line that stands for it in a narrow window, the places of what is searched for in it. Pure functions.
Non-job: the pieces that others use too (`render`), a part with a passage marked (`places`).

What a document or a file name holds goes through `escape` here, as in `render`.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Final
from urllib.parse import urlencode

from spec_engine.documents.anchors import Document
from spec_engine.documents.budget import Budget
from spec_engine.ui import render, terms, text
from spec_engine.ui.whereabouts import Place

_MOST_FOUND: Final = 200  # places that are listed
_AROUND: Final = 60  # characters on either side of one


def document_card(document: Document | None, budget: Budget | None, error: str = "", reliable_length: int = 0) -> str:
    """What was opened, how much of the context it takes, and what could not be read."""
    problem = render.notice(error)
    if document is None:
        hint = f'<p class="se-quiet">{escape(text.NO_DOCUMENT)}</p>'
        return f'<section class="se-card se-card--empty">{hint}{problem}</section>'
    name = escape(document.source_name)
    title = escape(document.title) if document.title and document.title != document.source_name else ""
    facts = f"{text.plural(len(document.blocks), 'part')} · {text.plural(len(document.text.split()), 'word')}"
    lines = [
        f'<h2 title="{name}">{title or name}</h2>',
        f'<p class="se-quiet se-clip">{name if title else ""}</p>' if title else "",
        f'<p class="se-quiet">{facts}</p>',
        _budget(budget, reliable_length),
        f'<p class="se-quiet">{escape(text.LOCKED_KEPT)}</p>' if document.is_locked else "",
        _problems(document),
    ]
    return f'<section class="se-card">{"".join(lines)}{problem}</section>'


def fold(document: Document) -> str:
    """In a narrow window what the pane of the document, the model and the settings is folded to: a line."""
    name = escape(document.title or document.source_name)
    return (
        '<button type="button" class="se-fold" aria-expanded="false" aria-controls="se-left">'
        f"<div><b>{name}</b><small>{escape(text.FOLD)}</small></div></button>"
    )


def _budget(budget: Budget | None, reliable_length: int) -> str:
    """The context meter, with a sentence when the document does not fit or is long for the model."""
    if budget is None:
        return f'<p class="se-quiet">{escape(text.COUNTING)}</p>'
    share = budget.num_tokens / budget.context_length
    kind = "se-meter--over" if not budget.fits else "se-meter--near" if share > 0.8 else ""
    figures = f"<b>{text.count(budget.num_tokens)}</b> of {text.count(budget.context_length)} tokens"
    parts = [
        render.meter(share, kind, "share of the context that the document takes"),
        f'<p class="se-figures" title="{escape(terms.HELP["context"])}">{figures}</p>',
    ]
    if not budget.fits:
        parts.append(render.notice(budget.explain()))
    elif 0 < reliable_length < budget.num_tokens:
        warning = text.LONG_FOR_MODEL.format(
            reliable=text.count(reliable_length), num_tokens=text.count(budget.num_tokens)
        )
        parts.append(f'<p class="se-quiet">{escape(warning)}</p>')
    return "".join(parts)


def _problems(document: Document) -> str:
    """What the reader could not read, in its words; long lists fold."""
    if not document.problems:
        return ""
    items = "".join(f"<li>{escape(problem.message)}</li>" for problem in document.problems)
    heading = text.plural(len(document.problems), "remark")
    is_open = " open" if len(document.problems) <= 3 else ""
    return f'<details class="se-problems"{is_open}><summary>{heading}</summary><ul>{items}</ul></details>'


def preview(document: Document | None, budget: Budget | None = None) -> str:
    """The beginning of the text as it was read, with its anchors and their tokens, and all parts by size."""
    if document is None:
        return f'<p class="se-quiet">{escape(text.NO_DOCUMENT)}</p>'
    counts = budget.num_tokens_by_block if budget else (None,) * len(document.blocks)
    parts, num_left, last_label = [_parts_table(document, budget)], text.PREVIEW_CHARS, ""
    for number, (block, num_tokens) in enumerate(zip(document.blocks, counts, strict=True)):
        if num_left <= 0:
            break
        label = block.anchor.label
        size = "" if num_tokens is None else f' <span class="se-tokens">{text.plural(num_tokens, "token")}</span>'
        link = f'<a class="se-place-link" href="document/parts/{number}?of={document.mark}">{escape(label)}</a>'
        heading = f"<h4>{link}{size}</h4>" if label != last_label else ""
        parts.append(f"{heading}<p>{escape(block.text[:num_left])}</p>")
        num_left, last_label = num_left - len(block.text), label
    if len(document.text) > text.PREVIEW_CHARS:
        parts.append(
            f'<p class="se-quiet">The first {text.count(text.PREVIEW_CHARS)} of '
            f"{text.count(len(document.text))} characters are shown here; the model reads all of them.</p>"
        )
    return f'<div class="se-preview">{"".join(parts)}</div>'


def search_form(action: str = "document/find", words: str = "") -> str:
    """A field that searches the document; `action` is where the list of places is, seen from the page it stands on."""
    label = escape(text.FIND_LABEL)
    names, button = f'placeholder="{label}" aria-label="{label}"', f"<button>{escape(text.FIND_BUTTON)}</button>"
    field = f'<input type="search" name="words" required {names} value="{escape(words)}">'
    return f'<form class="se-find" role="search" action="{action}">{field}{button}</form>'


def found(document: Document | None, words: str, places: Sequence[Place]) -> str:
    """The places of some words, each with what stands around it and a link."""
    if document is None:
        line, items = text.NO_DOCUMENT, ""
    else:
        number = text.plural(len(places), "place")
        rest = text.FIND_FIRST.format(number=text.count(_MOST_FOUND)) if len(places) > _MOST_FOUND else ""
        line = f"{number}{rest}" if places else text.FIND_NOTHING.format(words=words) if words.strip() else ""
        items = "".join(_found(document, words, place) for place in places[:_MOST_FOUND])
    form = search_form("/document/find", words)
    return (
        f'<main class="se-place"><header><h2>{escape(text.FIND_LABEL)}</h2></header>{form}'
        f'<p class="se-quiet" role="status">{escape(line)}</p><ol class="se-found">{items}</ol></main>'
    )


def _found(document: Document, words: str, place: Place) -> str:
    """One place in the list."""
    label, offset, whole = document.blocks[place.part].anchor.label, document.span(place.part)[0], document.text
    start, end = offset + place.start, offset + place.end
    first, last = max(0, start - _AROUND), end + _AROUND
    before, behind = whole[first:start], whole[end:last]
    if first and re.search(r"\s", before.strip()):  # whole words
        before = f"… {before.split(maxsplit=1)[1]}"
    if last < len(whole) and re.search(r"\s", behind.strip()):
        behind = f"{behind.rsplit(maxsplit=1)[0]} …"
    address = escape(address_of(document, words, place))
    return (
        f'<li><a class="se-place-link" href="{address}">{escape(label)}</a> '
        f"{escape(before)}<mark>{escape(whole[start:end])}</mark>{escape(behind)}</li>"
    )


def address_of(document: Document, words: str, place: Place) -> str:
    """Where a place that words were found in is shown."""
    query = urlencode({"start": place.start, "end": place.end, "words": words, "of": document.mark})
    return f"/document/parts/{place.part}?{query}"


def back_to_found(words: str) -> str:
    """A link to all places of what was searched for."""
    address = escape(f"/document/find?{urlencode({'words': words})}")
    label = text.FIND_BACK.format(words=text.shortened(words, 40))
    return f'<a class="se-place-link" href="{address}">{escape(label)}</a>'


def _parts_table(document: Document, budget: Budget | None) -> str:
    """All parts with their tokens, folded away; nothing before they were counted."""
    if budget is None or len(document.blocks) < 2:
        return ""
    rows = "".join(
        f'<li><a class="se-place-link" href="document/parts/{number}?of={document.mark}">{escape(label)}</a>'
        f"<b>{text.count(num_tokens)}</b></li>"
        for number, (label, num_tokens) in enumerate(zip(budget.labels, budget.num_tokens_by_block, strict=True))
    )
    return f'<details class="se-parts"><summary>{escape(text.PARTS_HEADING)}</summary><ol>{rows}</ol></details>'


def range_note(budget: Budget, first: int, last: int) -> str:
    """Tokens of a range of parts, and whether it fits."""
    if first > last:
        return f'<p class="se-range se-range--over">{escape(text.RANGE_REVERSED)}</p>'
    num_tokens = sum(budget.num_tokens_by_block[first : last + 1])
    verdict = "fits" if num_tokens <= budget.num_available else "still too long"
    kind = "ok" if verdict == "fits" else "over"
    return (
        f'<p class="se-range se-range--{kind}">{text.plural(last - first + 1, "part")}, about '
        f"<b>{text.count(num_tokens)}</b> of {text.count(budget.num_available)} tokens: {verdict}</p>"
    )
