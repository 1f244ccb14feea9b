"""EAGLE heads: the network against a plain reference, cached rows, tree levels, views, whole answers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.config import RetrievalConfig, TreeConfig
from spec_engine.drafters.eagle_files import read_head
from spec_engine.drafters.eagle_head import EagleHead
from spec_engine.engine import Request, StopRules
from spec_engine.errors import PresetError
from spec_engine.events import Finished
from spec_engine.loading import load_engine
from spec_engine.model.target import Step
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.eagle_heads import (
    HIDDEN,
    Fields,
    eagle3_weights,
    features_of,
    head_fields,
    save_trained_head,
    spelled,
    write_head,
)
from tests.eagle_reference import (
    CHAIN,
    EAGLE,
    OFF,
    OPT,
    Reference,
    assert_scores,
    begin,
    drafter,
    layers_of,
    weights_of,
)
from tests.fakes import pair_preset, save_pair, tiny_lm
from tests.tiny_models import random_ids

BEAM = TreeConfig(policy="beam", num_nodes=15, beam_widths=(3, 4, 4, 4))
VIEW = RetrievalConfig(chunk_size=8, top_k=4, num_sink=8, num_recent=16, prefill_window=48)


@pytest.fixture(scope="module")
def target() -> PreTrainedModel:
    return tiny_lm("llama")


@pytest.mark.parametrize("kind", ["eagle3", "eagle1"])
def test_whole_rows_are_those_of_the_reference(tmp_path: Path, target: PreTrainedModel, kind: str) -> None:
    """Also far beyond the trained 2,048 positions; and a gradient reaches every weight."""
    weights = weights_of(kind, target)
    files = read_head(write_head(tmp_path, weights, head_fields()), "head")
    head = EagleHead(files.config)
    head.load_state_dict(files.weights)
    reference = Reference(weights, target)
    text = random_ids(20)
    features = features_of(target, text, layers_of(kind, target))
    embedded = target.get_input_embeddings().weight.detach()[list(text[1:])]
    for first in (0, 5000):
        rows = head.combine(features[:-1])
        states = head(embedded[None], rows[None], torch.arange(first, first + 19))
        want = reference.states(text[1:], reference.combined(features[:-1]), range(first, first + 19))
        torch.testing.assert_close(states[0].double(), want, atol=1e-3, rtol=1e-3)
        logits = head.logits(states[0], target.get_output_embeddings()).log_softmax(-1)
        torch.testing.assert_close(logits.double(), reference.log_probs(want), atol=2e-3, rtol=1e-3)
    pair = head(embedded.expand(2, -1, -1), rows.expand(2, -1, -1), torch.arange(19))
    assert torch.allclose(pair[0], pair[1])
    head.logits(pair, target.get_output_embeddings()).logsumexp(-1).sum().backward()
    parameters = {name: value for name, value in head.named_parameters() if name != "embed_tokens.weight"}
    assert all(value.grad is not None and bool(value.grad.any()) for value in parameters.values())


@pytest.mark.parametrize("kind", ["eagle3", "eagle1"])
@pytest.mark.parametrize("tree", [OPT, EAGLE, CHAIN, BEAM], ids=lambda tree: tree.policy)
def test_scores_are_those_of_the_reference(
    tmp_path: Path, target: PreTrainedModel, kind: str, tree: TreeConfig
) -> None:
    """Cached rows, tree levels, and rows made anew once drafts were accepted."""
    weights = weights_of(kind, target)
    own = drafter(write_head(tmp_path, weights, head_fields()), tiny_lm("llama"), tree)
    reference, text = Reference(weights, target), random_ids(24)
    layers = layers_of(kind, target)
    session = begin(own, text[:20], features_of(target, text[:20], layers))
    assert session.taps.features == layers
    drafted = session.propose(text[20], 100)
    assert drafted.depth > 1
    assert_scores(drafted, reference, text[:20], features_of(target, text[:20], layers))
    session.observe(Step(text[20:23], 23, features=features_of(target, text[:23], layers)[20:]))
    assert_scores(session.propose(text[23], 100), reference, text[:23], features_of(target, text[:23], layers))


@pytest.mark.parametrize(
    ("fields", "theta"),
    [({}, 10000.0), ({"rope_theta": 500000}, 500000.0), ({"rope_parameters": {"rope_theta": 7e4}}, 7e4)],
    ids=["default", "rope_theta", "rope_parameters"],
)
def test_theta_is_the_heads_own(tmp_path: Path, target: PreTrainedModel, fields: Fields, theta: float) -> None:
    weights, text = eagle3_weights(), random_ids(30)
    session = begin(
        drafter(write_head(tmp_path, weights, head_fields(**fields)), tiny_lm("llama-llama3"), CHAIN),
        text,
        features := features_of(target, text, (2, 1, 0)),
    )
    assert_scores(session.propose(5, 4), Reference(weights, target, theta), text, features)


def test_scaled_rows_are_those_of_the_reference(tmp_path: Path, target: PreTrainedModel) -> None:
    yarn = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 2048}
    weights, text = eagle3_weights(), random_ids(30)
    folder = write_head(tmp_path, weights, head_fields(rope_scaling=yarn, max_position_embeddings=65536))
    reference, rope = Reference(weights, target), read_head(folder, "head").config.rope
    reference.inv_freq, reference.scale = torch.tensor(rope.inv_freq).double(), rope.scale
    features = features_of(target, text, (2, 1, 0))
    assert_scores(begin(drafter(folder, target, CHAIN), text, features).propose(5, 4), reference, text, features)


def test_reading_is_windowed(tmp_path: Path, target: PreTrainedModel) -> None:
    """Keys of a second layer tell what the first one saw: no more than the window, whatever the chunks."""
    weights = spelled(eagle3_weights(), "midlayer.", "layers.0.")
    second = {name.replace("layers.0.", "layers.1."): 1.1 * value for name, value in weights.items() if "0." in name}
    del second["layers.1.hidden_norm.weight"]
    for name in ("q", "k", "v"):
        second[f"layers.1.self_attn.{name}_proj.weight"] = second[f"layers.1.self_attn.{name}_proj.weight"][:, :HIDDEN]
    folder = write_head(tmp_path, {**weights, **second}, head_fields())
    text = random_ids(120)
    features = features_of(target, text, (2, 1, 0))
    scores = {}
    for window, chunk in ((500, 120), (120, 7), (20, 120), (20, 7)):
        own = drafter(folder, target, CHAIN, replace(VIEW, prefill_window=window, top_k=40))
        session = own.begin(SamplingParams())
        for start in range(0, 120, chunk):
            part = text[start : start + chunk]
            session.observe(Step(part, start + len(part), features=features[start : start + chunk], is_prompt=True))
        session.focus(Focus((), torch.arange(120), 8))
        scores[window, chunk] = session.propose(9, 1).log_q[1]
    assert scores[500, 120] == pytest.approx(scores[120, 7], abs=1e-4)
    assert scores[20, 120] == pytest.approx(scores[20, 7], abs=1e-4)
    assert abs(scores[20, 7] - scores[120, 7]) > 1e-3


def test_positions_go_on_beyond_the_trained_length(tmp_path: Path, target: PreTrainedModel) -> None:
    """A head trained on 16 positions, 60 tokens: drafts are those of the reference, so no table ended."""
    weights, text = eagle3_weights(), random_ids(60)
    folder = write_head(tmp_path, weights, head_fields(max_position_embeddings=16))
    features = features_of(target, text, (2, 1, 0))
    session = begin(drafter(folder, tiny_lm("llama"), EAGLE), text, features)
    assert_scores(session.propose(9, 6), Reference(weights, target), text, features)


def test_a_view_equals_the_text_of_its_rows(tmp_path: Path, target: PreTrainedModel) -> None:
    """A row's keys depend on its token and feature alone, so a focused head acts as if it had read nothing but the rows
    in view; the tree stands at the positions behind the root."""
    weights, text = eagle3_weights(), (*random_ids(300), 9, 3, 7)
    own = drafter(write_head(tmp_path, weights, head_fields()), tiny_lm("llama"), EAGLE, VIEW)
    features, reference = features_of(target, text, (2, 1, 0)), Reference(weights, target)

    def check(tree: DraftTree, seen: list[int]) -> None:
        """`seen` are the rows in view, the last one the root's."""
        tokens = [text[row + 1] for row in seen]
        assert tree.depth > 1
        assert_scores(tree, reference, [0, *tokens[:-1]], features[seen])

    session = begin(own, text[:300], features[:300])
    chosen = [*range(8), *range(104, 120), *range(284, 300)]
    session.focus(Focus((), torch.tensor(chosen), 8))
    check(session.propose(9, 12), chosen)
    session.observe(Step((9, 3), 302, features=features[300:302]))
    check(session.propose(7, 12), [*chosen, 300, 301])
    other = [*range(8), *range(200, 208), *range(288, 302)]
    session.focus(Focus((), torch.tensor(other), 8))
    check(session.propose(7, 12), other)


def test_before_a_focus_the_view_is_sink_and_recent(tmp_path: Path, target: PreTrainedModel) -> None:
    """The first `num_sink` rows and the newest; reading is windowed, but one layer's keys do not depend on it."""
    weights, text = eagle3_weights(), random_ids(200)
    own = drafter(write_head(tmp_path, weights, head_fields()), tiny_lm("llama"), EAGLE, VIEW)
    features = features_of(target, text, (2, 1, 0))
    session = own.begin(SamplingParams())
    for start in range(0, 200, 60):
        part = text[start : start + 60]
        session.observe(Step(part, start + len(part), features=features[start : start + 60], is_prompt=True))
    tree = session.propose(5, 12)
    num_recent = VIEW.top_k * VIEW.chunk_size + VIEW.num_recent
    seen = [*range(VIEW.num_sink), *range(199 - num_recent, 200)]
    tokens = [(*text, 5)[row + 1] for row in seen]
    assert_scores(tree, Reference(weights, target), [0, *tokens[:-1]], features[seen])


@pytest.mark.parametrize("retrieval", [OFF, VIEW], ids=["whole", "view"])
def test_a_prompt_is_read_as_it_comes(tmp_path: Path, target: PreTrainedModel, retrieval: RetrievalConfig) -> None:
    """Nothing of it is left for the first proposal, whose seconds belong to the answer."""
    text = random_ids(120)
    features = features_of(target, text, (2, 1, 0))
    own = drafter(write_head(tmp_path, eagle3_weights(), head_fields()), target, OPT, retrieval)
    own.begin(SamplingParams()).observe(Step(text, 120, features=features, is_prompt=True))
    assert own._memory.cache.full.length == 119, "a row for each token but the first"


def test_a_view_beyond_the_trained_range_is_refused(tmp_path: Path, target: PreTrainedModel) -> None:
    folder = write_head(tmp_path, eagle3_weights(), head_fields(max_position_embeddings=64))
    with pytest.raises(PresetError, match="trained on 64 tokens"):
        drafter(folder, target, OPT, VIEW)


def test_what_can_be_gone_on_from(tmp_path: Path, target: PreTrainedModel) -> None:
    """All but one token of what was observed; with retrieval all but one of the prompt."""
    text, answer = random_ids(100), random_ids(6, seed=1)
    whole = (*text, *answer)
    features = features_of(target, (*whole, 5), (2, 1, 0))
    folder = write_head(tmp_path, eagle3_weights(), head_fields())
    for retrieval, want in ((OFF, 105), (VIEW, 99)):
        own = drafter(folder, tiny_lm("llama"), OPT, retrieval)
        session = begin(own, text, features[:100])
        session.propose(answer[0], 8)
        session.focus(Focus((0,), torch.arange(100), 8))
        session.observe(Step(answer, 106, features=features[100:106]))
        session.propose(5, 8)
        later = own.begin(SamplingParams())
        assert later.reusable((*whole, 7, 8)) == want
        assert later.reusable(text[:40]) == 39
        assert later.reusable((1, *text)) == 0
        assert later.reusable(()) == 0
        list(later.reuse(whole[:want]))
        later.observe(Step(whole[want:], 106, features=features[want:106]))
        straight = begin(drafter(folder, tiny_lm("llama"), OPT, retrieval), whole, features[:106])
        left, right = later.propose(5, 8), straight.propose(5, 8)
        assert left.token_ids == right.token_ids
        assert left.log_q == pytest.approx(right.log_q, abs=1e-4)


def greedy(model: PreTrainedModel, prompt: tuple[int, ...], num_new: int) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=num_new, do_sample=False, eos_token_id=None)
    return tuple(out[0].tolist())


@pytest.mark.parametrize("retrieval", [OFF, VIEW], ids=["whole", "retrieval"])
@pytest.mark.parametrize("tree", [EAGLE, CHAIN], ids=lambda tree: tree.policy)
def test_a_head_that_knows_the_answer_makes_it_in_fewer_steps(
    tmp_path: Path, retrieval: RetrievalConfig, tree: TreeConfig
) -> None:
    """From the preset's folder to the finished text; and the next turn reads little of the first again."""
    model = tiny_lm("llama")
    save_pair(tmp_path, model, model)
    prompt = random_ids(40, seed=7)
    text = greedy(tiny_lm("llama"), prompt, 40)
    save_trained_head(tmp_path / "eagle", model, [text])
    engine = load_engine(pair_preset(tmp_path, "eagle3", tree=tree, retrieval=retrieval), device="cpu", adaptive=False)
    *_, last = engine.generate(Request(prompt, SamplingParams(), StopRules(40)))
    assert isinstance(last, Finished)
    assert last.token_ids == text[40:]
    assert last.metrics.mean_acceptance_length > 2
    *_, last = engine.generate(Request((*text, 3, 4), SamplingParams(), StopRules(8)))
    assert isinstance(last, Finished)
    assert last.token_ids == greedy(tiny_lm("llama"), (*text, 3, 4), 8)[82:]
    assert last.metrics.num_reused_tokens >= (38 if retrieval.enabled else 70)
