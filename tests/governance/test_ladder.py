from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.ladder import LONGEST, Ladder


def test_it_goes_down_at_once_and_further_only_when_that_did_not_help() -> None:
    ladder = Ladder(3, calm=10.0, patience=5.0)
    assert [ladder.look(1.0, now) for now in (0.0, 1.0, 4.9, 5.0, 9.0, 10.0, 20.0)] == [1, 1, 1, 2, 2, 3, 3]


def test_it_comes_back_step_by_step_after_calm_times() -> None:
    ladder = Ladder(2, calm=10.0, patience=1.0)
    ladder.look(2.0, 0.0)
    ladder.look(2.0, 1.0)
    assert ladder.level == 2
    assert [ladder.look(0.0, now) for now in (2.0, 11.9, 12.0, 21.9, 22.0, 50.0)] == [2, 2, 1, 1, 0, 0]


def test_between_hot_and_calm_nothing_moves_and_the_calm_time_begins_anew() -> None:
    ladder = Ladder(2, calm=10.0, patience=1.0)
    ladder.look(1.0, 0.0)
    ladder.look(0.0, 1.0)
    assert [ladder.look(0.7, now) for now in (9.0, 30.0)] == [1, 1]
    assert [ladder.look(0.0, now) for now in (31.0, 40.0, 41.0)] == [1, 1, 0]


def test_a_relapse_doubles_the_calm_time_up_to_a_bound() -> None:
    ladder = Ladder(1, calm=10.0, patience=1.0)
    now, waits = 0.0, []
    for _ in range(6):
        ladder.look(1.0, now)
        ladder.look(0.0, now)
        began = now
        while ladder.look(0.0, now):
            now += 1.0
        waits.append(now - began)
        now += 1.0
    assert waits == [10.0, 20.0, 40.0, 80.0, 80.0, 80.0]


def test_a_long_time_at_ease_forgives_relapses() -> None:
    ladder = Ladder(1, calm=1.0, patience=1.0)
    for now in (0.0, 3.0):
        ladder.look(1.0, now)
        ladder.look(0.0, now)
        ladder.look(0.0, now + 1.0)
        ladder.look(1.0, now + 1.5)
        ladder.look(0.0, now + 1.5)
    assert "calm time 4 s" in repr(ladder) or "calm time 2 s" in repr(ladder)
    ladder.look(0.0, 50.0)
    ladder.look(1.0, 50.0 + LONGEST)
    assert repr(ladder) == "<Ladder at 1 of 1 | calm time 1 s>"


@given(
    st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 2.0)), max_size=80),
    st.integers(1, 4),
)
def test_its_laws_hold_for_any_history(looks: list[tuple[float, float]], steps: int) -> None:
    ladder = Ladder(steps, calm=3.0, patience=2.0)
    now, calm_since, changed = 0.0, None, -1.0
    for pause, severity in looks:
        now += pause
        before = ladder.level
        after = ladder.look(severity, now)
        assert 0 <= after <= steps
        assert abs(after - before) <= 1
        if severity < 0.5:
            calm_since = now if calm_since is None else calm_since
            assert after <= before
            assert after == before or now - calm_since >= 3.0
        else:
            calm_since = None
            assert after >= before
        if severity >= 1.0:
            assert after >= 1
        if after > before > 0:
            assert now - changed >= 2.0
        changed = now if after != before else changed


@pytest.mark.parametrize("wrong", [(0, 1.0, 1.0), (1, 0.0, 1.0), (1, 1.0, 0.0)])
def test_what_is_no_ladder_is_refused(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="ladder"):
        Ladder(*wrong)
