"""A small draft learns a target's distribution, goes on where it stopped, and drafts once it is written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spec_engine.config import DraftConfig, ModelRef, RetrievalConfig, TreeConfig
from spec_engine.errors import TrainingError
from spec_engine.loading import load_engine
from spec_engine.train.heads import HeadJob, train_head
from spec_engine.train.loop import Stage
from spec_engine.train.places import narrowed, sample_places
from spec_engine.train.small_lm import SmallLMObjective, SmallLMTraining
from tests.fakes import byte_tokenizer, pair_preset, save_pair, taught_lm, tiny_lm
from tests.test_lossless import ask

TEXT = "the cat sat on the mat and the dog lay on the rug. "
SMALL = SmallLMTraining(hidden_size=64, num_layers=2)


def test_a_draft_is_trained_resumed_and_loaded(tmp_path: Path) -> None:
    lines: list[str] = []
    save_pair(tmp_path, taught_lm(TEXT), tiny_lm())
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.txt").write_text(TEXT * 20, "utf-8")
    preset, out = pair_preset(tmp_path), tmp_path / "lm"
    job = HeadJob(preset, tmp_path / "texts", out, SMALL, (Stage(48, 4, 4_000),), device="cpu")
    before = train_head(job, lines.append)
    after = train_head(replace(job, stages=(Stage(48, 4, 36_000),)), lines.append)
    assert any("resumed at step 21" in line for line in lines)
    assert len(after) == 4
    assert after[0] > 0.8
    assert after[0] > before[0]
    tree, whole = TreeConfig(policy="chain", num_nodes=4, max_depth=4), RetrievalConfig(enabled=False)
    engine = load_engine(
        replace(preset, draft=DraftConfig("lm", ModelRef(str(out)), tree, whole)), device="cpu", adaptive=False
    )
    prompt = tuple(byte_tokenizer().encode(TEXT + "the cat"))
    token_ids, metrics, _ = ask(engine, prompt)
    assert token_ids == ask(engine.with_drafter("none"), prompt)[0]
    assert metrics.num_accepted_draft_tokens > 0.5 * len(token_ids)
    with pytest.raises(TrainingError, match="another model or method"):
        train_head(replace(job, method=replace(SMALL, num_layers=1)), lines.append)


def test_only_the_draft_learns_from_the_target_and_a_little_from_the_text() -> None:
    model = tiny_lm()
    made = SmallLMObjective(model, byte_tokenizer(), replace(SMALL, sample_share=1.0), 64)
    ids, weights = torch.randint(3, 250, (2, 30)), torch.zeros(2, 30)
    weights[:, -1] = 1.0
    loss = made.loss(ids, weights)
    loss.backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in made.head.parameters())
    with torch.no_grad():
        p, q = model(ids).logits[:, -2].log_softmax(-1), made.head(ids).logits[:, -2].log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1).mean()
    entropy = -q.gather(1, ids[:, -1:]).mean()
    assert loss.item() == pytest.approx(float(0.9 * divergence + 0.1 * entropy), rel=0.02)


def test_places_are_those_that_weigh_most() -> None:
    weights = torch.full((2, 20), 0.1)
    weights[0, 7] = weights[1, 19] = 1.0
    generator = torch.Generator().manual_seed(0)
    places, found = sample_places(weights, 3, 0.05, generator)
    assert sorted(places.tolist()) == [6, 38]
    assert found.tolist() == [1.0, 1.0]
    every, _ = sample_places(weights, 3, 1.0, generator)
    assert sorted(every.tolist()) == [*range(3, 19), *range(23, 39)]


def test_a_narrowed_pass_gives_some_rows_and_the_next_all() -> None:
    model, ids = tiny_lm(), torch.randint(3, 250, (2, 10))
    whole = model(ids).logits
    with narrowed(model.get_output_embeddings(), torch.tensor([2, 15])):
        some = model(ids).logits
    torch.testing.assert_close(some, torch.stack((whole[0, 2], whole[1, 5]))[None])
    torch.testing.assert_close(model(ids).logits, whole)
