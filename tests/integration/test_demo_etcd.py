"""`headgate demo --etcd`: the same on a real etcd, whose death and return nobody notices."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.integration.running import (
    CANARY,
    INFER,
    PREDICT,
    PRO,
    SAMPLES,
    Demo,
    Hammer,
    fresh_row,
    tfs,
    until,
    v2,
)
from tests.services.etcd import EtcdServers, require_etcd

pytestmark = [pytest.mark.service("etcd"), pytest.mark.slow]

TTL = 10.0  # s, of the demo's leases


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    require_etcd()
    servers = EtcdServers(tmp_path_factory.mktemp("etcd"))
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def found(servers: EtcdServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo whose instances are found in etcd. Each test leaves six instances behind."""
    with Demo(tmp_path_factory.mktemp("demo"), "--etcd", servers.urls[0]) as running:
        yield running


def addresses(demo: Demo) -> set[str]:
    return {str(one["address"]) for one in demo.instances()}


def test_the_demo_on_etcd_answers_as_the_one_without(found: Demo, servers: EtcdServers) -> None:
    rows, labels = [one["pixels"] for one in SAMPLES], [one["label"] for one in SAMPLES]
    theirs = found.ask(PREDICT, tfs(*rows)).json["predictions"]
    assert [row["label"] for row in theirs] == labels
    outputs = found.ask(INFER, v2(*rows)).json["outputs"]
    assert next(one["data"] for one in outputs if one["name"] == "label") == labels
    assert found.ask(PREDICT, tfs(fresh_row()), CANARY)["x-headgate-pool"] == "digits-v2"
    assert found.ask(PREDICT, tfs(fresh_row()), {}).status == 401
    registry = found.admin_json("/config")["registry"]
    assert registry["name"].startswith("etcd ")
    assert registry["live"]
    assert len(addresses(found)) == 6
    assert len(servers.keys("/services/default/")) == 6


def test_a_stopped_backend_leaves_at_once_and_a_killed_one_with_its_lease(found: Demo) -> None:
    """One wait of a lease's length for both: they are different instances of different pools."""
    parts = found.parts()
    stopped, killed = parts["digits-v2-a"], parts["digits-v1-a"]
    left, dead = found.address_of("digits-v2-a"), found.address_of("digits-v1-a")
    with Hammer(found.http, clients=4) as load:
        stopped.kill(signal.SIGTERM)
        took = until(lambda: left not in addresses(found), "the stopped backend to leave")
        print(f"deregistered after {took:.2f} s")
        assert took <= 1.0
        killed.kill(signal.SIGKILL)
        took = until(lambda: dead not in addresses(found), "the killed backend to leave", TTL + 5)
        print(f"a lease of {TTL:g} s ended after {took:.2f} s")
        assert took <= TTL + 1.0
        for part in (stopped, killed):
            found.spawn(part.argv)
        until(lambda: len(addresses(found)) == 6, "their successors")
    assert load.failures == [], load.summary()


def test_traffic_goes_on_without_etcd_and_a_new_backend_is_found_when_it_returns(
    found: Demo, servers: EtcdServers
) -> None:
    before = addresses(found)
    assert len(before) == 6
    argv = next(part.argv for name, part in found.parts().items() if name == "digits-v1-b")
    with Hammer(found.http, clients=4) as load:
        servers.nodes[0].kill()
        until(lambda: not found.admin_json("/config")["registry"]["live"], "the gateway to notice")
        time.sleep(2.0)
        assert addresses(found) == before
        assert found.is_ready()
        assert found.predict().status == 200
        latecomer = found.spawn(argv)  # it cannot register yet, and goes on trying
        time.sleep(1.0)
        servers.restart()
        servers.wait()
        took = until(lambda: found.admin_json("/config")["registry"]["live"], "the watch to return")
        print(f"resynced {took:.2f} s after etcd was back")
        until(lambda: len(addresses(found)) == 8, "the new backend to appear")
        assert before < addresses(found)
        latecomer.terminate()
        until(lambda: addresses(found) == before, "it to leave again")
    assert load.failures == [], load.summary()
    assert found.ask(PREDICT, tfs(fresh_row()), PRO).status == 200


def test_a_gateway_that_starts_without_etcd_uses_what_it_knew(found: Demo, servers: EtcdServers) -> None:
    """The snapshot on disk; without one it starts, says why it is not ready, and recovers."""
    before = addresses(found)
    assert len(before) == 6
    registry = f"etcd://127.0.0.1:{servers.nodes[0].port}"
    servers.nodes[0].kill()
    argv = [*found.parts()["gateway"].argv]
    assert registry in argv
    other = Demo(found.folder)
    for option, port in (("--http", other.http), ("--grpc", other.grpc), ("--admin-listen", other.admin)):
        argv[argv.index(option) + 1] = f"127.0.0.1:{port}"
    try:
        process = found.spawn(argv)
        until(lambda: other.ask_health() == 200, "the second gateway")
        assert not other.is_ready() or addresses(other) == before
    finally:
        servers.restart()
        servers.wait()
    until(lambda: other.is_ready() and addresses(other) == before, "the second gateway's instances")
    process.terminate()
    until(lambda: addresses(found) == before, "the first gateway's instances")
