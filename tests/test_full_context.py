"""Answers that fill the context to its last token: no node of a tree may stand beyond it.

A pass beyond the limit changes the frequencies of dynamic NTK and longrope for all its rows, and learned positions end.
"""

import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.drafters.none import NoDrafter
from spec_engine.engine import Engine, EngineConfig, Request, StopRules
from spec_engine.errors import UnsupportedModel
from spec_engine.events import Finished
from spec_engine.model.target import Target
from spec_engine.model.tokenizer import Tokenizer
from spec_engine.sampling import SamplingParams
from tests.fakes import VOCAB_SIZE, OracleDrafter, byte_tokenizer
from tests.tiny_models import tiny_model

LIMIT, NUM_NEW = 64, 16
LONGROPE = {
    "max_position_embeddings": 512,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": LIMIT,
        "factor": 8.0,
    },
}
SHAPES: dict[str, tuple[str, dict[str, object]]] = {
    "dynamic": ("llama-dynamic", {"max_position_embeddings": LIMIT}),
    "longrope": ("llama", LONGROPE),
    "learned": ("gpt2", {"n_positions": LIMIT, "max_position_embeddings": LIMIT}),
    "default": ("llama", {}),
}


def answer(model: PreTrainedModel, prompt: tuple[int, ...], drafter: NoDrafter | OracleDrafter) -> tuple[int, ...]:
    engine = Engine(
        Target(model, LIMIT, 16), drafter, Tokenizer(byte_tokenizer()), EngineConfig(max_nodes=24, adaptive=False)
    )
    *_, last = engine.generate(Request(prompt, SamplingParams(), StopRules(NUM_NEW)))
    assert isinstance(last, Finished)
    return last.token_ids


@pytest.mark.parametrize("shape", SHAPES)
def test_the_text_is_the_same_up_to_the_last_token(shape: str) -> None:
    name, changes = SHAPES[shape]
    model = tiny_model(name, 0, **changes)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        prompt = tuple(torch.randint(3, 250, (LIMIT - NUM_NEW,), generator=generator).tolist())
        plain = answer(model, prompt, NoDrafter(VOCAB_SIZE))
        assert len(plain) == NUM_NEW
        beyond = (*plain, *range(40, 60))  # the drafter would go on
        assert answer(model, prompt, OracleDrafter(prompt, beyond)) == plain


def test_a_context_beyond_learned_positions_is_refused() -> None:
    model = tiny_model("gpt2", 0, n_positions=LIMIT, max_position_embeddings=LIMIT)
    with pytest.raises(UnsupportedModel, match="learned positions for 64 tokens"):
        Target(model, LIMIT + 1, 16)
