"""Run by test_card: whole answers of the built-in models on a pretended card. Arguments: a preset and a drafter.

They are the same as plain decoding's, greedy and drawn, also behind a document that came from disk; every pass that is
run often is captured; and the host waits as seldom as it can.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.cache.store import PrefixStore
from spec_engine.config import Preset, load_preset
from spec_engine.engine import Engine, Request
from spec_engine.events import Finished, TokensAccepted
from spec_engine.loading import load_engine
from spec_engine.sampling import SamplingParams
from spec_engine.stopping import StopRules
from tests.card.stand_ins import card
from tests.card.tensors import PROJECT, CardMode

NUM_TOKENS = 48
NUM_FIRST = 2  # steps
WAYS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, seed=3),
    SamplingParams(temperature=0.8, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.1, seed=4),
)
WHOLE = ("longspec", "eagle3")  # whose drafts are read once
MODELS = ("lm", "blend")  # whose passes are read one by one


def exact(preset: Preset) -> Preset:
    """The preset in float32, where no near tie falls the other way when several rows are run at once."""
    draft = preset.draft
    assert draft.model is not None
    draft = replace(draft, model=replace(draft.model, dtype="float32"))
    return replace(preset, context_length=1400, target=replace(preset.target, dtype="float32"), draft=draft)


def prompt_of(engine: Engine) -> tuple[int, ...]:
    """The beginning of the sample document."""
    text = (PROJECT / "spec_engine" / "ui" / "sample" / "spectrum-policy-report.txt").read_text("utf-8")
    return tuple(engine.tokenizer.encode(text)[:1250])


def answer(engine: Engine, prompt: tuple[int, ...], way: SamplingParams, mode: CardMode) -> tuple[Finished, int, int]:
    """An answer, its steps behind the first ones, and how often the host waited in them beyond what it has to. Before
    these, a drafter reads what it missed."""
    num_steps, num_meant = -NUM_FIRST, 0
    for event in engine.generate(Request(prompt, way, StopRules(NUM_TOKENS))):
        num_steps += isinstance(event, TokensAccepted)
        if num_steps <= 0:
            mode.waits.clear()
        elif isinstance(event, TokensAccepted):  # once for its tokens, and once for a draft or each of its passes
            kind = engine.drafter_name
            num_meant += 1 + (kind in WHOLE) + (kind in MODELS) * (event.record.draft_depth + 1)
    assert isinstance(event, Finished)
    assert not event.metrics.drafter_failure, event.metrics.drafter_failure
    return event, num_steps, mode.waits.total() - num_meant


def check(preset_name: str, kind: str, mode: CardMode) -> str:
    """All of it; what was seen, in a line."""
    preset = exact(load_preset(preset_name))
    engine = load_engine(preset, drafter=kind, device="cuda", adaptive=False)  # type: ignore[arg-type]
    prompt = prompt_of(engine)
    plain = engine.with_drafter("none")
    with tempfile.TemporaryDirectory() as folder:
        engine.keeping_prefixes(PrefixStore(Path(folder), 1 << 30))
        for way in WAYS:
            found, num_steps, _ = answer(engine, prompt, way, mode)
            assert found.token_ids == answer(plain, prompt, way, mode)[0].token_ids, f"another text, {way}"
            assert kind == "none" or found.metrics.num_draft_tokens > num_steps, "hardly a draft"
        assert engine.keep_prefix(prompt[:1100], "the document")
        answer(engine, prompt[-20:], WAYS[0], mode)
        again, *_ = answer(engine, prompt, WAYS[0], mode)
        assert again.metrics.num_reused_tokens >= 1099, "not restored"
        assert again.token_ids == answer(plain, prompt, WAYS[0], mode)[0].token_ids, "another text behind the store"
    for way in WAYS:
        for _ in range(3):  # until all its passes are captured
            _, num_steps, num_more = answer(engine, prompt, way, mode)
        told = "\n".join(f"{number} {place}" for place, number in mode.waits.most_common())
        print(f"{kind}: {mode.waits.total()} waits in {num_steps} steps, {num_more} more than meant")
        assert num_more <= 0, told
    note = engine.target.passes_note
    assert "captured passes" in note, note
    assert "because" not in note, note
    assert engine.memory.total > 0
    return note


if __name__ == "__main__":
    torch.set_num_threads(1)
    with card() as mode:
        print(check(*sys.argv[1:], mode))  # type: ignore[call-arg]
