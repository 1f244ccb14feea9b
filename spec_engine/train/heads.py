"""Training a draft head for a preset's target: ``spec-engine train longspec --preset NAME --corpus FILE --out FOLDER``.

Job: from a preset and text to a folder that a preset can name as its ``draft.model``.
Non-job: objectives (longspec.py), the loop (head_loop.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoTokenizer

from spec_engine.config import Preset, resolve_model
from spec_engine.model.load import load_target
from spec_engine.train.corpus import read_corpus
from spec_engine.train.head_loop import HeadRecipe, HeadTrainer
from spec_engine.train.head_rows import head_rows
from spec_engine.train.longspec import LongSpecObjective, LongSpecTraining
from spec_engine.train.loop import Stage

STAGES = (Stage(256, 32, 2_000_000), Stage(1024, 8, 4_000_000))


@dataclass(frozen=True, slots=True)
class HeadJob:
    """What ``spec-engine train`` was asked for."""

    preset: Preset
    corpus: Path
    out: Path
    longspec: LongSpecTraining
    stages: tuple[Stage, ...] = STAGES
    threads: int = 0
    device: str = "auto"


def train_head(job: HeadJob, log: Callable[[str], None]) -> list[float]:
    """Train a LongSpec head to the end, or go on with one; returns its held-out acceptance by depth.

    Raises `TrainingError` for a corpus that cannot be used, `ModelError` kinds for a target that cannot be loaded.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    documents = read_corpus(job.corpus)
    target = replace(job.preset.target, dtype="float32", quantization="none")
    model = load_target(job.preset, target, device=job.device)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(job.preset, target))
    rows = head_rows(documents, tokenizer)
    objective = LongSpecObjective(model, job.longspec)
    return HeadTrainer(objective, HeadRecipe(job.stages), rows, job.out, log).run()
