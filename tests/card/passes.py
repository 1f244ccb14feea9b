"""Run by test_card: passes of every architecture on a pretended card, captured and not, against those of the CPU.

With the argument ``kernels`` two small models run them through our own kernels, in Triton's interpreter; with
``windows`` layers with a window hold their newest rows alone, and these move.
"""

import copy
import importlib
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.model import runner
from spec_engine.model import target as target_module
from spec_engine.model.graphs import NUM_ROWS
from spec_engine.model.target import Taps, Target
from tests.card.stand_ins import card
from tests.card.tensors import inner
from tests.model.test_target import filled, random_tree, relative
from tests.tiny_models import ALL_SERVED, random_ids, tiny_model

SIZES = (1, 6, 7, 8, 1, 5, 8, 1, 6, 1, 7, 12, 1, 8)
CAPACITY = 600
MIXED = ("smollm3-sliding", "gemma2", "gemma4", "gpt_oss", "cohere2", "olmo3")
TAPS = Taps(attention_row=True, features=(1, 2))


def passes(target: Target, sizes: tuple[int, ...], num_tokens: int) -> list[Tensor]:
    """Trees of these sizes, behind a text that grows: logits, attention rows, features."""
    filled(target, random_ids(num_tokens, 1))
    found = []
    for seed, size in enumerate(sizes):
        outputs = target.verify(random_tree(size, seed, 5), TAPS)
        logits = inner(outputs.logits).float().clone()
        step = target.commit(outputs, (0,) if size == 1 else (0, size - 1))
        assert step.attention_row is not None
        assert step.features is not None
        found += [logits, inner(step.attention_row).float(), inner(step.features).float()]
    return found


def compare(name: str, model: PreTrainedModel, want: list[Tensor], sizes: tuple[int, ...], num_tokens: int) -> None:
    """The same passes on the card."""
    model.to("cuda")
    target = Target(model, CAPACITY, 64, 1 << 28, may_join=True)
    worst = max(relative(got, true) for got, true in zip(passes(target, sizes, num_tokens), want, strict=True))
    assert worst < 1e-4, f"{name}: {worst}"
    used = Counter(next(rows for rows in NUM_ROWS if rows >= size) for size in sizes)
    assert f"{sum(times > 2 for times in used.values())} captured passes" in target.passes_note, (
        f"{name}: {target.passes_note}"
    )
    print(name, f"{worst:.1e}", f"first row {target._slots.first_sliding}", target.passes_note)


def main(what: str) -> None:
    names, sizes, num_tokens = ALL_SERVED, SIZES, 90
    if what == "kernels":
        names, sizes, num_tokens = ("qwen3", "mistral-sliding"), (1, 3, 1, 4, 1, 3, 1, 4), 50
        importlib.import_module("tests.interpreted").hurry()
    if what == "windows":
        names, sizes, num_tokens = MIXED, (*SIZES, 40, 40, 1, 6, 8, 1, 40, 40, 12), 330
    models = {name: tiny_model(name) for name in names}
    known, runner.pick = runner.pick, lambda device, dtype: Pick(ReferenceBackend(), "by the definition")
    wants = {name: passes(Target(copy.deepcopy(models[name]), CAPACITY, 64), sizes, num_tokens) for name in names}
    runner.pick = known
    if what == "windows":
        target_module.LEAST_SLACK = 0  # of the card's targets alone
    with card(has_kernels=what == "kernels"):
        for name, model in models.items():
            compare(name, model, wants[name], sizes, num_tokens)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
