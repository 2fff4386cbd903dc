"""Overload: the level follows the worst load, the least important go first, the critical never."""

import random

import pytest

from gateway.governance.overload import Gauge, Importance, Shedder


def share_shed(shedder: Shedder, level: float, mix: dict[Importance, float], requests: int = 6000) -> dict:
    chance = random.Random(5)
    seen = dict.fromkeys(mix, 0)
    shed = dict.fromkeys(mix, 0)
    for i in range(requests):
        importance = chance.choices(list(mix), list(mix.values()))[0]
        gone = shedder.sheds(importance, level)
        if i >= 1000:
            seen[importance] += 1
            shed[importance] += gone
    return {importance: shed[importance] / seen[importance] for importance in mix}


@pytest.mark.parametrize(
    ("level", "normal", "sheddable"),
    [(0.0, 0.0, 0.0), (0.2, 0.0, 0.5), (0.4, 0.0, 1.0), (0.7, 0.5, 1.0), (1.0, 1.0, 1.0)],
)
def test_the_least_important_go_first_and_the_critical_never(level, normal, sheddable):
    shedder = Shedder(random.Random(2).random)
    mix = {Importance.CRITICAL: 0.2, Importance.NORMAL: 0.48, Importance.SHEDDABLE: 0.32}
    share = share_shed(shedder, level, mix)
    assert share[Importance.CRITICAL] == 0
    assert share[Importance.NORMAL] == pytest.approx(normal, abs=0.06)
    assert share[Importance.SHEDDABLE] == pytest.approx(sheddable, abs=0.06)


def test_when_nobody_is_sheddable_normal_requests_carry_the_whole_share():
    share = share_shed(Shedder(random.Random(2).random), 0.3, {Importance.NORMAL: 1.0})
    assert share[Importance.NORMAL] == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    ("lag", "in_flight", "pool", "level"),
    [
        (0, 0, 0, 0.0),
        (0.016, 0, 0, 0.0),
        (0.028, 0, 0, 0.5),
        (0, 200, 0, 1.0),
        (0, 0, 1.4, 0.5),
        (9, 0, 0, 1.0),
    ],
)
def test_the_worst_load_sets_the_level(lag, in_flight, pool, level):
    assert Gauge().sense(lag, in_flight, 100, 0.0, pool) == pytest.approx(level)


def test_the_level_rises_at_once_and_falls_slowly():
    gauge = Gauge(relief=0.2)
    assert gauge.sense(1.0, 0, 100, 0.0) == 1.0
    assert gauge.sense(0.0, 0, 100, 1.0) == pytest.approx(0.8)
    assert gauge.sense(0.028, 0, 100, 2.0) == pytest.approx(0.6)
    assert gauge.sense(0.028, 0, 100, 9.0) == pytest.approx(0.5)
    assert gauge.sense(0.0, 0, 100, 99.0) == 0.0
    assert repr(gauge) == "<Gauge load 0.00 | level 0.00>"


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="begin"):
        Gauge(begins=2, full=1)
