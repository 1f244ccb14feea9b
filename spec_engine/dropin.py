"""Speculation for people who hold a transformers model already: ``model.generate(..., custom_generate=...)``.

Job: `generate_with`, the callable that transformers' `generate` hands its prepared inputs to.
Non-job: loading models, text, events; the loop of the application (engine.py).

Everything that `generate` prepares is honoured: logits processors, which get the tokens before each node as they would
one token at a time, and stopping criteria, asked after every token. So in float32 the text is that of plain `generate`,
and sampled text has its distribution. Processors must depend on nothing but the tokens and scores that they are given.
Two things never reach a custom function (transformers 5.17 to 5.24): the caller's streamer, so `generate_with` takes
one, and the tokenizer for ``stop_strings``, so those are given as a ``StopStringCriteria``.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from spec_engine.config import GRAPH_MEMORY, NEED_MODEL, DraftConfig, DrafterKind, ModelRef, Preset, check_preset
from spec_engine.controller import BudgetController
from spec_engine.drafters import DRAFTERS, max_draft_nodes
from spec_engine.drafters.base import Drafter, DrafterContext
from spec_engine.drafters.guarded import FAILURES
from spec_engine.errors import RequestError, UnsupportedModel
from spec_engine.gumbel import GumbelNoise
from spec_engine.metrics import StepRecord
from spec_engine.model.target import Target
from spec_engine.retrieval import Retriever
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from spec_engine.verify import Accepted, accept

_ROUND_UP = 1024  # capacities are multiples of this, so that a slightly longer prompt needs no new cache
_PREFILL_CHUNK = 512
_COLDEST, _HOTTEST = 1e-3, 1e3  # temperatures; beyond, drafts are ranked as if it were these
_GRAPH_BYTES = GRAPH_MEMORY << 20
_UNSUPPORTED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def generate_with(
    drafter: DrafterKind = "lookup",
    draft: str | None = None,
    *,
    config: DraftConfig | None = None,
    streamer: BaseStreamer | None = None,
    adaptive: bool = True,
) -> "CustomGenerate":
    """A value for `generate`'s ``custom_generate``; use one object for one model, it keeps the model's cache.

    Args:
        drafter: how to draft; `config` holds the settings of trees, retrieval and lookup.
        draft: folder or hub id of the draft model or head, for drafters that need one.
        streamer: gets each new token; `generate` does not hand its own on to custom functions.
        adaptive: choose the number of drafted tokens by measured speed.

    The model is left in evaluation mode. In half precision a pass over several tokens rounds differently from one token
    at a time, so a near tie may fall the other way; in float32 the tokens are those of plain `generate`.
    Give ``stop_strings`` as a ``StopStringCriteria``: `generate` does not hand its tokenizer on.

    Raises `RequestError` for an unknown drafter or one without its model, `PresetError` for settings out of range.
    """
    config = config or DraftConfig()
    model = ModelRef(draft) if draft is not None else config.model
    settings = replace(config, kind=drafter, model=model)
    if drafter not in DRAFTERS:
        raise RequestError(f"There is no drafter '{drafter}'. Valid: {', '.join(DRAFTERS)}.")
    if drafter in NEED_MODEL and model is None:
        raise RequestError(
            f"The drafter '{drafter}' needs a draft model or head: generate_with('{drafter}', 'FOLDER')."
        )
    check_preset(Preset("", "", "", ModelRef(""), _ROUND_UP, draft=settings), "generate_with, config")
    return CustomGenerate(settings, streamer, adaptive)


@dataclass(frozen=True, slots=True)
class _Held:
    """A model with its cache and its drafter."""

    model: PreTrainedModel
    version: object  # of its weights
    target: Target
    drafter: Drafter


class CustomGenerate:
    """What `generate_with` returns. Keeps keys and values between calls, so a longer prompt reads only what is new."""

    def __init__(self, draft: DraftConfig, streamer: BaseStreamer | None, adaptive: bool) -> None:
        self._draft = draft
        self._streamer = streamer
        self._controller = BudgetController(max_draft_nodes(draft.kind, draft), is_adaptive=adaptive)
        self._held: _Held | None = None

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: object,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Called by `generate`; returns token ids [1, n], prompt included.

        Raises `RequestError` for what speculation cannot do: batches, beams, padding, caches and outputs per step.
        """
        _check(input_ids, generation_config, model_kwargs)
        usual = torch.get_default_device()
        with _by_default(torch.device("cpu")):
            held = self._hold(model, input_ids.shape[1], generation_config)
            choose = _Chooser(logits_processor, generation_config, usual)
            text = _Text(input_ids, held.target.capacity, stopping_criteria, usual)
            return self._generate(held, text, choose, generation_config)

    def _generate(
        self, held: _Held, text: "_Text", choose: "_Chooser", config: GenerationConfig
    ) -> Tensor | GenerateDecoderOnlyOutput:
        if self._streamer is not None:
            self._streamer.put(text.ids.cpu())  # as `generate` does with its own: a streamer may skip the prompt
        try:
            with torch.inference_mode():
                for new_ids in self._decode(held, text, choose):
                    if self._streamer is not None:
                        for token_id in new_ids:
                            self._streamer.put(torch.tensor([token_id]))
        finally:
            held.target.runner.release()  # the model is the caller's
        if self._streamer is not None:
            self._streamer.end()
        return GenerateDecoderOnlyOutput(text.ids) if config.return_dict_in_generate else text.ids  # type: ignore[arg-type]

    def _decode(self, held: _Held, text: "_Text", choose: "_Chooser") -> Iterator[tuple[int, ...]]:
        """The engine's loop on transformers' terms; yields the new tokens of each pass."""
        target, controller, retriever = held.target, self._controller, Retriever(self._draft.retrieval)
        prompt = text.token_ids
        draft = held.drafter.begin(choose.sampling)
        num_held = target.reuse(prompt[:-1], draft.reusable)
        for _ in draft.reuse(prompt[:num_held]):
            pass
        for step in target.prefill(prompt[num_held:-1], draft.taps):
            draft.observe(step)
        controller.begin(len(prompt), is_drawn=choose.is_drawn)
        tree, draft_s = DraftTree.root(prompt[-1]), 0.0
        while True:
            started = time.perf_counter()
            outputs = target.verify(tree, draft.taps)
            accepted = text.take(accept(tree, choose(tree, outputs.logits, text)))
            step = target.commit(outputs, accepted.path, bonus=accepted.bonus, with_row=retriever.is_due)
            taken = _record(tree, accepted, draft_s, time.perf_counter() - started)
            controller.record(taken, tree, accepted.path)
            yield accepted.token_ids
            if accepted.stop:
                with suppress(*FAILURES):  # the answer is there already
                    draft.observe(step)
                return
            started = time.perf_counter()
            draft.observe(step)
            if focus := retriever.update(step):
                draft.focus(focus)
            budget = controller.budget() if text.num_left > 1 else 0
            tree = DraftTree.root(accepted.bonus)
            if budget:
                gains = controller.min_gain(), controller.first_gain()
                drafted = draft.propose(accepted.bonus, budget, *gains, controller.least_chance())
                tree = controller.cut(drafted.within(text.num_left - 1))
            draft_s = time.perf_counter() - started

    def _hold(self, model: PreTrainedModel, num_prompt: int, config: GenerationConfig) -> _Held:
        """The model's target and drafter, made anew when another model comes or the context grows."""
        limit = max(config.max_length or 0, num_prompt + 1)  # `generate` makes it from max_new_tokens
        held, version = self._held, _version(model)
        if held is None or held.model is not model or held.version != version or held.target.capacity < limit:
            self._held = held = None
            target = _make_target(model, limit)
            name = str(getattr(model, "name_or_path", "") or type(model).__name__)
            preset = Preset(name, name, "", ModelRef(name), target.capacity, draft=self._draft)
            context = DrafterContext(preset, target, str(target.device), _special_ids(config))
            drafter = DRAFTERS[self._draft.kind](context)
            self._held = held = _Held(model, version, target, drafter)
        return held


def _by_default(device: torch.device) -> AbstractContextManager[object]:
    """Tensors whose device is not named are made on this one inside the block: ours on the host, whatever the caller's
    default is, and the caller's where they expect it."""
    return nullcontext() if torch.get_default_device() == device else device


def _version(model: PreTrainedModel) -> object:
    """Changes when weights are written, cast or moved: what was cached does not fit them any more."""
    return model.dtype, model.device, sum(weight._version for weight in model.parameters())


def _make_target(model: PreTrainedModel, limit: int) -> Target:
    """With some room for longer prompts to come, where the model allows it."""
    try:
        return Target(model, -(-limit // _ROUND_UP) * _ROUND_UP, _PREFILL_CHUNK, _GRAPH_BYTES)
    except UnsupportedModel:
        return Target(model, limit, _PREFILL_CHUNK, _GRAPH_BYTES)


class _Text:
    """Prompt and answer as one row of ids, cut where a stopping criterion says so."""

    def __init__(self, input_ids: Tensor, capacity: int, criteria: StoppingCriteriaList, usual: torch.device) -> None:
        self._row = torch.empty(1, capacity, dtype=torch.int64, device=input_ids.device)
        self._row[:, : input_ids.shape[1]] = input_ids
        self._length = input_ids.shape[1]
        self._criteria = criteria
        self._usual = usual
        self.token_ids: list[int] = input_ids[0].tolist()

    @property
    def ids(self) -> Tensor:
        """[1, n] so far."""
        return self._row[:, : self._length]

    @property
    def num_left(self) -> int:
        """Tokens that still fit."""
        return self._row.shape[1] - self._length

    def take(self, accepted: Accepted) -> Accepted:
        """Append the new tokens up to the first after which a criterion says stop."""
        for num_taken, token_id in enumerate(accepted.token_ids, start=1):
            self._row[0, self._length] = token_id
            self._length += 1
            self.token_ids.append(token_id)
            if self.num_left == 0:
                return accepted.cut(num_taken, "length")
            with _by_default(self._usual):
                is_end = bool(self._criteria(self.ids, None)[0])  # type: ignore[arg-type]  # as transformers calls them
            if is_end:
                return accepted.cut(num_taken, "stop")
        return accepted


def _special_ids(config: GenerationConfig) -> frozenset[int]:
    """Tokens that are not text, as far as a model says so without its tokenizer: numbers, lists or tensors of them."""
    named = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    return frozenset(number for one in named if one is not None for number in torch.as_tensor(one).flatten().tolist())


def _sampling(config: GenerationConfig) -> SamplingParams:
    """What a draft has to know of how the caller's processors choose: it proposes what may be drawn with this seed. It
    is a hint, so what the engine would refuse and transformers does not is brought into range."""
    if not config.do_sample:
        return SamplingParams()
    return SamplingParams(
        temperature=min(max(float(config.temperature or 1.0), _COLDEST), _HOTTEST),
        top_k=max(int(config.top_k or 0), 0),
        top_p=1.0 if config.top_p is None else min(max(float(config.top_p), _COLDEST), 1.0),
        min_p=min(max(float(config.min_p or 0.0), 0.0), 1.0),
        seed=int(torch.randint(2**62, (1,))),
    )


class _Chooser:
    """The target's token after each node, through the caller's logits processors. `sampling` is what drafts are told
    of them; with its seed tokens are drawn."""

    def __init__(self, processors: LogitsProcessorList, config: GenerationConfig, usual: torch.device) -> None:
        self.sampling = _sampling(config)
        self._processors = processors
        self._usual = usual
        self._noise = GumbelNoise(self.sampling.seed) if config.do_sample else None

    @property
    def is_drawn(self) -> bool:
        """Whether tokens are drawn."""
        return self._noise is not None

    def __call__(self, tree: DraftTree, logits: Tensor, text: _Text) -> tuple[int, ...]:
        """One token id for each row of `logits` [N, V]; each node goes through the processors as a batch of one."""
        scores = logits.float()
        if len(self._processors):
            scores = self._processed(tree, scores, text)
        if self._noise is not None:
            position = len(text.token_ids)
            self._noise.forget(position)
            noise = [self._noise.at(position + depth, scores.shape[1], scores.device) for depth in tree.depths]
            scores = scores.log_softmax(-1) + torch.stack(noise)
        return tuple(scores.argmax(dim=-1).tolist())

    def _processed(self, tree: DraftTree, scores: Tensor, text: _Text) -> Tensor:
        before, rows = text.ids.to(scores.device), []
        for node in range(len(tree)):
            path = [tree.token_ids[step] for step in tree.path(node)[1:]]
            own = torch.tensor([path], dtype=torch.int64, device=scores.device)
            tokens = torch.cat((before, own), dim=1)
            with _by_default(self._usual):
                rows.append(self._processors(tokens, scores[node : node + 1].clone()))  # type: ignore[arg-type]
        return torch.cat(rows)


def _record(tree: DraftTree, accepted: Accepted, draft_s: float, verify_s: float) -> StepRecord:
    return StepRecord(
        num_draft_tokens=len(tree) - 1,
        num_accepted_draft_tokens=accepted.num_drafted,
        num_new_tokens=len(accepted.token_ids),
        draft_depth=tree.depth,
        draft_s=draft_s,
        verify_s=verify_s,
    )


def _check(input_ids: Tensor, config: GenerationConfig, model_kwargs: dict[str, object]) -> None:
    """Refuse what cannot be served, with the reason."""
    mask = model_kwargs.get("attention_mask")
    cache = model_kwargs.get("cache", model_kwargs.get("past_key_values"))  # the first since transformers 5.24
    held = getattr(cache, "get_seq_length", lambda: 0)() if cache is not None else 0
    reasons = {
        "one sequence at a time is decoded, and input_ids holds several": input_ids.shape[0] != 1,
        "guidance_scale runs the model once more for each token; leave it out": (config.guidance_scale or 1) != 1,
        "beams cannot be drafted for; set num_beams to 1": (config.num_beams or 1) > 1,
        "the prompt is padded; give it without padding": isinstance(mask, Tensor) and not bool(mask.all()),
        "it keeps a cache of its own; leave past_key_values (cache) out": held > 0,
        "inputs_embeds has no token ids to draft from; give input_ids": model_kwargs.get("inputs_embeds") is not None,
    }
    for name in _UNSUPPORTED:
        reasons[f"nothing is recorded step by step; leave {name} out"] = bool(getattr(config, name, False))
    for reason, applies in reasons.items():
        if applies:
            raise RequestError(f"generate cannot be accelerated here: {reason}.")
