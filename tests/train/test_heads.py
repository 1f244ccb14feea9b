"""Heads learn, stop, go on where they stopped, and draft once they are written."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.cli import main
from spec_engine.config import DraftConfig, ModelRef, Preset, TreeConfig, load_preset
from spec_engine.errors import TrainingError
from spec_engine.loading import load_engine
from spec_engine.train.corpus import CorpusDocument
from spec_engine.train.head_loop import expected_length
from spec_engine.train.head_rows import QuoteRows, TextRows, head_rows
from spec_engine.train.heads import HeadJob, train_head
from spec_engine.train.longspec import NUM_ANCHORS, LongSpecObjective, LongSpecTraining
from spec_engine.train.loop import Stage
from tests.fakes import byte_tokenizer, pair_preset, save_pair, tiny_lm
from tests.test_lossless import ask, prompt_of

TEXT = "the cat sat on the mat and the dog lay on the rug. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder, tiny_lm(), tiny_lm())
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.txt").write_text(TEXT * 20, "utf-8")
    return tmp_path / "texts"


def test_a_head_is_trained_resumed_and_loaded(folder: Path, corpus: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    preset, out = pair_preset(folder), tmp_path / "longspec"
    job = HeadJob(preset, corpus, out, LongSpecTraining(window=32), (Stage(64, 4, 20_000),), device="cpu")
    train_head(job, lines.append)
    losses = [float(found[1]) for line in lines if (found := re.search(r"loss ([\d.]+)", line))]
    more = train_head(replace(job, stages=(Stage(64, 4, 60_000),)), lines.append)
    assert any("resumed at step 79" in line for line in lines)
    assert losses
    assert len(more) == 4
    assert more[0] > 0.8, f"the text repeats, so a head should know it: {more}"
    engine = load_engine(with_head(preset, out), device="cpu", adaptive=False)
    plain = engine.with_drafter("none")
    prompt = prompt_of(60)
    assert ask(engine, prompt)[0] == ask(plain, prompt)[0]


def with_head(preset: Preset, out: Path) -> Preset:
    tree = TreeConfig(policy="chain", num_nodes=4, max_depth=4)
    return replace(preset, draft=DraftConfig("longspec", ModelRef(str(out)), tree))


@pytest.mark.parametrize(
    ("part", "options"), [("longspec", "--window 16"), ("eagle3", "--draft-vocab 30"), ("lm", "--hidden 64 --layers 1")]
)
def test_every_kind_of_draft_is_trained_by_the_command(
    folder: Path, corpus: Path, tmp_path: Path, part: str, options: str
) -> None:
    out = tmp_path / "runs"
    given = f"train {part} --preset any-lookup --model {folder / 'target'} --corpus {corpus} --out {out} --device cpu"
    assert main([*given.split(), *f"--stages 32:2:0.0001 {options}".split()]) == 0
    assert (out / part / "model.safetensors").stat().st_size > 1000
    config = json.loads((out / part / "config.json").read_text("utf-8"))
    said = {"longspec": ("self_attention_window", 16), "eagle3": ("draft_vocab_size", 30), "lm": ("hidden_size", 64)}
    assert config[said[part][0]] == said[part][1]


def test_a_state_of_another_head_is_refused(folder: Path, corpus: Path, tmp_path: Path) -> None:
    job = HeadJob(pair_preset(folder), corpus, tmp_path, LongSpecTraining(), (Stage(32, 2, 100),), device="cpu")
    train_head(job, lambda line: None)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save(state | {"shape": "{}"}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="another model or method"):
        train_head(job, lambda line: None)


@pytest.fixture
def objective() -> Callable[..., LongSpecObjective]:
    def make(model: PreTrainedModel | None = None, **parts: object) -> LongSpecObjective:
        training = replace(LongSpecTraining(window=16, max_position=200), **parts)  # type: ignore[arg-type]
        return LongSpecObjective(model or tiny_lm(), training)

    return make


def test_anchors_stay_and_the_rest_moves_together(objective: Callable[..., LongSpecObjective]) -> None:
    made = objective(has_anchor_offset=True)
    moved = [made._positions(40) for _ in range(50)]
    for positions in moved:
        assert positions[:NUM_ANCHORS].tolist() == list(range(NUM_ANCHORS))
        assert set(positions[NUM_ANCHORS:].diff().tolist()) == {1}
        assert int(positions[-1]) < 200
    assert len({int(positions[-1]) for positions in moved}) > 20
    assert torch.equal(objective(has_anchor_offset=False)._positions(40), torch.arange(40))


def test_only_the_head_learns_and_only_from_weighted_tokens(objective: Callable[..., LongSpecObjective]) -> None:
    model = tiny_lm()
    made = objective(model, is_noisy=False, has_anchor_offset=False)
    ids = torch.randint(3, 250, (2, 48))
    weights = torch.zeros(2, 48)
    weights[:, 30:] = 1.0
    loss = made.loss(ids, weights)
    loss.backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in made.head.parameters())
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % 250  # a label that counts
    assert not torch.equal(made.loss(other, weights), loss)
    weights[:, -1] = 0.0
    torch.testing.assert_close(made.loss(other, weights), made.loss(ids, weights))


def test_rows_come_from_text_or_from_quoting_tasks() -> None:
    texts = [CorpusDocument(str(number), "", TEXT * 10) for number in range(25)]
    train, held_out = head_rows(texts, byte_tokenizer())
    assert isinstance(train, TextRows)
    ids, weights = train.batch(50, 3)
    assert ids.shape == weights.shape == (3, 50)
    assert (weights == 1).all()
    assert byte_tokenizer().decode(ids[0]) in TEXT * 3
    assert not np.array_equal(held_out.batch(50, 3)[0], ids)
    with pytest.raises(TrainingError, match="shorter rows"):
        held_out.batch(10**6, 1)
    with pytest.raises(TrainingError, match="two documents"):
        head_rows(texts[:1], byte_tokenizer())


@pytest.mark.slow
def test_the_builtin_target_gets_its_own_tasks() -> None:
    from transformers import AutoTokenizer

    preset = load_preset("builtin")
    tokenizer = AutoTokenizer.from_pretrained(preset.folder / preset.target.id)
    texts = [
        CorpusDocument(str(number), "", f"Paragraph {number} begins. " + TEXT.capitalize() * 9) for number in range(25)
    ]
    train, _ = head_rows(texts, tokenizer)
    assert isinstance(train, QuoteRows)
    ids, weights = train.batch(256, 2)
    assert set(np.unique(weights)) <= {np.float32(0), np.float32(0.1), np.float32(1)}
    assert (weights == 1).any()
    assert tokenizer.convert_ids_to_tokens(int(ids[0, 0])) == "<|doc|>"


def test_expected_length_of_a_chain() -> None:
    assert expected_length([]) == 1
    assert expected_length([0.5, 0.5]) == pytest.approx(1.75)
