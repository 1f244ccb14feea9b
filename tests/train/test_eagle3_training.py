"""EAGLE-3 heads are trained along the data as they draft, stop, go on, and draft once they are written."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.config import DraftConfig, ModelRef, RetrievalConfig, TreeConfig
from spec_engine.drafters.eagle_files import read_head
from spec_engine.drafters.eagle_fit import fit_head
from spec_engine.drafters.eagle_head import FittedHead
from spec_engine.drafters.eagle_memory import EagleMemory
from spec_engine.drafters.lm_memory import LMSettings
from spec_engine.errors import TrainingError, UnsupportedModel
from spec_engine.loading import load_engine
from spec_engine.model.target import Target
from spec_engine.train.eagle3 import Eagle3Objective, Eagle3Training, feature_layers, unroll
from spec_engine.train.head_rows import TextRows, frequent_tokens
from spec_engine.train.heads import HeadJob, train_head
from spec_engine.train.loop import Stage
from tests.eagle_heads import features_of
from tests.fakes import VOCAB_SIZE, byte_tokenizer, pair_preset, save_pair, taught_lm, tiny_lm
from tests.test_lossless import ask
from tests.tiny_models import tiny_model

TEXT = "the cat sat on the mat and the dog lay on the rug. "
CHAIN = TreeConfig(policy="chain", num_nodes=5, max_depth=5)
WHOLE = RetrievalConfig(enabled=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder, taught_lm(TEXT), tiny_lm())
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.txt").write_text(TEXT * 20, "utf-8")
    return tmp_path / "texts"


def test_a_head_is_trained_resumed_and_drafts(folder: Path, corpus: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    out = tmp_path / "eagle3"
    method = Eagle3Training(num_steps=3, draft_vocab_size=24)
    job = HeadJob(pair_preset(folder), corpus, out, method, (Stage(48, 4, 15_000),), device="cpu")
    early = train_head(job, lines.append)
    shares = train_head(replace(job, stages=(Stage(48, 4, 40_000),)), lines.append)
    assert any("resumed at step 79" in line for line in lines)
    assert re.search(r"loss [\d.]+", "".join(lines))
    assert len(early) == len(shares) == 3
    assert shares[0] > 0.9, f"the text repeats, so a head should know it: {shares}"
    preset = replace(pair_preset(folder), draft=DraftConfig("eagle3", ModelRef(str(out)), CHAIN, WHOLE))
    engine = load_engine(preset, device="cpu", adaptive=False)
    prompt = tuple(byte_tokenizer().encode(TEXT * 2 + "the cat"))
    token_ids, metrics, _ = ask(engine, prompt)
    assert token_ids == ask(engine.with_drafter("none"), prompt)[0]
    assert metrics.num_accepted_draft_tokens > 0.5 * len(token_ids)


@pytest.mark.parametrize("shape", ["llama", "smollm3"])
def test_a_step_sees_what_a_draft_sees(shape: str) -> None:
    model = tiny_lm(shape)
    made = Eagle3Objective(model, Eagle3Training(num_steps=4))
    ids = torch.randint(3, 250, (1, 23), generator=torch.Generator().manual_seed(3))
    tokens: list[int] = ids[0].tolist()
    features = features_of(model, tokens, made.layers)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        combined = made.network.combine(features)
        steps = unroll(made.network, embedding[ids], combined[None], 4)
    fitted = FittedHead("head", made.network, made.layers, embedding, None, None, None)
    for root in (0, 1, 7, 18):
        memory = EagleMemory(fitted, LMSettings(64, VOCAB_SIZE, CHAIN, WHOLE))
        memory.read(tokens[1 : root + 1], combined[:root])
        feature = combined[root : root + 1]
        for step, states in enumerate(steps):
            feature = memory.run_on_view([tokens[root + 1 + step]], feature)
            memory.cache.view.advance(1)
            torch.testing.assert_close(states[0, root], feature[0], atol=2e-5, rtol=1e-4)


def test_attention_in_blocks_is_attention_at_once(
    objective: Callable[..., Eagle3Objective], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = objective()
    embedded, features = torch.randn(2, 30, 64), torch.randn(2, 30, 64)
    whole = unroll(made.network, embedded, features, 3)
    monkeypatch.setattr("spec_engine.train.eagle3._QUERY_BLOCK", 8)
    for found, wanted in zip(unroll(made.network, embedded, features, 3), whole, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.fixture
def objective() -> Callable[..., Eagle3Objective]:
    def make(model: PreTrainedModel | None = None, known: torch.Tensor | None = None) -> Eagle3Objective:
        return Eagle3Objective(model or tiny_lm(), Eagle3Training(num_steps=3, sample_share=1.0), known)

    return make


def test_only_the_head_learns_and_only_from_weighted_tokens(objective: Callable[..., Eagle3Objective]) -> None:
    model = tiny_lm()
    made = objective(model)
    ids = torch.randint(3, 250, (2, 40))
    weights = torch.zeros(2, 40)
    weights[:, 20:30] = 1.0
    loss = made.loss(ids, weights)
    loss.backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in made.head.parameters())
    later = ids.clone()
    later[:, 29:] = 5  # read by no prediction that counts
    torch.testing.assert_close(made.loss(later, weights), loss)
    earlier = ids.clone()
    earlier[:, 28] = 5
    assert not torch.equal(made.loss(earlier, weights), loss)


def test_what_the_head_cannot_draft_does_not_count(objective: Callable[..., Eagle3Objective]) -> None:
    model = tiny_lm()
    ids = torch.randint(3, 250, (1, 30))
    said = torch.zeros(VOCAB_SIZE, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        said[model(ids, use_cache=False).logits[0].argmax(-1)] = True
    weights = torch.ones(1, 30)
    unknown = objective(model, (~said).nonzero()[:, 0])
    assert unknown.loss(ids, weights).item() == 0
    assert unknown.acceptance(ids, weights) == [0.0, 0.0, 0.0]
    assert objective(model, said.nonzero()[:, 0]).loss(ids, weights).item() > 0


def test_the_loss_is_that_of_the_papers_formula(objective: Callable[..., Eagle3Objective]) -> None:
    """With the steps taken one by one; float32 against the training pass in bfloat16."""
    model = tiny_lm()
    known = torch.arange(0, VOCAB_SIZE, 2)
    made = objective(model, known)
    ids = torch.randint(3, 250, (1, 24))
    weights = torch.rand(1, 24) + 0.1
    with torch.no_grad():
        wanted = model(ids).logits[0]
        features = features_of(model, ids[0].tolist(), made.layers)
        embedded = model.get_input_embeddings().weight[ids]
        steps = unroll(made.network, embedded, made.network.combine(features)[None], 3)
        total = 0.0
        for step, states in enumerate(steps):
            losses, counts = [], []
            for place in range(3, 23):
                q = made.network.logits(states[0, place - 1 - step]).log_softmax(-1)
                p = wanted[place, known].softmax(-1)
                losses.append(-(p * q).sum())
                counts.append(weights[0, place + 1] * (int(wanted[place].argmax()) % 2 == 0))
            total += 0.8**step * float((torch.stack(losses) * torch.stack(counts)).sum() / sum(counts))
    assert made.loss(ids, weights).item() == pytest.approx(total, rel=0.02)


def test_files_hold_the_head_its_layers_and_its_vocabulary(tmp_path: Path) -> None:
    model = tiny_model("llama", num_hidden_layers=6, vocab_size=VOCAB_SIZE)
    known = torch.tensor([3, 4, 9, 77, 200])
    made = Eagle3Objective(model, Eagle3Training(), known, trained_length=384)
    made.save(tmp_path)
    files = read_head(tmp_path, "head")
    assert files.layers == made.layers == (1, 3, 5)
    assert files.target_ids is not None
    assert files.target_ids.tolist() == known.tolist()
    assert (files.trained_length, files.vocab_size, files.config.num_columns) == (384, VOCAB_SIZE, 5)
    fitted = fit_head(files, Target(model, 64, 64))
    assert fitted.layers == made.layers
    for name, weight in made.network.state_dict().items():
        torch.testing.assert_close(files.weights[name].float(), weight.bfloat16().float())
    rows = torch.randn(1, 9, 64)
    rounded = Eagle3Objective(model, Eagle3Training(), known)
    rounded.network.load_state_dict({name: weight.float() for name, weight in files.weights.items()})
    torch.testing.assert_close(
        fitted.head(rows, rows, torch.arange(9)), rounded.network(rows, rows, torch.arange(9)), msg="rotary embeddings"
    )


def test_a_saved_state_keeps_the_vocabulary(objective: Callable[..., Eagle3Objective]) -> None:
    before, after = objective(known=torch.tensor([3, 5, 8])), objective(known=torch.tensor([4, 6, 7]))
    after.head.load_state_dict(before.head.state_dict())
    logits = torch.arange(float(VOCAB_SIZE))[None]
    assert after.head.reduce(logits).tolist() == [[3.0, 5.0, 8.0]]  # type: ignore[operator]


def test_the_most_frequent_tokens_are_drafted() -> None:
    rows = TextRows([np.array([7] * 500 + [2] * 300 + [9] * 100 + [4], np.int32)], 0)
    assert frequent_tokens(rows, 3, 12, length=64).tolist() == [2, 7, 9]


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 5, 6, 7, 32])
def test_layers_are_distinct_and_the_targets(num_layers: int) -> None:
    layers = feature_layers(num_layers)
    assert len(set(layers)) == len(layers) == min(3, num_layers)
    assert all(0 <= layer < num_layers for layer in layers)
    assert num_layers != 32 or layers == (2, 16, 29)


@pytest.mark.parametrize("shape", ["gemma2", "gemma3", "granite", "gpt2", "phi3", "cohere2", "deepseek_v3", "gpt_oss"])
def test_targets_of_many_kinds_get_a_head(shape: str, tmp_path: Path) -> None:
    model = tiny_model(shape)
    made = Eagle3Objective(model, Eagle3Training(num_steps=2, sample_share=1.0))
    ids = torch.randint(3, 250, (2, 20))
    with torch.no_grad():
        _, logits = made._read(ids, torch.tensor([3, 27]))
        wanted = model(ids).logits
    torch.testing.assert_close(logits, torch.stack((wanted[0, 3], wanted[1, 7])))
    made.loss(ids, torch.ones(2, 20)).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in made.head.parameters())
    made.save(tmp_path)
    fit_head(read_head(tmp_path, "head"), Target(model, 32, 32))


def test_what_cannot_be_trained_is_refused(objective: Callable[..., Eagle3Objective]) -> None:
    with pytest.raises(TrainingError, match="5 are needed"):
        objective().loss(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4))
    model = tiny_lm()
    model.lm_head = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="LongSpec"):
        objective(model)
