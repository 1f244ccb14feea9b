"""Files of EAGLE heads: every published format, what does not fit its target, memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.config import ModelRef
from spec_engine.drafters import draft_need
from spec_engine.drafters.eagle_files import read_head
from spec_engine.drafters.eagle_fit import fit_head
from spec_engine.drafters.eagle_head import EagleHead, Rope
from spec_engine.errors import ModelError, ModelNotFound, UnsupportedModel, VocabularyMismatch
from spec_engine.model.target import Step, Target
from spec_engine.sampling import SamplingParams
from tests.eagle_heads import (
    HIDDEN,
    Fields,
    Weights,
    eagle1_weights,
    eagle3_weights,
    features_of,
    head_fields,
    spelled,
    write_head,
)
from tests.eagle_reference import CHAIN, EAGLE, Reference, assert_scores, begin, drafter, layers_of
from tests.fakes import pair_preset, save_pair, tiny_lm
from tests.tiny_models import random_ids, tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def target() -> PreTrainedModel:
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def deep() -> PreTrainedModel:
    """Eight layers, so that an early, a middle and a late one differ."""
    return tiny_model("llama", vocab_size=260, num_hidden_layers=8)


def test_scaled_frequencies_are_those_of_transformers(tmp_path: Path) -> None:
    fields = head_fields(rope_theta=1e4, rope_scaling={"type": "linear", "factor": 4.0})
    plain = read_head(write_head(tmp_path / "a", eagle3_weights(), head_fields()), "a").config.rope
    linear = read_head(write_head(tmp_path / "b", eagle3_weights(), fields), "b").config.rope
    assert plain.inv_freq == pytest.approx(Rope.plain(16).inv_freq)
    assert linear.inv_freq == pytest.approx([value / 4 for value in plain.inv_freq])
    yarn = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 2048}
    scaled = read_head(write_head(tmp_path / "c", eagle3_weights(), head_fields(rope_scaling=yarn)), "c").config.rope
    assert scaled.scale == pytest.approx(0.1 * torch.tensor(32.0).log().item() + 1)
    llama3 = read_head(write_head(tmp_path / "d", eagle3_weights(), head_fields(rope_scaling=LLAMA3)), "d").config.rope
    assert llama3.inv_freq[0] == plain.inv_freq[0]
    assert llama3.inv_freq[-1] == pytest.approx(plain.inv_freq[-1] / 8)
    for kind in ("dynamic", "longrope"):
        scaling = {"rope_type": kind, "factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
        with pytest.raises(UnsupportedModel, match=kind):
            read_head(write_head(tmp_path / kind, eagle3_weights(), head_fields(rope_scaling=scaling)), kind)


SPELLINGS: dict[str, tuple[Callable[[Weights], Weights], Fields, str]] = {
    "official": (dict, {}, "pytorch_model.bin"),
    "official, float16": (
        lambda weights: {name: weight.half() for name, weight in weights.items()},
        {"torch_dtype": "float16"},
        "pytorch_model.bin",
    ),
    "safetensors": (dict, {"architectures": ["LlamaForCausalLMEagle3"]}, "model.safetensors"),
    "model.": (lambda weights: spelled(weights, "-", "-", "model."), {}, "model.safetensors"),
    "layers.0.": (lambda weights: spelled(weights, "midlayer.", "layers.0."), {}, "model.safetensors"),
    "model.layers.0.": (lambda weights: spelled(weights, "midlayer.", "layers.0.", "model."), {}, "model.safetensors"),
    "head_dim": (dict, {"head_dim": 16}, "model.safetensors"),
    "no draft_vocab_size": (dict, {"draft_vocab_size": None}, "model.safetensors"),
    "target_hidden_size": (dict, {"target_hidden_size": HIDDEN}, "model.safetensors"),
    "nested": (
        dict,
        {
            "hidden_size": None,
            "num_attention_heads": None,
            "transformer_layer_config": {"hidden_size": HIDDEN, "num_attention_heads": 4, "model_type": "llama"},
            "speculators_model_type": "eagle3",
        },
        "model.safetensors",
    ),
    "attention_bias false": (dict, {"attention_bias": False, "tie_word_embeddings": False}, "model.safetensors"),
    "other direction": (
        lambda weights: {**weights, "t2d": torch.ones(260, dtype=torch.bool)},
        {},
        "pytorch_model.bin",
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_head(tmp_path: Path, target: PreTrainedModel, spelling: str) -> None:
    rewrite, fields, file = SPELLINGS[spelling]
    folder = write_head(tmp_path, rewrite(eagle3_weights()), head_fields(**fields), file)
    text = random_ids(12)
    features = features_of(target, text, (2, 1, 0))
    tree = begin(drafter(folder, tiny_lm("llama"), EAGLE), text, features).propose(9, 8)
    if "16" not in spelling:
        assert_scores(tree, Reference(eagle3_weights(), target), text, features)
    assert tree.depth > 1


def test_a_part_of_the_vocabulary_is_mapped_by_offsets(tmp_path: Path, target: PreTrainedModel) -> None:
    known = torch.tensor(random_ids(60, seed=3, vocab_size=250)).unique()
    weights, offsets = eagle3_weights(len(known)), known - torch.arange(len(known))
    columns = {token: column for column, token in enumerate(known.tolist())}
    text = random_ids(12)
    features = features_of(target, text, (2, 1, 0))
    for name in ("d2t", "draft_id_to_target_id"):
        fields = head_fields(draft_vocab_size=len(known))
        own = drafter(write_head(tmp_path / name, {**weights, name: offsets}, fields), tiny_lm("llama"), EAGLE)
        tree = begin(own, text, features).propose(9, 16)
        assert own.vocab_size == int(known.max()) + 1
        assert set(tree.token_ids[1:]) <= set(known.tolist())
        assert tree.depth > 1
        assert_scores(tree, Reference(weights, target, columns=columns), text, features)


def test_noise_is_that_of_the_mapped_tokens(tmp_path: Path, target: PreTrainedModel) -> None:
    """A sampled draft ranks a token by the noise of its own id, wherever its column is."""
    known = torch.arange(0, 260, 2)
    weights = eagle3_weights()
    columns = 3 * weights.pop("lm_head.weight")
    columns[1::2] = 0.0  # the odd tokens are never likely, so a head without them is the same
    part = {**weights, "lm_head.weight": columns[known], "d2t": known - torch.arange(130)}
    text = random_ids(12)
    features = features_of(target, text, (2, 1, 0))
    trees = []
    for name, each in (("part", part), ("all", {**weights, "lm_head.weight": columns})):
        own = drafter(write_head(tmp_path / name, each, head_fields()), tiny_lm("llama"), CHAIN)
        session = own.begin(SamplingParams(temperature=3.0, top_k=5, seed=3))
        session.observe(Step(text, 12, features=features))
        trees.append(session.propose(9, 4).token_ids)
    assert trees[0] == trees[1]


def test_biases_are_those_in_the_file(tmp_path: Path, target: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(5)
    three = eagle3_weights()
    for name in ("q", "k", "v"):
        size = len(three[f"midlayer.self_attn.{name}_proj.weight"])
        three[f"midlayer.self_attn.{name}_proj.bias"] = torch.randn(size, generator=generator)
    one = eagle1_weights(target, bias=False)
    cases = {"eagle3": (three, {"attention_bias": True}), "eagle1": (one, {"bias": False})}
    text = random_ids(12)
    for kind, (weights, fields) in cases.items():
        features = features_of(target, text, layers_of(kind, target))
        own = drafter(write_head(tmp_path / kind, weights, head_fields(**fields)), tiny_lm("llama"), CHAIN)
        assert_scores(begin(own, text, features).propose(9, 4), Reference(weights, target), text, features)


def test_the_residual_may_be_the_normalised_feature(tmp_path: Path, target: PreTrainedModel) -> None:
    """norm_before_residual: with attention and the middle silenced the state is the normed feature itself."""
    weights = eagle3_weights()
    weights["midlayer.self_attn.o_proj.weight"].zero_()
    weights["midlayer.mlp.down_proj.weight"].zero_()
    feature = torch.randn(1, 1, HIDDEN, generator=torch.Generator().manual_seed(0))
    for flag in (False, True):
        files = read_head(write_head(tmp_path, weights, head_fields(norm_before_residual=flag)), "head")
        head = EagleHead(files.config)
        head.load_state_dict(files.weights)
        states = head(torch.zeros(1, 1, HIDDEN), feature, torch.zeros(1))
        normed = Reference(weights, target).norm("layers.0.hidden_norm", feature.double()).float()
        assert torch.allclose(states, normed if flag else feature, atol=1e-5)


def test_embeddings_are_shared_only_where_they_are_equal(tmp_path: Path, target: PreTrainedModel) -> None:
    embedding = target.get_input_embeddings().weight.detach()
    own = torch.randn(260, HIDDEN, generator=torch.Generator().manual_seed(1))
    for name, weight in (("copy", embedding), ("own", own)):
        weights = {**eagle3_weights(), "embed_tokens.weight": weight}
        fitted = fit_head(read_head(write_head(tmp_path / name, weights, head_fields()), name), Target(target, 64, 64))
        assert torch.equal(fitted.embedding, weight)
        assert (fitted.embedding.data_ptr() == embedding.data_ptr()) == (name == "copy")


def test_the_output_layer_may_be_shared_or_tied(tmp_path: Path, target: PreTrainedModel) -> None:
    own = torch.randn(260, HIDDEN, generator=torch.Generator().manual_seed(1))
    bare = eagle3_weights()
    del bare["lm_head.weight"]
    states = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(2))
    tied = {**bare, "embed_tokens.weight": own}
    cases = {"shared": (bare, False, target.get_output_embeddings().weight), "tied": (tied, True, own)}
    for name, (weights, is_tied, output) in cases.items():
        fields = head_fields(tie_word_embeddings=is_tied)
        fitted = fit_head(read_head(write_head(tmp_path / name, weights, fields), name), Target(target, 64, 64))
        want = Reference({**bare, "lm_head.weight": output.detach()}, target).log_probs(states.double())
        logits = fitted.head.logits(states, fitted.output)
        torch.testing.assert_close(logits.log_softmax(-1).double(), want, atol=1e-3, rtol=1e-3)


def test_a_head_may_read_the_final_states_alone(tmp_path: Path, target: PreTrainedModel) -> None:
    weights = eagle3_weights()
    del weights["fc.weight"]
    fields = head_fields(eagle_config={"use_aux_hidden_state": False})
    own = drafter(write_head(tmp_path, weights, fields), tiny_lm("llama"), CHAIN)
    text = random_ids(12)
    session = begin(own, text, features := features_of(target, text, (3,)))
    assert session.taps.features == (3,)
    reference = Reference({**weights, "fc.weight": torch.eye(HIDDEN)}, target)
    assert_scores(session.propose(9, 4), reference, text, features)


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({}, (2, 4, 5)),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 3, 6], "use_aux_hidden_state": True}}, (1, 4, 7)),
        ({"eagle_aux_hidden_state_layer_ids": [1, 4, 7]}, (1, 4, 7)),
    ],
    ids=["usual", "outputs", "inputs"],
)
def test_layers_are_the_usual_or_the_configured_ones(
    tmp_path: Path, deep: PreTrainedModel, fields: Fields, layers: tuple[int, ...]
) -> None:
    folder = write_head(tmp_path, eagle3_weights(), head_fields(**fields))
    assert drafter(folder, deep).begin(SamplingParams()).taps.features == layers


def test_further_layers_are_plain_ones(tmp_path: Path, target: PreTrainedModel) -> None:
    """A second layer that adds nothing leaves the head as it was."""
    weights = spelled(eagle3_weights(), "midlayer.", "layers.0.")
    second = {
        name.replace("layers.0.", "layers.1."): value.clone() for name, value in weights.items() if "layers.0" in name
    }
    del second["layers.1.hidden_norm.weight"]
    for name in ("q", "k", "v"):
        second[f"layers.1.self_attn.{name}_proj.weight"] = second[f"layers.1.self_attn.{name}_proj.weight"][:, :HIDDEN]
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        second[f"layers.1.{name}.weight"] = torch.zeros_like(second[f"layers.1.{name}.weight"])
    folder = write_head(tmp_path, {**weights, **second}, head_fields(num_hidden_layers=2))
    text = random_ids(12)
    session = begin(drafter(folder, tiny_lm("llama"), CHAIN), text, features := features_of(target, text, (2, 1, 0)))
    assert_scores(session.propose(9, 4), Reference(weights, target), text, features)


# Refusals -----------------------------------------------------------------------------------------------------------


def test_a_head_of_another_target_is_refused_with_both_numbers(tmp_path: Path, deep: PreTrainedModel) -> None:
    d2t = torch.zeros(200, dtype=torch.int64)
    d2t[-1] = 500
    layers = {"eagle_aux_hidden_state_layer_ids": [1, 4, 8]}
    own = torch.zeros(100, HIDDEN)
    cases: list[tuple[Weights, Fields, type[ModelError], str]] = [
        (eagle3_weights(feature_size=3 * 96), {}, UnsupportedModel, r"288 numbers.*size 64, are 192"),
        ({**eagle3_weights(200), "d2t": d2t}, {}, VocabularyMismatch, r"token 699.*has 260"),
        ({**eagle3_weights(200), "d2t": d2t - 9}, {}, VocabularyMismatch, r"token -9.*has 260|token 690"),
        (eagle3_weights(300), {"vocab_size": 300}, VocabularyMismatch, r"300 tokens.*has 260"),
        (eagle3_weights(200), {}, VocabularyMismatch, r"200 of 260.*d2t"),
        ({**eagle3_weights(), "embed_tokens.weight": own}, {}, VocabularyMismatch, r"has 260"),
        (eagle3_weights(), layers, UnsupportedModel, r"layer 8.*8 layers"),
        (eagle3_weights(), {"eagle_config": layers}, UnsupportedModel, r"layer 9.*8 layers"),
    ]
    for number, (weights, fields, error, match) in enumerate(cases):
        files = read_head(write_head(tmp_path / str(number), weights, head_fields(**fields)), "head")
        with pytest.raises(error, match=match):
            fit_head(files, Target(deep, 64, 64))


def test_a_head_narrower_than_what_it_shares_is_refused(tmp_path: Path, target: PreTrainedModel) -> None:
    wide = tiny_model("llama", vocab_size=260, hidden_size=96)
    weights = eagle3_weights(feature_size=3 * 96)
    files = read_head(write_head(tmp_path, weights, head_fields(target_hidden_size=96)), "head")
    with pytest.raises(UnsupportedModel, match=r"hidden size 64.*is 96"):
        fit_head(files, Target(wide, 64, 64))
    own = {**weights, "embed_tokens.weight": torch.zeros(260, HIDDEN)}
    files = read_head(write_head(tmp_path, own, head_fields(target_hidden_size=96)), "head")
    assert fit_head(files, Target(wide, 64, 64)).head.config.feature_size == 288


def test_shallow_targets_have_no_usual_layers(tmp_path: Path) -> None:
    files = read_head(write_head(tmp_path, eagle3_weights(), head_fields()), "head")
    with pytest.raises(UnsupportedModel, match="2 layers"):
        fit_head(files, Target(tiny_model("llama", vocab_size=260, num_hidden_layers=2), 64, 64))


def test_files_that_are_no_head_are_refused(tmp_path: Path) -> None:
    lacking = eagle3_weights()
    del lacking["midlayer.mlp.up_proj.weight"]
    more = {**eagle3_weights(), "midlayer.self_attn.q_norm.weight": torch.ones(16)}
    language_model = {f"model.{name}": weight for name, weight in tiny_lm("llama").model.state_dict().items()}
    cases: list[tuple[Weights, Fields, type[ModelError], str]] = [
        (language_model, {}, UnsupportedModel, r"no EAGLE head"),
        (lacking, {}, UnsupportedModel, r"lacks layers\.0\.mlp\.up_proj"),
        (more, {}, UnsupportedModel, r"holds layers\.0\.self_attn\.q_norm"),
        (eagle3_weights(), {"num_key_value_heads": 4}, UnsupportedModel, r"k_proj.*\(32, 128\).*\(64, 128\)"),
        (eagle3_weights(), {"hidden_act": "gelu"}, UnsupportedModel, "gelu"),
        (eagle3_weights(), {"hidden_size": None}, ModelError, "hidden_size"),
        (eagle3_weights(), {"hidden_size": "64"}, ModelError, "'hidden_size' as a whole number"),
        (eagle3_weights(), {"num_attention_heads": 0}, ModelError, "'num_attention_heads' as a whole number"),
        (eagle3_weights(), {"rms_norm_eps": "1e-5"}, ModelError, "'rms_norm_eps' as a number"),
        (eagle3_weights(), {"eagle_aux_hidden_state_layer_ids": ["a", 1, 2]}, ModelError, "a list of layers"),
        ({**eagle3_weights(), "d2t": torch.zeros(9).long()}, {}, ModelError, r"9 tokens.*260"),
    ]
    for number, (weights, fields, error, match) in enumerate(cases):
        folder = write_head(tmp_path / str(number), weights, head_fields(**fields))
        with pytest.raises(error, match=match):
            read_head(folder, "head")


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write_head(tmp_path, eagle3_weights(), head_fields())
    for file in ("model.safetensors", "pytorch_model.bin"):
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / file).write_bytes(b"no weights")
        with pytest.raises(ModelError, match=r"read|damaged"):
            read_head(folder, "head")
    torch.save({"fc.weight": Path("anything but a tensor")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="damaged"):
        read_head(folder, "head")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelNotFound, match="neither"):
        read_head(folder, "head")
    (folder / "config.json").write_text("[1, 2]", "utf-8")
    with pytest.raises(ModelError, match="no table"):
        read_head(folder, "head")
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        read_head(folder, "head")


def test_its_memory_is_counted(tmp_path: Path, target: PreTrainedModel) -> None:
    """From the configuration alone: the weights that are not the target's, and the cache."""
    save_pair(tmp_path, target, target)
    preset = pair_preset(tmp_path, "eagle3")
    weights = eagle3_weights(200)
    cases: dict[str, tuple[Weights, Fields]] = {
        "eagle3": ({**weights, "d2t": torch.arange(200) // 4}, head_fields(draft_vocab_size=200)),
        "eagle1": (eagle1_weights(target, bias=False), head_fields(draft_vocab_size=None)),
    }
    for kind, (held, fields) in cases.items():
        write_head(tmp_path / kind, held, fields)
        draft = replace(preset.draft, kind="eagle3", model=ModelRef(kind, dtype="float32"))
        need = draft_need(replace(preset, draft=draft), "cpu")
        names = [name for name in held if name not in ("d2t", "embed_tokens.weight")]
        assert need.weights == 4 * sum(held[name].numel() for name in names)
        assert need.cache == 2 * 32 * 4 * preset.context_length
