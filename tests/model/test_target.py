"""The target against transformers' own forward of the same model."""

import random

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from spec_engine.errors import ContextOverflow, UnsupportedModel
from spec_engine.model import hf_attention
from spec_engine.model.hf_cache import cache_argument
from spec_engine.model.target import Outputs, Step, Taps, Target
from spec_engine.tree import DraftTree
from tests.fakes import children
from tests.tiny_models import ALL_SERVED, MAIN, random_ids, tiny_model

REL_FP32 = 3e-5
SLIDING = ("mistral-sliding", "smollm3-sliding", "gemma2", "gemma3", "gpt_oss", "cohere2")


def filled(target: Target, token_ids: tuple[int, ...]) -> Target:
    for _ in target.prefill(token_ids):
        pass
    return target


def untouched_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model that this engine never saw. Soft caps need eager attention: older sdpa functions leave them out."""
    model = tiny_model(name, dtype=dtype)
    if name in ("gemma2", "gpt_oss"):
        model.set_attn_implementation("eager")
    return model


@torch.inference_mode()
def teacher_forced(name: str, token_ids: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits [tokens, V] by transformers alone."""
    return untouched_model(name, dtype)(torch.tensor([token_ids])).logits[0]


def random_tree(num_nodes: int, seed: int, root: int) -> DraftTree:
    generator = torch.Generator().manual_seed(seed)
    parents, depths = [-1], [0]
    for node in range(1, num_nodes):
        parent = int(torch.randint(max(0, node - 5), node, (1,), generator=generator))
        parents.append(parent)
        depths.append(depths[parent] + 1)
    return DraftTree((root, *random_ids(num_nodes - 1, seed)), tuple(parents), tuple(depths), (0.0,) * num_nodes)


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@pytest.fixture
def all_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers computes norms and rotary angles in float32 whatever the model's dtype; make that float64."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize("name", ALL_SERVED)
def test_verified_chain_equals_teacher_forcing(name: str) -> None:
    ids = random_ids(130)
    target = filled(Target(tiny_model(name), 200, 48), ids[:100])
    outputs = target.verify(DraftTree.chain(ids[100:]), Taps())
    assert relative(outputs.logits, teacher_forced(name, ids)[100:]) <= REL_FP32


@pytest.mark.parametrize("name", ALL_SERVED)
def test_float64_shows_that_only_rounding_differs(name: str, all_double: None) -> None:
    ids = random_ids(130)
    tree = random_tree(25, 3, ids[100])
    target = filled(Target(tiny_model(name, dtype=torch.float64), 200, 33), ids[:100])
    outputs = target.verify(tree, Taps())
    for leaf in range(len(tree)):
        path = tree.path(leaf)
        want = teacher_forced(name, ids[:100] + tuple(tree.token_ids[node] for node in path), torch.float64)
        assert relative(outputs.logits[list(path)], want[100:]) <= 1e-10


@pytest.mark.parametrize("few_keys", [0, 1024], ids=["merged", "one kernel"])
@pytest.mark.parametrize("name", [*MAIN, *SLIDING, "llama-llama3", "llama-linear", "glm4", "stablelm"])
def test_every_path_of_a_tree_equals_teacher_forcing(name: str, few_keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window of 40 ends inside the prefix, and differently for each depth of the tree."""
    monkeypatch.setattr(hf_attention, "_FEW_KEYS", few_keys)
    ids = random_ids(100)
    tree = random_tree(30, 1, ids[-1])
    target = filled(Target(tiny_model(name), 200, 64), ids[:-1])
    outputs = target.verify(tree, Taps())
    leaves = [node for node in range(len(tree)) if not children(tree, node)]
    for leaf in leaves:
        path = tree.path(leaf)
        want = teacher_forced(name, ids[:-1] + tuple(tree.token_ids[node] for node in path))
        assert relative(outputs.logits[list(path)], want[99:]) <= REL_FP32


@pytest.mark.parametrize("name", [*MAIN, *SLIDING])
def test_commit_equals_having_decoded(name: str) -> None:
    ids = random_ids(60)
    tree = random_tree(12, 5, ids[-1])
    leaf = max(range(len(tree)), key=lambda node: tree.depths[node])
    path = tree.path(leaf)
    target = filled(Target(tiny_model(name), 200, 64), ids[:-1])
    step = target.commit(target.verify(tree, Taps()), path)
    kept = ids[:-1] + tuple(tree.token_ids[node] for node in path)
    assert (step.token_ids, step.num_done) == (kept[59:], len(kept))
    assert target.token_ids == kept
    assert target.length == len(kept)
    other = filled(Target(tiny_model(name), 200, 64), kept)
    root = DraftTree.root(77)
    assert relative(target.verify(root, Taps()).logits, other.verify(root, Taps()).logits) <= REL_FP32
    assert relative(target.verify(root, Taps()).logits[0], teacher_forced(name, (*kept, 77))[-1]) <= REL_FP32


@pytest.mark.parametrize("name", ["llama", "smollm3", "mistral-sliding", "smollm3-sliding"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunk_size_does_not_matter(name: str, chunk: int) -> None:
    ids = random_ids(150)
    target = Target(tiny_model(name), 200, chunk)
    steps = list(target.prefill(ids[:-1]))
    assert [token for step in steps for token in step.token_ids] == list(ids[:-1])
    assert [step.num_done for step in steps] == [*range(chunk, 149, chunk), 149]
    outputs = target.verify(DraftTree.root(ids[-1]), Taps())
    assert relative(outputs.logits[0], teacher_forced(name, ids)[-1]) <= REL_FP32


def test_window_longer_than_a_block_of_queries() -> None:
    """A prefill chunk of several query blocks, a window shorter and one longer than a block."""
    ids = random_ids(901)
    for window in (100, 300, 600):
        model = tiny_model("mistral-sliding", sliding_window=window)
        with torch.inference_mode():
            want = model(torch.tensor([ids])).logits[0, -1]
        target = filled(Target(model, 1000, 700), ids[:-1])
        assert relative(target.verify(DraftTree.root(ids[-1]), Taps()).logits[0], want) <= REL_FP32


def test_truncate_and_reset_equal_a_new_target() -> None:
    ids = random_ids(90)
    target = filled(Target(tiny_model("qwen3"), 200, 32), random_ids(80, seed=9))
    target.truncate(0)
    filled(target, ids[:70])
    target.commit(target.verify(random_tree(9, 2, 5), Taps()), (0,))
    target.truncate(60)
    assert target.token_ids == ids[:60]
    filled(target, ids[60:])
    new = filled(Target(tiny_model("qwen3"), 200, 32), ids)
    root = DraftTree.root(8)
    assert torch.allclose(target.verify(root, Taps()).logits, new.verify(root, Taps()).logits, atol=1e-5)
    target.reset()
    assert (target.length, target.token_ids) == (0, ())


def test_an_interrupted_pass_leaves_nothing() -> None:
    ids = random_ids(50)
    target = filled(Target(tiny_model("llama"), 100, 16), ids)
    want = target.verify(DraftTree.root(3), Taps()).logits.clone()
    target.verify(random_tree(20, 4, 9), Taps())
    steps = target.prefill(random_ids(40, seed=3))
    next(steps)
    steps.close()
    target.truncate(50)
    assert torch.equal(target.verify(DraftTree.root(3), Taps()).logits, want)


@pytest.mark.parametrize("name", ["llama", "qwen3", "smollm3", "gemma2", "gpt_oss", "cohere2"])
def test_attention_row_is_that_of_the_last_full_layer(name: str) -> None:
    ids = random_ids(75)
    tree = random_tree(14, 6, ids[-1])
    path = tree.path(13)
    target = filled(Target(tiny_model(name), 200, 64), ids[:-1])
    step = target.commit(target.verify(tree, Taps(attention_row=True)), path)
    model = tiny_model(name)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        every = model(torch.tensor([target.token_ids]), output_attentions=True).attentions
    types = getattr(model.config, "layer_types", None) or ["full_attention"] * len(every)
    last_full = max(layer for layer, kind in enumerate(types) if kind == "full_attention")
    want = every[last_full][0, :, -1].mean(0)
    assert isinstance(step, Step)
    assert step.attention_row is not None
    assert step.attention_row.dtype == torch.float32
    assert step.attention_row.shape == (target.length,)
    assert (step.attention_row - want[: target.length]).abs().max() <= 1e-5


def test_no_row_unless_asked_for() -> None:
    target = filled(Target(tiny_model("llama"), 50, 16), random_ids(20))
    assert target.commit(target.verify(DraftTree.root(4), Taps()), (0,)).attention_row is None


def test_too_many_tokens_are_refused_before_anything_is_read() -> None:
    target = filled(Target(tiny_model("llama"), 50, 16), random_ids(30))
    with pytest.raises(ContextOverflow, match=r"21 tokens do not fit behind 30"):
        list(target.prefill(random_ids(21)))
    assert target.length == 30
    with pytest.raises(ContextOverflow, match="tree of 400 nodes"):
        target.verify(random_tree(400, 0, 1), Taps())


def test_a_stale_commit_is_our_bug() -> None:
    target = filled(Target(tiny_model("llama"), 50, 16), random_ids(10))
    outputs: Outputs = target.verify(DraftTree.root(4), Taps())
    target.commit(outputs, (0,))
    with pytest.raises(AssertionError, match="moved on"):
        target.commit(outputs, (0,))


@pytest.mark.parametrize("name", ["falcon", "bloom", "mamba", "lfm2"])
def test_refused_by_name_with_the_reason(name: str) -> None:
    model = tiny_model(name)
    with pytest.raises(UnsupportedModel, match=f"(?s){type(model).__name__}.*(attention|branches).*Choose"):
        Target(model, 100, 16)


def test_dynamic_rope_is_refused_beyond_its_limit_only() -> None:
    assert Target(tiny_model("llama-dynamic"), 512, 16).capacity == 512
    with pytest.raises(UnsupportedModel, match="'dynamic' scaling"):
        Target(tiny_model("llama-dynamic"), 513, 16)


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "smollm3", "gemma2", "gpt_oss"])
def test_ordinary_calls_keep_working(name: str) -> None:
    """Padding, `generate` and a plain forward give what a model without this engine gives, also while it is in use."""
    model, untouched = tiny_model(name), untouched_model(name)
    target = filled(Target(model, 100, 16), random_ids(40))
    ids = torch.tensor([random_ids(50), (0,) * 9 + random_ids(41)])
    mask = (ids != 0).long()
    with torch.inference_mode():
        got, want = model(ids, attention_mask=mask).logits, untouched(ids, attention_mask=mask).logits
    assert relative(got[mask.bool()], want[mask.bool()]) <= REL_FP32
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    assert torch.equal(
        model.generate(ids, attention_mask=mask, **options), untouched.generate(ids, attention_mask=mask, **options)
    )
    assert target.length == 40
    want_logits = teacher_forced(name, (*random_ids(40), 7))[-1]
    assert relative(target.verify(DraftTree.root(7), Taps()).logits[0], want_logits) <= REL_FP32


@pytest.mark.parametrize("name", [*MAIN, "llama-linear", "llama-llama3", "mistral-sliding"])
def test_greedy_decoding_equals_generate(name: str) -> None:
    ids = random_ids(33)
    want = tiny_model(name).generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False, eos_token_id=None)
    target = filled(Target(tiny_model(name), 100, 16), ids[:-1])
    tokens = list(ids)
    while len(tokens) < 73:
        outputs = target.verify(DraftTree.root(tokens[-1]), Taps())
        target.commit(outputs, (0,))
        tokens.append(int(outputs.logits[0].argmax()))
    assert tokens == want[0].tolist()


def test_bfloat16_is_as_near_to_the_truth_as_transformers() -> None:
    ids = random_ids(120)
    truth = teacher_forced("llama", ids)[100:]
    theirs = teacher_forced("llama", ids, torch.bfloat16)[100:].float()
    target = filled(Target(tiny_model("llama", dtype=torch.bfloat16), 200, 48), ids[:100])
    ours = target.verify(DraftTree.chain(ids[100:]), Taps()).logits.float()
    assert (ours - truth).pow(2).mean().sqrt() <= 1.5 * (theirs - truth).pow(2).mean().sqrt()


def test_no_row_of_masks_grows_with_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither transformers nor the bridge makes a tensor of context x context, or logits of more than a row."""
    sizes: list[int] = []
    original = hf_attention.tree_bias

    def noted(visible: Tensor, dtype: torch.dtype, device: torch.device) -> object:
        sizes.append(visible.numel())
        return original(visible, dtype, device)

    monkeypatch.setattr(hf_attention, "tree_bias", noted)
    model = tiny_model("smollm3-sliding")
    target = Target(model, 3000, 512)
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    filled(target, random_ids(2500))
    assert sizes
    assert max(sizes) <= 256 * 600
    assert set(seen) == {(1, 1, 256)}


def test_a_transformers_cache_is_left_alone() -> None:
    model = tiny_model("llama")
    Target(model, 50, 16)
    cache = DynamicCache(config=model.config)
    ids = random_ids(30)
    with torch.inference_mode():
        model(torch.tensor([ids[:29]]), **{cache_argument(model): cache})
        got = model(torch.tensor([ids[29:]]), **{cache_argument(model): cache}).logits[0, -1]
    assert cache.get_seq_length() == 30
    assert relative(got, teacher_forced("llama", ids)[-1]) <= REL_FP32


@pytest.mark.parametrize("seed", range(6))
def test_what_reuse_keeps_is_what_a_fresh_target_would_hold(seed: int) -> None:
    """Random texts with common beginnings, trees, cuts and passes that are never committed."""
    dice = random.Random(seed)
    model = tiny_model("llama")
    target = Target(model, 96, 16)
    texts = [random_ids(80, 1)]
    for number in range(3):
        texts.append((*texts[0][: 20 + 20 * number], *random_ids(60 - 20 * number, 2 + number)))
    for _ in range(40):
        text = dice.choice(texts)
        num_wanted = dice.randrange(1, 80)
        num_kept = target.reuse(text[:num_wanted])
        assert target.token_ids == text[:num_kept]
        for _ in target.prefill(text[num_kept:num_wanted]):
            if dice.random() < 0.2:
                break
        if target.length:
            tree = random_tree(dice.randrange(1, 6), dice.randrange(99), text[target.length])
            outputs = target.verify(tree, Taps())
            want = model(torch.tensor([[*target.token_ids, text[target.length]]])).logits[0, -1]
            assert relative(outputs.logits[0], want) <= 1e-4
            if dice.random() < 0.5:
                target.commit(outputs, tree.path(dice.randrange(len(tree))))
        if dice.random() < 0.5:
            target.truncate(dice.randrange(target.length + 1))
