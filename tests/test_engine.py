"""The loop on a tiny real model: events, stops, reuse, cancellation, failures, refusals."""

import itertools
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from spec_engine.attention import Scoring
from spec_engine.config import DrafterKind, RetrievalConfig, TreeConfig
from spec_engine.drafters.base import Drafter
from spec_engine.drafters.none import NoDrafter
from spec_engine.engine import Engine, EngineConfig, Request, StopRules
from spec_engine.errors import ContextOverflow, RequestError
from spec_engine.events import ContextAttended, ContextFocused, Event, Finished, Prefilled, PromptReady, TokensAccepted
from spec_engine.loading import load_engine
from spec_engine.model.target import Taps, Target
from spec_engine.model.tokenizer import Tokenizer
from spec_engine.model.watch import spoken
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.fakes import END_ID, VOCAB_SIZE, OracleDrafter, byte_tokenizer, pair_preset, perturbed, save_pair, tiny_lm

CAPACITY = 256
PROMPT = tuple(int(token_id) for token_id in torch.randint(0, 90, (50,), generator=torch.Generator().manual_seed(4)))
NUM_ASCII = 94  # the byte tokenizer's first ids are the printable characters


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """Writes printable characters only, so that stop strings can be read."""
    model = tiny_lm()
    with torch.no_grad():
        model.get_output_embeddings().weight[NUM_ASCII:] = 0
    return model


@pytest.fixture(scope="module")
def make(model: PreTrainedModel) -> Callable[..., Engine]:
    """Builds an engine with a target and a cache of its own."""

    def build(drafter: Drafter | None = None, *, adaptive: bool = False, max_nodes: int = 12) -> Engine:
        target = Target(model, CAPACITY, 16)
        config = EngineConfig(max_nodes=max_nodes, adaptive=adaptive, prefill_chunk=16)
        return Engine(target, drafter or NoDrafter(VOCAB_SIZE), Tokenizer(byte_tokenizer()), config)

    return build


@pytest.fixture(scope="module")
def plain(make: Callable[..., Engine]) -> tuple[int, ...]:
    """The model's greedy answer of 80 tokens to `PROMPT`."""
    return finished(make(), 80).token_ids


def request(
    max_tokens: int,
    prompt: tuple[int, ...] = PROMPT,
    sampling: SamplingParams | None = None,
    stop_ids: frozenset[int] = frozenset(),
    stop_strings: tuple[str, ...] = (),
) -> Request:
    return Request(prompt, sampling or SamplingParams(), StopRules(max_tokens, stop_ids, stop_strings))


def finished(engine: Engine, max_tokens: int, *args: object, **kwargs: object) -> Finished:
    *_, last = engine.generate(request(max_tokens, *args, **kwargs))  # type: ignore[arg-type]
    assert isinstance(last, Finished)
    return last


def oracle(plain: tuple[int, ...], prompt: tuple[int, ...] = PROMPT) -> OracleDrafter:
    return OracleDrafter(prompt, plain)


# Events


@pytest.mark.parametrize("with_draft", [False, True])
def test_events_come_in_order_and_agree(make: Callable[..., Engine], plain: tuple[int, ...], with_draft: bool) -> None:
    engine = make(oracle(plain) if with_draft else None)
    events = list(engine.generate(request(40)))
    kinds = "".join({PromptReady: "P", Prefilled: "p", TokensAccepted: "t", Finished: "f"}[type(e)] for e in events)
    num_prefilled = kinds.count("p")
    assert kinds == "P" + "p" * num_prefilled + "t" * kinds.count("t") + "f"
    assert num_prefilled >= 4
    assert events[0] == PromptReady(50, 0)
    steps = [event for event in events if isinstance(event, TokensAccepted)]
    last = events[-1]
    assert isinstance(last, Finished)
    assert tuple(itertools.chain.from_iterable(step.token_ids for step in steps)) == last.token_ids == plain[:40]
    assert "".join(step.text for step in steps) == last.text == byte_tokenizer().decode(plain[:40])
    for step in steps:
        assert "".join(step.text_by_token) == step.text
        assert len(step.text_by_token) == len(step.token_ids) == len(step.is_drafted) == step.record.num_new_tokens
        assert sum(step.is_drafted) == step.record.num_accepted_draft_tokens == step.record.num_new_tokens - 1
    prefilled = [event.num_done for event in events if isinstance(event, Prefilled)]
    assert prefilled == sorted(prefilled)
    assert prefilled[-1] == 49
    times = [event.elapsed_s for event in events if isinstance(event, Prefilled | TokensAccepted)]
    assert times == sorted(times)
    assert last.metrics.num_generated_tokens == 40
    assert last.metrics.num_accepted_draft_tokens + last.metrics.num_spec_steps == 40
    if with_draft:
        assert last.metrics.mean_acceptance_length > 5


def test_clock_stops_while_the_consumer_works(make: Callable[..., Engine]) -> None:
    started = time.perf_counter()
    events = []
    for event in make().generate(request(10)):
        events.append(event)
        time.sleep(0.02)
    total = time.perf_counter() - started
    last = events[-1]
    assert isinstance(last, Finished)
    figures = last.metrics
    assert figures.prefill_s + figures.decode_s < total - 0.02 * (len(events) - 1)
    assert figures.decode_s == pytest.approx(figures.draft_s + figures.verify_s + figures.other_s, rel=0.2, abs=0.01)
    assert figures.time_to_first_token_s > figures.prefill_s > 0


# Stops


def test_length_cuts_inside_a_block(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    for max_tokens in range(1, 16):
        engine = make(oracle(plain))
        last = finished(engine, max_tokens)
        assert last.token_ids == plain[:max_tokens]
        assert last.reason == "length"
        assert engine.target.token_ids == (*PROMPT, *plain[: max_tokens - 1])


def test_end_tokens_cut_inside_a_block(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    for index in (0, 3, 7, 8, 20):
        stop_ids = frozenset({plain[index], END_ID})
        num_tokens = plain.index(plain[index]) + 1
        engine = make(oracle(plain))
        last = finished(engine, 40, stop_ids=stop_ids)
        assert last.reason == "stop"
        assert last.token_ids == plain[:num_tokens]
        assert last.text == byte_tokenizer().decode(plain[: num_tokens - 1])
        assert engine.target.token_ids == (*PROMPT, *plain[: num_tokens - 1])
        assert finished(make(), 40, stop_ids=stop_ids).text == last.text


def test_stop_strings_straddle_tokens_and_steps(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    text = byte_tokenizer().decode(plain)
    for start, length in ((0, 1), (2, 5), (5, 9), (11, 3), (17, 20)):
        stop = text[start : start + length]
        first = text.index(stop)
        engine = make(oracle(plain))
        last = finished(engine, 70, stop_strings=("never", stop))
        assert last.reason == "stop"
        assert last.text == text[:first]
        assert last.token_ids == plain[: first + length]
        assert engine.target.token_ids == (*PROMPT, *plain[: first + length - 1])
        shown = [e.text for e in make().generate(request(70, stop_strings=(stop,))) if isinstance(e, TokensAccepted)]
        assert "".join(shown) == text[:first]


def test_an_unfinished_stop_string_is_shown_in_the_end(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    text = byte_tokenizer().decode(plain[:20])
    last = finished(make(oracle(plain)), 20, stop_strings=(text[-4:] + "\0",))
    assert (last.text, last.reason) == (text, "length")


# One process, many answers


def test_answers_do_not_influence_one_another(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    other = tuple(reversed(PROMPT))
    engine = make(oracle(plain))
    first = finished(engine, 30)
    second = finished(engine, 30, prompt=other)
    again = finished(engine, 30)
    assert first.token_ids == again.token_ids == plain[:30]
    assert first.text == again.text
    assert second.token_ids == finished(make(), 30, prompt=other).token_ids


def test_turns_reuse_the_common_prefix(make: Callable[..., Engine]) -> None:
    engine = make()
    prompt = PROMPT
    for turn in range(3):
        reused = len(engine.target.token_ids)
        events = list(engine.generate(request(12, prompt=prompt)))
        last = events[-1]
        assert isinstance(last, Finished)
        assert events[0] == PromptReady(len(prompt), reused if turn else 0)
        assert last.metrics.num_reused_tokens == (reused if turn else 0)
        assert last.token_ids == finished(make(), 12, prompt=prompt).token_ids
        prompt = (*prompt, *last.token_ids, 7, 8 + turn, 9)


def test_a_diverging_prompt_keeps_what_is_common(make: Callable[..., Engine]) -> None:
    engine = make()
    finished(engine, 10)
    changed = (*PROMPT[:20], PROMPT[20] + 1, *PROMPT[21:])
    events = list(engine.generate(request(10, prompt=changed)))
    assert events[0] == PromptReady(50, 20)
    assert events[-1].token_ids == finished(make(), 10, prompt=changed).token_ids  # type: ignore[union-attr]


def test_the_same_prompt_again_reads_nothing(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    engine = make()
    finished(engine, 5)
    events = list(engine.generate(request(20)))
    assert events[0] == PromptReady(50, 49)
    assert not any(isinstance(event, Prefilled) for event in events)
    assert events[-1].token_ids == plain[:20]  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [1, 2, 30, 50])
def test_logits_after_are_those_of_a_forward(
    make: Callable[..., Engine], plain: tuple[int, ...], model: PreTrainedModel, length: int
) -> None:
    engine = make(oracle(plain))
    finished(engine, 12)
    asked = PROMPT[:length]
    with torch.inference_mode():
        expected = model(torch.tensor([asked]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(torch.tensor(engine.logits_after(asked)), expected, atol=1e-4, rtol=1e-4)
    assert finished(engine, 80).token_ids == plain
    answer = engine.generate(request(20))
    next(answer)
    with pytest.raises(RequestError, match="Another answer"):
        engine.logits_after(asked)


def test_a_shorter_run_over_the_same_text_costs_the_next_question_nothing(
    make: Callable[..., Engine], plain: tuple[int, ...]
) -> None:
    """As a calibration behind an answer is: the plain run writes the same rows again and leaves the others."""
    engine = make(oracle(plain))
    finished(engine, 40)
    finished(Engine(engine.target, NoDrafter(VOCAB_SIZE), engine.tokenizer, engine.config), 8)
    question = (*PROMPT, *plain[:40], 7, 8, 9)
    events = list(engine.generate(request(12, prompt=question)))
    assert events[0] == PromptReady(len(question), len(question) - 4)
    assert events[-1].token_ids == finished(make(), 12, prompt=question).token_ids  # type: ignore[union-attr]


def test_what_was_overwritten_is_read_again(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    engine = make()
    finished(engine, 40)
    other = (*PROMPT, (plain[0] + 1) % NUM_ASCII)
    finished(engine, 8, prompt=other)
    question = (*PROMPT, *plain[:40], 7)
    events = list(engine.generate(request(12, prompt=question)))
    assert events[0] == PromptReady(len(question), len(PROMPT))
    assert events[-1].token_ids == finished(make(), 12, prompt=question).token_ids  # type: ignore[union-attr]


def test_a_second_answer_at_a_time_is_refused(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    engine = make()
    first = engine.generate(request(20))
    for _ in range(8):
        next(first)
    with pytest.raises(RequestError, match="Another answer"):
        next(engine.generate(request(5, prompt=tuple(reversed(PROMPT)))))
    rest = list(first)
    assert rest[-1].token_ids == plain[:20]  # type: ignore[union-attr]
    assert finished(engine, 5).token_ids == plain[:5]


# Interruptions


@pytest.mark.parametrize("num_events", range(1, 14, 2))
@pytest.mark.parametrize("with_draft", [False, True])
def test_closing_at_any_event_leaves_all_usable(
    make: Callable[..., Engine], plain: tuple[int, ...], num_events: int, with_draft: bool
) -> None:
    engine = make(oracle(plain) if with_draft else None)
    answer = engine.generate(request(60))
    for _ in range(num_events):
        next(answer)
    answer.close()  # type: ignore[attr-defined]
    held = engine.target.token_ids
    assert held == (*PROMPT, *plain)[: len(held)]
    assert finished(engine, 30).token_ids == plain[:30]


def cancel_after(num_polls: int) -> Callable[[], bool]:
    polls: Iterator[int] = itertools.count()
    return lambda: next(polls) >= num_polls


@pytest.mark.parametrize("num_polls", range(0, 12))
def test_cancelling_at_any_poll(make: Callable[..., Engine], plain: tuple[int, ...], num_polls: int) -> None:
    engine = make(oracle(plain))
    events: list[Event] = list(engine.generate(request(60), cancel_after(num_polls)))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason == "cancelled"
    assert last.token_ids == plain[: len(last.token_ids)]
    shown = "".join(event.text for event in events if isinstance(event, TokensAccepted))
    assert last.text == shown
    assert finished(engine, 30).token_ids == plain[:30]


def test_one_yes_is_enough(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    """A flag that is cleared again must not let decoding begin on half a prompt."""
    engine = make()
    answers = iter([False, True])
    *_, last = engine.generate(request(10), lambda: next(answers, False))
    assert isinstance(last, Finished)
    assert (last.reason, last.token_ids) == ("cancelled", ())
    assert finished(engine, 10).token_ids == plain[:10]


def test_cancelling_is_polled_during_prefill(make: Callable[..., Engine]) -> None:
    events = list(make().generate(request(10), cancel_after(2)))
    done = [event.num_done for event in events if isinstance(event, Prefilled)]
    assert 0 < done[-1] < 49
    assert not any(isinstance(event, TokensAccepted) for event in events)


def test_an_interrupted_pass_leaves_no_trace(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    engine = make()
    finished(engine, 10)
    engine.target.verify(DraftTree.chain([1, 2, 3]), Taps())  # never committed
    assert finished(engine, 30).token_ids == plain[:30]
    prefill = engine.target.prefill(range(40))
    next(prefill)
    assert finished(engine, 30).token_ids == plain[:30]


@pytest.mark.broken_drafter
@pytest.mark.parametrize("verb", ["begin", "reusable", "reuse", "observe", "propose"])
@pytest.mark.parametrize("fail_at", [1, 3])
def test_an_answer_goes_on_plainly_where_its_drafter_breaks(
    make: Callable[..., Engine], plain: tuple[int, ...], verb: str, fail_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = OracleDrafter(PROMPT, plain)
    engine = make(drafter)
    works, calls = getattr(drafter, verb), itertools.count()

    def breaks(*args: object) -> object:
        if next(calls) == fail_at - 1:
            raise RuntimeError("the drafter broke\nin line 2")
        return works(*args)

    monkeypatch.setattr(drafter, verb, breaks)
    answers = [finished(engine, 30) for _ in range(4)]
    assert {answer.token_ids for answer in answers} == {plain[:30]}
    failures = [answer.metrics.drafter_failure for answer in answers]
    assert sum(map(bool, failures)) == 1  # the next answer tries again
    assert next(filter(None, failures)).endswith("off for the rest of this answer: the drafter broke")


def test_a_broken_target_ends_the_answer_and_the_next_one_works(
    make: Callable[..., Engine], plain: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(OracleDrafter(PROMPT, plain))
    works, calls = engine.target.verify, itertools.count()

    def breaks(tree: DraftTree, taps: Taps) -> object:
        if next(calls) == 3:
            raise RuntimeError("the target broke")
        return works(tree, taps)

    monkeypatch.setattr(engine.target, "verify", breaks)
    with pytest.raises(RuntimeError, match="target broke"):
        finished(engine, 60)
    held = engine.target.token_ids
    assert held == (*PROMPT, *plain)[: len(held)]
    assert finished(engine, 30).token_ids == plain[:30]


# Refusals


def test_what_does_not_fit_is_refused_with_numbers(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    with pytest.raises(ContextOverflow, match=r"50 tokens.*207.*1 more.*256"):
        finished(make(), CAPACITY - 49)
    engine = make(oracle(plain), max_nodes=40)
    assert len(finished(engine, CAPACITY - 50).token_ids) == CAPACITY - 50


@pytest.mark.parametrize("prompt", [(), (1, VOCAB_SIZE), (-1, 2)])
def test_wrong_prompts_are_refused(make: Callable[..., Engine], prompt: tuple[int, ...]) -> None:
    engine = make()
    with pytest.raises(RequestError):
        finished(engine, 5, prompt=prompt)
    assert len(finished(engine, 5).token_ids) == 5


@pytest.mark.parametrize("num_written", [-1, 51])
def test_more_of_an_answer_than_there_is_prompt_is_refused(num_written: int) -> None:
    with pytest.raises(RequestError, match="num_written"):
        Request(PROMPT, SamplingParams(), StopRules(5), num_written)


def test_a_prompt_of_one_token(make: Callable[..., Engine]) -> None:
    events = list(make().generate(request(6, prompt=(7,))))
    assert events[0] == PromptReady(1, 0)
    assert [type(event) for event in events[1:]] == [TokensAccepted] * 6 + [Finished]


# Sampling and the budget


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.9, seed=3),
        SamplingParams(temperature=1.2, top_k=20, top_p=0.9, min_p=0.02, seed=5),
        SamplingParams(temperature=0.7, repetition_penalty=1.3, seed=6),
        SamplingParams(repetition_penalty=1.3),
    ],
)
def test_the_same_seed_gives_the_same_text_with_any_draft(
    make: Callable[..., Engine], sampling: SamplingParams
) -> None:
    expected = finished(make(), 50, sampling=sampling)
    with_draft = finished(make(oracle(expected.token_ids)), 50, sampling=sampling)
    assert with_draft.token_ids == expected.token_ids
    assert with_draft.metrics.num_accepted_draft_tokens > 20
    assert finished(make(), 50, sampling=sampling).token_ids == expected.token_ids


def test_other_seeds_give_other_texts(make: Callable[..., Engine]) -> None:
    engine = make()
    texts = {finished(engine, 20, sampling=SamplingParams(temperature=1.0, seed=seed)).token_ids for seed in range(5)}
    assert len(texts) == 5


def test_adapting_the_budget_does_not_change_the_text(make: Callable[..., Engine], plain: tuple[int, ...]) -> None:
    wrong = OracleDrafter(PROMPT, tuple((token_id + 3) % NUM_ASCII for token_id in plain), delay_s=0.05)
    engine = make(wrong, adaptive=True)
    last = finished(engine, 80)
    assert last.token_ids == plain
    assert last.metrics.num_plain_steps > 10
    assert "Drafting is off" in last.metrics.drafting_note


# Building


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    target = tiny_lm()
    save_pair(folder, target, perturbed(target, 0.02))
    return folder


def test_engines_from_a_preset_share_their_target(pair: Path) -> None:
    messages: list[str] = []
    preset = pair_preset(pair, "lm", tree=TreeConfig(num_nodes=9, threshold=0.2, max_depth=5))
    engine = load_engine(preset, device="cpu", adaptive=False, watch=spoken(messages.append))
    assert (engine.drafter_name, engine.capacity, engine.preset) == ("lm", 1024, preset)
    assert engine.device == "cpu"
    assert messages == ["Loading target", "Reading target", "Making target ready", "Loading draft", "Reading draft"]
    baseline = engine.with_drafter("none")
    copies = engine.with_drafter("lookup")
    assert baseline.target is engine.target
    answers = [finished(each, 30) for each in (engine, baseline, copies, engine)]
    assert len({answer.token_ids for answer in answers}) == 1
    assert answers[0].metrics.num_accepted_draft_tokens > 5
    open_answer = engine.generate(request(5))
    next(open_answer)
    with pytest.raises(RequestError, match="Another answer"):
        finished(baseline, 5)
    open_answer.close()  # type: ignore[attr-defined]


def test_a_closed_engine_frees_its_target_and_says_so(make: Callable[..., Engine]) -> None:
    engine = make()
    assert len(finished(engine, 3).token_ids) == 3
    target = weakref.ref(engine.target)
    engine.close()
    engine.close()
    assert target() is None
    for use in (lambda: finished(engine, 3), lambda: engine.capacity, lambda: engine.memory, lambda: engine.drafter):
        with pytest.raises(RequestError, match="closed"):
            use()


def test_a_kind_the_preset_cannot_run_is_refused(pair: Path, make: Callable[..., Engine]) -> None:
    preset = pair_preset(pair, "lookup")
    without_model = type(preset)(
        name="tiny", title="", description="", target=preset.target, context_length=64, folder=pair
    )
    with pytest.raises(RequestError, match=r"draft\.model"):
        load_engine(without_model, drafter="lm", device="cpu")
    with pytest.raises(RequestError, match=r"has 'draft', a language model.*'eagle3' cannot run"):
        load_engine(preset, drafter="eagle3", device="cpu")
    with pytest.raises(RequestError, match=r"has 'draft', a language model.*'eagle3' cannot run"):
        load_engine(preset, device="cpu").with_drafter("eagle3")
    with pytest.raises(RequestError, match="load_engine"):
        make().with_drafter("none")


def test_retrieval_is_shown_between_steps(pair: Path) -> None:
    preset = pair_preset(pair, "lm")
    focused = type(preset.draft.retrieval)(chunk_size=8, top_k=2, num_sink=4, num_recent=16)
    preset = pair_preset(pair, "lm", retrieval=focused)
    events = list(load_engine(preset, device="cpu", adaptive=False).generate(request(30, prompt=PROMPT * 4)))
    views = [index for index, event in enumerate(events) if isinstance(event, ContextFocused)]
    assert views
    assert all(isinstance(events[index - 1], TokensAccepted) for index in views)
    first = events[views[0]]
    assert isinstance(first, ContextFocused)
    assert first.chunk_ids[0] == 0
    assert first.num_tokens < first.num_context_tokens


@pytest.mark.parametrize("drafter", ["none", "lookup", "lm"])
def test_telling_where_it_looks_changes_nothing_else(pair: Path, drafter: DrafterKind) -> None:
    preset = pair_preset(pair, "lm", retrieval=RetrievalConfig(chunk_size=8, top_k=2, num_sink=4, num_recent=16))
    silent = load_engine(preset, drafter=drafter, device="cpu", adaptive=False)
    told = load_engine(preset, drafter=drafter, device="cpu", adaptive=False).telling_where_it_looks(every=4)
    asked = request(30, prompt=PROMPT * 4)
    before, events = list(silent.generate(asked)), list(told.generate(asked))
    looks = [event for event in events if isinstance(event, ContextAttended)]
    assert looks
    assert not any(isinstance(event, ContextAttended) for event in before)
    assert all(look.chunk_size == 8 and max(look.chunk_ids, default=0) * 8 < look.num_context_tokens for look in looks)
    assert isinstance(before[-1], Finished)
    assert isinstance(events[-1], Finished)
    assert events[-1].token_ids == before[-1].token_ids
    assert [e.chunk_ids for e in events if isinstance(e, ContextFocused)] == [
        e.chunk_ids for e in before if isinstance(e, ContextFocused)
    ]
    steps = [event for event in events if isinstance(event, TokensAccepted)][:-1]
    due = sum(index % (2 if index < 4 else 4) == 0 for index in range(len(steps)))
    assert len(looks) == due
    sibling = told.with_drafter("none")
    assert any(isinstance(event, ContextAttended) for event in sibling.generate(asked))


def test_rows_are_computed_only_where_they_are_looked_at(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a look in every third step, a row in every third step, and the same text."""
    found = []
    compute = Target._attention_row
    for every in (1, 3):
        retrieval = RetrievalConfig(chunk_size=8, top_k=2, num_sink=4, num_recent=16, every=every)
        engine = load_engine(pair_preset(pair, "lm", retrieval=retrieval), device="cpu", adaptive=False)
        rows = list[int]()

        def count(
            self: Target, tapped: tuple[torch.Tensor, Scoring], node: int, rows: list[int] = rows
        ) -> torch.Tensor:
            rows.append(node)
            return compute(self, tapped, node)

        monkeypatch.setattr(Target, "_attention_row", count)
        *_, last = engine.generate(Request(PROMPT, SamplingParams(), StopRules(40)))
        assert isinstance(last, Finished)
        found.append((len(rows), last.metrics.num_spec_steps, last.token_ids))
    (every_step, _, one), (third, num_steps, other) = found
    assert one == other
    assert third <= -(-(num_steps + 1) // 3) + 1 < every_step
