"""Warpers against transformers' own, and the noise: what it depends on, and that it is Gumbel."""

import math

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from spec_engine.errors import RequestError
from spec_engine.gumbel import GumbelNoise
from spec_engine.sampling import DraftRanking, SamplingParams, _top, choose, seen_tokens, warp
from spec_engine.tree import DraftTree


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.1])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_warpers_equal_those_of_transformers(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(3)) * 2
    theirs = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        theirs.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        theirs.append(TopPLogitsWarper(top_p))
    if min_p:
        theirs.append(MinPLogitsWarper(min_p))
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert torch.equal(warp(logits, params), theirs(torch.zeros(5, 1, dtype=torch.long), logits.clone()))


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("top_k", "min_p"), [(0, 0.0), (300, 0.0), (0, 0.001)])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 4.0])
def test_a_nucleus_of_any_size_is_that_of_transformers(
    spread: float, penalty: float, top_k: int, min_p: float, top_p: float
) -> None:
    """Also where the first tokens that are looked at do not reach it, in some rows or all."""
    generator = torch.Generator().manual_seed(11)
    scales = spread * torch.tensor([0.25, 1.0, 3.0, 6.0])[:, None] + 1e-3
    logits = torch.randn(4, 9000, generator=generator) * scales
    told = torch.randint(9000, (4, 2000), generator=generator)
    seen = torch.zeros(4, 9000, dtype=torch.bool).scatter_(1, told, True)
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(0.9)])
    if top_k:
        theirs.append(TopKLogitsWarper(top_k))
    theirs.append(TopPLogitsWarper(top_p))
    if min_p:
        theirs.append(MinPLogitsWarper(min_p))
    params = SamplingParams(0.9, top_k, top_p, min_p, penalty, seed=4)
    ours, expected = warp(logits, params, seen), theirs(told, logits.clone())
    differs = ours.isfinite() != expected.isfinite()
    assert int(differs.sum()) <= 4  # one at the edge of each row, where sums in another order round otherwise
    assert torch.equal(ours[~differs], expected[~differs])
    noise = torch.stack([GumbelNoise(4).at(position, 9000) for position in range(4)])
    assert choose(logits, params, range(4), seen) == tuple((ours + noise).argmax(-1).tolist())
    for row in range(4):  # whatever rows are beside it
        assert torch.equal(warp(logits[row : row + 1], params, seen[row : row + 1]), ours[row : row + 1])


def test_a_nucleus_at_a_low_temperature_is_as_small_as_it_should_be() -> None:
    """Where scores are large, their differences from the sum of all are rounded too coarsely."""
    logits = torch.rand(1, 2000) * 20
    logits[0, 5:7] = 25.0
    assert torch.isfinite(warp(logits, SamplingParams(temperature=0.001, top_p=0.9999))).sum() == 2


def test_equal_scores_at_the_edge_of_the_top_p_all_stay() -> None:
    """As of half precision: which of them came first would be the order's choice, and orders differ by shape."""
    tied = torch.tensor([[3.0, 1.0, 1.0, 1.0, -9.0]])
    assert torch.isfinite(warp(tied, SamplingParams(temperature=1.0, top_p=0.8))).tolist() == [[True] * 4 + [False]]


def test_a_draft_looks_no_further_than_the_likeliest_tokens() -> None:
    """And waits for nothing: its nucleus is cut where the target's would be looked for among more."""
    params = SamplingParams(temperature=1.0, top_p=0.9)
    ranked = DraftRanking(params, shares_noise=False).log_probs(torch.zeros(1, 2000).add(torch.rand(1, 2000)), 0)
    assert int(ranked.isfinite().sum()) == 256
    assert ranked.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_top_k_keeps_ties_and_top_p_keeps_one() -> None:
    tied = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert torch.isfinite(warp(tied, SamplingParams(temperature=1.0, top_k=2))).tolist() == [[True, True, True, False]]
    sure = torch.tensor([[9.0, 0.0, 0.0, 0.0]])
    assert torch.isfinite(warp(sure, SamplingParams(temperature=1.0, top_p=1e-6))).sum() == 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_repetition_penalty_sees_prompt_answer_and_path(temperature: float) -> None:
    vocab_size = 12
    tree = DraftTree((3, 5, 6, 5), (-1, 0, 0, 2), (0, 1, 1, 2), (0.0,) * 4)
    prefix = [1, 2, 2, 9]
    committed = torch.zeros(vocab_size, dtype=torch.bool)
    committed[prefix] = True
    logits = torch.randn(4, vocab_size, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(temperature=temperature, repetition_penalty=1.7)
    ours = warp(logits, params, seen_tokens(committed, tree))
    theirs = RepetitionPenaltyLogitsProcessor(1.7)
    for node in range(4):
        history = torch.tensor([prefix + [tree.token_ids[n] for n in tree.path(node)]])
        expected = theirs(history, logits[node : node + 1].clone())
        assert torch.allclose(ours[node : node + 1] * (temperature or 1.0), expected, rtol=1e-6)


def test_greedy_takes_the_lowest_id_of_a_tie() -> None:
    assert choose(torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]]), SamplingParams(), [0, 1]) == (1, 0)


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    logits = torch.randn(6, 100, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(temperature=1.0, seed=42)
    positions = [10, 11, 11, 12, 13, 10**9]
    together = choose(logits, params, positions)
    alone = [choose(logits[i : i + 1], params, [positions[i]])[0] for i in range(6)]
    assert list(together) == alone
    kept = GumbelNoise(42)
    assert choose(logits, params, positions, noise=kept) == together
    kept.forget(12)
    assert choose(logits, params, positions, noise=kept) == together
    same_rows = logits[:1].repeat(200, 1)
    by_position = choose(same_rows, params, list(range(200)))
    by_seed = [choose(logits[:1], SamplingParams(temperature=1.0, seed=seed), [0])[0] for seed in range(200)]
    assert len(set(by_position)) > 20
    assert len(set(by_seed)) > 20


def test_noise_is_pinned() -> None:
    """The same seed must give the same text in every later version."""
    noise = GumbelNoise(1234).at(77, 5)
    assert noise.dtype == torch.float32
    assert noise.tolist() == pytest.approx([1.0609331, 1.9130008, 1.7493492, 0.3898238, -0.0464299], rel=1e-5)
    assert torch.equal(GumbelNoise(1234).at(77, 3), noise[:3])
    assert torch.equal(GumbelNoise(1234 + 2**64).at(77, 5), noise)
    assert not torch.equal(GumbelNoise(-1234).at(77, 5), noise)


def test_noise_is_gumbel_and_uncorrelated() -> None:
    sample = GumbelNoise(5).at(0, 200_000).double()
    for x in (-1.5, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0):
        share = (sample <= x).double().mean().item()
        exact = math.exp(-math.exp(-x))
        assert abs(share - exact) < 5 * math.sqrt(exact * (1 - exact) / 200_000)
    for other in (GumbelNoise(6).at(0, 200_000), GumbelNoise(5).at(1, 200_000), GumbelNoise(5).at(0, 200_000).roll(1)):
        correlation = torch.corrcoef(torch.stack((sample, other.double())))[0, 1].item()
        assert abs(correlation) < 5 / math.sqrt(200_000)


@pytest.mark.parametrize("by", ["seed", "position"])
def test_draws_follow_the_distribution(by: str) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5, -3.0]])
    num = 20_000
    if by == "position":
        chosen = choose(logits.repeat(num, 1), SamplingParams(temperature=0.7, seed=9), range(num))
    else:
        noise = torch.stack([GumbelNoise(seed).at(4, 6) for seed in range(num)])
        chosen = tuple((logits / 0.7 + noise).argmax(-1).tolist())
    expected = (logits[0] / 0.7).softmax(-1) * num
    counts = torch.bincount(torch.tensor(chosen), minlength=6)
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 20.5  # 5 degrees of freedom: exceeded once in a thousand seeds


def test_excluded_tokens_are_never_drawn() -> None:
    logits = torch.randn(500, 30, generator=torch.Generator().manual_seed(2))
    params = SamplingParams(temperature=3.0, top_k=3)
    chosen = choose(logits, params, range(500))
    allowed = logits.topk(3, dim=-1).indices
    assert all(token_id in allowed[row] for row, token_id in enumerate(chosen))


def test_a_draft_that_knows_the_noise_agrees_on_the_draw_more_often() -> None:
    """The target's own logits, and rough ones: ranked with the noise that decides, the first token is more often what
    the target will choose."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(1, 200, generator=generator)
    params = SamplingParams(temperature=1.0, top_k=50, seed=8)
    for error in (0.0, 0.3, 1.0):
        draft = logits + error * torch.randn(1, 200, generator=generator)
        hits = {True: 0, False: 0}
        for shares in hits:
            ranking = DraftRanking(params, shares_noise=shares)
            for position in range(200):
                row = ranking.log_probs(draft, position)
                assert row.exp().sum().item() == pytest.approx(1, abs=1e-4)
                hits[shares] += (int(row.argmax()),) == choose(logits, params, [position])
        assert hits[True] > 2 * hits[False] + 10, (error, hits)
    blind = DraftRanking(params, shares_noise=False)
    assert torch.equal(blind.log_probs(logits, 3), warp(logits, params).log_softmax(-1))
    assert torch.equal(DraftRanking(SamplingParams()).log_probs(logits, 3), logits.log_softmax(-1))


def test_half_precision_logits_are_read_in_float32() -> None:
    logits = torch.randn(3, 20).bfloat16()
    assert warp(logits, SamplingParams(temperature=0.5)).dtype == torch.float32


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_columns", [300, 70_000, 70_013])
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(20, 0.95, 0.0), (1, 1.0, 0.0), (256, 0.5, 0.01), (0, 0.9, 0.0)])
@pytest.mark.parametrize("is_rounded", [False, True])
def test_who_looks_at_the_likeliest_alone_draws_as_who_looks_at_all(
    num_columns: int, top_k: int, top_p: float, min_p: float, is_rounded: bool
) -> None:
    """Also where scores are equal at the edge, as of half precision, and in a vocabulary that is looked through by
    blocks, of which the last is not whole."""
    generator = torch.Generator().manual_seed(num_columns)
    logits = torch.randn(40, num_columns, generator=generator) * torch.linspace(0.2, 6.0, 40)[:, None]
    logits = logits.half() if is_rounded else logits
    logits[5:15, -9:] += 12.0  # the likeliest are the last ones
    params = SamplingParams(0.8, top_k, top_p, min_p, seed=3)
    noise = torch.stack([GumbelNoise(3).at(position, num_columns) for position in range(100, 140)])
    expected = (warp(logits, params) + noise).argmax(-1).tolist()
    assert list(choose(logits, params, range(100, 140))) == expected
    assert [choose(logits[row : row + 1], params, [100 + row])[0] for row in range(40)] == expected


@pytest.mark.parametrize("num_columns", [65_536, 70_013, 151_936])
@pytest.mark.parametrize("num", [1, 21, 257])
def test_the_largest_scores_are_found_by_blocks(num: int, num_columns: int) -> None:
    scores = torch.randn(3, num_columns, generator=torch.Generator().manual_seed(num))
    scores[1, 64 * 7 : 64 * 11] += 9.0  # more of the largest in one block than a block has
    scores[2, -3:] = 20.0
    found, columns = _top(scores, num)
    assert torch.equal(found, scores.topk(num, dim=-1).values)
    assert torch.equal(scores.gather(1, columns), found)
    assert all(len(set(row)) == num for row in columns.tolist())


def test_noise_of_a_few_tokens_is_that_of_all() -> None:
    noise = GumbelNoise(77)
    columns = torch.tensor([[5, 0, 299], [7, 7, 1]])
    among = noise.among([12, 10**9], columns)
    assert among.dtype == torch.float32
    for row, position in enumerate((12, 10**9)):
        assert torch.equal(among[row], noise.at(position, 300)[columns[row]])
    own = torch.arange(1000, 1300)
    told = GumbelNoise(77, own)
    assert torch.equal(told.among([12], columns[:1])[0], told.at(12, 300)[columns[0]])
