"""Run by test_card: what the GPU queue measures of passes, at a tiny size, on a pretended card.

Figures mean nothing here; that every part runs on the device and captures what it should does.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine import cli
from spec_engine.bench import machine
from tests.card.stand_ins import card

OPTIONS = "bench --limit --shape tiny --lengths 128 --rows 1,8 --parts passes,retrieval,reading,generate,modules"


if __name__ == "__main__":
    torch.set_num_threads(1)
    machine._CUDA_BYTES, machine._CUDA_SIZE = 1 << 20, 128  # a card's take a processor hours
    with tempfile.TemporaryDirectory() as folder, card():
        out = Path(folder, "out.json")
        assert cli.main([*OPTIONS.split(), "--out", str(out)]) == 0
        found = json.loads(out.read_text("utf-8"))
    assert not found["failed"], found["failed"]
    assert "3 captured passes" in found["graphs"], found["graphs"]
    assert "because" not in found["graphs"], found["graphs"]
