"""The state of one answer while the engine makes it.

Job: what the loop in ``engine.py`` asks for between two target passes: choosing tokens, cutting at a stop, the clock,
the records, the events.
Non-job: models and caches; the order of the calls.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spec_engine.cache.slots import on_device
from spec_engine.controller import BudgetController
from spec_engine.drafters.guarded import GuardedSession
from spec_engine.errors import RequestError
from spec_engine.events import ContextAttended, ContextFocused, Event, Finished, FinishReason, TokensAccepted
from spec_engine.gumbel import GumbelNoise
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus, Retriever, most_attended
from spec_engine.sampling import SamplingParams, choose, seen_tokens
from spec_engine.stopping import Detokenizer, Scanned, StopRules, StopScanner
from spec_engine.tree import DraftTree
from spec_engine.verify import Accepted


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to make. The last prompt token is the root of the first pass, so the prompt must not be empty.

    The last `num_written` tokens of the prompt are the beginning of the answer, which is to be gone on with: tokens and
    texts that come are those of one longer answer, whose length `stop` counts from here. Raises `RequestError` where
    the prompt is shorter than that.
    """

    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: StopRules
    num_written: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.num_written <= len(self.prompt_token_ids):
            raise RequestError(
                f"num_written is {self.num_written} of a prompt of {len(self.prompt_token_ids)} tokens. "
                "Give the number of its last tokens that belong to the answer."
            )


class Clock:
    """Seconds of work since the request began; the time a consumer takes over an event does not count."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._lap = 0.0

    def now(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start

    def lap(self) -> float:
        """Seconds since the last lap."""
        previous, self._lap = self._lap, self.now()
        return self._lap - previous

    def show(self, event: Event) -> Iterator[Event]:
        """Hand out an event with the clock stopped."""
        paused = time.perf_counter()
        yield event
        self._start += time.perf_counter() - paused


class Answer:
    """One answer in the making; a new one for each request."""

    def __init__(
        self,
        request: Request,
        num_reused: int,
        draft: GuardedSession,
        parts: "AnswerParts",
        cancelled: Callable[[], bool],
    ) -> None:
        self.prompt = request.prompt_token_ids
        self.num_reused = num_reused
        self.draft = draft
        self.clock = parts.clock
        self.num_restored = parts.num_restored
        self._poll = cancelled
        self._is_cancelled = False
        self._sampling = request.sampling
        self._retriever = parts.retriever
        self._controller = parts.controller
        self._look_every, self._num_steps = parts.look_every, 0
        self._noise = GumbelNoise(request.sampling.seed)
        self._scanner = StopScanner(request.stop, parts.detokenizer)
        self.written_text = self._scanner.resume(self.prompt[len(self.prompt) - request.num_written :])
        self._scanned = Scanned((), None)
        self._recorder = MetricsRecorder(len(self.prompt), num_reused)
        self._seen: Tensor | None = None  # bool [V], for the repetition penalty
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._pass_s = self._sample_s = 0.0
        self._draft_s = self._other_s = self._prefill_s = self._last_token_s = 0.0
        self._controller.begin(len(self.prompt), is_drawn=request.sampling.temperature > 0)

    @property
    def taps(self) -> Taps:
        """What the next pass must record: what the drafter asks for. Attention only where it will be asked to draft;
        features always, because a later draft needs those of every token."""
        taps = self.draft.taps
        if taps.attention_row and not self._controller.may_draft:
            taps = Taps(features=taps.features)
        return replace(taps, attention_row=True) if self._is_look_due() else taps

    @property
    def wants_row(self) -> bool:
        """Whether the attention row of the step that is being committed will be looked at. The pass records what it
        takes in every step, so that all its passes are of the same shape, which can be captured."""
        return self._is_look_due() or self._retriever.is_due

    def is_cancelled(self) -> bool:
        """Ask whether to stop; a yes is final."""
        self._is_cancelled = self._is_cancelled or self._poll()
        return self._is_cancelled

    def prefilled(self) -> None:
        """The prompt is read, by target and drafter: decoding begins."""
        self._prefill_s = self._last_token_s = self.clock.now()
        self._recorder.prefilled(self._prefill_s)
        self.clock.lap()

    def choose(self, tree: DraftTree, logits: Tensor) -> tuple[int, ...]:
        """The target's token after each node, from its `logits` [N, V]."""
        self._pass_s = self.clock.lap()
        root_position = len(self.prompt) - 1 + len(self._token_ids)
        self._noise.forget(root_position + 1)
        positions = [root_position + 1 + depth for depth in tree.depths]
        chosen = choose(logits, self._sampling, positions, self._histories(tree, logits), self._noise)
        self._sample_s = self.clock.lap()
        return chosen

    def clip(self, accepted: Accepted) -> Accepted:
        """What is left of the new tokens after the stop rules; the one place that cuts."""
        self._scanned = self._scanner.scan(accepted.token_ids)
        if self._scanned.stop is None:
            return accepted
        return accepted.cut(len(self._scanned.text_by_token), self._scanned.stop)

    def emit(self, tree: DraftTree, accepted: Accepted) -> TokensAccepted:
        """Book the step and describe it."""
        record = StepRecord(
            num_draft_tokens=len(tree) - 1,
            num_accepted_draft_tokens=accepted.num_drafted,
            num_new_tokens=len(accepted.token_ids),
            draft_depth=tree.depth,
            draft_s=self._draft_s,
            verify_s=self._pass_s + self._sample_s + self.clock.lap(),
            other_s=self._other_s,
            sample_s=self._sample_s,
            drafting_note=self._controller.note,
            drafter_failure=self.draft.failure,
        )
        self._draft_s = self._other_s = 0.0
        self._last_token_s = self.clock.now()
        if not self._token_ids:
            self._recorder.first_token(self._last_token_s)
        self._recorder.add(record)
        self._controller.record(record, tree, accepted.path)
        self._remember(accepted.token_ids)
        texts = self._scanned.text_by_token
        self._texts.extend(texts)
        is_drafted = (True,) * accepted.num_drafted + (False,)
        return TokensAccepted(accepted.token_ids, is_drafted, "".join(texts), texts, record, self._last_token_s)

    def attended(self, step: Step) -> ContextAttended | None:
        """Where the target looked in a step, if it is time to tell."""
        is_due, self._num_steps = self._is_look_due(), self._num_steps + 1
        if not is_due or step.attention_row is None:
            return None
        chunk_ids = most_attended(step.attention_row, self._retriever.config)
        self._other_s += self.clock.lap()
        return ContextAttended(chunk_ids, self._retriever.config.chunk_size, step.num_done)

    def _is_look_due(self) -> bool:
        """Every so many steps; in a short answer's first steps more often."""
        step, every = self._num_steps, self._look_every
        return bool(every) and step % (2 if step < every else every) == 0

    def refocus(self, step: Step) -> Focus | None:
        """A new view for the drafter, if the target's attention moved."""
        self._draft_s += self.clock.lap()
        is_wanted = self._controller.may_draft and self.draft.taps.attention_row
        focus = self._retriever.update(step) if is_wanted else None
        self._other_s += self.clock.lap()
        return focus

    def focused(self, focus: Focus, step: Step) -> ContextFocused:
        """The event of a new view."""
        return ContextFocused(focus.chunk_ids, focus.chunk_size, len(focus.token_indices), step.num_done)

    def propose(self, root: int) -> DraftTree:
        """The next tree below `root`; bare where a draft could not be used or would not pay.

        No deeper than the answer may get: so no node stands beyond the context that was checked at the start.
        """
        num_wanted = self._scanner.num_left - 1  # the target itself adds one more
        budget = self._controller.budget() if num_wanted and not self.draft.failure else 0
        if budget:
            gains = self._controller.min_gain(), self._controller.first_gain()
            drafted = self.draft.propose(root, budget, *gains, self._controller.least_chance())
            tree = self._controller.cut(drafted.within(num_wanted))
        else:
            tree = DraftTree.root(root)
        self._draft_s += self.clock.lap()
        return tree

    def finish(self) -> Finished:
        """The closing event; an answer that no rule ended was cancelled."""
        reason: FinishReason = self._scanned.stop or "cancelled"
        metrics = self._recorder.summary(self._last_token_s - self._prefill_s)
        return Finished(reason, tuple(self._token_ids), "".join(self._texts), metrics)

    def _histories(self, tree: DraftTree, logits: Tensor) -> Tensor | None:
        """bool [N, V] of the tokens before each choice, where a penalty needs them."""
        if self._sampling.repetition_penalty == 1:
            return None
        if self._seen is None:
            self._seen = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
            self._mark_seen(self.prompt)
        return seen_tokens(self._seen, tree)

    def _remember(self, token_ids: Sequence[int]) -> None:
        """Add to the answer."""
        self._token_ids.extend(token_ids)
        self._mark_seen(token_ids)

    def _mark_seen(self, token_ids: Sequence[int]) -> None:
        if self._seen is not None:
            self._seen.index_fill_(0, on_device(token_ids, self._seen.device), True)


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """What an answer is made with: two parts of its own, the engine's controller, how often to tell where the target
    looks, in steps (0: never), how many tokens came from disk, and the clock, which runs since before that."""

    retriever: Retriever
    detokenizer: Detokenizer
    controller: BudgetController
    look_every: int
    num_restored: int
    clock: Clock
