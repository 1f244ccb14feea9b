"""An answer folded from its events."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from spec_engine.events import ContextFocused, Event, Finished, Prefilled, PromptReady, TokensAccepted
from spec_engine.metrics import MetricsRecorder, StepRecord
from spec_engine.ui.live import LiveAnswer, stretches_of
from spec_engine.ui.time_left import TimeLeft
from tests.fakes import byte_tokenizer
from tests.model.test_tokenizer import sentencepiece_like


def accepted(pieces: tuple[str, ...], at: float) -> TokensAccepted:
    """A step whose last token is the target's, the others drafted."""
    record = StepRecord(4, len(pieces) - 1, len(pieces), 4, 0.01, 0.04)
    authors = (*(True for _ in pieces[:-1]), False)
    return TokensAccepted(tuple(range(len(pieces))), authors, "".join(pieces), pieces, record, at)


EVENTS: tuple[Event, ...] = (
    PromptReady(1000, 400),
    Prefilled(700, 1000, 1.0),
    Prefilled(999, 1000, 2.0),
    accepted(("The ", "large ", "model"), 2.1),
    accepted((" wrote",), 2.2),
    ContextFocused((3, 4), 32, 208, 1004),
    accepted((" this", "."), 2.3),
)


def test_reading_shows_share_rate_and_time_left() -> None:
    answer = LiveAnswer()
    answer.apply(EVENTS[:2])
    assert (answer.phase, answer.num_read, answer.num_prompt, answer.num_reused) == ("reading", 700, 1000, 400)
    assert answer.read_tokens_per_second == pytest.approx(300)  # reused tokens were not computed
    assert answer.read_seconds_left is None  # one chunk does not tell how the time of a token grows


def test_the_time_left_of_a_long_prompt_is_not_that_of_its_first_tokens() -> None:
    """A page said 12 s where reading took 66: nearly all of that lies in the square of the length."""

    def spent(position: int) -> float:
        return 2e-4 * position + 1.33e-8 * position**2

    answer, num_tokens = LiveAnswer(), 63000
    answer.apply([PromptReady(num_tokens, 0)])
    told = []
    for position in range(500, num_tokens, 500):
        answer.apply([Prefilled(position, num_tokens, spent(position))])
        if answer.read_seconds_left is not None:
            told.append(answer.read_seconds_left / (spent(num_tokens) - spent(position)))
    assert len(told) > 100
    assert all(0.9 < share < 1.1 for share in told)


def test_the_time_left_grows_with_what_stands_before_a_token() -> None:
    def spent(position: int) -> float:
        return 1e-4 * (position - 1000) + 1e-7 * (position**2 - 1000**2)

    answer = LiveAnswer()
    answer.apply([PromptReady(16000, 1000)])
    for position in range(2000, 9000, 1000):
        answer.apply([Prefilled(position, 16000, spent(position))])
    assert answer._estimate() == pytest.approx(spent(16000) - spent(8000))
    assert answer.read_seconds_left == pytest.approx(spent(16000) - spent(8000), rel=0.25)


def test_the_time_left_is_calm_and_follows_what_stays() -> None:
    left, shown = TimeLeft(), []
    assert left.told(None, 0.0) is None
    for tick in range(41):  # 0.5 s each, the estimate off by half to and fro
        now = tick / 2
        told = left.told((40 - now) * (1.5 if tick % 2 else 0.75), now)
        assert told is not None
        shown.append(told)
    assert all(abs(later - earlier + 0.5) < 2 for earlier, later in pairwise(shown))
    assert shown[-1] == pytest.approx(20 * 1.12, rel=0.25)
    for tick in range(41, 80):  # from here on it takes twice as long
        now = tick / 2
        told = left.told(2 * (40 - now), now)
    assert told == pytest.approx(2 * (40 - now), rel=0.5, abs=1)
    assert left.told(0.0, 100.0) == 0.0


def test_the_time_left_of_a_share_begins_anew_with_another_piece_of_work() -> None:
    left = TimeLeft()
    told = [left.by_share(second / 20, 100.0 + second) for second in range(11)]
    assert told[:2] == [None, None]
    assert told[2:] == pytest.approx([20 - second for second in range(2, 11)])
    told = [left.by_share(second / 4, 111.0 + second) for second in range(4)]
    assert told == [None, None, pytest.approx(2.0), pytest.approx(1.0)]


def test_writing_shows_what_the_metrics_of_the_steps_say() -> None:
    answer = LiveAnswer()
    answer.apply(EVENTS)
    assert answer.text == "The large model wrote this."
    assert answer.focus == EVENTS[5]
    metrics = answer.metrics
    assert metrics.num_generated_tokens == 6
    assert metrics.mean_acceptance_length == pytest.approx(2.0)
    assert metrics.tokens_per_second == pytest.approx(6 / 0.3)  # decoding alone
    assert answer.tokens_per_second_now == pytest.approx(3 / 0.2)  # the first step only starts the clock


def test_neighbouring_tokens_of_one_author_are_one_stretch() -> None:
    answer = LiveAnswer()
    answer.apply(EVENTS)
    assert [(s.text, s.is_drafted, s.num_tokens) for s in answer.stretches] == [
        ("The large ", True, 2),
        ("model wrote", False, 2),
        (" this", True, 1),
        (".", False, 1),
    ]


def test_a_watcher_that_joins_late_sees_the_same() -> None:
    early, late = LiveAnswer(), LiveAnswer()
    for event in EVENTS:
        early.apply([event])
    late.apply(EVENTS)
    assert (early.text, early.metrics, early.token_ids) == (late.text, late.metrics, late.token_ids)


def test_the_end_replaces_the_running_figures_by_the_engines_own() -> None:
    recorder = MetricsRecorder(1000, 400)
    recorder.add(StepRecord(4, 2, 3, 4, 0.1, 0.1))
    answer = LiveAnswer()
    answer.apply((*EVENTS, Finished("stop", (1, 2, 3), "Final text", recorder.summary(0.5))))
    assert (answer.phase, answer.text, answer.metrics.num_generated_tokens) == ("done", "Final text", 3)


def test_only_the_last_two_seconds_count_as_now() -> None:
    answer = LiveAnswer()
    answer.apply([PromptReady(10, 0), accepted(("a",), 1.0)])
    answer.apply([accepted(("b",) * 10, 2.0 + step / 10) for step in range(40)])
    assert answer.tokens_per_second_now == pytest.approx(100, rel=0.01)


def test_a_pause_of_drafting_is_told_with_its_reason() -> None:
    answer = LiveAnswer()
    paused = StepRecord(0, 0, 1, 0, 0.0, 0.04, 0.0, "It would be slower here.")
    answer.apply([*EVENTS, TokensAccepted((1,), (False,), "x", ("x",), paused, 3.0)])
    assert answer.drafting_note == "It would be slower here."
    answer.apply([accepted(("a", "b"), 3.1)])
    assert answer.drafting_note == ""


@pytest.mark.parametrize(("num_plain", "note"), [(1, ""), (5, "It would be slower here.")])
def test_in_the_end_a_pause_counts_when_it_covered_most_steps(num_plain: int, note: str) -> None:
    recorder = MetricsRecorder(10, 0)
    for _ in range(3):
        recorder.add(StepRecord(4, 1, 2, 4, 0.1, 0.1))
    for _ in range(num_plain):
        recorder.add(StepRecord(0, 0, 1, 0, 0.1, 0.1, 0.0, "It would be slower here."))
    answer = LiveAnswer()
    answer.apply([Finished("stop", (1,), "x", recorder.summary(1.0))])
    assert answer.drafting_note == note


def test_a_kept_answer_has_the_stretches_that_it_had() -> None:
    words = ["One ", "two ", "three ", "four ", "five."]
    authors = (False, True, True, False, True)
    decoded = stretches_of(lambda ids: "".join(words[i] for i in ids), range(5), authors, "".join(words))
    assert [(one.text, one.is_drafted, one.num_tokens) for one in decoded] == [
        ("One ", False, 1),
        ("two three ", True, 2),
        ("four ", False, 1),
        ("five.", True, 1),
    ]


def test_the_stretches_of_a_long_answer_take_as_long_by_the_token_as_those_of_a_short_one() -> None:
    decoded = list[int]()

    def decode(token_ids: Sequence[int]) -> str:
        decoded.append(len(token_ids))
        return "".join(chr(97 + index % 26) for index in token_ids)

    num_tokens = []
    for length in (400, 4000):
        decoded.clear()
        stretches = stretches_of(decode, range(length), [i % 3 > 0 for i in range(length)], decode(range(length)))
        assert sum(one.num_tokens for one in stretches) == len("".join(one.text for one in stretches)) == length
        num_tokens.append(sum(decoded))
    assert num_tokens[1] <= 11 * num_tokens[0]


@pytest.mark.parametrize("kind", ["bytes", "pieces with bytes"])
def test_whoever_wrote_its_tokens_the_stretches_of_an_answer_are_its_text(kind: str) -> None:
    """Random tokens: mostly of no character, and in the second vocabulary runs of bytes that are read as a whole."""
    tokenizer = byte_tokenizer() if kind == "bytes" else sentencepiece_like()
    rng = random.Random(5)
    for _ in range(300):
        token_ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randint(0, 30))]
        authors = [rng.random() < 0.5 for _ in token_ids]

        def decode(ids: Sequence[int]) -> str:
            return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

        stretches = stretches_of(decode, token_ids, authors, decode(token_ids))
        assert "".join(one.text for one in stretches) == decode(token_ids)


def test_a_character_of_two_authors_goes_to_the_later_one() -> None:
    data = "aé!".encode()

    def decode(token_ids: Sequence[int]) -> str:
        return bytes(data[index] for index in token_ids).decode("utf-8", "replace")

    decoded = stretches_of(decode, range(4), (False, False, True, False), "aé!")
    assert "".join(one.text for one in decoded) == "aé!"
    assert sum(one.num_tokens for one in decoded) == 4


def test_half_a_character_that_is_not_shown_is_nobodys() -> None:
    data = "aé€".encode()[:-1]

    def decode(token_ids: Sequence[int]) -> str:
        return bytes(data[index] for index in token_ids).decode("utf-8", "replace")

    assert decode(range(len(data))) == "aé\ufffd"
    decoded = stretches_of(decode, range(len(data)), (False, True, True, False, True), "aé")
    assert [one.text for one in decoded] == ["a", "é", "", ""]
    assert sum(one.num_tokens for one in decoded) == len(data)
