"""Run by test_card: a target whose layers lie on two pretended cards, its drafts on the first one."""

import sys
import tempfile
from pathlib import Path

import torch
from accelerate import dispatch_model
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine import loading
from spec_engine.config import RetrievalConfig, TreeConfig, load_preset
from spec_engine.drafters.eagle3 import EagleDrafter
from spec_engine.drafters.eagle_files import read_head
from spec_engine.drafters.eagle_fit import fit_head
from spec_engine.drafters.lm_memory import LMSettings
from spec_engine.model import load
from spec_engine.model.target import Target
from spec_engine.sampling import SamplingParams
from tests.card.answers import WAYS, answer, exact, prompt_of
from tests.card.stand_ins import card
from tests.eagle_heads import eagle1_weights, head_fields, write_head
from tests.tiny_models import VOCAB_SIZE, random_ids, tiny_model

FIRST, LAST = "cuda:0", "cuda:1"
KINDS = {"lookup": "builtin", "longspec": "builtin-longspec", "eagle3": "builtin-eagle3", "lm": "builtin-retrieval"}


def spread(model: PreTrainedModel, output: str = FIRST) -> PreTrainedModel:
    """Half of the layers on each card, the embedding on the first, and the output layer, which often is the same."""
    num_layers = model.config.num_hidden_layers
    places = {f"model.layers.{number}": FIRST if number < num_layers // 2 else LAST for number in range(num_layers)}
    places |= {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.norm": LAST, "lm_head": output}
    spread_model: PreTrainedModel = dispatch_model(model, device_map=places)
    return spread_model


def check_head_with_the_targets_output() -> None:
    """An EAGLE-1 head ends with the target's output layer, which lies on the other card."""
    model = tiny_model("llama")
    weights = eagle1_weights(model)
    with tempfile.TemporaryDirectory() as name:
        folder = write_head(Path(name), weights, head_fields(draft_vocab_size=None, vocab_size=VOCAB_SIZE))
        files = read_head(folder, "a head")
    with card(2):
        target = Target(spread(model, LAST), 400, 64, 1 << 28)
        settings = LMSettings(400, target.vocab_size, TreeConfig(), RetrievalConfig(enabled=False), 1 << 28)
        session = EagleDrafter(fit_head(files, target, "auto"), settings).begin(SamplingParams())
        for step in target.prefill(random_ids(90, 1), session.taps):
            session.observe(step)
        for root in random_ids(6, 2):
            tree = session.propose(root, 6)
            assert len(tree) > 1, "nothing was drafted"
            session.observe(target.commit(target.verify(tree, session.taps), (0,)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    check_head_with_the_targets_output()
    read = load.load_target
    loading.load_target = lambda preset, ref, device: spread(read(preset, ref, device="cpu"))
    with card(2) as mode:
        first = loading.load_engine(exact(load_preset("builtin")), drafter="none", device="cuda:all", adaptive=False)
        prompt, ways = prompt_of(first), WAYS[::2]
        wanted = [answer(first, prompt, way, mode)[0].token_ids for way in ways]
        assert "spread over several devices" in first.target.passes_note, first.target.passes_note
        for kind, name in KINDS.items():
            engine = first.with_drafter(kind, preset=exact(load_preset(name)))
            for way, want in zip(ways, wanted, strict=True):
                assert answer(engine, prompt, way, mode)[0].token_ids == want, f"{kind}: another text, {way}"
