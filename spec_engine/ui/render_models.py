"""Values in, markup out: models, what they need, and how far their loading is.

Job: the notes below the picker, memory by part, downloads file by file. Pure functions.
Non-job: documents and answers (`render`), figures of an answer (`readouts`).
"""

from collections.abc import Sequence
from html import escape
from typing import Final

from spec_engine.config import Preset
from spec_engine.model.watch import LoadProgress
from spec_engine.ui import text
from spec_engine.ui.render import meter, notice
from spec_engine.ui.shelf import Fit

_LISTED_BYTES: Final = 1_000_000  # smaller files of a download have no line of their own


def loading(progress: LoadProgress, elapsed_s: float, left_s: float | None = None) -> str:
    """What a load does: a line, a bar where the share is known, the files that are downloaded, and the time left, or
    else the time it takes."""
    facts = [text.seconds(elapsed_s)]
    if progress.files:
        facts = [text.transfer(progress.num_done, progress.num_bytes)]
        if progress.bytes_per_second > 0:
            facts.append(text.megabytes_per_second(progress.bytes_per_second))
    elif progress.share is not None:
        facts = [text.percent(progress.share)]
    if left_s is not None:
        facts.append(text.left(left_s))
    bar = "" if progress.share is None else meter(progress.share, "", progress.message)
    rows = "".join(
        f"<li><span>{escape(file.name)}</span>"
        f"{meter(file.num_done / max(1, file.num_bytes), '', file.name)}"
        f"<b>{text.transfer(file.num_done, file.num_bytes)}</b></li>"
        for file in progress.files
        if file.num_bytes >= _LISTED_BYTES
    )
    listed = f'<ul class="se-files">{rows}</ul>' if rows else ""
    line = " · ".join([progress.message, *facts])
    return (
        f'<div class="se-live se-live--waiting" role="status"><span class="se-dots"></span>{escape(line)}</div>'
        f'<div class="se-loading">{bar}{listed}</div>'
    )


def preset_verdict(preset: Preset, *, is_saved: bool = False) -> str:
    """What a valid preset says, or that it was saved."""
    words = text.PRESET_VALID.format(
        title=preset.title, target=preset.target.id, kind=preset.draft.kind, context=text.count(preset.context_length)
    )
    return notice(f"{text.PRESET_SAVED} {words}" if is_saved else words, "info")


def fit_note(fit: Fit, loaded: str) -> str:
    """A preset that does not fit: what it needs by part, that there is something instead, and what stays loaded."""
    if fit.need is None or fit.free is None:
        return ""
    sentence = text.NEED_SENTENCE.format(
        title=fit.preset.title,
        needs=text.gigabytes(fit.need.total),
        tokens=text.count(fit.need.num_tokens),
        free=text.gigabytes(fit.free),
    )
    instead = text.NEED_INSTEAD if fit.others else text.NEED_NOTHING
    instead = f"{text.STILL_LOADED.format(title=loaded)} {instead}" if loaded else instead
    return f'{notice(sentence)}{memory_bar(fit.need.parts)}<p class="se-quiet">{escape(instead)}</p>'


def memory_bar(parts: Sequence[tuple[str, int]]) -> str:
    """Bytes by part as a stacked bar with its key; parts of no size are left out."""
    shown = [(number, name, size) for number, (name, size) in enumerate(parts, 1) if size > 0]
    bar = "".join(
        f'<i class="se-part--{number}" style="flex-grow:{size}" title="{escape(name)}: {text.gigabytes(size)}"></i>'
        for number, name, size in shown
    )
    keys = "".join(
        f'<span class="se-part--{number}">{escape(name)} {text.gigabytes(size)}</span>' for number, name, size in shown
    )
    return f'<div class="se-stack">{bar}</div><p class="se-keys">{keys}</p>'


def preset_note(description: str, facts: Sequence[str]) -> str:
    """What a preset is for, below its picker."""
    tail = f'<span class="se-facts">{escape(" · ".join(facts))}</span>' if facts else ""
    return f'<p class="se-quiet se-preset">{escape(description)}{tail}</p>'
