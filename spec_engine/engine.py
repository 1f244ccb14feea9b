"""The engine: one loop for plain and speculative decoding.

Job: `Engine.generate`, which turns a request into events, and building an engine from a preset.
Non-job: how to draft, attend, sample or stop; the layers below do that. Text prompts and chat are above.
"""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from spec_engine.answer import Answer, AnswerParts, Request
from spec_engine.config import NEED_MODEL, DrafterKind, Preset, RetrievalConfig
from spec_engine.controller import BudgetController
from spec_engine.drafters import DRAFTERS, available_drafters, draft_need, max_draft_nodes
from spec_engine.drafters.base import Drafter, DrafterContext
from spec_engine.errors import ContextOverflow, RequestError
from spec_engine.events import Event, Prefilled, PromptReady
from spec_engine.model.load import fetch, load_target, load_tokenizer
from spec_engine.model.memory import MemoryUse, allocating, check_memory, fits, held_bytes, model_need
from spec_engine.model.target import Step, Taps, Target
from spec_engine.model.tokenizer import StreamingDetokenizer, Tokenizer
from spec_engine.model.watch import LoadProgress, LoadWatch, watching
from spec_engine.pacer import PrefillPacer
from spec_engine.retrieval import Retriever
from spec_engine.sampling import SamplingParams
from spec_engine.stopping import StopRules
from spec_engine.tree import DraftTree
from spec_engine.verify import accept

__all__ = ["Engine", "EngineConfig", "Request", "StopRules", "load_engine"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How an engine decodes. None of it changes the text."""

    max_nodes: int = 50  # drafted nodes a step at most
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    adaptive: bool = True  # choose the number of nodes by measured speed; False: always `max_nodes`
    prefill_chunk: int = 512  # tokens per prefill pass at most
    preset: Preset | None = None  # what the engine was built from, if it was
    look_every: int = 0  # steps between two `ContextAttended` events, which cost a tenth of a plain step each; 0: none


class Room(Protocol):
    """Memory that could be freed for the models of a load, say that of an engine in use."""

    @property
    def num_bytes(self) -> int:
        """How much it is."""

    def free(self) -> None:
        """Free it."""


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
        """The target with its cache."""
        return self._target

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that target and drafter share."""
        return self._tokenizer

    @property
    def drafter(self) -> Drafter:
        """Whatever proposes."""
        return self._drafter

    @property
    def drafter_name(self) -> str:
        """The kind of drafter, as in the registry."""
        return self._drafter.name

    @property
    def capacity(self) -> int:
        """Tokens of prompt and answer together at most."""
        return self._target.capacity

    @property
    def device(self) -> str:
        """Where the target runs."""
        return str(self._target.device)

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
        weights, cache, draft = held_bytes(self._target.model, self._target, self._drafter)
        return MemoryUse(weights, cache, draft, self._target.capacity)

    def generate(self, request: Request, cancelled: Callable[[], bool] = never) -> Iterator[Event]:
        """Make an answer: ``PromptReady, Prefilled*, (TokensAccepted ContextAttended? ContextFocused?)*, Finished``.

        `cancelled` is asked between prefill chunks and between steps; a yes ends the answer with the reason
        ``cancelled``. Closing the iterator ends it at once. Raises `RequestError` for a request that cannot be served,
        or while another answer is being made, and `ContextOverflow` when prompt and answer do not fit.
        """
        with self._answering(request, cancelled) as answer:
            show = answer.clock.show
            yield from show(PromptReady(len(answer.prompt), answer.num_reused))
            for step in self._prefill(answer):
                yield from show(Prefilled(step.num_done, len(answer.prompt), answer.clock.now()))
            tree = DraftTree.root(answer.prompt[-1])
            while not answer.is_cancelled():
                outputs = self._target.verify(tree, answer.taps)
                accepted = answer.clip(accept(tree, answer.choose(tree, outputs.logits)))
                step = self._target.commit(outputs, accepted.path)
                yield from show(answer.emit(tree, accepted))
                if accepted.stop:
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
        drafter = _build_drafter(preset, kind, self._target)
        config = replace(self._config, max_nodes=max_draft_nodes(kind, draft), retrieval=draft.retrieval, preset=preset)
        sibling = Engine(self._target, drafter, self._tokenizer, config)
        sibling._turn, sibling._pacer = self._turn, self._pacer
        return sibling

    def telling_where_it_looks(self, every: int = 8) -> "Engine":
        """This engine, which from now on tells every so many steps where the target looks, as its siblings will."""
        self._config = replace(self._config, look_every=every)
        return self

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
            num_reused = self._target.reuse(prompt[:-1])  # also drops what an interrupted pass may have left behind
            session = self._drafter.begin(request.sampling)
            num_reused = session.reusable(prompt[:num_reused])
            self._target.truncate(num_reused)
            parts = AnswerParts(
                Retriever(self._config.retrieval),
                StreamingDetokenizer(self._tokenizer),
                self._controller,
                self._config.look_every,
            )
            yield Answer(request, num_reused, session, parts, cancelled)

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
            self._pacer.record(len(chunk), answer.clock.now() - started)
            done += len(chunk)
            yield steps[-1]
        answer.prefilled()

    def _check(self, request: Request) -> None:
        """Refuse what cannot be served."""
        if self._is_closed:
            raise RequestError("This engine was closed and its models were freed. Load it again.")
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


def load_engine(
    preset: Preset,
    *,
    drafter: DrafterKind | None = None,
    device: str = "auto",
    adaptive: bool = True,
    watch: LoadWatch | None = None,
    room: Room | None = None,
) -> Engine:
    """Load the preset's models and put them together; what is not on this machine is downloaded first.

    `drafter` replaces the preset's kind; `adaptive` is `EngineConfig.adaptive`. `watch` is told what happens and may
    end it, and `room` is freed once everything is here if the models do not fit beside it. Raises `ModelError` kinds
    when a model cannot be loaded, and `RequestError` for a drafter that the preset cannot run.
    """
    watch = watch or LoadWatch()
    kind = drafter or preset.draft.kind
    _check_kind(preset, kind)
    draft = preset.draft.model if kind in NEED_MODEL else None
    with watching(watch):
        watch.tell(LoadProgress(f"Loading {preset.target.id}"))
        tokenizer = load_tokenizer(preset, preset.target)
        needs = [(preset.target.id, model_need(preset, preset.target, device))]
        if draft is not None:
            needs.append((draft.id, draft_need(preset, device)))
        check_memory(preset, needs, device, room.num_bytes if room else 0)
        fetch(preset, preset.target, weights=True)
        if draft is not None:
            fetch(preset, draft, weights=True, has_tokenizer=preset.draft.model_kind == "lm")
        if room is not None and not fits(needs, device):
            room.free()
        model = load_target(preset, preset.target, device=device)
        with allocating(preset.name):
            target = Target(model, preset.context_length, preset.prefill_chunk)
        if draft is not None:
            watch.tell(LoadProgress(f"Loading {draft.id}"))
        config = EngineConfig(
            max_draft_nodes(kind, preset.draft), preset.draft.retrieval, adaptive, preset.prefill_chunk, preset
        )
        return Engine(target, _build_drafter(preset, kind, target), tokenizer, config)


def _build_drafter(preset: Preset, kind: DrafterKind, target: Target) -> Drafter:
    """A drafter of this kind for the target."""
    _check_kind(preset, kind)
    with allocating(preset.name):
        return DRAFTERS[kind](DrafterContext(preset, target, str(target.device)))


def _check_kind(preset: Preset, kind: DrafterKind) -> None:
    """Raise `RequestError` for a drafter that the preset has no model for."""
    if kind in available_drafters(preset):
        return
    draft = preset.draft
    has = (
        "names no draft model"
        if draft.model is None
        else f"has '{draft.model.id}', {_SORTS[draft.model_kind]}, to draft"
    )
    raise RequestError(
        f"The preset '{preset.name}' {has}, so the drafter '{kind}' cannot run. Use 'lookup' or 'none', or choose a "
        f"preset with draft.kind = '{kind}' and a [draft.model]."
    )


_SORTS = {"lm": "a language model", "eagle3": "an EAGLE head", "longspec": "a LongSpec head"}
