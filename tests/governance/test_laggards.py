"""Instances that hang now and then are doubted; slow fleets and chance are nobody's fault."""

from math import inf
from random import Random

import pytest

from gateway.governance.laggards import Laggards


def run(
    share, seconds: float = 60.0, times: float = 2.0, hosts: int = 6
) -> tuple[Laggards, dict[str, float]]:
    """Hosts of 20 calls/s and 10 ms; a share of the calls, by host and instant, takes 30 times as long."""
    chance, laggards = Random(5), Laggards(times, 0.5)
    found: dict[str, float] = {}
    for i in range(int(seconds * 20 * hosts)):
        now, host = i / (20 * hosts), chance.randrange(hosts)
        latency = 0.01 * chance.uniform(0.5, 1.5) * (30 if chance.random() < share(host, now) else 1)
        laggards.record(str(host), latency, now, hosts)
        if laggards.doubted_until(str(host)) > now:
            found.setdefault(str(host), now)
    return laggards, found


def test_an_instance_that_hangs_now_and_then_is_found_within_twenty_seconds_and_nobody_else():
    _, found = run(lambda host, now: 0.05 if host == 0 and now > 20 else 0.0)
    assert list(found) == ["0"]
    assert 20 < found["0"] < 40


@pytest.mark.parametrize("share", [0.0, 0.005, 0.05])
def test_a_fleet_that_is_alike_has_no_laggards(share):
    assert run(lambda host, now: share)[1] == {}


def test_an_incident_that_slows_everybody_is_nobodys_fault():
    _, found = run(lambda host, now: 0.3 if now > 30 else 0.0)
    assert found == {}


def test_those_that_left_are_forgotten():
    laggards, _ = run(lambda host, now: 0.2 if host == 0 and now > 10 else 0.0, 30)
    laggards.retain({"1"})
    assert laggards.doubted_until("0") == -inf
    assert repr(laggards) == "<Laggards 1 watched | beyond 2 x p99>"
