"""The engine: one loop for plain and speculative decoding.

Job: `Engine.generate`, which turns a request into events.
Non-job: building an engine from a preset (`loading`); how to draft, attend, sample or stop: the layers below do that.
Text prompts and chat are above.
"""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from spec_engine.answer import Answer, AnswerParts, Clock, Request
from spec_engine.cache.store import PrefixStore
from spec_engine.config import DrafterKind, Preset, RetrievalConfig
from spec_engine.controller import BudgetController
from spec_engine.drafters import build_drafter, max_draft_nodes
from spec_engine.drafters.base import Drafter
from spec_engine.drafters.guarded import GuardedSession
from spec_engine.errors import ContextOverflow, RequestError
from spec_engine.events import Event, Prefilled, PromptReady
from spec_engine.model.capture import wait
from spec_engine.model.memory import MemoryUse, held_bytes
from spec_engine.model.target import Step, Taps, Target
from spec_engine.model.tokenizer import StreamingDetokenizer, Tokenizer
from spec_engine.pacer import PrefillPacer
from spec_engine.prefixes import PrefixKeeper
from spec_engine.retrieval import Retriever
from spec_engine.sampling import SamplingParams
from spec_engine.stopping import StopRules
from spec_engine.tree import DraftTree
from spec_engine.verify import accept

__all__ = ["Engine", "EngineConfig", "Request", "StopRules"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How an engine decodes. None of it changes the text."""

    max_nodes: int = 50  # drafted nodes a step at most
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    adaptive: bool = True  # choose the number of nodes by measured speed; False: always `max_nodes`
    prefill_chunk: int = 512  # tokens per prefill pass at most
    preset: Preset | None = None  # what the engine was built from, if it was
    store: PrefixStore | None = None  # where beginnings of prompts are kept
    look_every: int = 0  # steps between two `ContextAttended` events, which cost a tenth of a plain step each; 0: none


def never() -> bool:
    """The default for `cancelled`."""
    return False


class Engine:
    """Makes one answer at a time. Engines that share a target (`with_drafter`) also take turns.

    The target's cache is the only memory between answers: a prompt that begins like the tokens it holds is not read
    again. Everything else of an answer lives in its `Answer`.
    """

    def __init__(self, target: Target, drafter: Drafter, tokenizer: Tokenizer, config: EngineConfig) -> None:
        self._target = target
        self._drafter = drafter
        self._tokenizer = tokenizer
        self._config = config
        self._controller = BudgetController(config.max_nodes, is_adaptive=config.adaptive)
        self._pacer = PrefillPacer(config.prefill_chunk)
        self._turn = threading.Lock()  # held by the answer in the making
        self._is_closed = False

    @property
    def target(self) -> Target:
        """The target with its cache. Raises `RequestError` when the engine was closed, like all that asks for it."""
        self._require_open()
        return self._target

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that target and drafter share."""
        return self._tokenizer

    @property
    def drafter(self) -> Drafter:
        """Whatever proposes."""
        self._require_open()
        return self._drafter

    @property
    def drafter_name(self) -> str:
        """The kind of drafter, as in the registry."""
        return self.drafter.name

    @property
    def capacity(self) -> int:
        """Tokens of prompt and answer together at most."""
        return self.target.capacity

    @property
    def device(self) -> str:
        """Where the target runs."""
        return str(self.target.device)

    @property
    def config(self) -> EngineConfig:
        """How this engine decodes."""
        return self._config

    @property
    def preset(self) -> Preset | None:
        """The preset that the engine was built from."""
        return self._config.preset

    @property
    def memory(self) -> MemoryUse:
        """The memory that models and caches take, as measured."""
        weights, cache, draft = held_bytes(self.target.weights, self._target, self._drafter)
        return MemoryUse(weights, cache, draft, self._target.capacity)

    def generate(self, request: Request, cancelled: Callable[[], bool] = never) -> Iterator[Event]:
        """Make an answer: ``PromptReady, Prefilled*, (TokensAccepted ContextAttended? ContextFocused?)*, Finished``.

        `cancelled` is asked between prefill chunks and between steps; a yes ends the answer with the reason
        ``cancelled``. Closing the iterator ends it at once. Raises `RequestError` for a request that cannot be served,
        or while another answer is being made, and `ContextOverflow` when prompt and answer do not fit.
        """
        with self._answering(request, cancelled) as answer:
            show = answer.clock.show
            ready = PromptReady(len(answer.prompt), answer.num_reused, answer.num_restored, answer.written_text)
            yield from show(ready)
            for step in self._prefill(answer):
                yield from show(Prefilled(step.num_done, len(answer.prompt), answer.clock.now()))
            tree = DraftTree.root(answer.prompt[-1])
            while not answer.is_cancelled():
                outputs = self._target.verify(tree, answer.taps)
                accepted = answer.clip(accept(tree, answer.choose(tree, outputs.logits)))
                step = self._target.commit(outputs, accepted.path, bonus=accepted.bonus, with_row=answer.wants_row)
                yield from show(answer.emit(tree, accepted))
                if accepted.stop:
                    answer.draft.observe(step)  # how answers end can be learned from
                    break
                if looked := answer.attended(step):
                    yield from show(looked)
                answer.draft.observe(step)
                if focus := answer.refocus(step):
                    answer.draft.focus(focus)
                    yield from show(answer.focused(focus, step))
                tree = answer.propose(accepted.bonus)
            yield from show(answer.finish())

    @torch.inference_mode()
    def logits_after(self, token_ids: Sequence[int]) -> list[float]:
        """The target's logits [V] for what follows `token_ids`, by plain decoding.

        Raises `RequestError` while an answer is being made, and what a request with this prompt would raise.
        """
        self._check(Request(tuple(token_ids), SamplingParams(), StopRules(1)))
        with self._taking_turn():
            for _ in self._target.prefill(token_ids[self._target.reuse(token_ids[:-1]) : -1]):
                pass
            logits: list[float] = self._target.verify(DraftTree.root(token_ids[-1]), Taps()).logits[0].tolist()
            return logits

    def with_drafter(
        self, kind: DrafterKind, *, use_retrieval: bool | None = None, preset: Preset | None = None
    ) -> "Engine":
        """An engine with another drafter on the same target and tokenizer, for example ``none`` for a plain run.

        `use_retrieval` replaces the choice of the preset, and `preset` this engine's: it must have the same target.
        Raises `RequestError` when this engine was not built from a preset.
        """
        preset = preset or self.preset
        if preset is None:
            raise RequestError("This engine was put together by hand, so it cannot build a drafter. Use load_engine.")
        draft = preset.draft
        if use_retrieval is not None:
            draft = replace(draft, retrieval=replace(draft.retrieval, enabled=use_retrieval))
        preset = replace(preset, draft=draft)
        drafter = build_drafter(preset, kind, self.target, self._tokenizer.special_token_ids)
        config = replace(self._config, max_nodes=max_draft_nodes(kind, draft), retrieval=draft.retrieval, preset=preset)
        sibling = Engine(self._target, drafter, self._tokenizer, config)
        sibling._turn, sibling._pacer = self._turn, self._pacer
        return sibling

    def telling_where_it_looks(self, every: int = 8) -> "Engine":
        """This engine, which from now on tells every so many steps where the target looks, as its siblings will."""
        self._config = replace(self._config, look_every=every)
        return self

    def keeping_prefixes(self, store: PrefixStore) -> "Engine":
        """This engine, which from now on restores from `store` what `keep_prefix` put there, as its siblings will."""
        self._config = replace(self._config, store=store)
        return self

    def keep_prefix(self, token_ids: Sequence[int], label: str | None, cancelled: Callable[[], bool] = never) -> bool:
        """Keep the text `token_ids`, the beginning of the last prompt, in the store under `label`; whether it is there
        then, with what the drafter holds of it. With or without a store or a label, prompts will begin there again.

        Raises `RequestError` while an answer is being made.
        """
        self._require_open()
        keeper = self._keeper()
        with self._taking_turn():
            self._target.remember(len(token_ids))
            return keeper is not None and label is not None and keeper.keep(token_ids, label, cancelled)

    def forget_prefix(self, label: str) -> None:
        """Delete what was kept under `label`, by this engine or another."""
        if self._config.store is not None:
            self._config.store.forget(label)

    def close(self) -> None:
        """Give the memory of models and caches back; the engine makes no answers after this.

        Engines made by `with_drafter` hold the same target: it is freed when they are closed or dropped too.
        """
        if self._is_closed:
            return
        self._is_closed = True
        is_cuda = self._target.device.type == "cuda"
        self._target.runner.release()  # the model may be somebody else's
        del self._target, self._drafter
        gc.collect()  # models refer to themselves in circles
        if is_cuda:
            torch.cuda.empty_cache()

    @contextmanager
    def _answering(self, request: Request, cancelled: Callable[[], bool]) -> Iterator[Answer]:
        """Check the request and set up its state; until the block is left, no other answer can begin."""
        prompt = request.prompt_token_ids
        self._check(request)
        with self._taking_turn():
            clock = Clock()
            num_reused = self._target.reuse(prompt[:-1])  # also drops what an interrupted pass may have left behind
            keeper = self._keeper()
            num_restored = keeper.restore(prompt[:-1], num_reused) if keeper else 0
            session = GuardedSession(self._drafter, request.sampling)
            num_reused = self._target.reuse(prompt[:-1], session.reusable)
            parts = AnswerParts(
                Retriever(self._config.retrieval),
                StreamingDetokenizer(self._tokenizer),
                self._controller,
                self._config.look_every,
                min(num_restored, num_reused),
                clock,
            )
            yield Answer(request, num_reused, session, parts, cancelled)

    def _keeper(self) -> PrefixKeeper | None:
        """What keeps beginnings of prompts, if that is wanted."""
        store, preset = self._config.store, self.preset
        return PrefixKeeper(store, self._target, self._drafter, preset) if store and preset else None

    @contextmanager
    def _taking_turn(self) -> Iterator[None]:
        """Nobody else uses the target until the block is left. Raises `RequestError` when somebody does."""
        if not self._turn.acquire(blocking=False):
            raise RequestError("Another answer is being made with this model. Stop it, or wait until it is finished.")
        try:
            yield
        finally:
            self._turn.release()

    def _prefill(self, answer: Answer) -> Iterator[Step]:
        """Read the prompt but for its last token, in chunks of a fraction of a second; stops early when cancelled."""
        done = answer.num_reused
        for _ in answer.draft.reuse(answer.prompt[:done]):
            if answer.is_cancelled():
                break
        while done < len(answer.prompt) - 1 and not answer.is_cancelled():
            chunk = answer.prompt[done : min(done + self._pacer.size, len(answer.prompt) - 1)]
            started = answer.clock.now()
            steps = list(self._target.prefill(chunk, answer.taps))
            for step in steps:
                answer.draft.observe(step)
            wait(self._target.device)  # or a GPU's work would count for what comes after
            self._pacer.record(len(chunk), answer.clock.now() - started)
            done += len(chunk)
            yield steps[-1]
        answer.prefilled()

    def _require_open(self) -> None:
        if self._is_closed:
            raise RequestError("This engine was closed and its models were freed. Load it again.")

    def _check(self, request: Request) -> None:
        """Refuse what cannot be served."""
        self._require_open()
        prompt, max_tokens = request.prompt_token_ids, request.stop.max_tokens
        if not prompt:
            raise RequestError("The prompt is empty, so there is nothing to continue. Write something first.")
        if max(prompt) >= self._target.vocab_size or min(prompt) < 0:
            raise RequestError(
                f"The prompt holds a token id outside 0 to {self._target.vocab_size - 1}, the model's vocabulary. "
                "Encode it with this model's tokenizer."
            )
        if len(prompt) + max_tokens > self._target.capacity:
            raise ContextOverflow(
                f"The prompt has {len(prompt):,} tokens and the answer may have {max_tokens:,}: "
                f"{len(prompt) + max_tokens - self._target.capacity:,} more than the context of "
                f"{self._target.capacity:,} holds. Nothing was cut. Shorten the document or the conversation, ask for "
                "a shorter answer, or choose a preset with a longer context."
            )
