"""An answer as far as it has come: events in, figures and coloured text out.

Job: fold the events of one answer into what the page shows. A watcher that starts late folds them from the first.
Non-job: markup, threads, clocks (an event carries its own time).
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Literal

from spec_engine.events import ContextAttended, ContextFocused, Event, Finished, Prefilled, PromptReady, TokensAccepted
from spec_engine.metrics import GenerationMetrics, MetricsRecorder
from spec_engine.ui.time_left import TimeLeft

_FEWEST_READS: Final = 3  # chunks of a prompt, before the time left is told …
_SOONEST_S: Final = 1.0  # … and seconds
RATE_WINDOW_S: Final = 2.0
_REPLACEMENT: Final = "\ufffd"  # what a decoder writes for bytes that are no character yet

Phase = Literal["waiting", "reading", "writing", "done"]


@dataclass(slots=True)
class Stretch:
    """Neighbouring tokens by one author."""

    text: str
    is_drafted: bool
    num_tokens: int


def stretches_of(
    decode: Callable[[Sequence[int]], str], token_ids: Sequence[int], is_drafted: Sequence[bool], text: str
) -> list[Stretch]:
    """The stretches of a kept answer with a text. What a decoder joins across their borders goes to the later one.

    New tokens are decoded behind those of the stretch before alone, as `StreamingDetokenizer` does with single ones, so
    twice the answer takes twice the time; what a decoder changes of an earlier stretch goes to the last one.
    """
    stretches: list[Stretch] = []
    context: list[int] = []  # tokens whose text is out, decoded again as surroundings of the next ones
    held: list[int] = []  # tokens whose text is not certain yet
    for author, run in groupby(range(len(token_ids)), key=lambda index: is_drafted[index]):
        indices = list(run)
        held += [token_ids[index] for index in indices]
        before, now = decode(context), decode(context + held)
        piece = ""
        if now.startswith(before) and not now.endswith(_REPLACEMENT):
            piece = now[len(before) :]
            context, held = (held if piece.strip() else context + held), []
        stretches.append(Stretch(piece, author, len(indices)))
    _end_with(stretches, text)
    return stretches


def _end_with(stretches: Sequence[Stretch], text: str) -> None:
    """Have stretches be a text: what of theirs it lacks is taken from the last ones, what they lack is added there."""
    said = "".join(stretch.text for stretch in stretches)
    pairs = enumerate(zip(said, text, strict=False))
    excess = len(said) - next((at for at, (one, other) in pairs if one != other), min(len(said), len(text)))
    for stretch in reversed(stretches):
        num_taken = min(excess, len(stretch.text))
        stretch.text, excess = stretch.text[: len(stretch.text) - num_taken], excess - num_taken
    if stretches:
        stretches[-1].text += text[sum(len(stretch.text) for stretch in stretches) :]


class LiveAnswer:
    """The state of one answer. Times are seconds since its request began.

    Of one that is gone on with, `written` is its text so far and `stretches` who wrote it: text and stretches are then
    those of the whole, all figures those of what is added.
    """

    def __init__(self, written: str = "", stretches: Sequence[Stretch] = ()) -> None:
        self.written = written
        self.phase: Phase = "waiting"
        self.num_prompt = 0
        self.num_reused = 0
        self.num_restored = 0  # of these, from disk
        self.num_read = 0  # prompt tokens in the cache, reused ones included
        self.read_s = 0.0  # when the last prompt chunk was done
        self.read_seconds_left: float | None = None  # until the prompt is read; None while unknown
        self.elapsed_s = 0.0
        self.token_ids: list[int] = []
        self.stretches = [replace(stretch) for stretch in stretches]
        self.focus: ContextFocused | None = None
        self.attended: Counter[int] = Counter()  # looks of the target, by chunk of the context
        self.chunk_size = 0
        self.num_context_tokens = 0  # at the last look
        self.finished: Finished | None = None
        self._texts: list[str] = []
        self._reads: list[tuple[int, float]] = []  # tokens read, and when
        self._left = TimeLeft()
        self._steps_note = ""
        self._recorder = MetricsRecorder(0, 0)
        self._recent: deque[tuple[float, int]] = deque()

    def apply(self, events: Iterable[Event]) -> None:
        """Fold events in, in order."""
        for event in events:
            match event:
                case PromptReady():
                    self._prompt_ready(event)
                case Prefilled():
                    self.num_read, self.read_s = event.num_done, event.elapsed_s
                    if self.num_read > self.num_reused:
                        self._reads.append((self.num_read, self.read_s))
                    self.elapsed_s = event.elapsed_s
                    self.read_seconds_left = self._left.told(self._estimate(), event.elapsed_s)
                case TokensAccepted():
                    self._accepted(event)
                case ContextFocused():
                    self.focus = event
                case ContextAttended():
                    self.attended.update(event.chunk_ids)
                    self.chunk_size, self.num_context_tokens = event.chunk_size, event.num_context_tokens
                case Finished():
                    self.finished, self.phase = event, "done"

    @property
    def text(self) -> str:
        """The answer so far."""
        return self.written + self.new_text

    @property
    def new_text(self) -> str:
        """What of the answer these events brought."""
        return self.finished.text if self.finished else "".join(self._texts)

    @property
    def metrics(self) -> GenerationMetrics:
        """The engine's own figures once finished, until then the same ones over the steps so far."""
        if self.finished:
            return self.finished.metrics
        return self._recorder.summary(max(0.0, self.elapsed_s - self.read_s))

    @property
    def drafting_note(self) -> str:
        """Why nothing is drafted although a drafter is there; "" while drafting is on, or was on in most steps."""
        if not self.finished:
            return self._steps_note
        metrics = self.finished.metrics
        if metrics.drafter_failure:
            return metrics.drafter_failure
        return metrics.drafting_note if metrics.num_plain_steps * 2 > metrics.num_spec_steps else ""

    @property
    def tokens_per_second_now(self) -> float:
        """Speed over the last `RATE_WINDOW_S` seconds; 0 before the second step."""
        if len(self._recent) < 2:
            return 0.0
        span = self._recent[-1][0] - self._recent[0][0]
        num_tokens = sum(number for _, number in list(self._recent)[1:])
        return num_tokens / span if span > 0 else 0.0

    @property
    def read_tokens_per_second(self) -> float:
        """Prompt tokens computed per second so far."""
        return (self.num_read - self.num_reused) / self.read_s if self.read_s > 0 else 0.0

    def _estimate(self) -> float | None:
        """Seconds until the prompt is read, by what was read so far. A token costs the more, the more stand before it,
        so t = a (n - n0) + b (n^2 - n0^2) is laid through the chunk halfway and the last one. One chunk says nothing of
        b, which is most of a long prompt's time, and the first of them are too short for a clock."""
        if len(self._reads) < _FEWEST_READS or self.read_s < _SOONEST_S:
            return None
        (near, near_s), (far, far_s) = self._reads[len(self._reads) // 2], self._reads[-1]
        start, left = self.num_reused, self.num_prompt - self.num_read
        rise = (far_s / (far - start) - near_s / (near - start)) / (far - near) if near < far else 0.0
        rise = max(0.0, rise)  # seconds per token and per token before it
        first = max(0.0, far_s / (far - start) - rise * (far + start))
        return left * (first + rise * (self.num_prompt + self.num_read))

    def _prompt_ready(self, event: PromptReady) -> None:
        self.phase = "reading"
        self.num_prompt, self.num_reused = event.num_prompt_tokens, event.num_reused_tokens
        self.num_read, self.num_restored = event.num_reused_tokens, event.num_restored_tokens
        self._recorder = MetricsRecorder(event.num_prompt_tokens, event.num_reused_tokens)
        if self.written:
            self.written = event.written_text
            _end_with(self.stretches, self.written)  # without half a character, which a new token may complete

    def _accepted(self, event: TokensAccepted) -> None:
        if self.phase != "writing":
            self.phase, self.num_read = "writing", self.num_prompt
            self._recorder.prefilled(self.read_s)
            self._recorder.first_token(event.elapsed_s)
        self.elapsed_s = event.elapsed_s
        self.token_ids.extend(event.token_ids)
        self._texts.append(event.text)
        self._recorder.add(event.record)
        self._steps_note = event.record.drafter_failure or event.record.drafting_note
        for piece, is_drafted in zip(event.text_by_token, event.is_drafted, strict=True):
            self._add_piece(piece, is_drafted)
        self._recent.append((event.elapsed_s, len(event.token_ids)))
        while len(self._recent) > 2 and self._recent[-1][0] - self._recent[0][0] > RATE_WINDOW_S:
            self._recent.popleft()

    def _add_piece(self, piece: str, is_drafted: bool) -> None:
        """Append a token's text to the last stretch of the same author, or open a new one."""
        if self.stretches and self.stretches[-1].is_drafted == is_drafted:
            self.stretches[-1].text += piece
            self.stretches[-1].num_tokens += 1
        else:
            self.stretches.append(Stretch(piece, is_drafted, 1))
