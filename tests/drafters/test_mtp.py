"""Gemma 4's multi-token prediction head: transformers' numbers, files, sizes, trees, and drafts as device work."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    PreTrainedModel,
)

from spec_engine.attention import Pick
from spec_engine.attention.reference import ReferenceBackend
from spec_engine.config import ModelRef, TreeConfig
from spec_engine.drafters.mtp import MtpDrafter, mtp_need
from spec_engine.drafters.mtp_head import make_mtp_head
from spec_engine.drafters.mtp_work import MtpSight
from spec_engine.drafters.whole import WholeDrafts
from spec_engine.errors import ModelError, UnsupportedModel
from spec_engine.loading import load_engine
from spec_engine.model import runner as runner_module
from spec_engine.model.capture import Captures
from spec_engine.model.checkpoint import read_checkpoint
from spec_engine.model.head_products import join_products
from spec_engine.model.memory import model_need
from spec_engine.model.target import Taps, Target
from spec_engine.sampling import SamplingParams
from tests.drafters.test_whole import BEAM, CHAIN, DRAWN, EAGLE, GREEDY, OPT, Steps, assert_same, drive
from tests.fakes import byte_tokenizer, pair_preset, perturbed, save_pair, tiny_lm
from tests.mtp_heads import mtp_fields, mtp_head, mtp_tensors, save_mtp, transformers_head, write_mtp
from tests.test_lossless import ask
from tests.tiny_models import random_ids
from tests.traced import Traced

CLUSTERS = {"use_ordered_embeddings": True, "num_centroids": 20, "centroid_intermediate_top_k": 4}
ROOT, CHILD = 7, 11


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_lm("gemma4")


def with_pictures() -> PreTrainedModel:
    """A tiny Gemma 4 as it is published, with a part that sees pictures."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16}
    text = tiny_lm("gemma4")
    whole = Gemma4ForConditionalGeneration(
        Gemma4Config(text_config=text.config.to_dict(), vision_config=vision, audio_config=None)
    ).eval()
    whole.model.language_model.load_state_dict(text.model.state_dict())
    whole.lm_head.load_state_dict(text.lm_head.state_dict())
    return whole


def without_parts() -> PreTrainedModel:
    """A tiny one of the form of 12B: pictures go in without a tower, and layers without a window have no values of
    their own and fewer heads."""
    text = {**tiny_lm("gemma4").config.to_dict(), "model_type": "gemma4_unified_text", "attention_k_eq_v": True}
    text |= {"num_global_key_value_heads": 1, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
    text |= {"head_dim": 16, "global_head_dim": 32, "num_key_value_heads": 2, "per_layer_config": None}
    config = Gemma4UnifiedConfig(text_config={name: value for name, value in text.items() if value is not None})
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Gemma4UnifiedForConditionalGeneration(config).eval()


def read(target: Target, text: tuple[int, ...], sight: MtpSight) -> Tensor:
    """Have the target read a text; its state [1, S] at the end."""
    target.reset()
    *_, step = target.prefill(text, Taps(features=(sight.state_layer,)))
    assert step.features is not None
    return step.features[-1:]


@pytest.mark.parametrize("options", [{}, CLUSTERS], ids=["plain", "clusters"])
@pytest.mark.parametrize("length", [1, 30, 100])
def test_two_levels_are_those_of_transformers(
    model: PreTrainedModel, tmp_path: Path, options: dict[str, object], length: int
) -> None:
    """Its own module, given the target's keys and values of the text before the root."""
    theirs = transformers_head(model, **options)
    theirs.save_pretrained(tmp_path)
    text = random_ids(length, 3)
    with torch.no_grad():
        out = model(torch.tensor([text]), output_hidden_states=True, return_shared_kv_states=True)
        wanted, state = [], out.hidden_states[-1][:, -1:]
        for token_id in (ROOT, CHILD):
            embeds = model.get_input_embeddings()(torch.tensor([[token_id]]))
            given = theirs(
                inputs_embeds=torch.cat((embeds, state), dim=-1),
                position_ids=torch.tensor([[length]]),
                shared_kv_states=dict(out.shared_kv_states),
            )
            state = given.last_hidden_state
            wanted.append((given.logits[0], state[0]))
    target = Target(model, 256, 64)
    sight = MtpSight(make_mtp_head(read_checkpoint(tmp_path, "head"), target.device, target.dtype), target)
    state = read(target, text, sight)
    for token_id, (logits, next_state) in zip((ROOT, CHILD), wanted, strict=True):
        found, state = sight.run(torch.tensor([token_id]), state, length)
        torch.testing.assert_close(state, next_state, atol=2e-4, rtol=1e-4)
        seen = found.isfinite()
        assert int(seen.sum()) == (4 * 13 if options else 260)
        torch.testing.assert_close(found[seen], logits[seen], atol=2e-4, rtol=1e-4)
        assert bool((logits[~seen] < found[seen].min()).all())  # where it fills them with what is least


def test_rows_of_a_level_do_not_see_one_another(model: PreTrainedModel) -> None:
    target = Target(model, 256, 64)
    sight = MtpSight(mtp_head(model), target)
    state = read(target, random_ids(60, 3), sight)
    tokens = torch.tensor([4, 9, 30])
    together, states = sight.run(tokens, state.expand(3, -1), 60)
    for row, token in enumerate(tokens):
        alone, next_state = sight.run(token[None], state, 60)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states[row : row + 1], next_state, atol=1e-4, rtol=1e-4)


def test_a_layer_with_a_window_sees_no_more(model: PreTrainedModel) -> None:
    """The rows that it sees decide, and those before them do not; a layer without a window sees all."""
    target, length = Target(model, 256, 64), 170
    sight = MtpSight(mtp_head(model), target)
    state = read(target, random_ids(length, 3), sight)
    (windowed, full), root = sight.sources, torch.tensor([ROOT])
    assert windowed.window == 41
    for layer, row, is_seen in (
        (windowed.layer, length - 42, False),
        (windowed.layer, length - 41, True),
        (full.layer, 0, True),
        (full.layer, length - 1, True),
        (full.layer, length, False),
    ):
        before, _ = sight.run(root, state, length)
        target.memory(layer)[1][:, :, row] += 5
        after, _ = sight.run(root, state, length)
        assert torch.allclose(before, after, atol=1e-6) != is_seen


def test_joined_products_and_norms_give_the_same(model: PreTrainedModel) -> None:
    target = Target(model, 256, 64)
    plain, joined = (MtpSight(mtp_head(model).requires_grad_(False), target) for _ in range(2))
    join_products(joined.head)
    state = read(target, random_ids(60, 3), plain)
    for found, wanted in zip(*(one.run(torch.tensor([4]), state, 60) for one in (joined, plain)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def pair(
    shape: str, tree: TreeConfig, **clusters: int
) -> tuple[tuple[Target, MtpDrafter], tuple[Target, MtpDrafter], Traced]:
    """A head that drafts level by level, and one whose drafts are captured; in float64, where no tie is near."""
    made = []
    for _ in range(2):
        double = tiny_lm(shape).double()
        target = Target(double, 400, 64)
        made.append((target, MtpDrafter(MtpSight(mtp_head(double, **clusters), target), tree)))
    capture = Traced()
    made[1][1].capture(WholeDrafts(tree, Captures(capture, 1 << 30)))
    return made[0], made[1], capture


@pytest.mark.parametrize(
    ("shape", "tree", "sampling", "clusters"),
    [
        ("gemma4", EAGLE, GREEDY, {}),
        ("gemma4", EAGLE, DRAWN, {"num_clusters": 20, "num_open": 4}),
        ("gemma4", OPT, DRAWN, {}),
        ("gemma4", CHAIN, GREEDY, {}),
        ("olmo3", BEAM, GREEDY, {}),
        ("llama", EAGLE, DRAWN, {}),
    ],
)
def test_captured_drafts_are_the_same(
    monkeypatch: pytest.MonkeyPatch, shape: str, tree: TreeConfig, sampling: SamplingParams, clusters: dict[str, int]
) -> None:
    """Behind a text that grows beyond the window, with trees of every form."""
    monkeypatch.setattr(runner_module, "pick", lambda device, dtype: Pick(ReferenceBackend(), "for tests"))
    *pairs, capture = pair(shape, tree, **clusters)
    text, found = random_ids(110, 4), []
    for target, own in pairs:
        session = own.begin(sampling)
        steps: Steps = lambda start, end, target=target, session=session: target.prefill(text[start:end], session.taps)  # noqa: E731
        found.append(drive(session, text, steps))
    assert_same(found[1], found[0])
    assert len(found[0]) > 20
    assert capture.num_captures >= 1
    assert capture.num_replays > 8


def test_on_a_cpu_drafts_are_not_captured(model: PreTrainedModel) -> None:
    own = MtpDrafter(MtpSight(mtp_head(model), Target(model, 64, 64)), OPT, graph_bytes=1 << 30)
    assert own.whole is None
    assert own.sight.why_not_whole == "there are no graphs on a device of type 'cpu'"


# --- files and sizes --------------------------------------------------------------------------------------------------


def test_a_saved_head_is_the_head(model: PreTrainedModel, tmp_path: Path) -> None:
    for name, clusters in (("plain", {}), ("clusters", {"num_clusters": 20, "num_open": 4})):
        head = mtp_head(model, **clusters)
        made = make_mtp_head(read_checkpoint(save_mtp(head, tmp_path / name), name), torch.device("cpu"), torch.float32)
        assert made.config == head.config
        assert all(torch.equal(tensor, made.state_dict()[key]) for key, tensor in head.state_dict().items())


def test_an_output_layer_stored_by_its_own_name_is_found(model: PreTrainedModel, tmp_path: Path) -> None:
    head = mtp_head(model)
    tensors = mtp_tensors(head)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    folder = write_mtp(tmp_path, tensors, mtp_fields(head.config))
    made = make_mtp_head(read_checkpoint(folder, "head"), torch.device("cpu"), torch.float32)
    assert torch.equal(made.embed_tokens.weight, head.embed_tokens.weight)


Change = Callable[[dict[str, Tensor], dict[str, object]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, fields: tensors.pop("post_projection.weight"), "it lacks post_projection.weight"),
        (lambda tensors, fields: tensors.update({"model.extra": torch.ones(1)}), "it also holds extra"),
        (lambda tensors, fields: fields.update(backbone_hidden_size=48), "has the shape"),
        (lambda tensors, fields: fields.pop("text_config"), "no layer_types of sliding and full attention"),
        (lambda tensors, fields: fields["text_config"].update(layer_types=["recurrent"] * 2), "no layer_types"),
        (lambda tensors, fields: fields["text_config"].update(layer_types=["full_attention"]), "2 layers and 1 kinds"),
        (lambda tensors, fields: fields["text_config"].update(hidden_activation="silu"), "hidden_activation = silu"),
        (lambda tensors, fields: fields.update(use_ordered_embeddings=True, num_centroids=7), "do not share 260"),
        (lambda tensors, fields: fields["text_config"].update(sliding_window=0), "sliding_window"),
        (lambda tensors, fields: fields["text_config"].update(hidden_size=math.nan), "hidden_size"),
        (lambda tensors, fields: fields["text_config"].update(hidden_size=math.inf), "hidden_size"),
        (lambda tensors, fields: tensors.update({"model.norm.weight": torch.ones(1, 32)}), "norm.weight has the shape"),
        (
            lambda tensors, fields: tensors.update({"model.layers.0.self_attn.q_norm.weight": torch.tensor(1.0)}),
            "has the shape",
        ),
    ],
)
def test_files_that_are_no_such_head_are_refused(
    model: PreTrainedModel, tmp_path: Path, change: Change, words: str
) -> None:
    head = mtp_head(model)
    tensors, fields = mtp_tensors(head), mtp_fields(head.config)
    change(tensors, fields)
    with pytest.raises(ModelError, match=words):
        make_mtp_head(read_checkpoint(write_mtp(tmp_path, tensors, fields), "h"), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("order", "fields", "words"),
    [
        (torch.arange(260) + 1, {}, "do not hold every token once"),
        (torch.zeros(260, dtype=torch.int64), {}, "do not hold every token once"),
        (torch.arange(260), {"centroid_intermediate_top_k": 21}, "is to look at 21 of 20 clusters"),
    ],
)
def test_clusters_that_are_none_are_refused(
    model: PreTrainedModel, tmp_path: Path, order: Tensor, fields: dict[str, int], words: str
) -> None:
    """Before an index beyond the vocabulary breaks a GPU's context."""
    head = mtp_head(model, num_clusters=20, num_open=4)
    tensors = {**mtp_tensors(head), "masked_embedding.token_ordering": order}
    folder = write_mtp(tmp_path, tensors, {**mtp_fields(head.config), **fields})
    with pytest.raises(ModelError, match=words):
        make_mtp_head(read_checkpoint(folder, "h"), torch.device("cpu"), torch.float32)


def test_a_configuration_may_say_less(model: PreTrainedModel, tmp_path: Path) -> None:
    """Sizes of heads are those of the tensors, and null is nothing."""
    head = mtp_head(model)
    fields = mtp_fields(head.config)
    text = {**fields["text_config"], "hidden_size_per_layer_input": None}  # type: ignore[dict-item]
    del text["head_dim"], text["global_head_dim"]
    folder = write_mtp(tmp_path, mtp_tensors(head), {**fields, "text_config": text})
    made = make_mtp_head(read_checkpoint(folder, "h"), torch.device("cpu"), torch.float32)
    assert made.config == head.config


def test_a_head_where_a_language_model_should_be_is_named(model: PreTrainedModel, tmp_path: Path) -> None:
    save_pair(tmp_path, model, perturbed(model, 0.1))
    save_mtp(mtp_head(model), tmp_path / "draft")
    preset = pair_preset(tmp_path, "lm")
    with pytest.raises(UnsupportedModel, match=r'is a draft head, no language model.*draft.kind = "mtp"'):
        load_engine(preset, device="cpu")
    (tmp_path / "draft" / "config.json").write_text('{"model_type": "gemma4_text", "num_hidden_layers": "two"}')
    with pytest.raises(UnsupportedModel, match="transformers cannot load"):
        load_engine(preset, device="cpu")


@pytest.mark.parametrize(
    ("shape", "changes", "words"),
    [
        ("gemma4", {"num_heads": 3}, "query heads, which key heads share evenly, in a number of 3, and .* one of 4"),
        ("llama", {}, "a layer with sliding attention, and LlamaForCausalLM .* has none"),
        ("gemma4", {"state_size": 48}, "states of the size of 48, and .* one of 64"),
        ("olmo3", {}, "a head size of 32, and .* one of 16"),
    ],
)
def test_a_head_for_another_target_is_refused(
    model: PreTrainedModel, shape: str, changes: dict[str, int], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        MtpSight(mtp_head(model, **changes), Target(tiny_lm(shape), 64, 64))


def test_what_transformers_saved_needs_what_it_takes(model: PreTrainedModel, tmp_path: Path) -> None:
    """Its configuration names the layers whose heads differ."""
    save_pair(tmp_path, model, perturbed(model, 0.1))
    theirs = transformers_head(model)
    theirs.save_pretrained(tmp_path / "mtp")
    matrices = sum(weight.nbytes for weight in theirs.parameters() if weight.dim() == 2)
    assert mtp_need(pair_preset(tmp_path, "mtp"), "cpu").weights == matrices


def test_what_it_needs_is_what_it_takes(model: PreTrainedModel, tmp_path: Path) -> None:
    save_pair(tmp_path, model, perturbed(model, 0.1))
    for clusters in ({}, {"num_clusters": 20, "num_open": 4}):
        head = mtp_head(model, **clusters)
        save_mtp(head, tmp_path / "mtp")
        need = mtp_need(pair_preset(tmp_path, "mtp"), "cpu")
        matrices = sum(weight.nbytes for weight in head.parameters() if weight.dim() == 2)
        assert need.weights == matrices
        assert need.cache == need.activations == 0


@pytest.mark.parametrize("make", [with_pictures, without_parts])
def test_a_target_that_sees_pictures_too(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    """Gemma 4's checkpoints take pictures and sound; the text model in them is what is drafted for."""
    whole = make()
    whole.save_pretrained(tmp_path / "target")
    byte_tokenizer().save_pretrained(tmp_path / "target")
    save_mtp(mtp_head(whole), tmp_path / "mtp")
    engine = load_engine(pair_preset(tmp_path, "mtp"), device="cpu", adaptive=False)
    prompt = random_ids(50, 2)
    token_ids, metrics, _ = ask(engine, prompt, num_new=24)
    ids = torch.tensor([prompt])
    out = whole.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None
    )
    assert token_ids == tuple(out[0, 50:].tolist())
    assert metrics.num_draft_tokens > 24
    names = [name for name, _ in engine.target.model.named_parameters()]
    assert any("language_model" in name for name in names)
    assert not any("vision" in name or "audio" in name for name in names)  # documents are text
    use, need = engine.memory, model_need(pair_preset(tmp_path, "mtp"), ModelRef("target", dtype="float32"), "cpu")
    copied = engine.target.model.get_input_embeddings().weight.nbytes  # small tied output layers get a copy on a CPU
    assert use.weights == pytest.approx(need.weights + copied, rel=0.02)
