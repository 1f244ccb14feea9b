"""Run by test_card: a few steps of each training on a pretended card, as far as it goes: torch's backward pass needs a
real one, so nothing is learned. Batches, losses, what is held out and what is written are on the device."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine import cli
from tests.card.stand_ins import card
from tests.card.tensors import PROJECT
from tests.train.conftest import document

BUILTIN = PROJECT / "presets" / "builtin"
PARTS = {
    "target": f"--init {BUILTIN / 'target'} --stages 256:2:0.001,512:1:0.001",
    "draft": f"--init {BUILTIN / 'draft'} --stages 128:2:0.001",
    "longspec": "--preset builtin --window 128 --stages 256:2:0.001",
    "eagle3": "--preset builtin --stages 256:2:0.001",
}

if __name__ == "__main__":
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    torch.set_num_threads(1)
    torch.Tensor.backward = lambda self, *_, **__: None  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, card():
        out, corpus = Path(folder, "run"), Path(folder, "corpus.jsonl")
        corpus.write_text("".join(json.dumps({"text": document(seed).text}) + "\n" for seed in range(60)), "utf-8")
        shutil.copytree(BUILTIN / "target", out / "tokenizer")
        for part, options in PARTS.items():
            usual = ["train", part, "--corpus", str(corpus), "--out", str(out), "--minutes", "0.1"]
            assert cli.main([*usual, *options.split()]) == 0
            assert (out / part / "model.safetensors").is_file()
