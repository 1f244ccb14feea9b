"""Run by test_card: our kernels for the likeliest tokens are captured on a pretended card, and nothing waits."""

import importlib
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.model.capture import CudaCapture
from spec_engine.model.likeliest import by_torch, likeliest_for
from tests.card.stand_ins import card
from tests.card.tensors import inner


def rows(seed: int) -> Tensor:
    return torch.randn(3, 2500, generator=torch.Generator().manual_seed(seed))


if __name__ == "__main__":
    torch.set_num_threads(1)
    importlib.import_module("tests.interpreted").hurry()
    texts = [rows(seed) for seed in range(3)]
    wants = [by_torch(text, 12) for text in texts]
    with card(has_kernels=True) as mode:
        device = torch.device("cuda")
        ours = likeliest_for(device)
        assert ours is not by_torch, "our kernels were refused"
        logits = texts[0].to(device)
        mode.waits.clear()
        replay = CudaCapture(device)(lambda: ours(logits, 12))
        assert not mode.waits, mode.waits
        for text, want in zip(texts, wants, strict=True):
            logits.copy_(text)
            values, columns = (inner(found) for found in replay())
            torch.testing.assert_close(values, want[0], rtol=0.0, atol=2e-5)
            assert torch.equal(columns, want[1])
    print("ok")
