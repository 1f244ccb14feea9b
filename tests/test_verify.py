"""Acceptance by hand, and the distribution of whole steps: chi-square and total variation at noise level."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from spec_engine.gumbel import GumbelNoise
from spec_engine.sampling import SamplingParams, choose, warp
from spec_engine.tree import DraftTree
from spec_engine.verify import Accepted, accept
from tests.fakes import children

TREE = DraftTree((9, 1, 2, 3, 1, 4), (-1, 0, 0, 1, 1, 4), (0, 1, 1, 2, 2, 3), (0.0,) * 6)


@pytest.mark.parametrize(
    ("chosen", "path", "token_ids"),
    [
        ((5, 0, 0, 0, 0, 0), (0,), (5,)),  # nothing accepted
        ((2, 0, 8, 0, 0, 0), (0, 2), (2, 8)),
        ((1, 3, 0, 7, 0, 0), (0, 1, 3), (1, 3, 7)),
        ((1, 1, 0, 0, 4, 6), (0, 1, 4, 5), (1, 1, 4, 6)),  # the whole branch, and the bonus
        ((1, 1, 0, 0, 5, 6), (0, 1, 4), (1, 1, 5)),  # stops inside the branch
        ((2, 3, 3, 7, 4, 6), (0, 2), (2, 3)),  # a match below another parent does not count
    ],
)
def test_the_walk(chosen: tuple[int, ...], path: tuple[int, ...], token_ids: tuple[int, ...]) -> None:
    accepted = accept(TREE, chosen)
    assert accepted == Accepted(path, token_ids)
    assert accepted.bonus == token_ids[-1]
    assert accepted.num_drafted == len(path) - 1


def test_a_bare_root_is_plain_decoding() -> None:
    assert accept(DraftTree.root(3), (8,)) == Accepted((0,), (8,))


def test_cut_keeps_path_and_tokens_together() -> None:
    cut = accept(TREE, (1, 1, 0, 0, 4, 6)).cut(2, "stop")
    assert cut == Accepted((0, 1), (1, 1), "stop")
    assert cut.bonus == 1


# The distribution of whole steps.

VOCAB = 4
NUM_TOKENS = 3
NUM_SAMPLES = 4_000
Rule = Callable[[DraftTree, Tensor, SamplingParams, int, GumbelNoise], Accepted]
DraftRule = Callable[[tuple[int, ...]], DraftTree]


@dataclass(frozen=True)
class Chain:
    """A target whose next-token logits depend on the last two tokens."""

    logits: Tensor  # [V, V, V]

    def rows(self, context: tuple[int, ...], tree: DraftTree) -> Tensor:
        """Logits [N, V] after every node; the context ends before the root."""
        histories = [context + tuple(tree.token_ids[n] for n in tree.path(node)) for node in range(len(tree))]
        return torch.stack([self.logits[history[-2], history[-1]] for history in histories])


def target_logits(kind: str) -> Tensor:
    logits = torch.randn(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(11)) * 1.2
    if kind == "one-hot":
        logits = torch.full_like(logits, -torch.inf).scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
    if kind == "holes":
        logits = logits.masked_fill(logits < logits.mean(-1, keepdim=True), -torch.inf)
    return logits


def likely_tree(target: Chain) -> DraftRule:
    """Drafts what the target finds likely: p = q."""

    def draft(context: tuple[int, ...]) -> DraftTree:
        first = target.logits[context[-2], context[-1]].argsort(descending=True).tolist()
        below = target.logits[context[-1], first[0]].argsort(descending=True).tolist()
        return _tree(context[-1], first[:2], below[:3])

    return draft


def unlikely_tree(target: Chain) -> DraftRule:
    """Drafts what the target finds least likely."""

    def draft(context: tuple[int, ...]) -> DraftTree:
        first = target.logits[context[-2], context[-1]].argsort().tolist()
        return _tree(context[-1], first[:1], target.logits[context[-1], first[0]].argsort().tolist()[:1])

    return draft


def full_tree(target: Chain) -> DraftRule:
    """Drafts the whole vocabulary, so something is always accepted."""
    return lambda context: _tree(context[-1], list(range(VOCAB)), list(range(VOCAB)))


def no_tree(target: Chain) -> DraftRule:
    return lambda context: DraftTree.root(context[-1])


def _tree(root: int, first: Sequence[int], below_first: Sequence[int]) -> DraftTree:
    """A root, its children `first`, and children of the first of them."""
    num_first, num_below = len(first), len(below_first)
    return DraftTree(
        (root, *first, *below_first),
        (-1, *(0,) * num_first, *(1,) * num_below),
        (0, *(1,) * num_first, *(2,) * num_below),
        (0.0,) * (1 + num_first + num_below),
    )


def matching(tree: DraftTree, logits: Tensor, params: SamplingParams, position: int, noise: GumbelNoise) -> Accepted:
    """The rule of the engine."""
    return accept(tree, choose(logits, params, [position + depth for depth in tree.depths], noise=noise))


def lenient(tree: DraftTree, logits: Tensor, params: SamplingParams, position: int, noise: GumbelNoise) -> Accepted:
    """A wrong rule: a draft passes with the probability of its token although another draw decides the bonus."""
    probs = warp(logits, params).softmax(-1)
    path, token_ids = [0], []
    generator = torch.Generator().manual_seed(int(noise.at(position, 64)[63].item() * 1e6) & 0xFFFF)
    while below := children(tree, path[-1]):
        child, token_id = below[0], tree.token_ids[below[0]]
        if torch.rand((), generator=generator) > probs[path[-1], token_id]:
            break
        path.append(child)
        token_ids.append(token_id)
    bonus = choose(logits[path[-1] : path[-1] + 1], params, [position + len(token_ids)], noise=noise)
    return Accepted(tuple(path), (*token_ids, *bonus))


def sample_counts(target: Chain, draft: DraftRule, params: SamplingParams, rule: Rule, first_seed: int) -> Tensor:
    """How often each sequence of `NUM_TOKENS` tokens came out, [V ** NUM_TOKENS]; a seed makes one sequence."""
    counts = torch.zeros(VOCAB**NUM_TOKENS)
    for seed in range(first_seed, first_seed + NUM_SAMPLES):
        noise = GumbelNoise(seed)
        tokens: list[int] = []
        while len(tokens) < NUM_TOKENS:
            context = (0, 1, *tokens)
            tree = draft(context)
            accepted = rule(tree, target.rows(context[:-1], tree), params, len(context), noise)
            tokens.extend(accepted.token_ids)
        cell = 0
        for token_id in tokens[:NUM_TOKENS]:
            cell = cell * VOCAB + token_id
        counts[cell] += 1
    return counts


def exact_distribution(target: Chain, params: SamplingParams) -> Tensor:
    """Probability of each sequence under the warped target, [V ** NUM_TOKENS]."""
    probs = warp(target.logits.view(-1, VOCAB), params).softmax(-1).view(VOCAB, VOCAB, VOCAB)
    joint = torch.einsum("a,ab,abc->abc", probs[0, 1], probs[1], probs)
    return joint.flatten()


def departures(counts: Tensor, exact: Tensor) -> tuple[float, float]:
    """Chi-square in standard deviations above its mean, and total variation as a multiple of what 1 in 200 faultless
    samplers of the same size exceed."""
    expected = exact * NUM_SAMPLES
    assert counts[exact == 0].sum() == 0, "a sequence of probability 0 came out"
    cells = expected >= 1
    degrees = max(int(cells.sum()) - 1, 1)
    chi_square = ((counts - expected) ** 2 / expected.clamp(min=1))[cells].sum().item()
    generator = torch.Generator().manual_seed(0)
    draws = exact.multinomial(NUM_SAMPLES * 400, replacement=True, generator=generator).view(400, NUM_SAMPLES)
    faultless = torch.stack([torch.bincount(draw, minlength=len(exact)) for draw in draws]) / NUM_SAMPLES
    limit = ((faultless - exact).abs().sum(-1) / 2).quantile(0.995).item()
    variation = (counts / NUM_SAMPLES - exact).abs().sum().item() / 2
    return (chi_square - degrees) / math.sqrt(2 * degrees), variation / limit if limit else variation


PARAMS = {
    "plain": SamplingParams(temperature=1.0),
    "warped": SamplingParams(temperature=0.8, top_k=3, top_p=0.95),
}


@pytest.mark.parametrize(
    ("kind", "make_draft", "params", "first_seed"),
    [
        ("random", no_tree, "plain", 10_000),
        ("random", likely_tree, "plain", 20_000),
        ("random", unlikely_tree, "plain", 30_000),
        ("random", full_tree, "plain", 40_000),
        ("holes", likely_tree, "plain", 50_000),
        ("holes", unlikely_tree, "plain", 60_000),
        ("one-hot", full_tree, "plain", 70_000),
        ("random", likely_tree, "warped", 80_000),
    ],
)
def test_whole_steps_follow_the_target(
    kind: str, make_draft: Callable[[Chain], DraftRule], params: str, first_seed: int
) -> None:
    target = Chain(target_logits(kind))
    counts = sample_counts(target, make_draft(target), PARAMS[params], matching, first_seed)
    chi_square, variation = departures(counts, exact_distribution(target, PARAMS[params]))
    assert chi_square < 3
    assert variation < 1


def test_a_wrong_rule_is_found_out() -> None:
    target = Chain(target_logits("random"))
    counts = sample_counts(target, likely_tree(target), PARAMS["plain"], lenient, first_seed=20_000)
    chi_square, variation = departures(counts, exact_distribution(target, PARAMS["plain"]))
    assert chi_square > 20
    assert variation > 3


def test_the_same_seed_gives_the_same_text_whatever_is_drafted() -> None:
    target = Chain(target_logits("random"))
    texts = set()
    for make_draft in (no_tree, likely_tree, unlikely_tree, full_tree):
        tokens: list[int] = []
        while len(tokens) < 40:
            context = (0, 1, *tokens)
            tree = make_draft(target)(context)
            logits = target.rows(context[:-1], tree)
            tokens.extend(matching(tree, logits, PARAMS["plain"], len(context), GumbelNoise(8)).token_ids)
        texts.add(tuple(tokens[:40]))
    assert len(texts) == 1
