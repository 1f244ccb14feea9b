"""Run by test_card: a target whose layers lie on two pretended cards, its drafts on the first one."""

import sys
from pathlib import Path

import torch
from accelerate import dispatch_model
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine import loading
from spec_engine.config import load_preset
from spec_engine.model import load
from tests.card.answers import WAYS, answer, exact, prompt_of
from tests.card.stand_ins import card

KINDS = {"lookup": "builtin", "longspec": "builtin-longspec", "eagle3": "builtin-eagle3", "lm": "builtin-retrieval"}


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """Half of the layers on each card, the embedding, which is the output layer too, on the first."""
    num_layers = model.config.num_hidden_layers
    first, last = "cuda:0", "cuda:1"
    places = {f"model.layers.{number}": first if number < num_layers // 2 else last for number in range(num_layers)}
    places |= {"model.embed_tokens": first, "model.rotary_emb": first, "model.norm": last, "lm_head": first}
    spread_model: PreTrainedModel = dispatch_model(model, device_map=places)
    return spread_model


if __name__ == "__main__":
    torch.set_num_threads(1)
    read = load.load_target
    loading.load_target = lambda preset, ref, device: spread(read(preset, ref, device="cpu"))
    for kind, name in KINDS.items():
        with card(2) as mode:
            engine = loading.load_engine(exact(load_preset(name)), drafter=kind, device="cuda:all", adaptive=False)
            prompt = prompt_of(engine)
            plain = engine.with_drafter("none")
            for way in WAYS[::2]:
                found, *_ = answer(engine, prompt, way, mode)
                assert found.token_ids == answer(plain, prompt, way, mode)[0].token_ids, f"{kind}: another text, {way}"
            assert "spread over several devices" in engine.target.passes_note, engine.target.passes_note
