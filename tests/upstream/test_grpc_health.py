"""The standard health service of gRPC, answered by Google's own implementation of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.config.units import Duration
from gateway.pipeline.pool import Facts, Pool
from gateway.pipeline.pool_verbs import Health, PoolSettings
from gateway.upstream.asking import make_session
from gateway.upstream.grpc_health import GrpcHealth
from gateway.upstream.health import HealthChecks
from gateway.upstream.tls import ClientTls
from tests.fakes.echo_service import echo_service
from tests.fakes.relay import Address
from tests.fakes.traffic import SeededIds
from tests.runtime.running import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def servicer() -> Iterator[tuple[health.HealthServicer, int]]:
    made = health.HealthServicer()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(made, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield made, port
        server.stop(None).wait()


@pytest.fixture
async def ask():
    checks = GrpcHealth(ClientTls())

    async def asked(port: int, service: str = "", within: float = 2.0) -> bool:
        return await checks.ask(Address("127.0.0.1", port, b"x", http2=True), service, within)

    yield asked
    checks.close()
    await asyncio.sleep(0)


async def test_a_server_that_serves_is_well_and_one_that_does_not_is_ill(ask, servicer):
    servant, port = servicer
    assert await ask(port)
    servant.set("", NOT_SERVING)
    assert not await ask(port)


async def test_a_service_is_asked_about_by_name(ask, servicer):
    servant, port = servicer
    servant.set("a.Model", SERVING)
    servant.set("b.Model", NOT_SERVING)
    assert await ask(port, "a.Model")
    assert not await ask(port, "b.Model")
    assert not await ask(port, "c.Model")


async def test_a_server_without_the_health_service_lives(ask):
    with echo_service() as service:
        assert await ask(service.port)


async def test_nobody_is_ill(ask, unused_tcp_port):
    assert not await ask(unused_tcp_port)


async def test_silence_is_ill():
    over = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    checks = GrpcHealth(ClientTls())
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1], b"x", http2=True)
    assert not await checks.ask(address, "", 0.1)
    checks.close()
    await asyncio.wait_for(over.wait(), 5)
    server.close()


async def test_a_pool_that_speaks_grpc_is_checked_in_grpc(servicer):
    servant, port = servicer
    verdict = Health(service="m.M", every=Duration(0.01), timeout=Duration(1.0))
    pool = Pool("p", PoolSettings(health=verdict), SeededIds(), speaks="grpc")
    pool.update([Facts("a", "127.0.0.1", port)], 0.0)
    (instance,) = pool.members.instances
    servant.set("m.M", NOT_SERVING)
    async with make_session() as session:
        checks = HealthChecks(lambda: session)
        checks.watch([(pool, "")])
        await until(lambda: not instance.healthy)
        servant.set("m.M", SERVING)
        await until(lambda: instance.healthy)
        await checks.close()
        await asyncio.sleep(0.01)
