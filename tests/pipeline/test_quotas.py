"""Allowances over one ledger: exact, whatever is delayed, cancelled or dies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.governance.allowance import Ask, MemoryLedger, Told
from gateway.pipeline.ports import Claim, Grant, StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.pipeline.quotas import Quotas

START = 1_795_305_600.0  # a midnight
DAILY = Claim(b"day UTC\0daily", 1.0, 100 / 86400, 100.0)
ROLLING = Claim(b"4800 UTC\0rolling", 1.0, 20 / 4800, 20.0)


class Wall:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class SlowLedger:
    """Answers when told to. Implements pipeline/quotas.Ledger."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.waiting: list[tuple[Sequence[Ask], Promise[Sequence[Told]]]] = []

    def draw(self, asks: Sequence[Ask]) -> Promise[Sequence[Told]]:
        promise: Promise[Sequence[Told]] = Promise()
        self.waiting.append((asks, promise))
        return promise

    def answer(self) -> None:
        if self.waiting:
            asks, promise = self.waiting.pop(0)
            promise.resolve(self._ledger.draw(asks))

    def fail(self) -> None:
        if self.waiting:
            self.waiting.pop(0)[1].reject(StoreUnavailable("away"))


def test_a_quota_is_spent_to_its_last_unit_and_comes_back_at_midnight() -> None:
    wall = Wall()
    quotas = Quotas(MemoryLedger(), wall)
    grants = [quotas.take([DAILY], 0.0) for _ in range(101)]
    assert [grant.allowed for grant in grants if isinstance(grant, Grant)] == [True] * 100 + [False]
    last = grants[-1]
    assert isinstance(last, Grant)
    assert (last.remaining, last.retry_after) == (0, 86400.0)
    wall.now += 86399.0
    again = quotas.take([DAILY], 0.0)
    assert isinstance(again, Grant)
    assert not again.allowed
    wall.now += 1.0
    assert quotas.take([DAILY], 0.0).allowed  # type: ignore[union-attr]


def test_several_levels_spend_all_or_none() -> None:
    wall = Wall()
    quotas = Quotas(MemoryLedger(), wall)
    for _ in range(20):
        assert quotas.take([DAILY, ROLLING], 0.0).allowed  # type: ignore[union-attr]
    for _ in range(5):
        refused = quotas.take([DAILY, ROLLING], 0.0)
        assert isinstance(refused, Grant)
        assert (refused.allowed, refused.binding) == (False, 1)
    assert sum(quotas.take([DAILY], 0.0).allowed for _ in range(100)) == 80  # type: ignore[union-attr]


def test_a_cost_above_the_quota_never_passes() -> None:
    quotas = Quotas(MemoryLedger(), Wall())
    grant = quotas.take([Claim(DAILY.key, 101.0, DAILY.rate, DAILY.burst)], 0.0)
    assert isinstance(grant, Grant)
    assert grant.retry_after == float("inf")


def test_what_was_spent_is_kept_over_a_restart_and_what_was_not_is_given_back() -> None:
    wall, ledger = Wall(), MemoryLedger()
    first = Quotas(ledger, wall)
    for _ in range(30):
        first.take([DAILY], 0.0)
        wall.now += 0.1
    first.report(idle=0.0)
    second = Quotas(ledger, wall)
    passed = sum(second.take([DAILY], 0.0).allowed for _ in range(100))  # type: ignore[union-attr]
    assert passed == 70


def test_a_busy_quota_costs_few_calls() -> None:
    wall = Wall()
    quotas = Quotas(MemoryLedger(), wall)
    claim = Claim(b"day UTC\0busy", 1.0, 1.0, 1_000_000.0)
    for _ in range(5000):
        wall.now += 0.001
        assert quotas.take([claim], 0.0).allowed  # type: ignore[union-attr]
    assert quotas.calls <= 0.05 * quotas.decisions
    assert quotas.left()[claim.key] == (995_000.0, 1_000_000.0)


def test_changing_the_number_keeps_what_was_spent() -> None:
    quotas = Quotas(MemoryLedger(), Wall())
    for _ in range(60):
        quotas.take([DAILY], 0.0)
    raised = Claim(DAILY.key, 1.0, DAILY.rate, 150.0)
    assert sum(quotas.take([raised], 0.0).allowed for _ in range(150)) == 90  # type: ignore[union-attr]


def test_while_the_ledger_is_away_nothing_is_lost() -> None:
    wall, ledger = Wall(), MemoryLedger()
    slow = SlowLedger(ledger)
    quotas = Quotas(slow, wall)
    errors: list[Exception] = []
    waiting = quotas.take([DAILY, ROLLING], 0.0)
    assert isinstance(waiting, Promise)
    waiting.then(lambda _: None, errors.append)
    slow.fail()
    assert isinstance(errors[0], StoreUnavailable)
    quotas.settle([Claim(DAILY.key, 5.0, DAILY.rate, DAILY.burst)], 0.0)
    quotas.report(idle=0.0)
    slow.fail()
    quotas.report(idle=0.0)
    slow.answer()
    other = Quotas(ledger, wall)
    assert sum(other.take([DAILY], 0.0).allowed for _ in range(100)) == 95  # type: ignore[union-attr]


events = st.lists(
    st.tuples(
        st.sampled_from(["take", "answer", "fail", "report", "cancel", "die"]),
        st.integers(0, 2),
        st.floats(0, 400),
    ),
    min_size=30,
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(events)
def test_in_any_window_no_more_than_the_quota_is_spent_by_all_together(
    story: list[tuple[str, int, float]],
) -> None:
    wall, ledger = Wall(), MemoryLedger()
    ends = [SlowLedger(ledger) for _ in range(3)]
    gateways = [Quotas(end, wall) for end in ends]
    spent: list[tuple[float, int]] = []

    def granted(who: int, grant: Grant) -> None:
        if grant.allowed:
            spent.append((wall.now, who))

    for what, who, elapsed in story:
        match what:
            case "take":
                grant = gateways[who].take([ROLLING], 0.0)
                if isinstance(grant, Promise):
                    grant.then(partial(granted, who), lambda _: None)
                else:
                    granted(who, grant)
            case "answer":
                while ends[who].waiting:
                    ends[who].answer()
            case "fail":
                ends[who].fail()
            case "report":
                gateways[who].report(idle=1.0)
            case "cancel" if spent and spent[-1][1] == who:  # its last request left: it gives back
                spent.pop()
                gateways[who].settle([Claim(ROLLING.key, -1.0, ROLLING.rate, ROLLING.burst)], 0.0)
            case "die":
                ends[who] = SlowLedger(ledger)
                gateways[who] = Quotas(ends[who], wall)
        if what in ("report", "die"):
            for end in ends:  # no word takes longer than a slot of the window
                while end.waiting:
                    end.answer()
            wall.now += elapsed
    instants = [instant for instant, _ in spent]
    for index, first in enumerate(instants):
        assert sum(instant - first < 4800 for instant in instants[index:]) <= 20
