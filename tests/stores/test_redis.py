"""Throttles and blobs on a real Redis: exact, fast to fail, and back by themselves."""

import asyncio
import time
from contextlib import asynccontextmanager
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.token_bucket import Buckets
from gateway.pipeline.ports import BlobStore, Claim, CounterStore, StoreUnavailable
from gateway.stores.redis import TAKE, Address, RedisBlobs, RedisClient, RedisCounters
from tests.discovery.certificates import Authority
from tests.services.redis import RedisServer, free_port, need_redis

real = pytest.mark.service("redis")


@asynccontextmanager
async def connected(server, **options):
    client = RedisClient(Address.parse(server.url), **{"timeout": 1.0, **options})
    assert await client.open()
    yield client
    await client.close()


async def settled(promise):
    future = asyncio.get_running_loop().create_future()
    promise.then(future.set_result, future.set_exception)
    return await future


async def until(condition, within=5.0):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


# Addresses


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address()),
        ("redis://cache:7000/3", Address("cache", 7000, 3)),
        ("redis://:s%40crit@h", Address("h", password="s@crit")),
        ("rediss://app:pw@[::1]:6380/1?ca=/ca.pem", Address("::1", 6380, 1, "app", "pw", True, "/ca.pem")),
    ],
)
def test_urls_are_read(url, address):
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url", ["http://h", "redis://h:port", "redis://h/db", "redis://h?ca=x&foo=1", "redis://:secret@h:99999"]
)
def test_urls_that_make_no_sense_are_refused_without_being_repeated(url):
    with pytest.raises(ValueError, match=r"redis|number") as refused:
        Address.parse(url)
    assert "secret" not in str(refused.value)


def test_a_password_beside_the_url_wins_and_is_never_shown():
    address = Address.parse("redis://:old@h", password="new-secret")
    assert address.password == "new-secret"
    assert "secret" not in f"{address} {address!r}"


# Counters


@real
async def test_all_levels_are_decided_together(redis_server):
    async with connected(redis_server) as client:
        store: CounterStore = RedisCounters(client)
        claims = [Claim(b"all", 1, 1, 10), Claim(b"alice", 1, 0.5, 1)]
        first = await settled(store.take(claims, 0))
        assert (first.allowed, first.binding, first.remaining, first.retry_after) == (True, 1, 0, 0.0)
        second = await settled(store.take(claims, 0))
        assert (second.allowed, second.binding) == (False, 1)
        assert second.retry_after == pytest.approx(2.0, abs=0.2)
        assert (await settled(store.take(claims[:1], 0))).remaining == 8, "the refused one spent nothing"


@real
async def test_a_cost_above_the_burst_is_never_granted(redis_server):
    async with connected(redis_server) as client:
        grant = await settled(RedisCounters(client).take([Claim(b"k", 5, 1, 4)], 0))
        assert (grant.allowed, grant.retry_after, grant.remaining) == (False, float("inf"), 4)


@real
async def test_no_claims_are_no_limit_and_no_command(redis_server):
    async with connected(redis_server) as client:
        assert (await settled(RedisCounters(client).take([], 0))).allowed


@real
async def test_settling_charges_into_debt_and_gives_back_up_to_full(redis_server):
    async with connected(redis_server) as client:
        store = RedisCounters(client)
        store.settle([Claim(b"k", 5, 1, 3)], 0)
        refused = await settled(store.take([Claim(b"k", 1, 1, 3)], 0))
        assert refused.retry_after == pytest.approx(3.0, abs=0.2)
        store.settle([Claim(b"k", -100, 1, 3)], 0)
        granted = await settled(store.take([Claim(b"k", 1, 1, 3)], 0))
        assert (granted.allowed, granted.remaining) == (True, 2)


@real
async def test_keys_expire_when_their_bucket_is_full_and_share_a_slot(redis_server):
    async with connected(redis_server) as client:
        await settled(RedisCounters(client).take([Claim(b"a", 4, 2, 10), Claim(b"b", 1, 10, 10)], 0))
        with redis_server.control() as control:
            assert sorted(control.keys()) == [b"{headgate}:a", b"{headgate}:b"]
            assert 1500 < control.pttl("{headgate}:a") <= 2001
            assert 0 < control.pttl("{headgate}:b") <= 101


@real
def test_the_script_decides_as_the_buckets_in_memory_do(redis_server):
    """Rates so low that the time between two commands refills next to nothing: both see one instant."""
    buckets = {b"a": (1e-4, 7.37), b"b": (2e-4, 3.53), b"c": (5e-5, 12.71)}  # no ties
    claim = st.builds(
        lambda key, cost: Claim(key, cost, *buckets[key]), st.sampled_from(sorted(buckets)), st.integers(1, 4)
    )
    requests = st.lists(st.lists(claim, min_size=1, max_size=4), max_size=12)

    with redis_server.control() as control:

        @given(requests)
        def agree(requests):
            control.flushdb()
            local = Buckets()
            for claims in requests:
                terms = [term for c in claims for term in (c.cost, c.rate, c.burst)]
                wait, binding, remaining, reset = control.eval(
                    TAKE, len(claims), *(c.key for c in claims), *terms
                )
                model = local.take_all(claims, 0.0)
                assert (wait == 0) is model.allowed
                if len({c.key for c in claims}) == len(claims):
                    assert (binding, remaining) == (model.binding, model.remaining)
                    assert (inf if wait < 0 else wait / 1e6) == pytest.approx(model.retry_after, abs=5)
                    assert reset / 1e6 == pytest.approx(model.reset, abs=5)

        agree()


@real
async def test_one_bucket_claimed_twice_by_a_request_is_charged_twice(redis_server):
    async with connected(redis_server) as client:
        store = RedisCounters(client)
        claims = [Claim(b"k", 2, 1e-3, 3.5)] * 2
        assert not (await settled(store.take(claims, 0))).allowed
        assert (await settled(store.take(claims[:1], 0))).allowed


@real
@pytest.mark.slow
async def test_many_at_once_never_get_more_than_rate_times_t_plus_burst_nor_much_less(redis_server):
    rate, burst, workers, seconds = 400.0, 200.0, 3, 1.5
    claims = [Claim(b"everybody", 1, 1e9, 1e9), Claim(b"alice", 1, rate, burst)]
    granted = 0

    async def hammer(client):
        nonlocal granted
        store = RedisCounters(client)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            grants = await asyncio.gather(*(settled(store.take(claims, 0)) for _ in range(32)))
            granted += sum(grant.allowed for grant in grants)
            await asyncio.sleep(0.002)

    clients = [RedisClient(Address.parse(redis_server.url), timeout=5.0) for _ in range(workers)]
    for client in clients:
        assert await client.open()
    started = time.monotonic()
    await asyncio.gather(*map(hammer, clients))
    elapsed = time.monotonic() - started
    for client in clients:
        await client.close()
    assert granted <= rate * elapsed + burst + 1
    assert granted >= 0.97 * (rate * seconds)


@real
async def test_a_server_that_forgot_the_script_is_told_it_again(redis_server):
    async with connected(redis_server) as client:
        store = RedisCounters(client)
        with redis_server.control() as control:
            for _ in range(2):
                control.script_flush()
                assert (await settled(store.take([Claim(b"k", 1, 1, 5)], 0))).allowed
            control.script_flush()
            store.settle([Claim(b"k", -2, 1, 5)], 0)
            assert (await settled(store.take([Claim(b"k", 5, 1e-3, 5)], 0))).allowed


@real
async def test_a_server_error_is_unavailability(redis_server):
    async with connected(redis_server) as client:
        with redis_server.control() as control:
            control.set("{headgate}:k", "somebody else's")
        with pytest.raises(StoreUnavailable):
            await settled(RedisCounters(client).take([Claim(b"k", 1, 1, 5)], 0))
        assert client.is_up


# Failing


@real
async def test_a_killed_server_fails_at_once_and_is_found_again_when_it_is_back(redis_server):
    seen = []
    async with connected(
        redis_server, timeout=0.1, on_change=lambda is_up, why: seen.append(is_up)
    ) as client:
        store = RedisCounters(client)
        assert (await settled(store.take([Claim(b"k", 1, 1, 5)], 0))).allowed
        redis_server.kill()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await settled(store.take([Claim(b"k", 1, 1, 5)], 0))
        assert time.monotonic() - started < 0.15
        await until(lambda: not client.is_up)
        promise = store.take([Claim(b"k", 1, 1, 5)], 0)
        assert promise.done, "while it is down nobody waits"
        await until(lambda: client.failures >= 3)
        redis_server.start()
        await until(lambda: client.is_up)
        assert (await settled(store.take([Claim(b"k", 1, 1, 5)], 0))).allowed
    assert seen == [True, False, True, False], "told of changes, not of attempts"


@real
async def test_kill_and_restart_under_load_leaves_no_request_without_an_answer(redis_server):
    async with connected(redis_server, timeout=0.1) as client:
        store = RedisCounters(client)
        slowest = 0.0
        outcomes = {"granted": 0, "unavailable": 0}

        async def one():
            nonlocal slowest
            started = time.monotonic()
            try:
                await settled(store.take([Claim(b"k", 1, 1e6, 1e6)], 0))
                outcomes["granted"] += 1
            except StoreUnavailable:
                outcomes["unavailable"] += 1
            slowest = max(slowest, time.monotonic() - started)

        async def load(rounds):
            for _ in range(rounds):
                await asyncio.gather(*(one() for _ in range(20)))
                await asyncio.sleep(0.005)

        await load(20)
        assert outcomes == {"granted": 400, "unavailable": 0}
        running = asyncio.create_task(load(60))
        await asyncio.sleep(0.05)
        redis_server.kill()
        await running
        assert outcomes["unavailable"] > 0
        assert sum(outcomes.values()) == 1600
        redis_server.start()
        await until(lambda: client.is_up)
        before = outcomes["granted"]
        await load(5)
        assert outcomes["granted"] == before + 100
        assert slowest < 0.5


@real
async def test_a_server_that_hangs_costs_the_timeout_once(redis_server):
    async with connected(redis_server, timeout=0.1) as client:
        store = RedisCounters(client)
        redis_server.freeze()
        started = time.monotonic()
        promises = [store.take([Claim(b"k", 1, 1, 5)], 0) for _ in range(10)]
        for promise in promises:
            with pytest.raises(StoreUnavailable, match="100 ms"):
                await settled(promise)
        assert 0.09 < time.monotonic() - started < 0.3
        assert store.take([Claim(b"k", 1, 1, 5)], 0).done
        await asyncio.sleep(0.4)
        assert not client.is_up, "a hung server accepts connections: that is no proof"
        redis_server.thaw()
        await until(lambda: client.is_up)


async def test_a_server_that_is_not_there_is_tried_again_while_callers_fail_at_once():
    client = RedisClient(Address(port=free_port()))
    assert not await client.open()
    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1"):
        await settled(RedisCounters(client).take([Claim(b"k", 1, 1, 1)], 0))
    assert await settled(RedisBlobs(client).get(b"k")) is None
    RedisBlobs(client).set(b"k", b"v", 1)
    await until(lambda: client.failures >= 2)
    assert "down" in repr(client)
    await client.close()


@real
async def test_passwords_users_and_databases_are_used_and_wrong_ones_are_said(tmp_path):
    need_redis()
    server = RedisServer(
        tmp_path / "redis", ["--requirepass", "s3cret", "--user", "app", "on", ">pw", "~*", "+@all"]
    )
    try:
        for url in (
            f"redis://:s3cret@127.0.0.1:{server.port}/2",
            f"redis://app:pw@127.0.0.1:{server.port}/2",
        ):
            client = RedisClient(Address.parse(url), timeout=1.0)
            assert await client.open()
            RedisBlobs(client).set(b"k", b"v", 60)
            assert await settled(RedisBlobs(client).get(b"k")) == b"v"
            await client.close()
        with server.control(password="s3cret", db=2) as control:
            assert control.keys() == [b"headgate:blob:k"]
        for url in (f"redis://:wr0ng@127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}"):
            client = RedisClient(Address.parse(url), timeout=1.0)
            assert not await client.open()
            assert "WRONGPASS" in client.trouble or "NOAUTH" in client.trouble
            assert "wr0ng" not in client.trouble
            await client.close()
    finally:
        server.kill()


@real
async def test_tls_is_spoken_and_the_certificate_is_checked(tmp_path):
    need_redis()
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("redis", server=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", authority.cert]
    server = RedisServer(
        tmp_path / "redis", [*tls, "--tls-cert-file", issued.cert, "--tls-key-file", issued.key]
    )
    try:
        client = RedisClient(Address.parse(f"rediss://127.0.0.1:{port}?ca={authority.cert}"), timeout=1.0)
        assert await client.open(), client.trouble
        assert (await settled(RedisCounters(client).take([Claim(b"k", 1, 1, 1)], 0))).allowed
        await client.close()
        stranger = RedisClient(Address.parse(f"rediss://127.0.0.1:{port}"), timeout=1.0)
        assert not await stranger.open()
        assert "certificate" in stranger.trouble
        await stranger.close()
    finally:
        server.kill()


@real
async def test_in_a_cluster_the_shard_that_has_the_keys_is_found(tmp_path):
    need_redis()
    servers: list[RedisServer] = []
    try:
        for name in ("a", "b"):
            bus = str(free_port())
            extra = ["--cluster-enabled", "yes", "--cluster-port", bus]
            servers.append(RedisServer(tmp_path / name, extra))
        first, second = servers
        with first.control() as one, second.control() as other:
            slot = one.execute_command("CLUSTER KEYSLOT", "{headgate}")
            one.execute_command("CLUSTER ADDSLOTSRANGE", 0, slot - 1, slot + 1, 16383)
            other.execute_command("CLUSTER ADDSLOTS", slot)
            one.execute_command("CLUSTER MEET", "127.0.0.1", second.port, bus)
            for control in (one, other):
                await until(lambda control=control: b"cluster_state:ok" in raw(control), within=20)
        async with connected(first) as client:
            store = RedisCounters(client)
            claims = [Claim(b"a", 1, 1, 5), Claim(b"b", 1, 1, 5)]
            with pytest.raises(StoreUnavailable):
                await settled(store.take(claims, 0))
            await until(lambda: client.is_up)
            assert (await settled(store.take(claims, 0))).allowed
    finally:
        for server in servers:
            server.kill()


def raw(control) -> bytes:
    answer = control.execute_command("CLUSTER INFO")
    return b" ".join(b"%b:%b" % (str(k).encode(), str(v).encode()) for k, v in answer.items())


# Blobs


@real
async def test_blobs_are_kept_for_their_time_and_purged_by_prefix(redis_server):
    async with connected(redis_server) as client:
        store: BlobStore = RedisBlobs(client)
        value = bytes(range(256)) * 1000
        store.set(b"digits*:1", value, 60)
        store.set(b"digits*:2", b"two", 0.05)
        store.set(b"digitsX:3", b"three", 60)
        assert await settled(store.get(b"digits*:1")) == value
        with redis_server.control() as control:
            assert 55_000 < control.pttl("headgate:blob:digits*:1") <= 60_000
            control.set("somebody-else", 1)
            await until(lambda: not control.exists("headgate:blob:digits*:2"))
            assert await store.purge(b"digits*:") == 1
            assert await settled(store.get(b"digits*:1")) is None
            assert await settled(store.get(b"digitsX:3")) == b"three"
            store.delete([b"digitsX:3", b"missing"])
            assert await settled(store.get(b"digitsX:3")) is None
            assert await store.purge() == 0
            assert control.exists("somebody-else")


@real
async def test_a_blob_of_no_time_is_forgotten(redis_server):
    async with connected(redis_server) as client:
        store = RedisBlobs(client)
        store.set(b"k", b"v", 60)
        store.set(b"k", b"w", 0)
        assert await settled(store.get(b"k")) is None
