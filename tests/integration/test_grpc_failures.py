"""What a gRPC client is told when a call breaks off: the gRPC project's PROTOCOL-HTTP2.md, "Errors"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamReset

from gateway.http.grpc import Status
from tests.fakes.http2_client import DATA, END_STREAM, Http2Client, frame, request
from tests.runtime.running import BASE, running, until

MESSAGE = b"\0\0\0\0\2hi"
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
PAGE = """
pools: {{echo: {{instances: ['127.0.0.1:{port}'], speaks: grpc, health: off}}}}
endpoints:
  echo: {{match: {{grpc: [test.Echo]}}, send: echo, authenticate: none, timeout: 5s}}
"""

Act = Callable[["Instance", int], None]


class Instance(asyncio.Protocol):
    """A server that answers each call as it is told: with a head and a message, or without; then it acts."""

    def __init__(self, act: Act, speaks_first: bool) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.act = act
        self.speaks_first = speaks_first
        self.resets: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case RequestReceived():
                    assert event.stream_id is not None
                    if self.speaks_first:
                        self.h2.send_headers(event.stream_id, HEAD)
                        self.h2.send_data(event.stream_id, MESSAGE)
                        self.flush()
                    asyncio.get_running_loop().call_later(0.02, self.act, self, event.stream_id)
                case StreamReset():
                    assert event.error_code is not None
                    self.resets.append(int(event.error_code))
                case DataReceived():
                    assert event.stream_id is not None
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case ConnectionTerminated():
                    return
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())


def resets(code: ErrorCodes) -> Act:
    def act(instance: Instance, stream: int) -> None:
        instance.h2.reset_stream(stream, code)
        instance.flush()

    return act


def dies(instance: Instance, stream: int) -> None:
    instance.transport.abort()


def falls_silent(instance: Instance, stream: int) -> None: ...


def breaks_the_rules(instance: Instance, stream: int) -> None:
    instance.transport.write(frame(DATA, 0, 0, b"x"))


@asynccontextmanager
async def instance(act: Act, speaks_first: bool) -> AsyncIterator[tuple[int, list[Instance]]]:
    made: list[Instance] = []

    def make() -> Instance:
        made.append(Instance(act, speaks_first))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], made
    finally:
        server.close()
        for one in made:
            one.transport.abort()


def call(client: Http2Client, *more: tuple[str, str], end: bool = True) -> None:
    fields = request(("content-type", "application/grpc"), ("te", "trailers"), *more)
    fields[0], fields[2] = (":method", "POST"), (":path", "/test.Echo/Talk")
    client.send(client.head(1, fields, end=False), frame(DATA, END_STREAM if end else 0, 1, MESSAGE))


async def outcome(client: Http2Client) -> Status:
    await client.answer(1)
    last = dict(client.heads[1][-1])
    return Status(int(last["grpc-status"]))


BREAKS: dict[str, tuple[Act, Status]] = {
    "NO_ERROR": (resets(ErrorCodes.NO_ERROR), Status.INTERNAL),
    "INTERNAL_ERROR": (resets(ErrorCodes.INTERNAL_ERROR), Status.INTERNAL),
    "REFUSED_STREAM": (resets(ErrorCodes.REFUSED_STREAM), Status.UNAVAILABLE),
    "CANCEL": (resets(ErrorCodes.CANCEL), Status.CANCELLED),
    "ENHANCE_YOUR_CALM": (resets(ErrorCodes.ENHANCE_YOUR_CALM), Status.RESOURCE_EXHAUSTED),
    "INADEQUATE_SECURITY": (resets(ErrorCodes.INADEQUATE_SECURITY), Status.PERMISSION_DENIED),
    "it dies": (dies, Status.UNAVAILABLE),
    "it breaks the rules": (breaks_the_rules, Status.INTERNAL),
    "it falls silent": (falls_silent, Status.DEADLINE_EXCEEDED),
}


@pytest.mark.parametrize("speaks_first", [True, False], ids=["in mid-stream", "before a head"])
@pytest.mark.parametrize(("act", "status"), BREAKS.values(), ids=BREAKS)
async def test_what_breaks_off_has_the_status_that_grpc_gives_it(
    tmp_path: Path, act: Act, status: Status, speaks_first: bool
) -> None:
    async with (
        instance(act, speaks_first) as (port, _),
        running(tmp_path, PAGE.format(port=port)) as gateway,
    ):
        client = await Http2Client.connect(gateway.worker.http_address)
        call(client, *([("grpc-timeout", "150m")] if act is falls_silent else []))
        assert await outcome(client) is status
        assert client.bodies.get(1, b"") == (MESSAGE if speaks_first else b"")
        await client.ping()
        client.close()


async def test_a_request_that_grows_too_large_in_mid_stream_is_resource_exhausted(tmp_path: Path) -> None:
    base = BASE + "limits: {body_bytes: 20KiB}\n"
    async with (
        instance(falls_silent, True) as (port, made),
        running(tmp_path, PAGE.format(port=port), base) as gateway,
    ):
        client = await Http2Client.connect(gateway.worker.http_address)
        call(client, end=False)
        await client.until(DATA, 1)
        for _ in range(2):
            client.send(frame(DATA, 0, 1, bytes(16_000)))
        assert await outcome(client) is Status.RESOURCE_EXHAUSTED
        await until(lambda: made[0].resets == [ErrorCodes.CANCEL])
        client.close()


async def test_a_call_that_the_client_cancels_is_cancelled_at_the_instance(tmp_path: Path) -> None:
    async with (
        instance(falls_silent, True) as (port, made),
        running(tmp_path, PAGE.format(port=port)) as gateway,
    ):
        client = await Http2Client.connect(gateway.worker.http_address)
        call(client)
        await client.until(DATA, 1)
        client.send(frame(3, 0, 1, b"\0\0\0\x08"))
        await until(lambda: made[0].resets == [ErrorCodes.CANCEL])
        client.close()
