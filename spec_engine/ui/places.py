"""Places in the open document: the part that holds some tokens, with the passage marked.

Job: the addresses ``/document/at/TOKEN``, ``/document/parts/NUMBER`` and ``/document/named?label=LABEL``, which show a
place as text and, of a PDF, as a picture of its page; ``/document/find?words=WORDS``, which lists places.
Non-job: finding it (`whereabouts`), drawing pages (`documents.pdf_page`), who may ask (`guard`).
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import HTMLResponse

from spec_engine.documents.anchors import Document
from spec_engine.documents.pdf_page import mark_height, page_picture
from spec_engine.errors import SpecEngineError
from spec_engine.ui import render_document, text
from spec_engine.ui.papers import DocumentSide
from spec_engine.ui.whereabouts import Place, find_words

_MAX_TOKENS: Final = 4096
_NO_STORE: Final = {"Cache-Control": "no-store"}  # another document may be open under the same address next time
_STYLE: Final = (
    ":root{color-scheme:light dark}body{margin:0;font:15px/1.55 system-ui,sans-serif}main{max-width:820px;"
    "margin:24px auto;padding:0 16px}img{width:100%;border:1px solid #8884}mark{background:#ffc40066;color:inherit}"
    "p{white-space:pre-wrap}"
)


def places_of(workspace: DocumentSide) -> APIRouter:
    """The addresses of the open document's places."""
    router = APIRouter()

    @router.get("/document/at/{token}", include_in_schema=False)
    def at(token: int, n: int = 1) -> HTMLResponse:
        """The place of some tokens of the last prompt."""
        document = _open_document(workspace)
        place = workspace.place_at(max(0, token), min(max(1, n), _MAX_TOKENS))
        if place is None or document is not _open_document(workspace):
            raise HTTPException(404, text.NO_PLACE)
        return _page(workspace, document, place)

    @router.get("/document/parts/{number}", include_in_schema=False)
    def part(number: int, start: int = 0, end: int = 0, words: str = "", of: str = "") -> HTMLResponse:
        """A part of the open document, perhaps with some of its characters marked, which `words` were searched for."""
        first, document = max(0, start), _open_document(workspace, of)
        return _page(workspace, document, Place(number, first, max(first, end)), words)

    @router.get("/document/find", include_in_schema=False)
    def find(words: str = "") -> HTMLResponse:
        """All places of some words in the open document."""
        opened = workspace.opened
        places = find_words(opened.used, words) if opened else []
        return _as_page(text.FIND_LABEL, render_document.found(opened.used if opened else None, words, places))

    @router.get("/document/named", include_in_schema=False)
    def named(label: str) -> HTMLResponse:
        """The part of the open document that is called so."""
        document = _open_document(workspace)
        numbers = [number for number, block in enumerate(document.blocks) if block.anchor.label == label]
        return _page(workspace, document, Place(numbers[0] if numbers else -1))

    @router.get("/document/pictures/{number}.png", include_in_schema=False)
    def picture(number: int, start: int = 0, end: int = 0, of: str = "") -> Response:
        """The page of a PDF that a part was read from, with some of its characters marked."""
        document = _open_document(workspace, of)
        source = workspace.page_of(document, number)
        if source is None:
            raise HTTPException(404, text.NO_PLACE)
        path, page, passwords = source
        words, start, end = document.blocks[number].text, max(0, start), max(0, end)
        passage, around = words[start:end], (words[:start], words[max(start, end) :])
        try:
            drawn = page_picture(path, page, passage, passwords, around=around)
            return Response(drawn, media_type="image/png", headers=_NO_STORE)
        except SpecEngineError as error:
            raise HTTPException(404, str(error)) from error

    return router


def _open_document(workspace: DocumentSide, mark: str = "") -> Document:
    """The open document, if its `Document.mark` is that; "" for any."""
    opened = workspace.opened
    if opened is None or mark not in ("", opened.used.mark):
        raise HTTPException(404, text.NO_PLACE)
    return opened.used


def _page(workspace: DocumentSide, document: Document, place: Place, words: str = "") -> HTMLResponse:
    """A place of the document as a page, with a way back to the other places of `words`."""
    if not 0 <= place.part < len(document.blocks):
        raise HTTPException(404, text.NO_PLACE)
    labels = [block.anchor.label for block in document.blocks]
    picture, passage = "", document.blocks[place.part].text[place.start : place.end]
    can_be_drawn = any(map(str.isalnum, passage))  # pages are marked by letters and digits
    if (source := workspace.page_of(document, place.part)) is not None:
        marked = f"start={place.start}&amp;end={place.end}&amp;of={document.mark}"
        address = f"/document/pictures/{place.part}.png?{marked}"
        name = (text.PLACE_PICTURE if can_be_drawn else text.PAGE_PICTURE).format(label=labels[place.part])
        height = _mark_height(source, document.blocks[place.part].text, place) if can_be_drawn else ""
        picture = f'<img src="{address}" alt="{escape(name)}"{height}>'
    is_open = " open" if not picture or (passage and not can_be_drawn) else ""
    shown, back = _marked(document.blocks[place.part].text, place), ""
    if words:
        back = render_document.back_to_found(words)
    links = "".join(_link(address, label) for address, label in _beside(document, place, words))
    header = f"<header><h2>{escape(labels[place.part])}</h2><nav>{back}{links}</nav></header>"
    body = (
        f'<main class="se-place">{header}{picture}'
        f"<details{is_open}><summary>{escape(text.PLACE_TEXT)}</summary><p>{shown}</p></details></main>"
    )
    return _as_page(f"{labels[place.part]} · {document.source_name}", body)


def _mark_height(source: tuple[Path, int, tuple[str, ...]], words: str, place: Place) -> str:
    """What tells the page how far down the picture the passage is; "" where that is not known."""
    path, page, passwords = source
    around = words[: place.start], words[place.end :]
    try:
        height = mark_height(path, page, words[place.start : place.end], passwords, around)
    except SpecEngineError:  # the picture says so
        return ""
    return "" if height is None else f' data-mark="{height:.3f}"'


def _beside(document: Document, place: Place, words: str) -> Iterator[tuple[str, str]]:
    """What comes before and behind a place, by address and name: of `words` that were searched for their other places,
    else the neighbouring parts."""
    places = find_words(document, words) if words else []
    if place in places:
        own = places.index(place)
        for number, name in ((own - 1, "‹ {}"), (own + 1, "{} ›")):
            if 0 <= number < len(places):
                label = text.FIND_NUMBER.format(number=text.count(number + 1), all=text.count(len(places)))
                yield render_document.address_of(document, words, places[number]), name.format(label)
        return
    for number, name in ((place.part - 1, "‹ {}"), (place.part + 1, "{} ›")):
        if 0 <= number < len(document.blocks):
            address = f"/document/parts/{number}?{urlencode({'of': document.mark})}"
            yield address, name.format(document.blocks[number].anchor.label)


def _link(address: str, label: str) -> str:
    return f'<a class="se-place-link" href="{escape(address)}">{escape(label)}</a>'


def _as_page(title: str, body: str) -> HTMLResponse:
    """What an address answers; the open page shows its ``main`` in a dialog."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>',
        headers=_NO_STORE,
    )


def _marked(words: str, place: Place) -> str:
    """A part's text with the passage marked."""
    before, passage, after = words[: place.start], words[place.start : place.end], words[place.end :]
    marked = f"<mark>{escape(passage)}</mark>" if passage else ""
    return f"{escape(before)}{marked}{escape(after)}"
