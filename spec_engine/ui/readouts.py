"""The figures beside the chat: how far, how fast, who proposed what, where the time goes.

Job: markup of the readouts from the state of one answer. Pure functions; every term explains itself on hover.
Non-job: measuring (`metrics`, `live`), comparing (`speed`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from spec_engine.chat.compare import Comparison
from spec_engine.metrics import GenerationMetrics
from spec_engine.model.memory import MemoryUse
from spec_engine.ui import terms, text
from spec_engine.ui.live import LiveAnswer
from spec_engine.ui.render import meter
from spec_engine.ui.render_models import memory_bar
from spec_engine.ui.speed import MIN_BASELINE_TOKENS, MeasuredSpeed
from spec_engine.ui.whereabouts import most_seen

MAX_CELLS: Final = 96
MAX_BARS: Final = 16


@dataclass(frozen=True, slots=True)
class DraftingState:
    """Whether a drafter is at work: what it is, or why not."""

    is_on: bool
    label: str


@dataclass(frozen=True, slots=True)
class SpeedView:
    """What is known about plain decoding.

    Attributes:
        baseline: its measured speed, if any.
        comparison: the last comparison of whole answers, if any.
        progress: a sentence while plain decoding is being measured.
        why_not: why it cannot be compared with the answer that is shown.
    """

    baseline: MeasuredSpeed | None = None
    comparison: Comparison | None = None
    progress: str = ""
    why_not: str = ""


def readouts(
    answer: LiveAnswer | None,
    drafting: DraftingState,
    speed: SpeedView,
    locate: Callable[[int], str],
    memory: MemoryUse | None = None,
) -> str:
    """All readouts. `locate` names the place in the document of a token of the context, "" when there is none."""
    parts = [_state(answer, drafting)]
    if answer is None or answer.phase == "waiting":
        parts.append(f'<p class="se-quiet">{escape(terms.HELP["drafting"])}</p>' if drafting.is_on else "")
    else:
        metrics = answer.metrics
        parts += [
            _tiles(answer, metrics, speed),
            _prefill(answer),
            _acceptance(metrics),
            _time(metrics, answer.read_s) if answer.phase != "reading" else "",
            _view(answer, locate),
        ]
    parts += [_comparison(speed), _memory(memory)]
    return f'<div class="se-readouts">{"".join(parts)}</div>'


def _state(answer: LiveAnswer | None, drafting: DraftingState) -> str:
    """The chip that says whether drafting is on, why not, and what is happening."""
    note = answer.drafting_note if answer is not None and drafting.is_on else ""
    kind = "on" if drafting.is_on and not note else "off"
    label = text.DRAFTING_PAUSED if note else drafting.label
    chip = f'<span class="se-chip se-chip--{kind}" title="{escape(terms.HELP["drafting"])}">{escape(label)}</span>'
    phase = "" if answer is None else _phase(answer)
    reason = f'<p class="se-quiet">{escape(note)}</p>' if note else ""
    return f'<div class="se-state">{chip}<span class="se-phase" role="status">{escape(phase)}</span></div>{reason}'


def _phase(answer: LiveAnswer) -> str:
    """What is happening, in a word or two."""
    if answer.finished:
        noun = "more token" if answer.written else "token"
        num_tokens = answer.finished.metrics.num_generated_tokens
        return f"{text.plural(num_tokens, noun)}, {text.REASONS[answer.finished.reason]}"
    return {"waiting": "starting", "reading": "reading", "writing": "writing", "done": "done"}[answer.phase]


def _prefill(answer: LiveAnswer) -> str:
    """How far the prompt is read, how fast, and what was reused."""
    if not answer.num_prompt:
        return ""
    share = answer.num_read / answer.num_prompt
    num_new = answer.num_prompt - answer.num_reused
    caption = f"{text.count(answer.num_read)} of {text.count(answer.num_prompt)} tokens"
    if answer.phase == "reading":
        left = answer.read_seconds_left
        parts = [text.percent(share), caption]
        if answer.read_tokens_per_second > 0:
            parts.append(f"{text.rate(answer.read_tokens_per_second)} tokens/s")
        if left is not None:
            parts.append(text.left(left))
        caption = " · ".join(parts)
    elif answer.read_s > 0:
        caption = f"read in {text.seconds(answer.read_s)}"
        if answer.read_tokens_per_second > 0:
            caption += f" · {text.rate(answer.read_tokens_per_second)} tokens/s"
    origin = f" ({text.count(answer.num_restored)} from disk)" if answer.num_restored else ""
    reuse = f"reused <b>{text.count(answer.num_reused)}</b>{origin} · new <b>{text.count(num_new)}</b>"
    bar = meter(share, "", "prompt read") if answer.phase == "reading" else ""
    figures = (
        f'<p class="se-figures" title="{escape(terms.HELP["reused"])}">{reuse}</p><p class="se-figures">{caption}</p>'
    )
    return _section("Reading the prompt", terms.HELP["prefill"], bar + figures)


def _tiles(answer: LiveAnswer, metrics: GenerationMetrics, speed: SpeedView) -> str:
    """The four figures that matter most. After a race the speed-up is that of its lanes, which ran side by side."""
    baseline, mean = speed.baseline, metrics.tokens_per_second
    now = mean if answer.finished else answer.tokens_per_second_now or mean
    speed_note = (
        (f"mean: {text.rate(mean)}" if mean else "to come") if not answer.finished else f"first: {_first_word(metrics)}"
    )
    first = _tile(
        "tokens/s", text.rate(now) if now else "–", speed_note, terms.HELP["now" if not answer.finished else "mean"]
    )
    is_long_enough = not answer.finished or metrics.num_generated_tokens >= MIN_BASELINE_TOKENS
    if baseline and mean > 0 and is_long_enough:
        second = _speed_up(answer, mean, baseline, speed.comparison)
    else:
        second = _tile("speed-up", "–", "unmeasured", terms.HELP["speedup"])
    length = metrics.mean_acceptance_length
    third = _tile("tokens/pass", f"{length:.2f}" if length else "–", "accepted", terms.HELP["acceptance_length"])
    return f'<div class="se-tiles">{first}{second}{third}</div>'


def _speed_up(answer: LiveAnswer, rate: float, baseline: MeasuredSpeed, race: Comparison | None) -> str:
    """The gain of this answer against plain decoding, or that of the race over it, which says so."""
    ratio, is_this = rate / baseline.tokens_per_second, baseline.num_prompt_tokens == answer.num_prompt
    note = f"{'plain' if is_this else 'plain, before'}: {text.rate(baseline.tokens_per_second)}"
    if race and race.plain_rate:
        ratio, note = race.drafted_rate / race.plain_rate, "in the race"
    detail = (
        f"{terms.HELP['speedup']} Plain decoding was measured on {text.plural(baseline.num_tokens, 'token')} "
        f"behind a prompt of {text.plural(baseline.num_prompt_tokens, 'token')}."
    )
    kind = "good" if ratio >= 1.05 else "bad" if ratio < 0.95 else ""
    return _tile("speed-up", text.factor(ratio), note, detail, kind)


def _first_word(metrics: GenerationMetrics) -> str:
    """Time to the first token."""
    return text.seconds(metrics.time_to_first_token_s)


def _tile(name: str, figure: str, note: str, explanation: str, kind: str = "") -> str:
    """One large figure."""
    return (
        f'<div class="se-tile {kind}" title="{escape(explanation)}"><span>{escape(name)}</span>'
        f"<b>{escape(figure)}</b><small>{escape(note)}</small></div>"
    )


def _section(name: str, explanation: str, body: str) -> str:
    """A heading that explains itself on hover, and what is below it."""
    return f'<section class="se-block"><h3 title="{escape(explanation)}">{escape(name)}</h3>{body}</section>'


def _bars(shares: Sequence[float], labels: Sequence[str], titles: Sequence[str]) -> str:
    """Upright bars with a label below each."""
    columns = "".join(
        f'<div title="{escape(title)}"><span><i style="height:{min(1.0, share) * 100:.1f}%"></i></span>'
        f"<em>{escape(label)}</em></div>"
        for share, label, title in zip(shares, labels, titles, strict=True)
    )
    return f'<div class="se-bars">{columns}</div>'


def _acceptance(metrics: GenerationMetrics) -> str:
    """Acceptance by drafted position, and steps by number of confirmed tokens."""
    shares = metrics.acceptance_by_position[:MAX_BARS]
    counts = list(metrics.acceptance_histogram[:MAX_BARS])
    if metrics.num_draft_tokens == 0 or not shares or not counts:
        return ""
    names, ticks = [str(k) for k in range(len(counts))], _ticks(0, len(counts))
    if len(metrics.acceptance_histogram) > MAX_BARS:  # the rest in one bar
        counts.append(sum(metrics.acceptance_histogram[MAX_BARS:]))
        names.append(f"{MAX_BARS}+")
        ticks[-1:] = ["", f"{MAX_BARS}+"]  # no room for both
    positions = _bars(
        shares,
        _ticks(1, len(shares)),
        [f"drafted token {k + 1}: confirmed in {text.percent(share)} of the steps" for k, share in enumerate(shares)],
    )
    histogram = _bars(
        [number / max(counts) for number in counts],
        ticks,
        [f"{text.plural(number, 'step')} with {name} confirmed" for name, number in zip(names, counts, strict=True)],
    )
    name = f"first {MAX_BARS} positions" if len(metrics.acceptance_by_position) > MAX_BARS else "by position"
    left = f'<div title="{escape(terms.HELP["by_position"])}"><h4>{name}</h4>{positions}</div>'
    right = f'<div title="{escape(terms.HELP["histogram"])}"><h4>steps by number</h4>{histogram}</div>'
    return _section("Confirmed drafted tokens", terms.HELP["drafting"], f'<div class="se-pair">{left}{right}</div>')


def _ticks(first: int, num_bars: int) -> list[str]:
    """The labels below bars that count from `first`: every one while there is room, then the first and every fifth."""
    numbers = range(first, first + num_bars)
    return [str(number) if num_bars <= 9 or number in (first, 5, 10, 15) else "" for number in numbers]


def _time(metrics: GenerationMetrics, read_s: float) -> str:
    """Where the seconds went, as one stacked bar."""
    parts = [
        ("prefill", "reading", metrics.prefill_s or read_s),
        ("draft", "draft", metrics.draft_s),
        ("verify", "verify", metrics.verify_s),
        ("other", "other", metrics.other_s),
    ]
    total = sum(value for _, _, value in parts)
    if total <= 0:
        return ""
    bar = "".join(
        f'<i class="se-time--{key}" style="flex-grow:{value / total:.4f}" title="{name}: {text.seconds(value)}"></i>'
        for key, name, value in parts
    )
    legend = "".join(
        f'<span class="se-time--{key}" title="{escape(terms.HELP[key])}">{name} {share}</span>'
        for (key, name, _), share in zip(parts, text.percents([value for _, _, value in parts]), strict=True)
    )
    return _section(
        "Where the time went", terms.HELP["time"], f'<div class="se-stack">{bar}</div><p class="se-keys">{legend}</p>'
    )


def _view(answer: LiveAnswer, locate: Callable[[int], str]) -> str:
    """The context as cells, lit where the target looked, with links to the places it looked at most; and how much of it
    the drafter has in view. Before the first look, the drafter's view is what is lit."""
    focus = answer.focus
    seen = answer.attended or Counter(focus.chunk_ids if focus else ())
    size = answer.chunk_size or (focus.chunk_size if focus else 0)
    num_tokens = max(answer.num_context_tokens, focus.num_context_tokens if focus else 0)
    if not seen or not num_tokens:
        return ""
    name, help_text = ("the model", terms.HELP["looks"]) if answer.attended else ("the drafter", terms.HELP["view"])
    view = ""
    if focus is not None:
        share = text.percent(focus.num_tokens / focus.num_context_tokens)
        figures = f"{text.count(focus.num_tokens)} of {text.count(focus.num_context_tokens)} tokens ({share})"
        view = f'<p class="se-figures" title="{escape(terms.HELP["view"])}">The drafter sees {figures}</p>'
    body = f"{_strip(seen, size, num_tokens, locate)}{_most_seen(seen, size, locate)}{view}"
    return _section(f"Where {name} looks", help_text, body)


def _strip(seen: Counter[int], size: int, num_tokens: int, locate: Callable[[int], str]) -> str:
    """Cells for the chunks of a context, the brighter the more often they were seen."""
    num_chunks = -(-num_tokens // size)
    num_cells = min(MAX_CELLS, num_chunks)
    lit = [0] * num_cells
    first: dict[int, int] = {}  # chunk seen in a cell
    for chunk_id, number in seen.items():
        if chunk_id < num_chunks:
            cell = chunk_id * num_cells // num_chunks
            lit[cell] += number
            first[cell] = min(chunk_id, first.get(cell, chunk_id))
    per_cell, most = num_chunks / num_cells, max(lit) or 1
    cells = []
    for cell, number in enumerate(lit):
        token = int(cell * per_cell) * size
        place = locate(token)
        title = f"{place}, from token {text.count(token)}" if place else f"from token {text.count(token)}"
        style = f'style="--glow:{number / most:.2f}" title="{escape(title)}"'
        link = _place(first.get(cell, 0) * size, max(size, round(per_cell * size)))
        cells.append(f'<a {style} {link} tabindex="-1"></a>' if number and place else f"<i {style}></i>")
    # The most looked-at places follow as links with names: with the keyboard and for screen readers those do.
    return f'<div class="se-strip" aria-hidden="true">{"".join(cells)}</div>'


def _place(token: int, num_tokens: int) -> str:
    """What makes a link show some tokens of the context in the document."""
    return f'class="se-place-link" href="document/at/{token}?n={num_tokens}"'


def _most_seen(seen: Counter[int], size: int, locate: Callable[[int], str]) -> str:
    """Links to the parts of the document that were seen most, most often first."""
    most = most_seen(seen, size, locate)
    links = "".join(f"<a {_place(chunk * size, size)}>{escape(part)}</a>" for part, chunk in most.items())
    return f'<p class="se-places">{escape(text.LOOKS_AT)} {links}</p>' if links else ""


def _memory(use: MemoryUse | None) -> str:
    """The memory that the models take, by part, as it was measured when they were loaded."""
    if use is None:
        return ""
    parts = (
        ("weights", use.weights),
        (f"room for {text.count(use.num_tokens)} tokens", use.cache),
        ("draft", use.draft),
    )
    return _section(f"Memory: {text.gigabytes(use.total)}", terms.HELP["memory"], memory_bar(parts))


def _comparison(speed: SpeedView) -> str:
    """The measured comparison with plain decoding."""
    if speed.progress:
        return f'<p class="se-figures se-pulse" role="status">{escape(speed.progress)}</p>'
    result = speed.comparison
    if result is None:
        return f'<p class="se-quiet">{escape(speed.why_not)}</p>' if speed.why_not else ""
    top = max(result.drafted_rate, result.plain_rate) or 1.0
    rows = "".join(
        f'<div class="se-race {kind}"><span>{name}</span>{meter(rate / top, "", name)}<b>{text.rate(rate)}</b></div>'
        for name, rate, kind in (
            ("drafting", result.drafted_rate, "se-race--drafted"),
            ("plain", result.plain_rate, "se-race--plain"),
        )
    )
    return _section("Against plain decoding", terms.HELP["speedup"], f"{rows}{_verdict(result)}")


def _verdict(result: Comparison) -> str:
    """Whether both runs wrote the same."""
    extent = "" if result.is_whole else " compared"
    if result.difference is None:
        words, kind = f"Text identical, {text.plural(result.num_compared, 'token')}{extent}", "ok"
    else:
        words = (
            f"Texts differ from token {text.count(result.difference.index + 1)} of {text.count(result.num_compared)}, "
            f"where the logits {result.difference.drafted_logit:.3f} and {result.difference.plain_logit:.3f} compete"
        )
        kind = "over"
    return f'<p class="se-verdict se-verdict--{kind}" title="{escape(terms.HELP["identical"])}">{escape(words)}</p>'
