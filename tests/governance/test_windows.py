from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.windows import SLOTS, window

BERLIN = ZoneInfo("Europe/Berlin")


def at(*parts: int, zone: ZoneInfo | None = None) -> float:
    return datetime(*parts, tzinfo=zone or UTC).timestamp()  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("spec", "now", "start", "end"),
    [
        (b"day UTC", at(2026, 11, 22, 23, 59), at(2026, 11, 22), at(2026, 11, 23)),
        (b"hour Europe/Berlin", at(2026, 11, 22, 23, 59), at(2026, 11, 22, 23), at(2026, 11, 23)),
        (b"week UTC", at(2026, 11, 22, 5), at(2026, 11, 16), at(2026, 11, 23)),
        (b"month UTC", at(2026, 12, 31, 5), at(2026, 12, 1), at(2027, 1, 1)),
        (b"month UTC", at(2028, 2, 29), at(2028, 2, 1), at(2028, 3, 1)),
        (b"year UTC", at(2026, 12, 31, 5), at(2026, 1, 1), at(2027, 1, 1)),
    ],
    ids=["day", "hour", "week from Monday", "month", "leap February", "year"],
)
def test_a_calendar_window_is_one_slot(spec: bytes, now: float, start: float, end: float) -> None:
    slot = window(spec).at(now)
    assert (slot.start, slot.end, slot.since, slot.start + slot.hold) == (start, end, start, end)


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 11, 22), 24)])
def test_a_day_is_as_long_as_it_is_there(day: tuple[int, int, int], hours: int) -> None:
    slot = window(b"day Europe/Berlin").at(at(*day, 12, zone=BERLIN))
    assert slot.start == at(*day, zone=BERLIN)
    assert slot.end - slot.start == hours * 3600


@given(st.integers(60, 10**7), st.floats(1e9, 3e9))
def test_what_is_spent_in_a_rolling_window_counts_until_it_is_that_old(length: int, spent_at: float) -> None:
    rolling = window(b"%d UTC" % length)
    slot = rolling.at(spent_at)
    assert slot.start <= spent_at < slot.end
    assert slot.start >= rolling.at(spent_at + length - 1e-3).since
    free = rolling.at(slot.start + slot.hold + 1e-3)
    assert slot.start < free.since
    width = slot.end - slot.start
    assert slot.start + slot.hold - spent_at <= length + 2 * width
    assert length / width <= SLOTS + 24  # widths are whole seconds
