"""Training a draft for a preset's target: ``spec-engine train longspec|eagle3|lm --preset NAME --corpus FILE``.

Job: from a preset and text to a folder that a preset can name as its ``draft.model``.
Non-job: objectives (longspec.py, eagle3.py, small_lm.py), the loop (head_loop.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from spec_engine.config import Preset, resolve_model
from spec_engine.model.load import load_target
from spec_engine.train.corpus import read_corpus
from spec_engine.train.eagle3 import Eagle3Objective, Eagle3Training
from spec_engine.train.head_loop import HeadObjective, HeadRecipe, HeadTrainer
from spec_engine.train.head_rows import HeadRows, frequent_tokens, head_rows
from spec_engine.train.longspec import LongSpecObjective, LongSpecTraining
from spec_engine.train.loop import Stage
from spec_engine.train.small_lm import SmallLMObjective, SmallLMTraining

Method = LongSpecTraining | Eagle3Training | SmallLMTraining
STAGES = (Stage(256, 32, 2_000_000), Stage(1024, 8, 4_000_000), Stage(2048, 4, 4_000_000))  # the usual view fits


@dataclass(frozen=True, slots=True)
class HeadJob:
    """What ``spec-engine train`` was asked for; `method` says what kind of draft."""

    preset: Preset
    corpus: Path
    out: Path
    method: Method
    stages: tuple[Stage, ...] = STAGES
    threads: int = 0
    device: str = "auto"
    limit_s: float = 0.0


def train_head(job: HeadJob, log: Callable[[str], None]) -> list[float]:
    """Train a draft to the end, or go on with one; returns its held-out acceptance by depth.

    Raises `TrainingError` for a corpus that cannot be used, `ModelError` kinds for a target that cannot be loaded.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    documents = read_corpus(job.corpus)
    target = replace(job.preset.target, dtype="float32", quantization="none")
    model = load_target(job.preset, target, device=job.device)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(job.preset, target))
    rows = head_rows(documents, tokenizer)
    objective = _objective(job, model, tokenizer, rows[0])
    recipe = HeadRecipe(job.stages, method=f"{job.preset.target.id} {job.method}", limit_s=job.limit_s)
    return HeadTrainer(objective, recipe, rows, job.out, log).run()


def _objective(
    job: HeadJob, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: HeadRows
) -> HeadObjective:
    """A fresh draft of the job's kind, and its loss."""
    longest = max(stage.length for stage in job.stages)
    if isinstance(job.method, LongSpecTraining):
        return LongSpecObjective(model, job.method)
    if isinstance(job.method, SmallLMTraining):
        return SmallLMObjective(model, tokenizer, job.method, longest)
    size, target_ids = job.method.draft_vocab_size, None
    vocab_size: int = model.config.get_text_config(decoder=True).vocab_size
    if size is not None and size < vocab_size:
        target_ids = torch.from_numpy(frequent_tokens(rows, size, vocab_size, job.stages[0].length))
    return Eagle3Objective(model, job.method, target_ids, longest)
