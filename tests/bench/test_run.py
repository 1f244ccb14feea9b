"""The speed bench: in which order the methods are asked, and what is counted."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

from spec_engine.bench.peers import Peers
from spec_engine.bench.run import BenchCase, BenchPlan, _measure_text
from spec_engine.engine import Engine, Request
from spec_engine.events import Finished
from spec_engine.metrics import MetricsRecorder
from spec_engine.sampling import SamplingParams

TOKENS = 5


class _Recorded:
    """Answers at once, and writes down who was asked; `token_ids` is what it answers."""

    tokenizer = SimpleNamespace(stop_token_ids=frozenset())

    def __init__(self, name: str, asked: list[str], token_ids: tuple[int, ...]) -> None:
        self._name, self._asked, self._token_ids = name, asked, token_ids

    def generate(self, request: Request) -> Iterator[Finished]:
        if request.stop.max_tokens == TOKENS:
            self._asked.append(self._name)
        yield Finished("stop", self._token_ids, "", MetricsRecorder(2, 0).summary(1.0))


def test_methods_are_asked_in_turns_of_opposite_order_and_compared_with_plain_decoding() -> None:
    asked: list[str] = []
    answers = {"none": (1, 2), "lookup": (1, 2), "lm": (1, 3)}
    engines = {name: cast("Engine", _Recorded(name, asked, ids)) for name, ids in answers.items()}
    case = BenchCase((7, 8), "free", SamplingParams(temperature=2.0))
    rows = _measure_text(engines, cast("Peers", SimpleNamespace(names=())), [case, case], BenchPlan(max_tokens=TOKENS))
    there, back = list(answers), list(answers)[::-1]
    assert asked == [*there, *back, *there], "the first round warms up"
    counted = [row for row in rows if row.num_answers]
    assert [row.method for row in counted] == there * 2
    assert [row.num_identical for row in counted] == [1, 1, 0] * 2
