"""Run by test_card: a caller's own model on a pretended card, through transformers' `generate`, with and without us."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spec_engine.dropin import generate_with
from tests.card.stand_ins import card
from tests.card.tensors import PROJECT

BUILTIN = PROJECT / "presets" / "builtin"
DRAFTS = {"lookup": None, "lm": "draft", "eagle3": "eagle3", "longspec": "longspec"}
WAYS = ({}, {"repetition_penalty": 1.2, "no_repeat_ngram_size": 4})

if __name__ == "__main__":
    torch.set_num_threads(1)
    text = (PROJECT / "spec_engine" / "ui" / "sample" / "spectrum-policy-report.txt").read_text("utf-8")[:2000]

    def odd_ones_first(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A caller's processor that counts on the default device."""
        return scores + (torch.arange(scores.shape[1]) % 2).float()

    with card():
        model = AutoModelForCausalLM.from_pretrained(BUILTIN / "target", dtype=torch.float32).to("cuda")
        ids = torch.tensor([AutoTokenizer.from_pretrained(BUILTIN / "target")(text)["input_ids"]], device="cuda")
        for way in WAYS:
            options = {"max_new_tokens": 24, "do_sample": False, **way}
            want = model.generate(ids, **options)
            for kind, draft in DRAFTS.items():
                own = generate_with(kind, draft and str(BUILTIN / draft), adaptive=False)  # type: ignore[arg-type]
                assert torch.equal(model.generate(ids, custom_generate=own, **options), want), f"{kind}, {way}"
        with torch.device("cuda"):  # as a caller's default
            options = {"max_new_tokens": 24, "logits_processor": LogitsProcessorList([odd_ones_first])}
            want = model.generate(ids, do_sample=False, **options)
            for kind, draft in DRAFTS.items():
                own = generate_with(kind, draft and str(BUILTIN / draft), adaptive=False)  # type: ignore[arg-type]
                found = model.generate(ids, custom_generate=own, do_sample=False, **options)
                assert torch.equal(found, want), f"{kind}, on the card by default"
