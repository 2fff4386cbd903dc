"""HTTP/2 and gRPC clients while policies are reloaded and workers exchanged: nobody loses a request."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.fakes.echo_service import echo_service
from tests.fakes.http2_client import DATA, GOAWAY, HEADERS, RST_STREAM, Http2Client, request
from tests.runtime.crews import crewed
from tests.runtime.hammer import quick_backend
from tests.runtime.running import write

pytestmark = pytest.mark.timeout(60)

REFUSED_STREAM = 7
SIDE_BY_SIDE = 3  # requests under way on one connection


def page(port: int, grpc_port: int, verbs: str = "") -> str:
    return (
        f"pools:\n  quick: {{instances: ['127.0.0.1:{port}']}}\n"
        f"  echo: {{instances: ['127.0.0.1:{grpc_port}'], speaks: grpc}}\n"
        f"endpoints:\n  quick:\n    match: /**\n    authenticate: none\n    send: quick\n{verbs}"
        f"  echo:\n    match: {{grpc: [test.Echo]}}\n    authenticate: none\n    send: echo\n{verbs}"
    )


class Http2Hammer:
    """Connections that always have some requests under way, and go elsewhere when they are told to.

    A stream above the last one that GOAWAY names, or that is refused, was not processed and is sent again
    (RFC 9113 §6.8, §8.7): that is no failure. Anything else that is not a 200 is.
    """

    def __init__(self, port: int, clients: int) -> None:
        self.port = port
        self.clients = clients
        self.answered = 0
        self.moves = 0
        self.failures: list[str] = []
        self._stopping = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Http2Hammer]:
        tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.wait_for(asyncio.gather(*tasks), 30)

    async def _client(self) -> None:
        while not self._stopping:
            client = await Http2Client.connect(("127.0.0.1", self.port))
            await self._talk(client)
            client.close()
            self.moves += not self._stopping

    async def _talk(self, client: Http2Client) -> None:
        """Ask on until the gateway, or the test, wants no more on this connection."""
        under_way: set[int] = set()
        stream, going = 1, False
        while True:
            while len(under_way) < SIDE_BY_SIDE and not (going or self._stopping):
                client.send(client.head(stream, request(path="/x")))
                under_way.add(stream)
                stream += 2
            if not under_way:
                return
            got = await client.read(10)
            if got is None:
                self.failures.append(f"closed with {under_way} under way")
                return
            if got.kind == GOAWAY:
                going = True
                last = int.from_bytes(got.payload[:4], "big")
                under_way = {one for one in under_way if one <= last}
                if got.code:
                    self.failures.append(f"GOAWAY {got.code}")
            elif got.kind == RST_STREAM and got.code == REFUSED_STREAM:
                under_way.discard(got.stream)
            elif got.kind == RST_STREAM:
                self.failures.append(f"reset with {got.code}")
            elif got.kind in (HEADERS, DATA) and got.ends and got.stream in under_way:
                under_way.discard(got.stream)
                status = dict(client.heads[got.stream][0])[":status"]
                self.answered += status == "200"
                if status != "200":
                    self.failures.append(f"answered {status}")


class GrpcHammer:
    """Google's client, in threads: calls one after the other, never repeated by us."""

    def __init__(self, port: int, clients: int) -> None:
        self.port = port
        self.clients = clients
        self.outcomes: Counter[str] = Counter()
        self._stopping = threading.Event()

    @contextmanager
    def running(self) -> Iterator[GrpcHammer]:
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join(20)

    def _client(self, number: int) -> None:
        apart = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options=apart) as channel:
            unary = channel.unary_unary("/test.Echo/Unary")
            stream = channel.unary_stream("/test.Echo/Count")
            while not self._stopping.is_set():
                try:
                    assert unary(b"hello", timeout=20) == b"hello"
                    assert len(list(stream(b"3", timeout=20))) == 3
                    self.outcomes["OK"] += 1
                except grpc.RpcError as error:
                    self.outcomes[f"{error.code()}: {error.details()}"] += 1
                self._stopping.wait(0.002 * number)


async def test_reloads_and_a_rolling_restart_lose_no_http2_request_and_no_grpc_call(tmp_path: Path) -> None:
    with echo_service() as service:
        async with quick_backend() as port, crewed(tmp_path, page(port, service.port), 2) as gateway:
            before = await gateway.pids()
            http2, calls = Http2Hammer(gateway.port, 4), GrpcHammer(gateway.port, 3)
            with calls.running():
                async with http2.running():
                    gateway.signal(signal.SIGUSR2)
                    for number in range(2):
                        await asyncio.sleep(0.25)
                        write(tmp_path, page(port, service.port, f"    throttle: {10**6 + number}/s\n"))
                        gateway.signal(signal.SIGHUP)
                    await gateway.until_exchanged(before)
                    await asyncio.sleep(0.25)
            assert http2.failures == []
            assert set(calls.outcomes) == {"OK"}
            assert http2.answered > 20
            assert http2.moves >= 1
            await gateway.until_said("rolling restart done")


async def test_sigterm_answers_what_http2_and_grpc_clients_have_under_way(tmp_path: Path) -> None:
    with echo_service() as service:
        async with quick_backend() as port, crewed(tmp_path, page(port, service.port), 2) as gateway:
            client = await Http2Client.connect(("127.0.0.1", gateway.port))
            client.send(client.head(1, request(path="/slow")))
            with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                slow = channel.unary_unary("/test.Echo/Slow").future(b"0.8", timeout=20)
                await asyncio.to_thread(_wait_for, lambda: "Slow" in service.calls)
                await client.ping()
                gateway.signal(signal.SIGTERM)
                assert await client.answer(1, 10) == 200
                assert await asyncio.to_thread(slow.result, 20) == b"done"
            client.close()


def _wait_for(true: object) -> None:
    """Wait in a thread until `true()`."""
    assert callable(true)
    for _ in range(1000):
        if true():
            return
        threading.Event().wait(0.01)
