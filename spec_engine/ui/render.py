"""Values in, markup out: the pieces of the page around the answer.

Job: notices, live answer, coloured tokens, the race. Pure functions.
Non-job: the document (`render_document`), the figures (`readouts`), the widgets (`layout`).

Everything that a document, a model, a file name or a user wrote goes through `escape` here, on the server. The page's
templates hold no ``{{}}`` and no ``${}`` but the one ``${value}``, into which the finished markup is put as it is.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Final
from urllib.parse import urlencode

from spec_engine.chat.export import footer
from spec_engine.chat.figures import figures_of
from spec_engine.chat.prompt import WORD_JOINER
from spec_engine.chat.store import StoredTurn
from spec_engine.ui import terms, text
from spec_engine.ui.live import LiveAnswer, Stretch
from spec_engine.ui.race import LiveRace, RaceLane

_CODE: Final = re.compile(  # CommonMark's code spans and fences; what is in doubt is no code
    r"""\\[\\`]  # escaped: opens nothing
    | (?P<code> ^[ ]{0,3}(?P<fence>`{3,})[^`\n]*\n.*?(?:^[ ]{0,3}(?P=fence)`*[ \t]*$|\Z)
    | (?<!`)(?P<ticks>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=ticks)(?!`))""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_MARKUP: Final = re.compile(rf"<(?=[A-Za-z/!?])|&(?=#?\w+;)|!(?=\[)|[<&!](?={WORD_JOINER})")
_BROKEN: Final = re.compile(f"([<&!]){WORD_JOINER}")


def brand() -> str:
    """Name and purpose of the page, a way past the document to the chat, and the switch of the colours."""
    label = escape(text.THEME_LABEL)
    return (
        f'<a class="se-skip" href="#se-middle">{escape(text.TO_THE_CHAT)}</a>'
        f'<header class="se-brand"><span class="se-mark" aria-hidden="true"></span>'
        f"<div><h1>{escape(text.TITLE)}</h1><p>{escape(text.TAGLINE)}</p></div>"
        f'<button type="button" id="se-theme" aria-label="{label}" title="{label}" aria-pressed="false"></button>'
        "</header>"
    )


def welcome() -> str:
    """What the empty conversation shows: three steps."""
    steps = "".join(f"<li><strong>{escape(what)}</strong> {escape(why)}</li>" for what, why in text.WELCOME_STEPS)
    return (
        f'<div class="se-welcome"><b>{escape(text.WELCOME)}</b><ol>{steps}</ol>'
        f'<p class="se-quiet se-keys-hint">{escape(text.KEYS_HINT)}</p></div>'
    )


def notice(message: str, kind: str = "error") -> str:
    """A sentence for the user; nothing for an empty one. `kind` is error or info."""
    if not message:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<div class="se-notice se-notice--{kind}" role="{role}">{escape(message)}</div>'


def nothing_found(words: str) -> str:
    """That a search had no hit."""
    return f'<p class="se-quiet" role="status">{escape(text.NOTHING_FOUND.format(words=words.strip()))}</p>'


def ending(turn: StoredTurn, obstacle: str = "") -> str:
    """What is said below the last answer if it is not whole: why, and why it cannot be continued, if so."""
    if turn.reason not in ("interrupted", "length"):
        return ""
    if obstacle == text.REACHED_CONTEXT:
        return notice(obstacle, "info")
    limit, num_tokens = turn.details.get("max_tokens"), len(turn.token_ids)
    if turn.reason == "interrupted":
        words = text.BROKEN_OFF
    elif isinstance(limit, int) and num_tokens < limit:
        words = text.FILLED_CONTEXT
    else:
        words = text.REACHED_ANOTHER if turn.details.get("earlier") else text.REACHED_LIMIT
        words = words.format(tokens=text.plural(num_tokens, "token"))
    return notice(f"{words} {obstacle}".strip(), "info")


def quiet(words: str) -> str:
    """A remark that does not ask for attention."""
    return f'<p class="se-quiet">{escape(words)}</p>'


def question(words: str) -> str:
    """What is asked before something is deleted."""
    return f'<p class="se-question">{escape(words)}</p>'


def meter(share: float, kind: str = "", label: str = "") -> str:
    """A horizontal bar, `share` of it filled."""
    width = min(100.0, max(0.0, share * 100))
    return (
        f'<div class="se-meter {escape(kind)}" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{width:.0f}"><i style="width:{width:.1f}%"></i></div>'
    )


def as_markdown(message: str) -> str:
    """A message for the Markdown of the conversation: tags, entities and images in it stay text, code stays as it is.

    An invisible word joiner breaks them; the conversation widget and the page's content policy are further fences.
    """
    parts, end = [], 0
    for found in _CODE.finditer(message):
        if found["code"]:
            parts += [_MARKUP.sub(_break, message[end : found.start()]), found.group()]
            end = found.end()
    return "".join([*parts, _MARKUP.sub(_break, message[end:])])


def from_markdown(shown: str) -> str:
    """The message that `as_markdown` made this of; the page's script does the same with what is copied."""
    return _BROKEN.sub(r"\1", shown)


def _break(match: re.Match[str]) -> str:
    """The first character of some markup, and a joiner behind it."""
    return match.group() + WORD_JOINER


def messages(turn: StoredTurn) -> list[dict[str, object]]:
    """A turn as two messages of the chat widget."""
    return [message("user", turn.question), message("assistant", turn.answer)]


def message(role: str, content: str) -> dict[str, object]:
    """A message as a block, because a bare string would lose its leading blanks and indentation."""
    return {"role": role, "content": [{"type": "text", "text": as_markdown(content)}]}


def live_answer(answer: LiveAnswer | None, kept: str = "") -> str:
    """The answer while it is written, as plain text with a caret; nothing when there is none. Of one that is gone on
    with, the beginning that was `kept` in the conversation is left out."""
    if answer is None:
        return ""
    kind = "se-live se-live--more" if kept else "se-live"
    shown = escape(answer.text.removeprefix(kept))
    if not answer.new_text:
        before = f'<div class="{kind}">{shown}</div>' if shown.strip() else ""
        word = "Reading the document" if answer.phase == "reading" else "Thinking"
        facts = [word, text.percent(answer.num_read / answer.num_prompt)] if answer.num_prompt else [word]
        if answer.phase == "reading" and answer.read_seconds_left is not None:
            facts.append(text.left(answer.read_seconds_left))
        return before + working(" · ".join(facts))
    return f'<div class="{kind}" aria-live="off">{shown}<span class="se-caret"></span></div>'


def working(message: str) -> str:
    """A line with a pulse, for work without an answer: loading a model."""
    return f'<div class="se-live se-live--waiting" role="status"><span class="se-dots"></span>{escape(message)}</div>'


def reading_ahead(reading: LiveAnswer) -> str:
    """How far the document is read before the first question."""
    if not reading.num_prompt or reading.num_read >= reading.num_prompt - 1:
        return ""
    facts = [text.READING_AHEAD, text.percent(reading.num_read / reading.num_prompt)]
    if reading.read_tokens_per_second > 0:
        facts.append(f"{text.rate(reading.read_tokens_per_second)} tokens/s")
    if reading.read_seconds_left is not None:
        facts.append(text.left(reading.read_seconds_left))
    return working(" · ".join(facts))


def authors(stretches: Sequence[Stretch], empty: str = text.AUTHORS_EMPTY) -> str:
    """An answer as plain text, each stretch coloured by who proposed it; `empty` when there is none."""
    if not stretches:
        return f'<p class="se-quiet">{escape(empty)}</p>'
    num_drafted = sum(stretch.num_tokens for stretch in stretches if stretch.is_drafted)
    num_tokens = sum(stretch.num_tokens for stretch in stretches)
    first, *others = stretches
    words = [first.text.lstrip(" "), *(stretch.text for stretch in others)]  # the blank is the tokenizer's
    spans = "".join(_span(said, it.is_drafted, it.num_tokens) for said, it in zip(words, stretches, strict=True))
    legend = (
        f'<p class="se-legend"><span class="se-drafted">proposed by the drafter, confirmed: {text.count(num_drafted)}'
        f'</span><span class="se-target">written by the large model: {text.count(num_tokens - num_drafted)}</span></p>'
    )
    return f'{legend}<div class="se-authors">{spans}</div>'


def answers(turns: Sequence[StoredTurn]) -> str:
    """The answers of the conversation with their figures, which stay with them, and the parts of the document that were
    looked at most; nothing before the first."""
    rows = []
    for number, turn in enumerate(turns, 1):
        figures = figures_of(turn)
        if figures is None:
            continue
        cells = (
            number,
            text.count(figures.num_tokens),
            text.rate(figures.tokens_per_second),
            "–" if figures.gain is None else text.factor(figures.gain),
            f"{figures.mean_acceptance_length:.1f}",
        )
        rows.append(
            f'<tr title="{escape(turn.question)}&#10;{escape(footer(turn))}">'
            + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
            + "</tr>"
        )
        rows.append(_looked_at(turn, len(cells)))
    if not rows:
        return ""
    heads = "".join(f'<th scope="col" title="{escape(why)}">{escape(name)}</th>' for name, why in terms.ANSWER_COLUMNS)
    return (
        f'<section class="se-block se-answers"><h3>{escape(terms.ANSWERS_HEADING)}</h3>'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _looked_at(turn: StoredTurn, num_columns: int) -> str:
    """A row with links to the parts of the document that were looked at most for an answer; "" where none are known."""
    labels = turn.details.get("looked_at")
    if not isinstance(labels, list) or not labels:
        return ""
    links = " ".join(
        f'<a class="se-place-link" href="document/named?{urlencode({"label": label})}">{escape(str(label))}</a>'
        for label in labels
    )
    words = f'<p class="se-places">{escape(text.LOOKED_AT)} {links}</p>'
    return f'<tr class="se-looked"><td colspan="{num_columns}">{words}</td></tr>'


def race(state: LiveRace, *, is_running: bool) -> str:
    """The lanes of a race side by side: speed, gain, text, and whether it is the plain one. No gain is shown that
    was not measured for long enough."""
    plain = state.plain_speed
    plain_rate = plain.tokens_per_second if plain else 0.0
    cells = "".join(
        _lane(lane, plain_rate, is_running=is_running and lane is state.running, is_over=not is_running)
        for lane in state.lanes
    )
    busy = ' aria-busy="true"' if is_running else ""
    return (
        f'<section class="se-lanes"{busy} aria-label="{escape(text.RACE_HEADING)}"><h3>{escape(text.RACE_HEADING)}</h3>'
        f'<div class="se-lanes-row">{cells}</div>{_timing(state, is_running)}</section>'
    )


def _timing(state: LiveRace, is_running: bool) -> str:
    """How speeds are told where a run is over too soon."""
    if state.runs_again:
        return quiet(text.RACE_AGAIN if is_running else text.RACE_UNTIMED)
    most = max((lane.timed.num_runs for lane in state.lanes if lane.timed), default=1)
    if most == 2:
        return quiet(text.RACE_TIMED_TWICE)
    return quiet(text.RACE_TIMED.format(runs=most)) if most > 2 else ""


def _lane(lane: RaceLane, plain_rate: float, *, is_running: bool, is_over: bool) -> str:
    """One lane."""
    answer, metrics = lane.answer, lane.answer.metrics
    rate = lane.tokens_per_second
    figures = [f"<b>{text.rate(rate)}</b> tokens/s"] if rate and (lane.is_told or not is_over) else []
    if lane.is_timed and plain_rate and metrics.num_draft_tokens:
        figures.append(f"<b>{text.factor(rate / plain_rate)}</b> plain")
    if metrics.num_draft_tokens:
        figures.append(f"{metrics.mean_acceptance_length:.1f} per pass")
    if is_over and not lane.is_whole:
        figures = [escape(text.RACE_STOPPED if answer.text else text.RACE_NOT_RUN), *figures]
    elif is_running and not answer.text:
        share = f" {text.percent(answer.num_read / answer.num_prompt)}" if answer.num_prompt else ""
        figures = [f"{escape(text.RACE_READING)}{share}"]
    if is_over and not figures:
        figures = [text.plural(len(answer.token_ids), "token")]
    line = " · ".join(figures) if figures else escape(text.RACE_WAITING)
    verdict = ""
    if (result := lane.comparison) is not None:
        same = result.difference is None
        words = f"identical text: {text.plural(result.num_compared, 'token')}" if same else "texts differ"
        verdict = f'<p class="se-verdict se-verdict--{"ok" if same else "over"}">{escape(words)}</p>'
    words = escape(answer.new_text.lstrip()) + ('<span class="se-caret"></span>' if is_running else "")
    return (
        f'<article class="se-lane{" se-lane--running" if is_running else ""}"><h4>{escape(lane.label)}</h4>'
        f'<p class="se-figures">{line}</p><div class="se-lane-text"><p>{words}</p></div>'
        f"{verdict}</article>"
    )


def exports(conversation: int) -> str:
    """Links to the conversation as files."""
    links = "".join(
        f'<a href="conversations/{conversation}.{kind}" download>{name}</a>'
        for kind, name in (("md", "Markdown"), ("json", "JSON"))
    )
    return f'<p class="se-exports">{escape(text.EXPORT_LABEL)} {links}</p>'


def _span(piece: str, is_drafted: bool, num_tokens: int) -> str:
    """One stretch of tokens by one author."""
    kind, who = ("se-drafted", "drafted, confirmed") if is_drafted else ("se-target", "large model")
    return f'<span class="{kind}" title="{text.plural(num_tokens, "token")}, {who}">{escape(piece)}</span>'
