from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.load import load
from gateway.config.recurring import WEEK, Weekly
from gateway.config.resolve import candidates
from gateway.filters.catalog import KINDS
from gateway.pipeline.filter import Rule


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("08:00-18:00", Weekly("08:00-18:00")),
        ("Mon-Fri 08:00-18:00", Weekly("08:00-18:00", "Mon-Fri")),
        ("Mon-Fri 08:00-18:00 Europe/Berlin", Weekly("08:00-18:00", "Mon-Fri", "Europe/Berlin")),
        ("08:00-24:00 Asia/Tokyo", Weekly("08:00-24:00", zone="Asia/Tokyo")),
    ],
)
def test_hours_are_read_as_a_user_writes_them(text: str, expected: Weekly) -> None:
    assert Weekly.from_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("08:00-18:00 Mars/Base", "Mon 08:00-18:00 Europe/Berlin now"),
        *(
            "",
            "Mon-Fri",
            "8-18",
            "Mon-Fry 08:00-18:00",
            "08:00-25:00",
            "08:00-24:01",
            "08:00-08:00",
            "a b c:d",
        ),
    ],
)
def test_what_are_no_hours_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Weekly.from_text(text)


@pytest.mark.parametrize(
    ("text", "instant", "holds"),
    [
        ("Mon-Fri 08:00-18:00", "2026-11-20 08:00", True),
        ("Mon-Fri 08:00-18:00", "2026-11-20 17:59", True),
        ("Mon-Fri 08:00-18:00", "2026-11-20 18:00", False),
        ("Mon-Fri 08:00-18:00", "2026-11-21 12:00", False),
        ("Fri 22:00-06:00", "2026-11-21 05:59", True),
        ("Fri 22:00-06:00", "2026-11-20 05:59", False),
        ("Sun 22:00-06:00", "2026-11-23 01:00", True),
        ("Sat-Mon 00:00-24:00", "2026-11-22 23:59", True),
        ("Sat-Mon 00:00-24:00", "2026-11-24 00:00", False),
    ],
)
def test_they_hold_when_the_clock_says_so(text: str, instant: str, holds: bool) -> None:
    assert Weekly.from_text(text).holds(at(instant)) is holds


@pytest.mark.parametrize("day", ["2026-03-27", "2026-03-30", "2026-10-23", "2026-10-26"])
def test_an_office_hour_stays_one_when_the_clocks_change(day: str) -> None:
    office = Weekly.from_text("Mon-Fri 08:00-18:00 Europe/Berlin")
    for clock, holds in (("07:59", False), ("08:00", True), ("17:59", True), ("18:00", False)):
        assert office.holds(at(f"{day} {clock}", "Europe/Berlin")) is holds


def held_minutes(window: Weekly, start: str) -> int:
    begin = at(start)
    return sum(window.holds(begin + 60 * minute) for minute in range(24 * 60))


def test_the_hour_that_is_skipped_is_not_held_and_the_one_that_comes_twice_is_held_twice() -> None:
    night = Weekly.from_text("02:00-03:00 Europe/Berlin")
    assert held_minutes(night, "2026-03-28 12:00") == 0
    assert held_minutes(night, "2026-10-24 12:00") == 120
    assert held_minutes(Weekly.from_text("02:30-04:00 Europe/Berlin"), "2026-03-28 12:00") == 60


clocks = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda one: f"{one[0]:02}:{one[1]:02}")


@given(clocks, clocks, st.integers(0, 2_000_000_000))
def test_a_window_and_its_complement_share_no_time_and_leave_none(first: str, second: str, wall: int) -> None:
    if first == second:
        return
    window, rest = Weekly(f"{first}-{second}"), Weekly(f"{second}-{first}")
    assert window.holds(wall) is not rest.holds(wall)
    assert not window.overlaps(rest)
    assert len(window.minutes()) + len(rest.minutes()) == WEEK


def test_of_two_zones_an_overlap_can_not_be_excluded() -> None:
    assert Weekly("08:00-09:00").overlaps(Weekly("20:00-21:00", zone="Asia/Tokyo"))


PAGE = """\
pools: {a: {instances: [127.0.0.1:9101]}}
endpoints: {d: {match: {path: /d}, send: a}}
policies:
  by-day: {applies_to: [d], during: "Mon-Fri 08:00-18:00 Europe/Berlin", timeout: 1s}
  by-night:
    applies_to: [d]
    during: ["Mon-Fri %s Europe/Berlin", "Sat,Sun 00:00-24:00 Europe/Berlin"]
    timeout: 9s
"""


def test_policies_whose_hours_never_meet_are_no_tie_and_switch_without_a_reload(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PAGE % "18:00-08:00")
    loaded = load(tmp_path, KINDS)
    assert loaded.schema is not None, loaded.errors
    both = candidates(loaded.schema, KINDS, "d")["timeout"]
    for instant, policy in (("2026-11-20 12:00", "by-day"), ("2026-11-20 19:00", "by-night")):
        wall = at(instant, "Europe/Berlin")
        assert [one.policy for one in both if one.holds(wall)] == [policy]
        rules = [Rule(one.value, one.policy, during=one.during) for one in both]
        assert [rule.policy for rule in rules if rule.applies(None, wall)] == [policy]
        assert not any(rule.is_plain for rule in rules)


def test_policies_whose_hours_meet_tie(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PAGE % "17:00-08:00")
    loaded = load(tmp_path, KINDS)
    assert any("expected one timeout of this rank" in str(problem) for problem in loaded.errors)
