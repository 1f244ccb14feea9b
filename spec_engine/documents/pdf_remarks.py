"""What a reader should know about the pages of a PDF, in words.

Job: damaged, empty and scanned pages, fonts without letters, attached files; why nothing could be read.
Non-job: finding it out (`pdf`, `pdf_scans`).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from spec_engine.documents.anchors import Problem
from spec_engine.documents.names import not_read
from spec_engine.documents.pdf_scans import Page

MIN_PAGE_CHARS: Final = 20

_MAX_UNMAPPED: Final = 0.2
_MAX_NAMED: Final = 3
_WORDS_MAY_BE_WRONG: Final = "(OCR); words may be wrong"


def remarks(pages: Sequence[Page], texts: Sequence[str], trouble: str) -> list[Problem]:
    """About each page in turn, then about all scanned ones; `trouble` says why scans could not be read."""
    scans = [index for index, page in enumerate(pages) if page.scan == "read"]
    found = [
        problem
        for index, page in enumerate(pages)
        for problem in _of_page(page, index, texts[index], is_named=len(scans) <= _MAX_NAMED)
    ]
    if len(scans) > _MAX_NAMED:
        found.append(Problem(None, f"{_ranges(scans)} were read from pictures {_WORDS_MAY_BE_WRONG}"))
    if trouble and any(page.scan == "unread" for page in pages):
        found.append(Problem(None, trouble))
    return found


def left_out(attached: Sequence[str], is_xfa: bool) -> Iterator[Problem]:
    """What hangs on a document and is none of its pages; `is_xfa` says whether its form makes its pages itself."""
    if attached:
        yield Problem(None, not_read(attached))
    if is_xfa:
        yield Problem(
            None,
            "the form in it is of a kind (XFA) that was not read, only what its pages show instead. Open it in Adobe "
            "Reader and print it to a new PDF",
        )


def no_text_message(name: str, pages: Sequence[Page], trouble: str, beside: Sequence[Problem] = ()) -> str:
    """Why nothing could be read; `beside` is what hangs on the document, which may be all that it has to say."""
    if all(page.lines is None for page in pages):
        return f"No page of {name} can be read: the file is damaged. Download or export it again."
    if any(page.scan == "unread" for page in pages):
        return (
            f"{name} holds pictures of pages and no text. {trouble}. Or run optical character recognition on the file "
            "(ocrmypdf, for instance) and open the result."
        )
    advice = ". ".join(f"{one.message[:1].upper()}{one.message[1:]}" for one in beside[:_MAX_NAMED])
    advice = advice or "Check that it is the right file"
    if any(page.has_image for page in pages):
        return f"{name} holds pictures, and no text was found in them. {advice}."
    return f"{name} holds no text on any of its {len(pages)} pages. {advice}."


def _of_page(page: Page, index: int, text: str, is_named: bool) -> Iterator[Problem]:
    """About one page; `is_named` says whether it is said of each page that it was read from a picture."""
    label = f"p. {index + 1}"
    num_chars = len(text.strip())
    if page.lines is None:
        yield Problem(label, f"{label} is damaged and could not be read")
    elif page.scan == "read":
        if is_named:
            yield Problem(label, f"{label} was read from a picture {_WORDS_MAY_BE_WRONG}")
    elif num_chars == 0 and page.comments and not page.has_image:
        pass  # a page that only hangs comments
    elif num_chars == 0:
        yield Problem(label, f"{label} has no text{_cause(page)}")
    elif num_chars < MIN_PAGE_CHARS:
        cause = " beside a picture" + (" (a scan?)" if page.scan == "unread" else "") if page.has_image else ""
        yield Problem(label, f"{label} has almost no text: {num_chars} characters{cause}")
    if page.attached:
        yield Problem(label, not_read(page.attached, f" to {label}"))
    if page.num_ticks:
        words = "a box whose tick is" if page.num_ticks == 1 else f"{page.num_ticks} boxes whose ticks are"
        yield Problem(label, f"{label} has {words} not read")
    if page.unmapped > _MAX_UNMAPPED:
        share = f"{page.unmapped:.0%}"
        yield Problem(label, f"{label} may read as gibberish: its fonts do not say which letters {share} of it are")


def _cause(page: Page) -> str:
    if page.scan == "blank":
        return ", and none was found in its picture"
    if page.scan == "failed":
        return ", and OCR broke down over its picture"
    return " (a scan?)" if page.has_image else " (a blank page, or a drawing?)"


def _ranges(indices: Sequence[int]) -> str:
    """Pages as a reader counts them: "p. 1-40, 52"."""
    runs = [[i for _, i in run] for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0])]
    parts = [str(run[0] + 1) if len(run) == 1 else f"{run[0] + 1}-{run[-1] + 1}" for run in runs]
    return "p. " + ", ".join(parts)
