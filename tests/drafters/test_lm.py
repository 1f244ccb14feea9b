"""The language-model drafter against transformers' own forward of the draft model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_engine.config import RetrievalConfig, TreeConfig
from spec_engine.drafters.base import DrafterContext
from spec_engine.drafters.lm import LMDrafter, LMSession, build
from spec_engine.drafters.lm_memory import LMSettings, view_size
from spec_engine.errors import PresetError, RequestError, UnsupportedModel, VocabularyMismatch
from spec_engine.model.target import Step, Target
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.fakes import byte_tokenizer, pair_preset, perturbed, save_pair, tiny_lm
from tests.tiny_models import random_ids, tiny_model

OPT = TreeConfig(num_nodes=16, threshold=0.05, max_depth=5)
BEAM = TreeConfig(policy="beam", num_nodes=30, beam_widths=(3, 4, 4, 4))
CHAIN = TreeConfig(policy="chain", num_nodes=6, max_depth=6)
OFF = RetrievalConfig(enabled=False)
VIEW = RetrievalConfig(chunk_size=8, top_k=4, num_sink=8, num_recent=16, prefill_window=48)


def sharp(name: str, **changes: object) -> PreTrainedModel:
    """A tiny model so sure of itself that OPT-Tree grows more than one level."""
    model = tiny_model(name, **changes)
    if name == "gemma2":
        model.set_attn_implementation("eager")  # sdpa leaves soft caps out in older versions
    with torch.no_grad():
        model.get_output_embeddings().weight *= 6
    return model


def drafter(
    model: PreTrainedModel, tree: TreeConfig = OPT, retrieval: RetrievalConfig = OFF, num_tokens: int = 600
) -> LMDrafter:
    return LMDrafter(model, LMSettings(num_tokens, 256, tree, retrieval))


def begin(own: LMDrafter, text: Sequence[int]) -> LMSession:
    session = own.begin(SamplingParams())
    for _ in session.reuse(()):
        pass
    session.observe(Step(tuple(text), len(text), is_prompt=True))
    return session


@torch.inference_mode()
def log_probs(model: PreTrainedModel, token_ids: Sequence[int]) -> Tensor:
    """[tokens, V] by transformers alone."""
    return torch.log_softmax(model(torch.tensor([list(token_ids)])).logits[0], dim=-1)


def assert_scores(tree: DraftTree, model: PreTrainedModel, text: Sequence[int]) -> None:
    """Every node's log_q is what the model gives its path, teacher-forced: siblings and cousins are not seen."""
    for node in range(1, len(tree)):
        path = [tree.token_ids[index] for index in tree.path(node)]
        rows = log_probs(model, [*text, *path])[len(text) : len(text) + len(path) - 1]
        want = sum(float(row[token]) for row, token in zip(rows, path[1:], strict=True))
        assert abs(tree.log_q[node] - want) < 2e-3


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "smollm3", "mistral-sliding", "smollm3-sliding", "gemma2", "stablelm"]
)
@pytest.mark.parametrize("tree", [OPT, BEAM, CHAIN], ids=lambda tree: tree.policy)
def test_scores_are_those_of_the_model(name: str, tree: TreeConfig) -> None:
    """Also where windows of 40 end within the text, and for every level, whose rows lie behind those of the last."""
    text = random_ids(70)
    drafted = begin(drafter(sharp(name), tree), text).propose(9, 100)
    assert drafted.depth > 2
    assert_scores(drafted, sharp(name), text)


@pytest.mark.parametrize("name", ["llama", "llama-llama3", "smollm3", "mistral-sliding"])
def test_whole_focus_equals_no_retrieval(name: str) -> None:
    """A view of everything, and a window that reaches everything, are plain drafting."""
    text = random_ids(60)
    wide = replace(VIEW, top_k=40, prefill_window=500)
    session = begin(drafter(sharp(name), OPT, wide), text)
    session.focus(Focus((0,), torch.arange(60), 60))
    assert_scores(session.propose(9, 100), sharp(name), text)
    session.observe(Step((9, 4, 7), 63))
    assert_scores(session.propose(5, 100), sharp(name), (*text, 9, 4, 7))


@pytest.mark.parametrize("name", ["llama", "llama-linear", "llama-llama3", "qwen3", "glm4", "smollm3", "cohere2"])
def test_view_equals_the_text_of_its_tokens(name: str) -> None:
    """One layer's keys depend on the token and its place alone, so a focused draft acts as if it had read nothing but
    the tokens in view, one after the other."""
    changes: dict[str, object] = {"num_hidden_layers": 1}
    if name == "smollm3":
        changes["no_rope_layers"] = [0]
    model, plain = (sharp(name, **changes) for _ in range(2))
    text = random_ids(500)
    session = begin(drafter(model, BEAM, VIEW), text)
    chosen = [*range(8), *range(104, 120), *range(320, 328), *range(484, 500)]
    session.focus(Focus((), torch.tensor(chosen), 8))
    seen = [text[index] for index in chosen]
    drafted = session.propose(9, 100)
    assert drafted.depth > 1
    assert_scores(drafted, plain, seen)
    session.observe(Step((9, 3), 502))
    assert_scores(session.propose(7, 100), plain, [*seen, 9, 3])
    session.observe(Step((7, 21), 504))
    chosen = [*range(8), *range(200, 208), *range(488, 504)]
    session.focus(Focus((), torch.tensor(chosen), 8))
    every = [*text, 9, 3, 7, 21]
    assert_scores(session.propose(30, 100), plain, [every[index] for index in chosen])


def test_before_a_focus_the_view_is_sink_and_recent() -> None:
    model, plain = (sharp("llama", num_hidden_layers=1) for _ in range(2))
    text = random_ids(300)
    drafted = begin(drafter(model, OPT, VIEW), text).propose(9, 100)
    num_newest = VIEW.top_k * VIEW.chunk_size + VIEW.num_recent
    assert_scores(drafted, plain, [*text[:8], *text[300 - num_newest :]])


@pytest.mark.parametrize("chunk", [1, 7, 64, 400])
def test_reading_is_windowed(chunk: int) -> None:
    """A Llama that reads with a window of 48 stores what the Mistral of the same weights and window computes."""
    text = random_ids(400)
    model = sharp("mistral-sliding", sliding_window=48)
    llama = sharp("llama")
    llama.load_state_dict(model.state_dict())
    own = drafter(llama, OPT, VIEW)
    session = own.begin(SamplingParams())
    for start in range(0, 400, chunk):
        part = text[start : start + chunk]
        session.observe(Step(part, start + len(part), is_prompt=True))
    with torch.inference_mode():
        want = model(torch.tensor([text])).past_key_values.layers
    full = own._memory.cache.full
    assert full.length == 400
    for layer in range(3):
        keys, values = full.view(layer)
        num_kept = want[layer].keys.shape[2]  # transformers' cache forgets what lies before the window
        for got, kept in ((keys, want[layer].keys), (values, want[layer].values)):
            assert (got[:, :, -num_kept:] - kept).abs().max() <= 3e-5 * kept.abs().max()


def test_tree_rows_are_forgotten() -> None:
    for retrieval in (OFF, VIEW):
        own = drafter(sharp("llama"), BEAM, retrieval)
        session = begin(own, random_ids(100))
        session.focus(Focus((), torch.arange(60, 100), 8))
        session.propose(9, 100)
        cache = own._memory.cache
        assert cache.full.length == 101  # with the root, which the next step confirms
        assert cache.view.length == 101 if retrieval is OFF else 41
        session.observe(Step((9,), 101))
        assert cache.full.length == 101
        session.propose(4, 100)
        session.observe(Step((8,), 102))  # another root than the proposed one was committed
        assert cache.full.length == 101


def test_prompt_rows_survive_and_answers_are_read_again() -> None:
    """The next turn shares prompt and answer; rows of the prompt stay, those run on a view are read again."""
    own = drafter(sharp("llama"), OPT, VIEW)
    text = random_ids(200)
    session = begin(own, text)
    session.focus(Focus((), torch.arange(150, 200), 8))
    session.propose(9, 20)
    session.observe(Step((9, 3, 4), 203))
    session.propose(5, 20)
    before = own._memory.cache.full.view(1)[0][:, :, :200].clone()
    later = own.begin(SamplingParams())
    assert list(later.reuse((*text, 9, 3, 4))) == [203]
    assert torch.equal(own._memory.cache.full.view(1)[0][:, :, :200], before)
    assert own._memory.token_ids == [*text, 9, 3, 4]


@pytest.mark.parametrize("retrieval", [OFF, VIEW], ids=["whole", "view"])
def test_a_prompt_is_read_as_it_comes(retrieval: RetrievalConfig) -> None:
    """Nothing of it is left for the first proposal, whose seconds belong to the answer."""
    own = drafter(sharp("llama"), OPT, retrieval)
    text = random_ids(200)
    session = begin(own, text)
    assert own._memory.token_ids == list(text)
    session.observe(Step((9, 3), 202))
    assert own._memory.token_ids == list(text), "a few tokens of an answer wait"


def test_proposed_ids_lie_in_the_targets_vocabulary() -> None:
    own = LMDrafter(sharp("llama"), LMSettings(200, 40, BEAM, OFF))
    assert own.vocab_size == 40
    assert max(begin(own, random_ids(50, vocab_size=40)).propose(3, 100).token_ids) < 40


def test_long_stretches_without_a_proposal_are_caught_up() -> None:
    own = drafter(sharp("llama"), CHAIN, VIEW)
    session = begin(own, random_ids(100))
    session.focus(Focus((), torch.arange(60, 100), 8))
    session.propose(9, 4)
    rest = (9, *random_ids(300, seed=5))
    for index, token in enumerate(rest):
        session.observe(Step((token,), 101 + index))
    session.propose(4, 4)
    assert own._memory.token_ids == [*random_ids(100), *rest, 4]
    assert own._memory.cache.view.length <= view_size(LMSettings(600, 256, CHAIN, VIEW), 1).limit


def test_a_view_beyond_the_trained_range_is_refused() -> None:
    with pytest.raises(PresetError, match=r"trained on 64 tokens.*top_k to \d+ or less"):
        drafter(sharp("llama", max_position_embeddings=64), OPT, VIEW)
    assert drafter(sharp("llama", max_position_embeddings=128), OPT, VIEW).name == "lm"


def test_models_that_cannot_be_focused_are_refused_for_retrieval_only() -> None:
    with pytest.raises(UnsupportedModel, match="cannot be re-indexed"):
        drafter(sharp("gpt2"), OPT, VIEW)
    text = random_ids(40)
    assert_scores(begin(drafter(sharp("gpt2")), text).propose(5, 9), sharp("gpt2"), text)
    with pytest.raises(UnsupportedModel, match="'dynamic' scaling"):
        drafter(sharp("llama-dynamic"), OPT, VIEW)


def test_build_checks_the_vocabulary(tmp_path: Path) -> None:
    save_pair(tmp_path, tiny_lm(), perturbed(tiny_lm(), 0.05))
    context = DrafterContext(pair_preset(tmp_path), Target(tiny_lm(), 256, 64), "cpu")
    assert build(context).vocab_size == 260
    other = byte_tokenizer()
    other.add_tokens(["<|extra|>"])
    swapped = other.backend_tokenizer.to_str().replace('"<|user|>"', '"<|human|>"')
    other.save_pretrained(tmp_path / "draft")
    (tmp_path / "draft" / "tokenizer.json").write_text(swapped, encoding="utf-8")
    with pytest.raises(VocabularyMismatch, match=r"260 tokens.*261 tokens.*id 257"):
        build(context)
    without = replace(context, preset=replace(context.preset, draft=replace(context.preset.draft, model=None)))
    with pytest.raises(RequestError, match="names no draft model"):
        build(without)
