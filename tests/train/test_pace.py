"""Where a run stands, by tokens or by time."""

from spec_engine.train.pace import Pace


def test_without_a_limit_tokens_count() -> None:
    assert Pace(1000, 0.0).position(130) == 130


def test_with_a_limit_the_stages_end_in_time() -> None:
    now = [100.0]
    pace = Pace(1000, 50.0, now=lambda: now[0])
    assert pace.position(0) == 0
    now[0] = 110.0
    assert pace.position(50) == 200
    assert pace.position(300) == 300  # faster than planned
    now[0] = 200.0
    assert pace.position(400) == 1000


def test_a_run_that_goes_on_has_the_rest_before_it() -> None:
    now = [0.0]
    pace = Pace(1000, 10.0, now=lambda: now[0])
    assert pace.position(600) == 600
    now[0] = 5.0
    assert pace.position(610) == 800
