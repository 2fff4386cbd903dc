"""Leases: what a lender and its borrowers may spend together, over a virtual clock and late messages."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.governance.borrower import HORIZON, IDLE, Borrower, Pending
from gateway.governance.leases import TTL, Answer, Ask, Lender, Told
from gateway.governance.token_bucket import Verdict

KEY = b"k"


@dataclass(frozen=True)
class Wish:
    key: bytes
    cost: float
    rate: float
    burst: float


@dataclass
class Crew:
    """A lender and borrowers whose messages take `delay()` seconds each way. Events in order of time."""

    rate: float
    burst: float
    workers: int
    delay: Callable[[], float]
    now: float = 0.0
    messages: int = 0
    admitted: list[tuple[float, int]] = field(default_factory=list)  # instant, worker
    offered: int = 0

    def __post_init__(self) -> None:
        self.lender = Lender()
        self.borrowers = [Borrower() for _ in range(self.workers)]
        self.dead: set[int] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def request(self, worker: int, cost: float = 1.0) -> None:
        if worker in self.dead:
            return
        self.offered += 1
        borrower = self.borrowers[worker]
        taken = borrower.take((Wish(KEY, cost, self.rate, self.burst),), self.now)
        if isinstance(taken, Verdict):
            self._decided(worker, taken)
        else:
            self._ask(worker, taken)
        refills = borrower.refills()
        if refills:
            self._refill(worker, refills)

    def tick(self, worker: int, every: float = 0.02) -> None:
        """Report now and for ever."""
        if worker not in self.dead:
            told = self.borrowers[worker].reports(self.now)
            if told:
                self.messages += 1
                self.at(self.now + self.delay(), lambda: self.lender.told(worker, told, self.now))
        self.at(self.now + every, lambda: self.tick(worker, every))

    def _ask(self, worker: int, pending: Pending) -> None:
        sent = self.now
        told = self.borrowers[worker].spent(pending.asks)
        self.messages += 1

        def heard() -> None:
            self.lender.told(worker, told, self.now)
            answer = self.lender.decide(worker, pending.asks, self.now)
            self.at(self.now + self.delay(), lambda: back(answer))

        def back(answer: Answer) -> None:
            if worker not in self.dead:
                self._decided(worker, self.borrowers[worker].answered(pending, answer, sent, self.now))

        self.at(self.now + self.delay(), heard)

    def _refill(self, worker: int, asks: Sequence[Ask]) -> None:
        sent = self.now
        told = self.borrowers[worker].spent(asks)
        self.messages += 1

        def heard() -> None:
            self.lender.told(worker, told, self.now)
            answers = [self.lender.decide(worker, [ask], self.now) for ask in asks]
            self.at(self.now + self.delay(), lambda: back(answers))

        def back(answers: list[Answer]) -> None:
            for ask, answer in zip(asks, answers, strict=True):
                self.borrowers[worker].refilled(ask, answer, sent)

        self.at(self.now + self.delay(), heard)

    def _decided(self, worker: int, verdict: Verdict) -> None:
        if verdict.allowed:
            self.admitted.append((self.now, worker))

    def excess(self) -> float:
        """The most that any window saw above rate * t: never more than burst."""
        worst, lowest = 0.0, float("inf")
        for number, (instant, _) in enumerate(sorted(self.admitted)):
            lowest = min(lowest, number - self.rate * instant)
            worst = max(worst, number + 1 - self.rate * instant - lowest)
        return worst

    def used(self, since: float, until: float) -> float:
        """Share of what the rate allows in a time that was used."""
        spent = sum(since <= instant < until for instant, _ in self.admitted)
        return spent / (self.rate * (until - since))


def poisson(crew: Crew, rng: random.Random, worker: int, rate: float, since: float, until: float) -> None:
    """Let requests come by chance, `rate` a second."""
    now = since
    while True:
        now += rng.expovariate(rate)
        if now >= until:
            return
        crew.at(now, lambda: crew.request(worker))


def crew(rate: float, burst: float, workers: int, seed: int, delay: float = 0.002) -> Crew:
    rng = random.Random(seed)
    made = Crew(rate, burst, workers, lambda: rng.uniform(0.1, 1.0) * delay)
    for worker in range(workers):
        made.at(rng.uniform(0, 0.02), partial(made.tick, worker))
    return made


SKEWED = (12.0, 6.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.25)  # times the fair share of 8 workers


# The law


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("rate", "burst"), [(5, 1), (100, 10), (1000, 100), (2000, 2000)], ids=["5/s", "100/s", "1000/s", "wide"]
)
def test_eight_workers_never_spend_more_than_the_bucket_in_any_window(
    rate: float, burst: float, seed: int
) -> None:
    made, rng = crew(rate, burst, 8, seed), random.Random(seed)
    for worker, share in enumerate(SKEWED):
        poisson(made, rng, worker, share * rate / 8, 0.0, 2.0)
        poisson(made, rng, 7 - worker, share * rate / 8, 2.0, 4.0)  # the skew turns round
    made.run(4.5)
    assert made.excess() <= burst * 1.02 + rate * 0.002  # an answer may be up to 2 ms under way


@pytest.mark.parametrize(("rate", "burst"), [(100, 10), (1000, 100), (5000, 500)])
@pytest.mark.parametrize("times", [1.2, 3.0], ids=["a little too much", "three times too much"])
def test_what_is_offered_beyond_the_rate_uses_the_rate(rate: float, burst: float, times: float) -> None:
    made, rng = crew(rate, burst, 8, 7), random.Random(7)
    for worker, share in enumerate(SKEWED):
        poisson(made, rng, worker, times * share * rate / sum(SKEWED), 0.0, 4.0)
    made.run(4.0)
    assert 0.97 <= made.used(0.5, 4.0) <= 1.02


@pytest.mark.parametrize(("rate", "burst"), [(100, 10), (1000, 100)])
def test_demand_that_moves_to_another_worker_is_served_within_the_first_second(
    rate: float, burst: float
) -> None:
    made, rng = crew(rate, burst, 8, 3), random.Random(3)
    poisson(made, rng, 0, 1.2 * rate, 0.0, 2.0)
    poisson(made, rng, 5, 1.2 * rate, 2.0, 4.0)
    made.run(4.0)
    assert made.used(2.0, 3.0) >= 0.95
    assert made.excess() <= burst * 1.02 + rate * 0.002


def test_demand_below_the_rate_is_not_refused() -> None:
    made, rng = crew(1000, 100, 8, 5), random.Random(5)
    for worker in range(8):
        poisson(made, rng, worker, 70, 0.0, 3.0)
    made.run(3.5)
    assert len(made.admitted) >= 0.999 * made.offered


def test_a_busy_bucket_costs_few_messages() -> None:
    made, rng = crew(4000, 400, 4, 5), random.Random(5)
    for worker in range(4):
        poisson(made, rng, worker, 900, 0.0, 3.0)
    made.run(3.0)
    assert made.messages <= 0.15 * made.offered


def test_a_flood_on_a_small_bucket_is_denied_without_asking_again() -> None:
    made, rng = crew(5, 1, 4, 5), random.Random(5)
    for worker in range(4):
        poisson(made, rng, worker, 500, 0.0, 4.0)
    made.run(4.0)
    assert made.messages <= 0.1 * made.offered
    assert 19 <= len(made.admitted) <= 21


def test_a_dead_workers_lease_counts_as_spent_and_the_others_go_on() -> None:
    made, rng = crew(1000, 100, 4, 5), random.Random(5)
    for worker in range(4):
        poisson(made, rng, worker, 400, 0.0, 4.0)

    def die() -> None:
        made.dead.add(0)
        made.lender.forget(0)

    made.at(2.0, die)
    made.run(4.0)
    assert made.excess() <= 102 + 2
    assert made.used(2.2, 4.0) >= 0.97


def test_a_silent_workers_lease_is_over_after_its_time_to_live() -> None:
    lender = Lender()
    answer = lender.decide(1, [Ask(KEY, 1.0, 100.0, 100.0, 30.0)], 0.0)
    assert answer.lent == (25.0,)
    lender.sweep(TTL / 2)
    assert lender.lent == 25.0
    lender.sweep(TTL)
    assert lender.lent == 0.0


def test_a_lease_is_not_spent_after_its_time_to_live() -> None:
    lender, borrower = Lender(), Borrower()
    warm(borrower, lender)
    assert isinstance(borrower.take((Wish(KEY, 1.0, 1000.0, 1000.0),), 1.0), Verdict)
    assert isinstance(borrower.take((Wish(KEY, 1.0, 1000.0, 1000.0),), 1.0 + TTL), Pending)


def test_an_idle_lease_is_returned_and_can_be_spent_by_another() -> None:
    lender, borrower = Lender(), Borrower()
    warm(borrower, lender)
    lender.told(0, borrower.reports(1.0 + IDLE / 2), 1.0 + IDLE / 2)
    assert lender.lent > 0
    told = borrower.reports(1.0 + IDLE)
    assert [one.returned > 0 for one in told] == [True]
    lender.told(0, told, 1.0 + IDLE)
    assert lender.lent == 0.0


def warm(borrower: Borrower, lender: Lender) -> None:
    """Ask often enough to be lent something at t = 1."""
    wish = Wish(KEY, 1.0, 1000.0, 1000.0)
    for step in range(200):
        now = 1.0 - 0.2 + step / 1000
        taken = borrower.take((wish,), now)
        if isinstance(taken, Pending):
            borrower.answered(taken, lender.decide(0, taken.asks, now), now, now)
        for ask in borrower.refills():
            lender.told(0, borrower.spent([ask]), now)
            borrower.refilled(ask, lender.decide(0, [ask], now), now)
    assert lender.lent > 10


# All or nothing


def test_what_a_lease_gave_goes_back_when_another_bucket_refuses() -> None:
    lender, borrower = Lender(), Borrower()
    warm(borrower, lender)
    wide, narrow = Wish(KEY, 1.0, 1000.0, 1000.0), Wish(b"n", 1.0, 1.0, 1.0)
    first = borrower.take((wide, narrow), 1.0)
    assert isinstance(first, Pending)
    assert [ask.key for ask in first.asks] == [b"n"]
    assert borrower.answered(first, lender.decide(0, first.asks, 1.0), 1.0, 1.0).allowed
    before = repr(borrower)
    second = borrower.take((wide, narrow), 1.0)
    assert isinstance(second, Pending)
    verdict = borrower.answered(second, lender.decide(0, second.asks, 1.0), 1.0, 1.0)
    assert (verdict.allowed, verdict.binding) == (False, 1)
    assert repr(borrower) == before
    third = borrower.take((wide, narrow), 1.5)
    assert isinstance(third, Verdict)  # denied from memory
    assert third.binding == 1
    assert third.retry_after == pytest.approx(0.5)


def test_tokens_given_back_stay_on_the_lease_as_far_as_it_covers_them() -> None:
    lender, borrower = Lender(), Borrower()
    warm(borrower, lender)
    borrower.spent([Ask(KEY, 0.0, 1000.0, 1000.0, 0.0)])
    assert isinstance(borrower.take((Wish(KEY, 2.0, 1000.0, 1000.0),), 1.0), Verdict)
    assert borrower.give_back(KEY, 3.0) == 1.0
    assert borrower.give_back(b"unknown", 3.0) == 3.0


def test_a_smaller_cost_is_asked_although_a_larger_one_was_denied() -> None:
    lender, borrower = Lender(), Borrower()
    large, small = Wish(KEY, 5.0, 1.0, 5.0), Wish(KEY, 1.0, 1.0, 5.0)
    for wish in (small, large):
        pending = borrower.take((wish,), 0.0)
        assert isinstance(pending, Pending)
        borrower.answered(pending, lender.decide(0, pending.asks, 0.0), 0.0, 0.0)
    assert isinstance(borrower.take((large,), 0.0), Verdict)
    assert isinstance(borrower.take((small,), 0.0), Pending)


# Properties


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(2, 3000),
    seconds=st.floats(0.05, 1.0),
    workers=st.integers(1, 8),
    delay=st.floats(0.0001, 0.05),
    seed=st.integers(0, 2**32),
    shares=st.lists(st.floats(0.05, 4.0), min_size=8, max_size=8),
)
def test_no_window_sees_more_than_rate_and_burst_however_late_messages_are(
    rate: float, seconds: float, workers: int, delay: float, seed: int, shares: list[float]
) -> None:
    burst = max(1.0, rate * seconds)
    made, rng = crew(rate, burst, workers, seed, delay), random.Random(seed)
    for worker in range(workers):
        poisson(made, rng, worker, shares[worker] * min(rate, 600) / workers, 0.0, 1.5)
    made.run(2.5)
    assert made.excess() <= burst + rate * delay + 1e-3  # what was decided may arrive bunched


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["ask", "tell", "forget"]),
            st.floats(0.0, 20.0),
            st.floats(0.0, 20.0),
            st.floats(0.0, 0.3),
        ),
        max_size=60,
    )
)
def test_whatever_holders_say_the_lender_hands_out_no_more_than_the_bucket(
    steps: list[tuple[int, str, float, float, float]],
) -> None:
    """Holders may lie about what they used; what they return, they can't have spent."""
    lender, now, out = Lender(), 0.0, 0.0
    for holder, what, first, second, elapsed in steps:
        now += elapsed
        match what:
            case "ask":
                answer = lender.decide(holder, [Ask(KEY, first, 10.0, 20.0, second)], now)
                out += (first if answer.allowed else 0.0) + sum(answer.lent)
            case "tell":
                before = lender.lent
                lender.told(holder, [Told(KEY, first, second)], now)
                out -= min(second, max(0.0, before - lender.lent))
            case _:
                lender.forget(holder)
        assert lender.lent <= 20.0 * 0.5 + 1e-6
        assert out <= 20.0 + 10.0 * now + 1e-3


def test_demand_is_forgotten_when_nobody_comes() -> None:
    borrower = Borrower()
    wish = Wish(KEY, 1.0, 1000.0, 1000.0)
    wanted: Iterator[float] = iter(
        taken.asks[0].want
        for taken in (borrower.take((wish,), now) for now in (*(i / 1000 for i in range(300)), 5.0))
        if isinstance(taken, Pending)
    )
    wants = list(wanted)
    assert max(wants) == pytest.approx(1000 * HORIZON, rel=0.2)
    assert wants[-1] == 0.0
    assert all(after <= before for before, after in pairwise(wants[-2:]))
