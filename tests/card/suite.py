"""Run by test_card: tests that are for a card, on a pretended one. Arguments: those of pytest.

So what only runs on a rented GPU has run before; figures and tolerances that only a card can miss stay for it.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.card.stand_ins import card

if __name__ == "__main__":
    torch.set_num_threads(1)
    with card():
        sys.exit(pytest.main(["-m", "gpu", "-p", "no:cacheprovider", "--tb=short", *sys.argv[1:]]))
