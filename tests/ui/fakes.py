"""A scripted engine: the events of a real one at a chosen pace, without a model.

For rules that need a certain order of events (two tabs, a failing load, a slow prefill). Browser tests run the real
engine.
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence

from spec_engine.answer import Request
from spec_engine.chat.prompt import Message
from spec_engine.config import DrafterKind
from spec_engine.events import ContextAttended, ContextFocused, Event, Finished, Prefilled, PromptReady, TokensAccepted
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.model.memory import MemoryUse

SPECIALS = ("<|doc|>", "<|user|>", "<|assistant|>", "<|end|>")
_PIECES = re.compile(r"<\|\w+\|>|\s*[^\s<]+|\s+|<")


class WordTokenizer:
    """Words as tokens, numbered as they are met. Round-trips every text."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._pieces: list[str] = []
        for special in SPECIALS:
            self._id(special)

    @property
    def special_spellings(self) -> tuple[str, ...]:
        return SPECIALS

    writes_time = False

    @property
    def stop_token_ids(self) -> frozenset[int]:
        return frozenset((self._ids["<|end|>"],))

    def encode(self, text: str) -> list[int]:
        return [self._id(piece) for piece in _PIECES.findall(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self._pieces[token_id] for token_id in token_ids)

    def render_chat(self, messages: Sequence[Message]) -> str | None:
        marks = {"system": "<|doc|>", "user": "<|user|>", "assistant": "<|assistant|>"}
        turns = "".join(f"{marks[message.role]}{message.content}<|end|>" for message in messages)
        return turns + "<|assistant|>"

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]


class ScriptedEngine:
    """Answers every prompt with the same text.

    Args:
        step_s: seconds of a decoding step.
        chunk_s: seconds of a prefill chunk of 256 tokens.
        drafts: whether steps bring several tokens; a plain engine brings one.
    """

    def __init__(
        self,
        answer: str,
        *,
        capacity: int = 16384,
        step_s: float = 0.0,
        chunk_s: float = 0.0,
        drafts: bool = True,
        tokenizer: WordTokenizer | None = None,
    ) -> None:
        self.answer = answer
        self.capacity = capacity
        self.step_s = step_s
        self.chunk_s = chunk_s
        self.drafts = drafts
        self.tokenizer = tokenizer or WordTokenizer()
        self.cached: list[tuple[int, ...]] = [()]  # shared with engines made by with_drafter
        self.requests: list[Request] = []
        self.kept: dict[str, tuple[int, ...]] = {}
        self.is_closed = False

    @property
    def memory(self) -> MemoryUse:
        return MemoryUse(4_000_000, 2_000_000, 1_000_000, self.capacity)

    def with_drafter(self, kind: DrafterKind, *, use_retrieval: bool | None = None) -> "ScriptedEngine":
        sibling = ScriptedEngine(
            self.answer,
            capacity=self.capacity,
            step_s=self.step_s,
            chunk_s=self.chunk_s,
            drafts=kind != "none",
            tokenizer=self.tokenizer,
        )
        sibling.cached = self.cached
        return sibling

    def logits_after(self, token_ids: Sequence[int]) -> list[float]:
        return [0.0] * 10_000

    def keep_prefix(
        self, token_ids: Sequence[int], label: str | None, cancelled: Callable[[], bool] = lambda: False
    ) -> bool:
        if label is not None:
            self.kept[label] = tuple(token_ids)
        return label is not None

    def close(self) -> None:
        self.is_closed = True

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        self.requests.append(request)
        started, prompt = time.perf_counter(), request.prompt_token_ids
        pairs = zip(self.cached[0], prompt[:-1], strict=False)
        num_reused = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.cached[0]), len(prompt) - 1))
        recorder = MetricsRecorder(len(prompt), num_reused)
        written = self.tokenizer.decode(prompt[len(prompt) - request.num_written :])
        yield PromptReady(len(prompt), num_reused, 0, written)
        for done in range(num_reused, len(prompt) - 1, 256):
            if cancelled():
                break
            time.sleep(self.chunk_s)
            self.cached[0] = prompt[: done + 256]
            yield Prefilled(min(done + 256, len(prompt) - 1), len(prompt), time.perf_counter() - started)
        prefill_s = time.perf_counter() - started
        recorder.prefilled(prefill_s)
        token_ids: list[int] = []
        for event in self._decode(request, cancelled, recorder, started):
            if isinstance(event, TokensAccepted):
                token_ids += event.token_ids
            yield event
        if token_ids:
            self.cached[0] = (*prompt, *token_ids[:-1])
        stop = self.tokenizer.stop_token_ids
        reason = "stop" if token_ids and token_ids[-1] in stop else "cancelled" if cancelled() else "length"
        text = self.tokenizer.decode([token_id for token_id in token_ids if token_id not in stop])
        yield Finished(
            reason, tuple(token_ids), text, recorder.summary(max(1e-9, time.perf_counter() - started - prefill_s))
        )

    def _decode(
        self, request: Request, cancelled: Callable[[], bool], recorder: MetricsRecorder, started: float
    ) -> Iterator[Event]:
        rng, stop = random.Random(1), self.tokenizer.stop_token_ids
        ids = [*self.tokenizer.encode(self.answer), *stop][request.num_written :][: request.stop.max_tokens]
        at = 0
        while at < len(ids) and not cancelled():
            time.sleep(self.step_s)
            num_drafted = rng.choice((0, 2, 3, 5, 6)) if self.drafts else 0
            new = ids[at : at + 1 + (rng.randint(0, num_drafted) if num_drafted else 0)]
            at += len(new)
            if at <= len(new):
                recorder.first_token(time.perf_counter() - started)
            record = StepRecord(num_drafted, len(new) - 1, len(new), num_drafted, self.step_s * 0.2, self.step_s * 0.8)
            recorder.add(record)
            pieces = tuple("" if token_id in stop else self.tokenizer.decode([token_id]) for token_id in new)
            authors = (*(True for _ in new[:-1]), False)
            yield TokensAccepted(tuple(new), authors, "".join(pieces), pieces, record, time.perf_counter() - started)
            num_all = len(request.prompt_token_ids) + at
            yield ContextAttended((max(0, num_all // 64),), 32, num_all)
            if self.drafts:
                num_context = len(request.prompt_token_ids) + at
                chunks = tuple(sorted({rng.randrange(max(1, num_context // 32)) for _ in range(24)}))
                yield ContextFocused(chunks, 32, len(chunks) * 32 + 144, num_context)
