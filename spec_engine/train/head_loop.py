"""The training loop of draft heads: the target is frozen, the module that is trained is the one that drafts.

Job: stages, optimiser, progress, saved state, held-out figures, for any `HeadObjective`.
Non-job: what a head learns (longspec.py), rows (head_rows.py).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from spec_engine.train.head_rows import HeadRows
from spec_engine.train.loop import (
    LOG_EVERY_S,
    SAVE_EVERY_S,
    Optimizers,
    Stage,
    learning_rate,
    load_state,
    save_state,
)
from spec_engine.train.pace import Pace


class HeadObjective(Protocol):
    """What a head learns."""

    @property
    def head(self) -> nn.Module:
        """The module with the weights to train, in float32."""

    def loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        """A scalar for rows `ids` int64 and `weights` float32, both [B, L]."""

    def acceptance(self, ids: Tensor, weights: Tensor) -> list[float]:
        """For each depth of a chain, how often the head's likeliest token is the target's, given that all before were.

        Over the rows' tokens of weight 1, teacher-forced.
        """

    def save(self, folder: Path) -> None:
        """Write the head as its drafter loads it."""


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """How long, and how fast."""

    stages: tuple[Stage, ...]
    learning_rate: float = 2e-3
    num_warmup: int = 20  # steps
    decay_share: float = 0.4
    method: str = ""  # what is trained, and how: a saved state of another method is refused
    limit_s: float = 0.0  # a run passes through its stages in so many seconds; 0: by tokens alone

    @property
    def num_tokens(self) -> int:
        """Tokens of all stages."""
        return sum(stage.num_tokens for stage in self.stages)


def expected_length(acceptance: Sequence[float]) -> float:
    """Mean tokens of a pass over a chain whose depths are accepted this often, the target's own included."""
    length, chance = 1.0, 1.0
    for share in acceptance:
        chance *= share
        length += chance
    return length


class HeadTrainer:
    """One run; `run` goes to the end of the last stage. The same call goes on where a broken one stopped.

    Raises `TrainingError` when the state saved in `out` belongs to another head, or was trained another way.
    """

    def __init__(
        self,
        objective: HeadObjective,
        recipe: HeadRecipe,
        rows: tuple[HeadRows, HeadRows],
        out: Path,
        log: Callable[[str], None],
    ) -> None:
        self._objective, self._recipe, self._out, self._log = objective, recipe, out, log
        self._train_rows, self._held_out_rows = rows
        self._device = next(objective.head.parameters()).device
        self._optimizers = Optimizers(objective.head)
        shapes = {name: list(p.shape) for name, p in objective.head.named_parameters()}
        self._shape = json.dumps([recipe.method, shapes])
        self._step = self._num_done = self._num_here = 0
        self._pace = Pace(recipe.num_tokens, recipe.limit_s)
        self._started = self._logged = self._saved = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(self) -> list[float]:
        """Train to the end, write the head, and return its held-out acceptance by depth."""
        edge, num_parameters = 0, sum(p.numel() for p in self._objective.head.parameters())
        self._log(f"{num_parameters / 1e6:.2f} M parameters, {self._recipe.num_tokens / 1e6:.1f} M tokens")
        for stage in self._recipe.stages:
            edge += stage.num_tokens
            while self._pace.position(self._num_done) < edge:
                self._train_step(stage)
                if time.monotonic() - self._saved > SAVE_EVERY_S:
                    self._save()
        self._save()
        self._objective.save(self._out)
        acceptance = self._held_out(self._recipe.stages[-1], num_batches=8)
        self._log(f"held out: {_shares(acceptance)}")
        return acceptance

    def _train_step(self, stage: Stage) -> None:
        """One update, and a line in the log now and then."""
        loss = self._objective.loss(*self._batch(self._train_rows, stage))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._objective.head.parameters(), 1.0)
        self._optimizers.step(learning_rate(self._recipe, self._step, self._pace.position(self._num_done)))
        self._step += 1
        self._num_done += stage.length * stage.num_rows
        self._num_here += stage.length * stage.num_rows
        if self._step == 1 or time.monotonic() - self._logged > LOG_EVERY_S:
            self._logged = time.monotonic()
            seconds = self._logged - self._started
            done = f"step {self._step} length {stage.length} {self._num_done / 1e6:.2f} M tokens"
            speed = f"{seconds:6.0f} s {done} {self._num_here / max(seconds, 1e-9):.0f} tok/s"
            self._log(f"{speed} loss {loss.item():.3f} | held out: {_shares(self._held_out(stage, num_batches=1))}")

    @torch.no_grad()
    def _held_out(self, stage: Stage, num_batches: int) -> list[float]:
        """Mean acceptance by depth over held-out rows."""
        batches = (self._batch(self._held_out_rows, stage) for _ in range(num_batches))
        found = [self._objective.acceptance(ids, weights) for ids, weights in batches if (weights[:, 1:] >= 1).any()]
        return [sum(shares) / len(shares) for shares in zip(*found, strict=True)]

    def _batch(self, rows: HeadRows, stage: Stage) -> tuple[Tensor, Tensor]:
        ids, weights = rows.batch(stage.length, stage.num_rows)
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(weights).to(self._device)

    def _resume(self) -> None:
        """Take up a saved state, if there is one."""
        if found := load_state(self._out, self._shape, self._objective.head, self._optimizers):
            self._step, self._num_done = found
            self._log(f"resumed at step {self._step}, {self._num_done / 1e6:.2f} M tokens")

    def _save(self) -> None:
        self._saved = time.monotonic()
        save_state(self._out, self._shape, self._objective.head, self._optimizers, (self._step, self._num_done))


def _shares(acceptance: Sequence[float]) -> str:
    if not acceptance:
        return "no token in rows of this length counts"
    return f"{' '.join(f'{share:.3f}' for share in acceptance)}, {expected_length(acceptance):.2f} tokens a pass"
