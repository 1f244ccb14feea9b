"""Which chunks come into view, and when."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from spec_engine.config import RetrievalConfig
from spec_engine.retrieval import Focus, Retriever, chunk_means, most_attended

CONFIG = RetrievalConfig(chunk_size=4, top_k=2, num_sink=3, num_recent=5, hysteresis=0.2)


@dataclass
class Scored:
    attention_row: Tensor | None
    num_done: int


def row(num_tokens: int, **peaks: float) -> Scored:
    """A row with the given mass at chunks, as ``c3=0.5``, and a little everywhere."""
    values = torch.full((num_tokens,), 1e-3)
    for name, mass in peaks.items():
        chunk = int(name[1:])
        values[chunk * 4 : chunk * 4 + 4] += mass
    return Scored(values, num_tokens)


def view(focus: Focus | None) -> tuple[int, ...]:
    assert focus is not None
    return focus.chunk_ids


def test_sink_recent_and_the_best_chunks_in_text_order() -> None:
    focus = Retriever(CONFIG).update(row(50, c7=0.5, c3=0.2, c5=0.1))
    assert view(focus) == (0, 3, 7, 11, 12)  # 45..49 are recent: chunks 11 and 12
    assert focus is not None
    assert focus.token_indices.tolist() == [*range(4), *range(12, 16), *range(28, 32), *range(44, 50)]
    assert focus.token_indices.dtype == torch.int64
    assert focus.chunk_size == 4


def test_mass_on_sink_and_recent_does_not_use_up_the_choice() -> None:
    assert view(Retriever(CONFIG).update(row(50, c0=9.0, c12=9.0, c7=0.5, c3=0.2))) == (0, 3, 7, 11, 12)


def test_the_newest_tokens_are_never_missing() -> None:
    retriever = Retriever(CONFIG)
    in_view = 0
    for num_tokens in range(40, 80):
        focus = retriever.update(row(num_tokens, c2=0.5, c4=0.3))
        if focus is not None:
            assert set(range(num_tokens - 5, num_tokens)) <= set(focus.token_indices.tolist())
            assert set(range(3)) <= set(focus.token_indices.tolist())
            in_view = num_tokens
        assert num_tokens - in_view < 5  # later tokens follow after the view; it is renewed before they are many


def test_unchanged_views_are_not_repeated() -> None:
    retriever = Retriever(CONFIG)
    assert retriever.update(row(50, c7=0.5, c3=0.2)) is not None
    assert retriever.update(row(51, c7=0.4, c3=0.3)) is None
    assert view(retriever.update(row(52, c7=0.4, c2=0.3))) == (0, 2, 7, 11, 12)


def test_a_chunk_in_view_gives_way_only_to_a_clearly_better_one() -> None:
    retriever = Retriever(CONFIG)
    retriever.update(row(50, c7=0.5, c3=0.20))
    assert retriever.update(row(50, c7=0.5, c3=0.20, c2=0.23)) is None
    assert view(retriever.update(row(50, c7=0.5, c3=0.20, c2=0.25))) == (0, 2, 7, 11, 12)


def test_lookahead_takes_the_next_chunk_along() -> None:
    ahead = replace(CONFIG, lookahead=0.5)
    assert view(Retriever(ahead).update(row(50, c7=0.5, c3=0.2))) == (0, 7, 8, 11, 12)
    assert view(Retriever(ahead).update(row(50, c7=0.5, c3=0.3))) == (0, 3, 7, 11, 12)
    assert view(Retriever(ahead).update(row(50, c0=9.0, c7=0.5, c3=0.2))) == (0, 7, 8, 11, 12)  # not from the sink


def test_a_short_context_is_one_view_of_everything() -> None:
    retriever = Retriever(CONFIG)
    focus = retriever.update(row(13))
    assert focus is not None
    assert focus.token_indices.tolist() == list(range(13))
    assert all(retriever.update(row(num_tokens)) is None for num_tokens in range(14, 21))
    assert len(view(retriever.update(row(50, c7=0.5, c3=0.2)))) == 5


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 5])
def test_the_shortest_contexts(num_tokens: int) -> None:
    focus = Retriever(CONFIG).update(row(num_tokens))
    assert focus is not None
    assert focus.token_indices.tolist() == list(range(num_tokens))


def test_every_and_off_and_unscored() -> None:
    retriever = Retriever(RetrievalConfig(chunk_size=4, top_k=1, num_sink=0, num_recent=4, every=3))
    peaks = ["c7", "c3", "c4", "c5", "c6", "c8"]
    views = [retriever.update(row(50, **{peak: 0.5})) for peak in peaks]
    assert [focus is not None for focus in views] == [True, False, False, True, False, False]
    assert Retriever(RetrievalConfig(enabled=False)).update(row(50)) is None
    assert Retriever(CONFIG).update(Scored(None, 50)) is None


def test_a_row_that_is_not_looked_at_need_not_be_there() -> None:
    """Views are the same without the rows between; a view that is due waits for the next row."""
    config = RetrievalConfig(chunk_size=4, top_k=1, num_sink=0, num_recent=4, every=3)
    peaks = ["c7", "c3", "c4", "c5", "c6", "c8", "c2"]
    whole, lean = Retriever(config), Retriever(config)
    for peak in peaks:
        want = whole.update(row(50, **{peak: 0.5}))
        found = lean.update(row(50, **{peak: 0.5}) if lean.is_due else Scored(None, 50))
        assert (found is None) == (want is None)
        assert found is None or view(found) == view(want)
    late = Retriever(config)
    assert late.update(Scored(None, 50)) is None
    assert late.is_due
    assert late.update(row(50, c7=0.5)) is not None
    assert not late.is_due
    assert not Retriever(RetrievalConfig(enabled=False)).is_due


def test_nothing_but_sink_and_recent() -> None:
    retriever = Retriever(RetrievalConfig(chunk_size=4, top_k=0, num_sink=4, num_recent=4))
    assert view(retriever.update(row(48, c5=0.9))) == (0, 11)
    assert retriever.update(row(48, c6=0.9)) is None


def test_answers_do_not_share_state() -> None:
    first, second = Retriever(CONFIG), Retriever(CONFIG)
    first.update(row(400, c50=0.5, c60=0.4))
    assert view(second.update(row(50, c7=0.5, c3=0.2))) == (0, 3, 7, 11, 12)


def test_chunk_means_are_exact_at_length() -> None:
    """At 64K tokens a half-precision running sum has long stopped telling chunks apart."""
    values = torch.rand(65_537, generator=torch.Generator().manual_seed(0))
    values /= values.sum()
    means = chunk_means(values, 32)
    exact = torch.stack([chunk.double().mean() for chunk in values.split(32)])
    assert means.dtype == torch.float32
    assert torch.allclose(means.double(), exact, rtol=1e-5, atol=0)
    assert torch.equal(means.argsort(), exact.argsort())
    assert torch.allclose(chunk_means(values.half(), 32), chunk_means(values.half().float(), 32))


def test_a_look_is_named_only_where_it_stands_out() -> None:
    config = RetrievalConfig(chunk_size=4, num_sink=3, num_recent=5)
    flat = torch.full((80,), 1 / 80)
    assert most_attended(flat, config) == ()
    look = flat.clone()
    look[[40, 41, 42, 43, 60]] = 0.1
    look[0], look[79] = 0.9, 0.9  # the sink and the newest tokens always draw attention
    assert most_attended(look / look.sum(), config) == (10,)
    assert most_attended(torch.tensor([0.5, 0.5]), config) == ()
    many = torch.full((400,), 1 / 400)
    many[8:376:32] = 0.5
    assert len(most_attended(many, config)) == 8


def test_scores_that_come_a_step_late_choose_the_view_of_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a GPU. The newest chunks have no scores yet, and are in view because they are new."""
    sent: list[Tensor | None] = [None]

    def exchange(_: object, means: Tensor | None) -> Tensor | None:
        sent.append(means)
        return sent[-2]

    monkeypatch.setattr("spec_engine.retrieval._Travelling.exchange", exchange)
    retriever = Retriever(CONFIG)
    assert retriever.update(row(50, c7=0.5, c3=0.2)) is None
    assert view(retriever.update(row(59, c5=0.5, c6=0.2))) == (0, 3, 7, 13, 14)
    assert view(retriever.update(row(60, c5=0.5, c6=0.2))) == (0, 5, 6, 13, 14)
    retriever = Retriever(replace(CONFIG, every=3))  # also where the step after is not due
    sent.append(None)
    assert retriever.update(row(50, c7=0.5, c3=0.2)) is None
    assert view(retriever.update(Scored(None, 52))) == (0, 3, 7, 11, 12)
    assert retriever.update(Scored(None, 53)) is None
    assert retriever.update(row(54, c5=0.5, c6=0.2)) is None
    assert view(retriever.update(Scored(None, 55))) == (0, 5, 6, 12, 13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_scores_of_a_gpu_come_a_step_late() -> None:
    retriever = Retriever(CONFIG)
    rows = [row(50, c7=0.5, c3=0.2), row(50, c5=0.5, c6=0.2), row(50, c5=0.5, c6=0.2)]
    rows = [Scored(one.attention_row.cuda(), 50) for one in rows if one.attention_row is not None]
    assert retriever.update(rows[0]) is None
    assert view(retriever.update(rows[1])) == (0, 3, 7, 11, 12)
    assert view(retriever.update(rows[2])) == (0, 5, 6, 11, 12)
