"""HTML as blocks, one a heading section, through lxml.

Job: keep what a reader of the page would read, in order, with headings, lists and table rows recognisable.
Non-job: rendering, scripts, guessing which part of a page is the article.
"""

import re
import unicodedata

from lxml import etree, html

from spec_engine.documents.anchors import Document, Problem
from spec_engine.documents.encoding import decode
from spec_engine.documents.scripts import subscript, superscript
from spec_engine.documents.sections import SectionBuilder
from spec_engine.errors import UnreadableDocument

# fmt: off
_DROPPED = frozenset(
    (
        "head", "script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "embed", "audio",
        "video", "button", "select", "input", "textarea", "nav", "dialog",
    )
)
# fmt: on
_DROPPED_ROLES = frozenset(("navigation", "search", "dialog", "alertdialog", "menu", "menubar"))
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
# fmt: off
_PARAGRAPHS = frozenset(
    (
        "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl",
        "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "legend", "li",
        "main", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
    )
)
# fmt: on
_TIGHT = frozenset(("dt", "dd", "li"))
_SPACES = re.compile(r"[ \t\n\r\f\xa0]+")
_CHARSET = re.compile(
    rb"<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,200}?encoding)\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE
)
_CHARSET_BYTES = 4_096
_MAX_INDENTS = 8
_NOTE_MARK = re.compile(r"\s*[\[(]?(?:\d{1,4}|[a-z]{1,2}|[ivxlc]{1,7}|[*†‡§¶#]{1,4})[\])]?\s*")


class NoText(UnreadableDocument):
    """A page without words."""


def read_html(data: bytes, name: str, stem: str, charset: str | None = None) -> Document:
    """Read an HTML page; `charset` is what was said of its encoding where it came from.

    Raises:
        UnreadableDocument: binary data, or no text is left once scripts and navigation are gone.
    """
    stated = _CHARSET.search(data[:_CHARSET_BYTES])
    decoded = decode(data, name, charset or (stated.group(1).decode("ascii") if stated else None))
    parser = html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = html.document_fromstring(decoded.text.replace("\0", "").encode("utf-8", "replace"), parser=parser)
    except etree.ParserError as error:  # lxml's word for a page without a single element
        raise NoText(_empty_message(name)) from error
    walker = _Walker()
    walker.walk(root)
    problems = list(decoded.problems)
    is_cut = any(error.level_name == "FATAL" for error in parser.error_log)
    if is_cut:
        problems.append(Problem(None, "The page is nested too deeply to be read to its end; the rest is missing"))
    title = root.findtext(".//title") or walker.builder.first_heading or stem
    document = Document(title, name, walker.builder.blocks(), tuple(problems))
    if not document.blocks and is_cut:
        raise UnreadableDocument(f"{name} is nested too deeply to be read. Save its text from a browser instead.")
    if not document.blocks:
        raise NoText(_empty_message(name))
    return document


def _empty_message(name: str) -> str:
    return f"{name} is an HTML page without any text to read. Check that the page was saved whole."


class _Walker:
    """Goes through a page once, gathers inline text and closes it into paragraphs."""

    def __init__(self) -> None:
        self.builder = SectionBuilder()
        self._inline: list[str] = []
        self._cells: list[str] = []
        self._lists: list[int | None] = []
        self._scripts: list[int] = []
        self._prefix = ""
        self._num_pre = 0
        self._num_cells = 0

    def walk(self, root: etree._Element) -> None:
        """Read a tree; not recursive, so depth does not matter."""
        events = etree.iterwalk(root, events=("start", "end"))
        dropped: etree._Element | None = None
        for event, element in events:
            if event == "start" and dropped is None:
                if _is_dropped(element):
                    dropped = element
                    events.skip_subtree()
                else:
                    self._start(element)
                    self._write(element.text)
            elif event == "end":
                if dropped is None:
                    self._end(element)
                if dropped is None or dropped is element:
                    dropped = None
                    self._write(element.tail)
        self._close()

    def _write(self, text: str | None) -> None:
        if text:
            self._inline.append(text if self._num_pre else _SPACES.sub(" ", text))

    def _start(self, element: etree._Element) -> None:
        tag = element.tag
        if tag == "br":
            self._inline.append("\n")
        elif tag in ("sup", "sub") or _is_note_mark(element):
            self._scripts.append(len(self._inline))
        elif tag in ("td", "th") and not _is_layout(element):
            self._close()
            self._num_cells += 1
        elif tag in _PARAGRAPHS or tag in _HEADINGS or tag in ("td", "th"):
            self._close()
        if tag == "pre":
            self._num_pre += 1
        elif tag in ("ul", "ol"):
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._prefix = self._bullet()

    def _end(self, element: etree._Element) -> None:
        tag = element.tag
        if tag in _HEADINGS and not self._num_cells:
            self.builder.start_section(self._take())
        elif tag in ("sup", "sub") and self._scripts:
            start = self._scripts.pop()
            text = "".join(self._inline[start:])
            self._inline[start:] = [superscript(text) if tag == "sup" else subscript(text)]
        elif _is_note_mark(element) and self._scripts:
            start = self._scripts.pop()
            self._inline[start:] = [_noted("".join(self._inline[start:]))]
        elif tag in ("td", "th") and not _is_layout(element):
            self._num_cells -= 1
            if not self._num_cells:
                self._cells.append(" ".join(self._take().split()))
        elif tag in _PARAGRAPHS or tag in ("td", "th"):
            self._close(is_tight=tag in _TIGHT)
        if tag == "tr" and not self._num_cells and self._cells:
            self.builder.add_paragraph(" | ".join(self._cells), is_tight=True)
            self._cells.clear()
        elif tag == "pre":
            self._num_pre -= 1
        elif tag in ("ul", "ol"):
            self._lists.pop()

    def _bullet(self) -> str:
        """What stands before a list item, indented by the depth of its list."""
        if not self._lists:
            return "- "
        number = self._lists[-1]
        if number is not None:
            self._lists[-1] = number + 1
        return "  " * min(len(self._lists) - 1, _MAX_INDENTS) + ("- " if number is None else f"{number}. ")

    def _close(self, is_tight: bool = False) -> None:
        """End the paragraph; inside of a table cell it only ends the word."""
        if self._num_cells:
            self._inline.append(" ")
            return
        text = self._take()
        if text:
            self.builder.add_paragraph(self._prefix + text, is_tight or bool(self._lists))
            self._prefix = ""

    def _take(self) -> str:
        """Take the gathered text out."""
        text = "".join(self._inline).replace("\xad", "")
        self._inline.clear()
        self._scripts.clear()
        if self._num_pre:
            return text.strip("\n").rstrip()
        return re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", text)).strip()


def _is_note_mark(element: etree._Element) -> bool:
    """Whether an element is the mark of a note beside a word: a link that says so, or a raised one within the page."""
    if element.tag != "a" or not _NOTE_MARK.fullmatch("".join(element.itertext())):
        return False
    if {"noteref", "doc-noteref"} & {*element.get("epub:type", "").split(), *element.get("role", "").split()}:
        return True
    is_raised = any(one is not None and one.tag == "sup" for one in (element.getparent(), element.find("sup")))
    return is_raised and bool(element.get("href", "").partition("#")[2])


def _noted(mark: str) -> str:
    """A note's mark in brackets and set apart from the word before it, as in a DOCX; its figures as they are."""
    mark = unicodedata.normalize("NFKC", mark).strip()
    if not mark:  # what stands there is hidden
        return ""
    return f" {mark}" if mark[0] in "[(" else f" [{mark}]"


def _is_dropped(element: etree._Element) -> bool:
    """Whether an element is no text of the page: scripts, controls, navigation, what the page hides."""
    return (
        element.tag in _DROPPED
        or element.get("hidden") is not None
        or element.get("aria-hidden") == "true"
        or element.get("role") in _DROPPED_ROLES
    )


def _is_layout(cell: etree._Element) -> bool:
    """Whether a table cell arranges a page instead of holding a value."""
    return any(cell.find(f".//{tag}") is not None for tag in ("table", "h1", "h2", "h3", "pre", "ul", "ol"))
