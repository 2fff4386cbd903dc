"""The etcd registry against real etcd processes: killed, frozen, compacted, wiped, behind passwords, TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.discovery.etcd import (
    EtcdClient,
    EtcdError,
    EtcdSettings,
    EtcdUnreachable,
    Event,
    TlsFiles,
    WatchMessage,
)
from gateway.discovery.etcd_registry import EtcdRegistry
from gateway.discovery.members import AddressRules
from gateway.discovery.protection import ProtectionRules
from gateway.discovery.registration import Registration
from tests.discovery.certificates import Authority
from tests.discovery.watching import QUICK, eventually, following, key, live, value
from tests.services.etcd import EtcdNode, EtcdServers, encode, require_etcd

pytestmark = pytest.mark.service("etcd")

UNPROTECTED = ProtectionRules(max_removal_ratio=1.0, confirm_after=0.2)


def at(servers: EtcdServers, **fields: object) -> EtcdSettings:
    return EtcdSettings(servers=servers.urls, timeout=0.5, **fields)  # type: ignore[arg-type]


def follow(servers: EtcdServers, **options: object) -> EtcdRegistry:
    options = {"timing": QUICK, **options}
    return EtcdRegistry(at(servers), **options)  # type: ignore[arg-type]


# List and watch


async def test_a_service_nobody_registered_is_an_empty_set(etcd: EtcdServers) -> None:
    async with following(follow(etcd)) as watcher:
        await watcher.until(set())


async def test_a_registered_instance_appears_and_an_explicit_delete_takes_it_away_at_once(
    etcd: EtcdServers,
) -> None:
    async with following(follow(etcd)) as watcher:
        await watcher.until(set())
        await asyncio.to_thread(etcd.put, key("a"), value(9001, version="v1", models=(("digits", "1"),)))
        await watcher.until({9001})
        (member,) = watcher.seen[-1]
        assert (member.id, member.version, member.models) == ("a", "v1", (("digits", "1"),))
        await asyncio.to_thread(etcd.delete, key("a"))
        assert await watcher.until(set()) < 0.5


async def test_one_watch_feeds_every_service_and_other_prefixes_are_ignored(etcd: EtcdServers) -> None:
    registry = follow(etcd)
    async with following(registry) as watcher:
        await asyncio.to_thread(etcd.put, "/services/default2/digits/x", value(9009))
        await asyncio.to_thread(etcd.put, key("b", "faces"), value(9002))
        await asyncio.to_thread(etcd.put, key("a"), value(9001))
        await watcher.until({9001})
        assert registry.status().services == {"digits": 1, "faces": 1}


async def test_nothing_written_between_list_and_watch_is_lost(etcd: EtcdServers) -> None:
    """A writer that never stops: whatever the moment of the list, the watch goes on from there."""
    stop = asyncio.Event()
    eager = ProtectionRules(debounce=0.0)

    def write_batch(start: int) -> None:
        for index in range(start, start + 40):
            etcd.put(key(f"i{index}"), value(10_000 + index))

    async def write() -> int:
        count = 0
        while not stop.is_set():
            await asyncio.to_thread(write_batch, count)
            count += 40
        return count

    writer = asyncio.create_task(write())
    for _ in range(3):
        async with following(follow(etcd, rules=eager)) as watcher:
            await watcher.until_count(20)
    async with following(follow(etcd, rules=eager)) as watcher:
        await watcher.until_count(20)
        stop.set()
        total = await writer
        await watcher.until({10_000 + index for index in range(total)})


async def test_an_unreadable_value_keeps_the_last_readable_one_and_is_reported(etcd: EtcdServers) -> None:
    registry = follow(etcd)
    etcd.put(key("a"), value(9001))
    async with following(registry) as watcher:
        await watcher.until({9001})
        await asyncio.to_thread(etcd.put, key("a"), "{not json")
        await asyncio.to_thread(etcd.put, key("b"), value(80, host="169.254.169.254"))
        await asyncio.to_thread(etcd.put, key("c"), value(9003))
        await watcher.until({9001, 9003})
        assert set(registry.status().rejected) == {"digits/a", "digits/b"}
        assert "always blocked" in registry.status().rejected["digits/b"]


async def test_addresses_outside_the_allowed_networks_are_never_shown(etcd: EtcdServers) -> None:
    etcd.put(key("in"), value(9001))
    etcd.put(key("out"), value(9002, host="192.0.2.1"))
    async with following(follow(etcd, addresses=AddressRules.within("127.0.0.0/8"))) as watcher:
        await watcher.until({9001})


# Being away


async def test_after_kill_and_restart_the_watch_goes_on_and_the_set_was_kept(etcd: EtcdServers) -> None:
    registry = follow(etcd)
    etcd.put(key("a"), value(9001))
    async with following(registry) as watcher:
        await watcher.until({9001})
        await live(registry)
        etcd.nodes[0].kill()
        await watcher.until({9001})
        etcd.restart()
        await asyncio.to_thread(etcd.wait)
        await asyncio.to_thread(etcd.put, key("b"), value(9002))
        await watcher.until({9001, 9002})
        assert frozenset() not in watcher.seen
        assert registry.status().live


async def test_while_etcd_is_down_the_status_says_so_and_members_stay(etcd: EtcdServers) -> None:
    registry = follow(etcd)
    etcd.put(key("a"), value(9001))
    async with following(registry) as watcher:
        await watcher.until({9001})
        await live(registry)
        etcd.nodes[0].kill()
        await eventually(lambda: not registry.status().live)
        status = registry.status()
        assert status.services == {"digits": 1}
        assert status.reason is not None
        assert status.stale >= 0.0


async def test_history_compacted_while_away_is_replaced_by_a_list(
    etcd: EtcdServers, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway is kept from watching while keys change and history is compacted."""
    registry = follow(etcd, rules=UNPROTECTED)
    for name, port in (("a", 9001), ("b", 9002)):
        etcd.put(key(name), value(port))
    async with following(registry) as watcher:
        await watcher.until({9001, 9002})
        await live(registry)
        registry._client._servers = ["http://127.0.0.1:9"]  # away: connections go nowhere
        etcd.nodes[0].kill()
        etcd.restart()
        await asyncio.to_thread(etcd.wait)
        for port in range(9100, 9110):
            await asyncio.to_thread(etcd.put, key("a"), value(port))
        await asyncio.to_thread(etcd.delete, key("b"))
        await asyncio.to_thread(lambda: etcd.compact(etcd.put("/other", "x")))
        assert watcher.ports == {9001, 9002}
        registry._client._servers = list(etcd.urls)
        await watcher.until({9109})
        reasons = [record.__dict__["reason"] for record in caplog.records if record.msg == "registry_resync"]
        assert [reason.split()[0] for reason in reasons] == ["compacted"]


@pytest.mark.slow
async def test_when_the_connected_node_is_killed_another_one_is_watched(etcd_trio: EtcdServers) -> None:
    registry = follow(etcd_trio)
    async with following(registry) as watcher:
        await watcher.until(set())
        await live(registry)
        connected = next(node for node in etcd_trio.nodes if node.url == registry._client.server)
        connected.kill()
        await _put_until_accepted(etcd_trio, "a", 9001)
        await watcher.until({9001}, within=5.0)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_when_the_connected_node_hangs_the_watchdog_moves_on(etcd_trio: EtcdServers, role: str) -> None:
    leader = etcd_trio.leader()
    hung = leader if role == "leader" else next(node for node in etcd_trio.nodes if node is not leader)
    others = [node for node in etcd_trio.nodes if node is not hung]
    registry = follow(etcd_trio)
    registry._client._servers = [hung.url, *(node.url for node in others)]
    async with following(registry) as watcher:
        await watcher.until(set())
        await live(registry)
        hung.freeze()
        try:
            await _put_until_accepted(etcd_trio, "a", 9001, node=others[0])
            await watcher.until({9001}, within=5.0)
            assert registry._client.server != hung.url
        finally:
            hung.thaw()


@pytest.mark.slow
async def test_a_node_without_quorum_is_not_live_and_the_set_stays(etcd_trio: EtcdServers) -> None:
    registry = follow(etcd_trio)
    etcd_trio.put(key("a"), value(9001))
    async with following(registry) as watcher:
        await watcher.until({9001})
        await live(registry)
        for node in etcd_trio.nodes[1:]:
            node.kill()
        await eventually(lambda: not registry.status().live)
        assert watcher.ports == {9001}
        for node in etcd_trio.nodes[1:]:
            etcd_trio.restart(node)
        await _put_until_accepted(etcd_trio, "b", 9002)
        await watcher.until({9001, 9002}, within=10.0)


async def _put_until_accepted(
    servers: EtcdServers, name: str, port: int, node: EtcdNode | None = None
) -> None:
    async with asyncio.timeout(15.0):
        while True:
            try:
                await asyncio.to_thread(lambda: servers.put(key(name), value(port), node=node))
                return
            except OSError:
                await asyncio.sleep(0.1)


# Leases


@pytest.mark.slow
async def test_a_killed_instance_leaves_within_its_lease_and_a_second(etcd: EtcdServers) -> None:
    """All of them at once: an expired lease is an event, and the empty-push protection lets events pass."""
    async with following(follow(etcd)) as watcher:
        lease = await asyncio.to_thread(etcd.grant, 2)
        await asyncio.to_thread(lambda: etcd.put(key("a"), value(9001), lease=lease))
        await asyncio.to_thread(lambda: etcd.put(key("b"), value(9002), lease=lease))
        await watcher.until({9001, 9002})
        assert await watcher.until(set(), within=5.0) < 2.0 + 1.0


async def test_a_deregistered_instance_leaves_at_once(etcd: EtcdServers) -> None:
    url = f"etcd://127.0.0.1:{etcd.nodes[0].port}"
    async with following(follow(etcd)) as watcher:
        registration = await Registration.open(url, "digits", "127.0.0.1:9001", version="v1", wait=True)
        await watcher.until({9001})
        closing = asyncio.create_task(registration.close())
        assert await watcher.until(set()) < 0.5
        await closing


# Protection and the snapshot


async def test_a_wiped_store_empties_nothing_until_a_second_list_agrees(etcd: EtcdServers) -> None:
    registry = follow(etcd, rules=ProtectionRules(confirm_after=1.0))
    for index in range(3):
        etcd.put(key(f"i{index}"), value(9001 + index))
    async with following(registry) as watcher:
        await watcher.until({9001, 9002, 9003})
        await live(registry)
        etcd.nodes[0].kill()
        etcd.restart(wipe=True)
        await eventually(lambda: bool(registry.status().held))
        assert registry.status().held == {"digits": 3}
        assert watcher.ports == {9001, 9002, 9003}
        await asyncio.to_thread(etcd.put, key("i0"), value(9001))  # one of them registers again
        took = await watcher.until({9001})
        assert took > 0.5


async def test_an_operator_may_overrule_the_protection(etcd: EtcdServers) -> None:
    registry = follow(etcd, rules=ProtectionRules(confirm_after=60.0))
    etcd.put(key("a"), value(9001))
    async with following(registry) as watcher:
        await watcher.until({9001})
        await live(registry)
        etcd.nodes[0].kill()
        etcd.restart(wipe=True)
        await eventually(lambda: bool(registry.status().held))
        registry.release("digits")
        await watcher.until(set())


async def test_a_cold_start_without_etcd_serves_the_snapshot_and_catches_up(
    etcd: EtcdServers, tmp_path: Path
) -> None:
    file = tmp_path / "state" / "etcd.json"
    etcd.put(key("a"), value(9001, version="v1"))
    async with following(follow(etcd, snapshot=file)) as watcher:
        await watcher.until({9001})
        await eventually(file.exists)
    etcd.nodes[0].kill()
    registry = follow(etcd, snapshot=file)
    async with following(registry) as watcher:
        await watcher.until({9001})
        (member,) = watcher.seen[-1]
        assert member.version == "v1"
        assert not registry.status().live
        assert registry.status().stale > 0.0
        etcd.restart()
        await asyncio.to_thread(etcd.wait)
        await asyncio.to_thread(etcd.put, key("b"), value(9002))
        await watcher.until({9001, 9002})


async def test_a_snapshot_that_is_too_old_is_refused_and_reported(etcd: EtcdServers, tmp_path: Path) -> None:
    file = tmp_path / "etcd.json"
    etcd.put(key("a"), value(9001))
    async with following(follow(etcd, snapshot=file)) as watcher:
        await watcher.until({9001})
        await eventually(file.exists)
    etcd.nodes[0].kill()
    registry = follow(etcd, snapshot=file, timing=replace(QUICK, snapshot_max_age=0.0))
    async with following(registry) as watcher:
        await eventually(lambda: registry.status().snapshot_error is not None)
        assert "older than" in str(registry.status().snapshot_error)
        assert watcher.ports is None


async def test_a_snapshot_that_cannot_be_written_is_reported_and_harms_nothing(etcd: EtcdServers) -> None:
    registry = follow(etcd, snapshot="/dev/null/etcd.json")
    etcd.put(key("a"), value(9001))
    async with following(registry) as watcher:
        await watcher.until({9001})
        await eventually(lambda: registry.status().snapshot_error is not None)
        await asyncio.to_thread(etcd.put, key("b"), value(9002))
        await watcher.until({9001, 9002})


# Passwords and certificates


@pytest.fixture
def guarded(etcd: EtcdServers) -> EtcdServers:
    """Authentication on: `gw` may read /services/, `root` may all."""
    everything = {"permType": "READ", "key": encode("/services/"), "range_end": encode("/services0")}
    for path, body in (
        ("user/add", {"name": "root", "password": "rp"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("role/add", {"name": "gw"}),
        ("role/grant", {"name": "gw", "perm": everything}),
        ("user/add", {"name": "gw", "password": "gp"}),
        ("user/grant", {"user": "gw", "role": "gw"}),
        ("enable", {}),
    ):
        etcd.post(f"/v3/auth/{path}", body)
    return etcd


async def test_after_a_restart_forgot_the_token_the_registry_signs_in_again(guarded: EtcdServers) -> None:
    async with EtcdClient(at(guarded, user="root", password="rp")) as root:
        registry = EtcdRegistry(at(guarded, user="gw", password="gp"), timing=QUICK)
        async with following(registry) as watcher:
            await root.put(key("a"), value(9001).encode())
            await watcher.until({9001})
            guarded.nodes[0].kill()
            guarded.restart()
            # A restarted etcd finds in its log the sign-ins since its last snapshot: these two are older.
            registry._client._token = root._token = "forgotten.1"
            await _until_accepted(root, key("b"), 9002)
            await watcher.until({9001, 9002})


async def test_a_wrong_password_is_reported_without_showing_it(guarded: EtcdServers) -> None:
    registry = EtcdRegistry(at(guarded, user="gw", password="not-the-secret"), timing=QUICK)
    async with following(registry):
        await eventually(lambda: "password" in str(registry.status().reason))
        assert "not-the-secret" not in repr(registry.status()) + repr(registry._client)


async def _until_accepted(client: EtcdClient, name: str, port: int) -> None:
    async with asyncio.timeout(10.0):
        while True:
            try:
                await client.put(name, value(port).encode())
                return
            except EtcdError:
                await asyncio.sleep(0.05)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[EtcdServers, Authority]]:
    """etcd that speaks TLS only and asks clients for a certificate."""
    require_etcd()
    authority = Authority(tmp_path)
    server = authority.issue("server", server=True, client=True)
    flags = ("--cert-file", server.cert, "--key-file", server.key)
    servers = EtcdServers(
        tmp_path / "etcd",
        extra=(*flags, "--client-cert-auth", "--trusted-ca-file", authority.cert),
        scheme="https",
        wait=False,
    )
    yield servers, authority
    servers.close()


async def test_tls_with_client_certificates_carries_list_and_watch(
    secured: tuple[EtcdServers, Authority],
) -> None:
    servers, authority = secured
    client = authority.issue("client", client=True)
    settings = at(servers, tls=TlsFiles(ca=authority.cert, cert=client.cert, key=client.key))
    async with following(EtcdRegistry(settings, timing=QUICK)) as watcher, EtcdClient(settings) as writer:
        await watcher.until(set())
        await writer.put(key("a"), value(9001).encode())
        await watcher.until({9001})


async def test_a_server_of_another_authority_is_not_believed(
    secured: tuple[EtcdServers, Authority], tmp_path: Path
) -> None:
    servers, _ = secured
    stranger = Authority(tmp_path / "other")
    client = stranger.issue("client", client=True)
    settings = at(servers, tls=TlsFiles(ca=stranger.cert, cert=client.cert, key=client.key))
    registry = EtcdRegistry(settings, timing=QUICK)
    async with following(registry):
        await eventually(lambda: "certificate" in str(registry.status().reason).lower())
        assert not registry.status().live


async def test_a_server_whose_gateway_is_off_is_named_as_such(tmp_path: Path) -> None:
    require_etcd()
    servers = EtcdServers(tmp_path / "etcd", extra=("--enable-grpc-gateway=false",), wait=False)
    try:
        registry = follow(servers)
        async with following(registry):
            await eventually(lambda: "enable-grpc-gateway: true" in str(registry.status().reason))
    finally:
        servers.close()


# Replay


async def test_a_replay_cut_short_goes_on_from_the_last_event_and_not_from_the_present(
    etcd: EtcdServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History comes in batches whose header already shows the present revision: it must not be believed."""
    registry = follow(etcd)
    starts: list[int] = []
    cluster = ""

    async def cut_short(prefix: str, start: int) -> AsyncGenerator[WatchMessage, None]:
        starts.append(start)
        put = Event("put", key("a"), value(9001).encode(), start)
        yield WatchMessage(start + 500, cluster, created=True, events=())
        yield WatchMessage(start + 500, cluster, created=False, events=(put,))
        raise EtcdUnreachable("cut")

    async with EtcdClient(at(etcd)) as client:
        listing = await client.list_keys("/services/")
        cluster = listing.cluster_id
    monkeypatch.setattr(registry._client, "watch", cut_short)
    async with following(registry):
        await eventually(lambda: len(starts) >= 3)
    assert starts[:3] == [listing.revision + 1, listing.revision + 2, listing.revision + 3]
