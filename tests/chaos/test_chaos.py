"""Hundreds of seeded scenarios of misbehaving instances and clients against a real gateway process.

Whatever either side does, afterwards (a) every answer bore the token of its own request, (b) every request of
a patient client was answered once or its connection broken, (c) no POST reached an instance twice, (d) every
refusal had a documented code, and (e) the gateway holds nothing any more: no request, permit, connection or
descriptor. `HEADGATE_CHAOS=first:number` plays other seeds, e.g. one that failed (`make chaos`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.codes import documented_codes
from tests.fakes.chaos import gateway
from tests.fakes.chaos_parties import UNSAFE, ChaoticInstance, Scenario, complaints, perform
from tests.integration.running import Running, until

ROUND = 60  # scenarios at a time
SEEDS = os.environ.get("HEADGATE_CHAOS", "0:480")
FIRST, _, NUMBER = SEEDS.partition(":")
ROUNDS = range(int(FIRST), int(FIRST) + int(NUMBER or 1), ROUND)
POOL = ", eject: {consecutive: 1000000}, retry: {attempts: 2}, per_try_timeout: 400ms"
LIMITS = "header_timeout: 2s, body_timeout: 2s, write_timeout: 2s, request_timeout: 2s, idle_timeout: 5s"


@pytest.fixture(scope="module")
def instance() -> Iterator[ChaoticInstance]:
    with ChaoticInstance() as made:
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, instance: ChaoticInstance) -> Iterator[Running]:
    with gateway(tmp_path_factory.mktemp("chaos"), instance.port, limits=LIMITS, pool=POOL) as running:
        yield running


def descriptors(running: Running) -> int:
    assert running.process is not None
    return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))


def play(port: int, seeds: range) -> list[Scenario]:
    async def all_at_once() -> list[Scenario]:
        return await asyncio.gather(*(perform(port, seed) for seed in seeds))

    return asyncio.run(all_at_once())


@pytest.mark.parametrize("first", ROUNDS)
def test_nobody_gets_anothers_answer_and_nothing_is_kept(
    running: Running, instance: ChaoticInstance, first: int
) -> None:
    before = descriptors(running) - instance.open
    scenarios = play(running.http, range(first, min(first + ROUND, ROUNDS.start + int(NUMBER or 1))))
    codes = documented_codes()
    found = [complaint for scenario in scenarios for complaint in complaints(scenario, codes)]
    twice = [
        f"{scenario!r}: {sent.token.decode()} went out {instance.started[sent.token]} times"
        for scenario in scenarios
        for sent in scenario.requests
        if sent.method == UNSAFE and instance.started[sent.token] > 1
    ]
    assert not found + twice
    assert instance.bugs == []
    until(lambda: running.metric("headgate_in_flight") == 0, "no request under way")
    until(lambda: running.metric("headgate_connections") == 0, "no client connected")
    until(lambda: running.metric("headgate_instance_in_flight") == 0, "no permit taken")
    until(lambda: descriptors(running) - instance.open <= before + 1, "no descriptor kept")
    assert running.metric("headgate_bugs_total") == 0


def test_what_an_instance_says_unasked_is_nobodys_answer(running: Running, instance: ChaoticInstance) -> None:
    client = running.client()
    for number in range(20):
        ended = instance.ended
        answer = client.ask(f"/later/{number}/alone{number}", headers={})
        assert answer.body.rstrip(b".") == b"alone%d" % number
        until(lambda ended=ended: instance.ended > ended, "the connection's end")  # type: ignore[misc]


def test_a_good_client_is_served_after_all_that(running: Running, instance: ChaoticInstance) -> None:
    for number in range(20):
        answer = running.ask(f"/0/{number}/after{number}", headers={})
        assert answer.status == 200
        assert answer.body.startswith(b"after%d" % number)
