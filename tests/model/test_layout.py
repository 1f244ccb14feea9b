"""Weights stored by columns are the same weights."""

import torch

from spec_engine.model.layout import lay_out_for_small_passes
from tests.tiny_models import random_ids, tiny_model


def test_values_stay_and_the_order_changes() -> None:
    model, plain = tiny_model("llama"), tiny_model("llama")
    lay_out_for_small_passes(model)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        is_linear = name.endswith("proj.weight") or name == "lm_head.weight"
        assert (ours.stride() == (1, ours.shape[0])) == is_linear
    ids = torch.tensor([random_ids(20)])
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-5)


def test_a_shared_embedding_is_still_read_by_rows() -> None:
    model = tiny_model("gemma2")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    lay_out_for_small_passes(model)
    assert model.model.embed_tokens.weight.is_contiguous()
    assert not model.lm_head.weight.is_contiguous()
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_bfloat16_stays() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    lay_out_for_small_passes(model)
    assert all(parameter.is_contiguous() for parameter in model.parameters())
