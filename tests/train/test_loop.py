"""The loop learns, stops, and goes on where it stopped; what it writes loads the ordinary way."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from spec_engine.errors import TrainingError
from spec_engine.train.batch import GuidedLayers
from spec_engine.train.builtin import draft_recipe, parse_stages, target_recipe
from spec_engine.train.corpus import TokenizedCorpus
from spec_engine.train.loop import Recipe, Stage, Trainer, learning_rate
from spec_engine.train.objectives import QuoteTasks


def small_config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=4, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip


def tasks_of(corpus: TokenizedCorpus) -> tuple[QuoteTasks, QuoteTasks]:
    return QuoteTasks(corpus, seed=0), QuoteTasks(corpus, "held_out", seed=9)


@pytest.mark.slow
def test_training_resumes_and_writes_a_model_that_loads(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = small_config(len(tokenizer))
    lines: list[str] = []
    first = Recipe(config, (Stage(128, 4, 2560),), num_warmup=2, guided=GuidedLayers(copy=1))
    Trainer(first, tokenizer, tasks_of(corpus), tmp_path, log=lines.append).run()
    assert any("step 1 " in line and "phrase" in line for line in lines)
    longer = Recipe(config, (Stage(128, 4, 2560), Stage(128, 4, 2560)), num_warmup=2, guided=GuidedLayers(copy=1))
    Trainer(longer, tokenizer, tasks_of(corpus), tmp_path, log=lines.append).run()
    assert any(line.startswith("resumed at step 5") for line in lines)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 10
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
    other = Recipe(small_config(len(tokenizer) + 1), longer.stages)
    with pytest.raises(TrainingError, match="another model or method"):
        Trainer(other, tokenizer, tasks_of(corpus), tmp_path, log=lines.append).run()


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(small_config(1100), (Stage(128, 4, 1000),), learning_rate=1.0, num_warmup=10, decay_share=0.5)
    assert learning_rate(recipe, 0, 0) == pytest.approx(0.1)
    assert learning_rate(recipe, 50, 400) == pytest.approx(1.0)
    assert learning_rate(recipe, 50, 750) == pytest.approx(0.5)
    assert learning_rate(recipe, 50, 1000) == pytest.approx(0.05)


def test_the_recipes_have_the_shapes_that_the_issue_of_size_allows(tokenizer: PreTrainedTokenizerFast) -> None:
    target, draft = target_recipe(tokenizer), draft_recipe(tokenizer)
    assert target.config.layer_types.count("full_attention") == 2
    assert max(stage.length for stage in draft.stages) * 8 <= max(stage.length for stage in target.stages)


def test_stages_are_read_from_one_argument() -> None:
    assert parse_stages("256:64:4,512:32:0.5") == (Stage(256, 64, 4_000_000), Stage(512, 32, 500_000))
    with pytest.raises(TrainingError, match="LENGTH:ROWS"):
        parse_stages("256:64")
