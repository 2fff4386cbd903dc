"""Redis Sentinel and Redis Cluster, real ones: where the counters' server is, found by asking."""

import asyncio
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager

import pytest
import redis

from gateway.pipeline.ports import Claim, StoreUnavailable
from gateway.pipeline.promise import Promise
from gateway.pipeline.quotas import Quotas
from gateway.stores.redis import Address, RedisClient
from gateway.stores.redis_leases import LeasedRedisCounters
from gateway.stores.redis_quotas import RedisLedger
from tests.services.redis import BINARY, RedisServer, free_port, need_redis

real = pytest.mark.service("redis")
CLAIM = Claim(b"k", 1.0, 5.0, 5.0)
QUOTA = Claim(b"year UTC\0k", 1.0, 1e-6, 60.0)


def test_urls_of_sentinels_and_clusters_are_read():
    assert Address.parse("redis+sentinel://:pw@a:26379,b:26380/main/2") == Address(
        "a", 26379, 2, password="pw", others=(("b", 26380),), master="main"
    )
    assert Address.parse("redis+cluster://a:7000,b:7001") == Address("a", 7000, others=(("b", 7001),))
    with pytest.raises(ValueError, match="MASTER"):
        Address.parse("redis+sentinel://a:26379")


@contextmanager
def sentinel(folder, master):
    port = free_port()
    file = folder / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )
    process = subprocess.Popen([BINARY, str(file), "--sentinel"], stdout=subprocess.DEVNULL, cwd=folder)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


async def decided(client):
    loop = asyncio.get_running_loop()
    store = LeasedRedisCounters(client, loop, b"a", loop.time)
    future = loop.create_future()
    store.take((CLAIM,), loop.time()).then(future.set_result, future.set_exception)
    return await future


async def opened(url):
    client = RedisClient(Address.parse(url), timeout=1.0)
    end = time.monotonic() + 10
    is_up = await client.open()
    while not is_up and time.monotonic() < end:
        await asyncio.sleep(0.05)
        is_up = client.is_up
    assert is_up, client.trouble
    return client


@real
async def test_sentinels_say_where_the_master_is(redis_server, tmp_path):
    need_redis()
    with sentinel(tmp_path, redis_server) as port:
        client = await opened(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main")
        try:
            assert (await decided(client)).allowed
        finally:
            await client.close()


@asynccontextmanager
async def cluster(tmp_path):
    """Two servers with half of the slots each."""
    buses = [free_port() for _ in range(2)]  # by default a bus is 10,000 above its port, past 65535 for some
    servers = [
        RedisServer(tmp_path / str(bus), ["--cluster-enabled", "yes", "--cluster-port", str(bus)])
        for bus in buses
    ]
    try:
        controls = [server.control() for server in servers]
        controls[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        controls[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        controls[0].execute_command("CLUSTER", "MEET", "127.0.0.1", servers[1].port, buses[1])
        end = time.monotonic() + 20
        while any(b"cluster_state:ok" not in _info(control) for control in controls):
            assert time.monotonic() < end, "the cluster did not form"
            await asyncio.sleep(0.05)
        yield servers
        for control in controls:
            control.close()
    finally:
        for server in servers:
            server.kill()


@real
async def test_in_a_cluster_the_counters_are_found_wherever_their_slot_is(tmp_path):
    need_redis()
    async with cluster(tmp_path) as servers:
        end = time.monotonic() + 20
        for server in servers:  # one of them does not have the slot, and says MOVED
            client = await opened(f"redis+cluster://127.0.0.1:{server.port}")
            try:
                granted = False
                while not granted:
                    assert time.monotonic() < end
                    try:
                        granted = (await decided(client)).allowed
                    except StoreUnavailable:
                        await asyncio.sleep(0.05)
            finally:
                await client.close()


@real
async def test_in_a_cluster_a_quota_is_one_whichever_host_is_asked_first(tmp_path):
    need_redis()
    async with cluster(tmp_path) as servers:
        clients = [await opened(f"redis+cluster://127.0.0.1:{server.port}") for server in servers]
        try:
            gateways = [Quotas(RedisLedger(client), time.time) for client in clients]
            assert await passed(gateways, 2 * int(QUOTA.burst)) == QUOTA.burst
        finally:
            for client in clients:
                await client.close()


@real
async def test_a_quota_goes_on_where_it_was_after_a_failover(redis_server, tmp_path):
    need_redis()
    control = redis_server.control()
    control.config_set("repl-diskless-sync-delay", 0)
    replica = RedisServer(tmp_path / "replica", ["--replicaof", "127.0.0.1", str(redis_server.port)])
    with sentinel(tmp_path, redis_server) as port, redis.Redis(port=port) as asked:
        client = await opened(f"redis+sentinel://127.0.0.1:{port}/main")
        try:
            end = time.monotonic() + 15  # a sentinel asks its master for replicas every ten seconds
            while asked.sentinel_master("main")["num-slaves"] < 1:
                assert time.monotonic() < end, "the sentinel saw no replica"
                await asyncio.sleep(0.1)
            gateways = [Quotas(RedisLedger(client), time.time)]
            before = await passed(gateways, 30)
            control.set("mark", 1)  # WAIT is about what its own connection wrote, and all before that
            assert control.wait(1, 4000) == 1, "the replica did not follow"
            control.close()
            redis_server.kill()
            failures = client.failures
            assert before == 30
            assert before + await passed(gateways, 2 * int(QUOTA.burst)) == QUOTA.burst
            assert client.failures > failures, "nobody felt the failover"
        finally:
            await client.close()
            replica.kill()


@real
async def test_a_quota_goes_on_where_it_was_while_its_slot_moves_to_another_host(tmp_path):
    need_redis()
    async with cluster(tmp_path) as servers:
        clients = [await opened(f"redis+cluster://127.0.0.1:{server.port}") for server in servers]
        controls = [server.control() for server in servers]
        try:
            gateways = [Quotas(RedisLedger(client), time.time) for client in clients]
            before = await passed(gateways, 30)
            slot = controls[0].execute_command("CLUSTER", "KEYSLOT", "{headgate}:quota:")
            source, target = controls if slot < 8192 else reversed(controls)
            ids = {one: one.execute_command("CLUSTER", "MYID").decode() for one in controls}
            target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10)
            assert keys, "nothing was counted there"
            where = servers[controls.index(target)].port
            source.execute_command("MIGRATE", "127.0.0.1", where, "", 0, 1000, "KEYS", *keys)
            with pytest.raises(
                StoreUnavailable
            ):  # it is on its way: the policies' `on_store_failure` decides
                await one(Quotas(RedisLedger(clients[0]), time.time))
            for control in (target, source):
                control.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
            assert before + await passed(gateways, 2 * int(QUOTA.burst)) == QUOTA.burst
        finally:
            for client in clients:
                await client.close()
            for control in controls:
                control.close()


async def passed(gateways, number):
    """Ask in turn until so many were decided; returns how many may pass."""
    granted, end = 0, time.monotonic() + 25
    for step in range(number):
        while True:
            assert time.monotonic() < end, "the store did not come back"
            try:
                granted += await one(gateways[step % len(gateways)])
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    return granted


async def one(gateway):
    grant = gateway.take((QUOTA,), 0.0)
    if isinstance(grant, Promise):
        future = asyncio.get_running_loop().create_future()
        grant.then(future.set_result, future.set_exception)
        grant = await future
    return grant.allowed


def _info(control):
    reply = control.execute_command("CLUSTER", "INFO")
    return reply if isinstance(reply, bytes) else "\n".join(f"{k}:{v}" for k, v in reply.items()).encode()
