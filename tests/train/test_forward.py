"""The training pass equals transformers' own forward, and the guidance is the weight it says."""

import pytest
import torch
from transformers import LlamaConfig, PreTrainedModel, SmolLM3Config

from spec_engine.train.forward import Guide, hidden_states, rope_tables
from spec_engine.train.loop import new_model

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": True,
}  # fmt: skip
KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


def smollm3(window: int) -> PreTrainedModel:
    return new_model(
        SmolLM3Config(
            num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0], use_sliding_window=True, sliding_window=window,
            layer_types=KINDS, **SHAPE,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("window", [16, 32, 96])
def test_smollm3_rows_equal_transformers(window: int) -> None:
    torch.manual_seed(0)
    check(smollm3(window))


def test_llama_rows_equal_transformers() -> None:
    torch.manual_seed(0)
    check(new_model(LlamaConfig(num_hidden_layers=2, **SHAPE)).eval())


def check(model: PreTrainedModel) -> None:
    ids = torch.randint(2, 300, (2, 96))
    with torch.no_grad():
        theirs = model.model(input_ids=ids).last_hidden_state
        ours, guidance = hidden_states(model, ids, rope_tables(model, 96), {})
    assert guidance == {}
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [2, 3])
def test_guidance_is_minus_the_log_of_the_attention_weight(layer: int) -> None:
    """Layer 2 slides: a target behind its window cannot be guided to and does not count."""
    torch.manual_seed(0)
    model = smollm3(16)
    model.set_attn_implementation("eager")
    ids = torch.randint(2, 300, (1, 48))
    rows, targets = torch.tensor([[40, 20, 7]]), torch.tensor([[[30, 11, -1], [29, 12, -2]]])
    far = Guide(torch.tensor([[47]]), torch.tensor([[[2], [2]]]))
    with torch.no_grad():
        _, guidance = hidden_states(model, ids, rope_tables(model, 48), {layer: Guide(rows, targets)})
        _, beyond = hidden_states(model, ids, rope_tables(model, 48), {2: far})
        weights = model.model(input_ids=ids, output_attentions=True).attentions[layer][0]
    looks = ((0, 40, 30), (0, 20, 11), (2, 40, 29), (2, 20, 12))
    expected = -sum(weights[head, row, target].log() for head, row, target in looks) / 4
    torch.testing.assert_close(guidance[layer], expected, atol=1e-4, rtol=1e-4)
    assert beyond[2] == 0
