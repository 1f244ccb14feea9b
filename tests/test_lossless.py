"""Exactness: greedy text equals transformers' own `generate` token for token, sampled text depends on the seed alone.

Every drafter, retrieval on and off, over the architectures of the issue, in float32 on the CPU. A random draft would
have next to nothing accepted, so the draft model is the target with noise on its weights, draft heads were taught the
first texts, and the suite asserts that blocks were accepted.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.config import MODEL_DRAFTERS, DrafterKind, DTypeName, Preset, RetrievalConfig, TreeConfig
from spec_engine.engine import Engine, Request, StopRules
from spec_engine.events import ContextFocused, Finished
from spec_engine.loading import load_engine
from spec_engine.metrics import GenerationMetrics
from spec_engine.sampling import SamplingParams
from tests.fakes import END_ID, HEADS, SHAPES, pair_preset, perturbed, save_pair, tiny_lm
from tests.heads import save_taught_head

NUM_NEW = 36
LENGTHS = (1, 2, 37, 700)  # of prompts
VIEW = RetrievalConfig(chunk_size=8, top_k=6, num_sink=8, num_recent=32, prefill_window=64)
TREES = {
    "opt": TreeConfig(num_nodes=14, threshold=0.2, max_depth=6),
    "chain": TreeConfig(policy="chain", num_nodes=5, max_depth=5),
    "beam": TreeConfig(policy="beam", num_nodes=14, beam_widths=(3, 4, 4, 3)),
    "eagle": TreeConfig(policy="eagle", num_nodes=14, max_depth=5, top_k=4),
}


@dataclass(frozen=True)
class Way:
    """A way to make the same text."""

    kind: DrafterKind
    tree: str = "opt"
    retrieval: bool = False
    adaptive: bool = False

    def __str__(self) -> str:
        parts = [self.kind, self.tree if self.kind in MODEL_DRAFTERS else "", "retrieval" if self.retrieval else ""]
        return "-".join(filter(None, [*parts, "adaptive" if self.adaptive else ""]))


WAYS = (
    Way("none"),
    Way("lookup"),
    Way("lm", "opt"),
    Way("lm", "chain"),
    Way("lm", "beam"),
    Way("lm", "opt", retrieval=True),
    Way("lm", "beam", retrieval=True),
    Way("lm", "opt", retrieval=True, adaptive=True),
    Way("eagle3", "eagle"),
    Way("eagle3", "opt", retrieval=True),
    Way("longspec", "beam"),
    Way("longspec", "opt", retrieval=True),
    Way("mtp", "eagle"),
    Way("blend", "opt", retrieval=True),
)
FAR_WAYS = (
    Way("lm"),
    Way("lm", "beam", retrieval=True),
    Way("eagle3", "eagle"),
    Way("eagle3", retrieval=True),
    Way("longspec", "beam"),
    Way("longspec", retrieval=True),
    Way("mtp"),
    Way("blend", retrieval=True),
)
HEAD_SHAPES = ("llama", "qwen2", "smollm3")  # a head turns as its target does, and the last layer of smollm3 does not


@dataclass(frozen=True)
class Pair:
    """Models on disk, and a copy of the target that transformers alone has touched."""

    folder: Path
    reference: PreTrainedModel

    def engine(
        self, way: Way, context_length: int = 1024, prefill_chunk: int = 128, dtype: DTypeName = "float32"
    ) -> Engine:
        """A fresh engine with a cache of its own."""
        retrieval = replace(VIEW, enabled=way.retrieval)
        preset = pair_preset(self.folder, way.kind, tree=TREES[way.tree], retrieval=retrieval)
        if way.kind in HEADS:
            self.make_head(way.kind)
        if way.kind == "longspec":
            preset = replace(preset, draft=replace(preset.draft, cross_attention="focus" if way.retrieval else "whole"))
        target = replace(preset.target, dtype=dtype)
        preset = replace(preset, target=target, context_length=context_length, prefill_chunk=prefill_chunk)
        return load_with(preset, way)

    def make_head(self, kind: DrafterKind) -> None:
        """Write a draft head that knows some short texts of the target, once."""
        folder = self.folder / HEADS[kind]
        if folder.exists():
            return
        texts = [(*prompt, *self.greedy(prompt)) for prompt in (prompt_of(length) for length in LENGTHS[:3])]
        save_taught_head(folder, kind, self.reference, texts)

    def greedy(self, prompt: tuple[int, ...], num_new: int = NUM_NEW) -> tuple[int, ...]:
        """What transformers generates."""
        ids = torch.tensor([prompt])
        out = self.reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new, do_sample=False, eos_token_id=None
        )
        return tuple(out[0, len(prompt) :].tolist())


def load_with(preset: Preset, way: Way) -> Engine:
    """The preset's engine; the budget fixed unless the way adapts it."""
    return load_engine(preset, device="cpu", adaptive=way.adaptive)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Target and draft of a shape, written once."""
    made: dict[str, Pair] = {}

    def pair(shape: str) -> Pair:
        if shape not in made:
            folder = tmp_path_factory.mktemp(shape)
            target = tiny_lm(shape)
            save_pair(folder, target, perturbed(target, 0.05))
            made[shape] = Pair(folder, target)
        return made[shape]

    return pair


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    """Bytes with repeats, as text has them, so that lookup finds something."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    words = torch.randint(0, 256, (12, 5), generator=generator)
    order = torch.randint(0, 12, (length // 5 + 1,), generator=generator)
    return tuple(words[order].flatten()[:length].tolist())


def ask(
    engine: Engine, prompt: tuple[int, ...], sampling: SamplingParams | None = None, num_new: int = NUM_NEW
) -> tuple[tuple[int, ...], GenerationMetrics, int]:
    """Tokens, figures, and how many views retrieval gave."""
    request = Request(prompt, sampling or SamplingParams(), StopRules(num_new))
    events = list(engine.generate(request))
    last = events[-1]
    assert isinstance(last, Finished)
    return last.token_ids, last.metrics, sum(isinstance(event, ContextFocused) for event in events)


@pytest.mark.parametrize(
    ("shape", "way"),
    [(shape, way) for shape in SHAPES for way in WAYS if way.kind != "longspec" or shape in HEAD_SHAPES],
    ids=str,
)
def test_greedy_text_is_that_of_transformers(pairs: Callable[[str], Pair], shape: str, way: Way) -> None:
    pair = pairs(shape)
    engine = pair.engine(way)
    num_accepted = num_views = 0
    for length in LENGTHS:
        prompt = prompt_of(length)
        token_ids, metrics, views = ask(engine, prompt)
        assert token_ids == pair.greedy(prompt), f"differs after a prompt of {length}"
        num_accepted += metrics.num_accepted_draft_tokens
        num_views += views
    if way.kind in MODEL_DRAFTERS and not way.adaptive:
        assert num_accepted > NUM_NEW, "hardly any block was accepted, so nothing was tested"
    assert (num_views > 0) == way.retrieval


@pytest.mark.slow
@pytest.mark.parametrize("way", [Way("none"), Way("lookup"), *FAR_WAYS], ids=str)
@pytest.mark.parametrize("shape", ["llama-llama3", "smollm3"])
def test_greedy_text_at_five_thousand_tokens(pairs: Callable[[str], Pair], shape: str, way: Way) -> None:
    pair = pairs(shape)
    prompt = prompt_of(5000)
    token_ids, _, _ = ask(pair.engine(way, context_length=5120, prefill_chunk=512), prompt)
    assert token_ids == pair.greedy(prompt)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.3, seed=11),
        SamplingParams(temperature=0.4, top_k=30, top_p=0.95, min_p=0.01, seed=12),
        SamplingParams(temperature=0.3, repetition_penalty=1.2, seed=13),
    ],
    ids=["plain", "warped", "penalty"],
)
@pytest.mark.parametrize("shape", ["llama", "qwen3"])
def test_the_same_seed_gives_the_same_text_for_every_drafter(
    pairs: Callable[[str], Pair], shape: str, sampling: SamplingParams
) -> None:
    pair = pairs(shape)
    prompt = prompt_of(150)
    texts = {}
    for way in WAYS:
        texts[str(way)], metrics, _ = ask(pair.engine(way), prompt, sampling)
        if way.kind == "lm" and not way.adaptive:
            assert metrics.num_accepted_draft_tokens > 0
        if way == Way("lm") and sampling.repetition_penalty == 1:
            assert metrics.mean_acceptance_length > 1.6, "the draft does not know the noise"
    assert len(set(texts.values())) == 1, texts
    other, _, _ = ask(pair.engine(Way("none")), prompt, replace(sampling, seed=99))
    assert other != texts["none"]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_answers_in_one_process_are_independent(pairs: Callable[[str], Pair], way: Way) -> None:
    pair = pairs("llama")
    engine = pair.engine(way)
    first, second = prompt_of(300, seed=1), prompt_of(90, seed=2)
    expected = {prompt: pair.greedy(prompt) for prompt in (first, second)}
    for prompt in (first, second, first, second[:40] + first[:40], first):
        token_ids, _, _ = ask(engine, prompt)
        assert token_ids == expected.setdefault(prompt, pair.greedy(prompt))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_turns_with_reuse_equal_fresh_ones(pairs: Callable[[str], Pair], way: Way) -> None:
    pair = pairs("qwen2")
    engine = pair.engine(way)
    prompt = prompt_of(200, seed=3)
    for turn in range(4):
        token_ids, metrics, _ = ask(engine, prompt, num_new=24)
        assert token_ids == pair.greedy(prompt, 24)
        assert (metrics.num_reused_tokens > 150) == (turn > 0)
        prompt = (*prompt, *token_ids, END_ID, *prompt_of(15, seed=10 + turn))


@pytest.mark.parametrize("way", [way for way in WAYS if way.kind != "none"], ids=str)
def test_an_answer_given_up_midway_leaves_no_trace(pairs: Callable[[str], Pair], way: Way) -> None:
    pair = pairs("mistral")
    engine = pair.engine(way)
    prompt, other = prompt_of(400, seed=5), prompt_of(400, seed=6)
    for num_events in (1, 2, 3, 6, 9):
        answer = engine.generate(Request(prompt, SamplingParams(), StopRules(NUM_NEW)))
        for _ in range(num_events):
            next(answer)
        answer.close()  # type: ignore[attr-defined]
        assert ask(engine, other)[0] == pair.greedy(other)
    assert ask(engine, prompt)[0] == pair.greedy(prompt)


def test_interleaved_answers_of_two_engines(pairs: Callable[[str], Pair]) -> None:
    """Event by event in turn, each with a model and a cache of its own: nothing may leak through the process."""
    pair = pairs("qwen3")
    prompts = (prompt_of(120, seed=21), prompt_of(333, seed=22))
    answers = [
        pair.engine(way).generate(Request(prompt, SamplingParams(), StopRules(NUM_NEW)))
        for way, prompt in zip((Way("lm", retrieval=True), Way("lookup")), prompts, strict=True)
    ]
    found: dict[int, tuple[int, ...]] = {}
    while len(found) < 2:
        for index, answer in enumerate(answers):
            event = next(answer, None)
            if isinstance(event, Finished):
                found[index] = event.token_ids
    assert [found[0], found[1]] == [pair.greedy(prompt) for prompt in prompts]


@pytest.mark.parametrize("way", [Way("lookup"), Way("lm"), *FAR_WAYS[3:]], ids=str)
def test_half_precision_differs_at_near_ties_only(pairs: Callable[[str], Pair], way: Way) -> None:
    """In bfloat16 a pass over a tree rounds differently from a pass over one token; more must not happen."""
    pair = pairs("llama")
    engine = pair.engine(way, dtype="bfloat16")
    plain = engine.with_drafter("none")
    for seed in range(6):
        prompt = prompt_of(150, seed=40 + seed)
        drafted, expected = ask(engine, prompt)[0], ask(plain, prompt)[0]
        if drafted != expected:
            num_same = next(i for i, (a, b) in enumerate(zip(drafted, expected, strict=True)) if a != b)
            logits = plain.logits_after((*prompt, *expected[:num_same]))  # what plain decoding chose from
            gap = abs(logits[drafted[num_same]] - logits[expected[num_same]])
            print(f"{way}, seed {seed}: token {num_same} differs, its logits by {gap:.4f}")
            assert gap < 0.1, f"the texts part at token {num_same} although the logits differ by {gap:.3f}"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_whole_steps_follow_the_distribution_of_the_target(pairs: Callable[[str], Pair], way: Way) -> None:
    """Answers of many seeds against the probabilities of all answers: a plain step and what a draft brings after it."""
    pair, prompt, num_seeds = pairs("llama"), prompt_of(37), 300
    engine = pair.engine(way)
    first_seed = 10_000 * WAYS.index(way)  # every way draws from noise of its own
    found: Counter[tuple[int, ...]] = Counter()
    num_accepted = 0
    for seed in range(first_seed, first_seed + num_seeds):
        sampling = SamplingParams(temperature=0.6, top_k=2, seed=seed)
        token_ids, metrics, _ = ask(engine, prompt, sampling, num_new=4)
        found[token_ids] += 1
        num_accepted += metrics.num_accepted_draft_tokens
    if way.kind in MODEL_DRAFTERS and not way.adaptive:
        assert num_accepted > num_seeds / 10, "hardly any draft was accepted, so nothing was tested"
    expected = {ids: num_seeds * share for ids, share in all_answers(pair.reference, prompt, 4).items()}
    assert found.keys() <= expected.keys()
    common = [ids for ids, number in expected.items() if number >= 5]
    cells = [(found[ids], expected[ids]) for ids in common]
    rare = num_seeds - sum(number for _, number in cells)
    if rare >= 5:
        cells.append((num_seeds - sum(number for number, _ in cells), rare))
    chi_square = sum((number - wanted) ** 2 / wanted for number, wanted in cells)
    assert len(cells) > 6
    assert chi_square < chi_square_limit(len(cells) - 1)


def all_answers(model: PreTrainedModel, prompt: tuple[int, ...], length: int) -> dict[tuple[int, ...], float]:
    """Every answer of `length` tokens at temperature 0.6 with top-k 2, and its probability, by the model alone."""
    answers: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer = {}
        for ids, share in answers.items():
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, -1]
            best = logits.topk(2)
            chances = (best.values / 0.6).softmax(-1)
            longer |= {(*ids, int(token)): share * float(p) for token, p in zip(best.indices, chances, strict=True)}
        answers = longer
    return answers


def chi_square_limit(num_free: int) -> float:
    """What chance exceeds once in ten thousand (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * num_free)
    return float(num_free * (1 - spread + 3.719 * spread**0.5) ** 3)


def test_engines_that_take_turns_on_one_target(pairs: Callable[[str], Pair]) -> None:
    pair = pairs("llama")
    engine = pair.engine(Way("lm", retrieval=True))
    siblings = [engine, engine.with_drafter("lookup"), engine.with_drafter("none"), engine]
    prompt = prompt_of(250, seed=8)
    for sibling in siblings:
        token_ids, _, _ = ask(sibling, prompt, num_new=20)
        assert token_ids == pair.greedy(prompt, 20)
        prompt = (*prompt, *token_ids, 5)
