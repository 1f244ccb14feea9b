"""The training loop of the built-in models: stages of growing context, resumable, progress in a log.

Job: a recipe (what to train, in which stages) and a corpus in; a folder that `from_pretrained` loads out.
Non-job: reading arguments (cli.py), tasks (objectives.py), the forward pass (forward.py).

Hidden matrices are trained by Muon, embeddings and norms by AdamW. The learning rate rises over `num_warmup` steps,
stays, and falls linearly to a twentieth over the last `decay_share` of the tokens. State is saved every few minutes
and at the end; the same command goes on where it stopped.
"""

import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from spec_engine.errors import TrainingError
from spec_engine.train.batch import Batch, BatchMaker, GuidedLayers
from spec_engine.train.forward import Guides, hidden_states, rope_tables
from spec_engine.train.objectives import QuoteTasks
from spec_engine.train.pace import Pace

STATE_FILE = "state.pt"
SAVE_EVERY_S = 240.0
LOG_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Rows of `length` tokens, `num_rows` a step, until `num_tokens` more tokens were seen."""

    length: int
    num_rows: int
    num_tokens: int


class Schedule(Protocol):
    """What a learning rate follows from."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all stages."""

    @property
    def learning_rate(self) -> float:
        """The highest."""

    @property
    def num_warmup(self) -> int:
        """Steps until it is reached."""

    @property
    def decay_share(self) -> float:
        """The last part of the tokens, over which it falls."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained, and how long."""

    config: SmolLM3Config | LlamaConfig
    stages: tuple[Stage, ...]
    learning_rate: float = 3e-3
    num_warmup: int = 100  # steps
    decay_share: float = 0.25
    text_weight: float = 0.2  # loss weight of document text against answers
    guidance: float = 1.0  # weight of the attention guidance
    guided: GuidedLayers = field(default_factory=GuidedLayers)  # which layers it goes to
    threads: int = 0
    limit_s: float = 0.0  # a run passes through its stages in so many seconds; 0: by tokens alone

    @property
    def num_tokens(self) -> int:
        """Tokens of all stages."""
        return sum(stage.num_tokens for stage in self.stages)


def new_model(config: SmolLM3Config | LlamaConfig) -> PreTrainedModel:
    """A model with fresh weights in float32."""
    model: PreTrainedModel
    model = LlamaForCausalLM(config) if isinstance(config, LlamaConfig) else SmolLM3ForCausalLM(config)
    with torch.no_grad():  # smaller residual branches at the start
        for layer in model.model.layers:
            for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                matrix.mul_(1 / math.sqrt(2 * config.num_hidden_layers))
    return model


class Optimizers:
    """Muon on the hidden matrices, AdamW on the rest, one learning rate."""

    def __init__(self, model: nn.Module) -> None:
        hidden = [
            p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]
        known = {id(p) for p in hidden}
        other = [p for p in model.parameters() if id(p) not in known]
        self.adamw = torch.optim.AdamW(other, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=other[0].is_cuda)
        self.muon = torch.optim.Muon(hidden, lr=1e-3, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw")

    def step(self, learning_rate: float) -> None:
        """Update all weights and clear the gradients."""
        for optimizer in (self.adamw, self.muon):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        """For `load`."""
        return {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict()}

    def load(self, state: dict[str, dict[str, object]]) -> None:
        """Take back a saved state."""
        self.adamw.load_state_dict(state["adamw"])
        self.muon.load_state_dict(state["muon"])


Losses = tuple[Tensor, dict[int, Tensor], Tensor, Tensor]


def make_loss(model: PreTrainedModel, recipe: Recipe) -> Callable[[Batch, tuple[Tensor, Tensor]], Losses]:
    """The compiled function from a batch to (loss, guidance by layer, cross-entropy [n], is right [n])."""

    def core(
        ids: Tensor, rows: Tensor, labels: Tensor, rope: tuple[Tensor, Tensor], guides: Guides
    ) -> tuple[Tensor, dict[int, Tensor], Tensor]:
        with torch.autocast(ids.device.type, torch.bfloat16):
            hidden, guidance = hidden_states(model, ids, rope, guides)
            logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[rows])
        entropy = F.cross_entropy(logits.float(), labels, reduction="none")
        return entropy, guidance, logits.argmax(-1) == labels

    run = torch.compile(core, dynamic=False)

    def loss(batch: Batch, rope: tuple[Tensor, Tensor]) -> Losses:
        nonlocal run
        arguments = batch.ids, batch.rows, batch.labels, rope, batch.guides
        try:
            entropy, guidance, right = run(*arguments)
        except TorchDynamoException as error:  # torch 2.11 writes C++ here that does not compile
            warnings.warn(f"torch.compile failed, training goes on more slowly without it: {error}", stacklevel=2)
            run = core
            entropy, guidance, right = run(*arguments)
        total = (entropy * batch.weights).sum() / batch.weights.sum()
        for loss_of_layer in guidance.values():
            total = total + recipe.guidance * loss_of_layer
        return total, {layer: value.detach() for layer, value in guidance.items()}, entropy.detach(), right

    return loss


def learning_rate(recipe: Schedule, step: int, num_done: int) -> float:
    """Warm-up, constant, linear decay over the last part of the tokens."""
    left = (recipe.num_tokens - num_done) / (recipe.num_tokens * recipe.decay_share)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.num_warmup) * min(1.0, max(0.05, left))


class Trainer:
    """One training run; `run` goes to the end of the last stage.

    Raises `TrainingError` when the state saved in `out` belongs to a model of another shape.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerFast,
        tasks: tuple[QuoteTasks, QuoteTasks],
        out: Path,
        *,
        initial: Path | None = None,
        log: Callable[[str], None] = print,
    ) -> None:
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(0)
        self._recipe, self._tokenizer, self._out, self._log = recipe, tokenizer, out, log
        self._train_tasks, self._held_out_tasks = tasks
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = new_model(recipe.config)
        if initial is not None:
            model = type(model).from_pretrained(initial, dtype=torch.float32)
        self._model = model.train().to(device=self._device)
        self._optimizers = Optimizers(self._model)
        self._loss_of = make_loss(self._model, recipe)
        self._maker = BatchMaker(recipe.guided, recipe.text_weight, self._device)
        self._shape = json.dumps({name: list(p.shape) for name, p in self._model.named_parameters()})
        self._step = self._num_done = self._num_here = 0
        self._pace = Pace(recipe.num_tokens, recipe.limit_s)
        self._started = self._logged = self._saved = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(self) -> None:
        """Train to the end and write the model in bfloat16, with its tokenizer."""
        num_parameters = sum(p.numel() for p in self._model.parameters())
        self._log(
            f"{num_parameters / 1e6:.2f} M parameters, {self._recipe.num_tokens / 1e6:.0f} M tokens, {self._device}"
        )
        edge = 0
        for stage in self._recipe.stages:
            edge += stage.num_tokens
            rope = rope_tables(self._model, stage.length)
            while self._pace.position(self._num_done) < edge:
                self._train_step(stage, rope)
                if time.monotonic() - self._saved > SAVE_EVERY_S:
                    self._save()
        self._save()
        self._model.to(torch.bfloat16).save_pretrained(self._out)
        self._tokenizer.save_pretrained(self._out)

    def _train_step(self, stage: Stage, rope: tuple[Tensor, Tensor]) -> None:
        """One update, and a line in the log now and then."""
        arrays = self._train_tasks.batch(stage.length, stage.num_rows)
        batch = self._maker.make(arrays)
        losses = self._loss_of(batch, rope)
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        rate = learning_rate(self._recipe, self._step, self._pace.position(self._num_done))
        self._optimizers.step(rate)
        self._step += 1
        self._num_done += stage.length * stage.num_rows
        self._num_here += stage.length * stage.num_rows
        if self._step == 1 or time.monotonic() - self._logged > LOG_EVERY_S:
            self._logged = time.monotonic()
            self._log(f"{self._progress(stage, rate)} | {describe(batch, losses)} | {self._held_out(stage, rope)}")

    def _progress(self, stage: Stage, rate: float) -> str:
        seconds = time.monotonic() - self._started
        speed = self._num_here / seconds
        done = f"step {self._step} length {stage.length} {self._num_done / 1e6:.2f} M tokens"
        return f"{seconds:6.0f} s {done} rate {rate:.1e} {speed:.0f} tok/s"

    def _held_out(self, stage: Stage, rope: tuple[Tensor, Tensor]) -> str:
        """Teacher-forced accuracy on held-out documents by kind of question: all answer tokens / the first two."""
        parts = []
        for kind in ("phrase", "words", "continue"):
            arrays = self._held_out_tasks.batch(stage.length, stage.num_rows, kind)
            batch = self._maker.make(arrays)
            with torch.no_grad():
                right = self._loss_of(batch, rope)[3]
            parts.append(f"{kind} {_share(right, batch.is_answer)}/{_share(right, batch.is_first)}")
        return " ".join(parts)

    def _resume(self) -> None:
        """Take up a saved state, if there is one."""
        if found := load_state(self._out, self._shape, self._model, self._optimizers):
            self._step, self._num_done = found
            self._log(f"resumed at step {self._step}, {self._num_done / 1e6:.2f} M tokens")

    def _save(self) -> None:
        self._saved = time.monotonic()
        save_state(self._out, self._shape, self._model, self._optimizers, (self._step, self._num_done))


def load_state(out: Path, shape: str, module: nn.Module, optimizers: Optimizers) -> tuple[int, int] | None:
    """Put the state saved in `out` back; the steps and tokens it had seen, None where nothing was saved.

    Raises `TrainingError` when it belongs to another `shape`.
    """
    file = out / STATE_FILE
    if not file.exists():
        return None
    state = torch.load(file, map_location=next(module.parameters()).device, weights_only=True)
    if state["shape"] != shape:
        raise TrainingError(f"{file} belongs to another model or method. Give another output folder or delete it.")
    module.load_state_dict(state["model"])
    optimizers.load(state["optimizers"])
    return state["step"], state["num_done"]


def save_state(out: Path, shape: str, module: nn.Module, optimizers: Optimizers, done: tuple[int, int]) -> None:
    """Write the state in one move, so that a broken run leaves the one before; `done` are steps and tokens."""
    state = {"model": module.state_dict(), "optimizers": optimizers.state(), "shape": shape}
    torch.save({**state, "step": done[0], "num_done": done[1]}, out / "state.tmp")
    (out / "state.tmp").replace(out / STATE_FILE)


def _share(right: Tensor, chosen: Tensor) -> str:
    return f"{right[chosen].float().mean():.3f}"


def describe(batch: Batch, losses: Losses) -> str:
    """Losses and accuracies of a training batch in one line."""
    _, guidance, entropy, right = losses
    text = ~batch.is_answer & (batch.weights > 0)
    answers = f"answer {entropy[batch.is_answer].mean():.3f} right {_share(right, batch.is_answer)}"
    guided = " ".join(f"{layer}:{value:.2f}" for layer, value in guidance.items())
    return f"{answers} first {_share(right, batch.is_first)} text {entropy[text].mean():.2f} guidance {guided}"
