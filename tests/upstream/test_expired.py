"""A call whose time is over is not sent, also when the timer that watches it comes late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.http.message import Request
from gateway.pipeline.errors import UpstreamTimeout
from gateway.upstream.connections import ConnectionSettings
from gateway.upstream.upstream import HttpUpstream
from tests.fakes.relay import Address
from tests.fakes.wires import Instance, serving, until
from tests.upstream.test_upstream import OK, Recorder


class LateTimers:
    """Implements ports.Timers: nothing is ever due, as on a loop that is too busy to sweep."""

    def at(self, deadline: float, callback: Callable[[], None]) -> LateTimers:
        return self

    def punctual(self, deadline: float, callback: Callable[[], None]) -> LateTimers:
        return self

    def cancel(self) -> None:
        return


async def test_what_waited_for_a_connection_beyond_its_deadline_is_not_sent() -> None:
    release = asyncio.Event()

    async def script(instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await instance.read_request(reader)
            if len(instance.heads) == 1:
                await release.wait()
            writer.write(OK)

    loop = asyncio.get_running_loop()
    async with serving(script) as instance:
        upstream = HttpUpstream(loop, LateTimers(), ConnectionSettings(max_connections=1))
        address = Address("127.0.0.1", instance.port, b"instance")
        sinks = [Recorder() for _ in range(3)]
        try:
            for sink, path, within in zip(
                sinks, (b"/first", b"/late", b"/patient"), (9, 0.01, 9), strict=True
            ):
                upstream.send(address, Request(b"GET", path, []), loop.time() + within, sink)
            await until(lambda: instance.heads)
            await asyncio.sleep(0.02)
            release.set()
            await until(lambda: all(sink.over for sink in sinks))
        finally:
            upstream.close()
        first, late, patient = sinks
        assert (first.body, patient.body) == (b"ok", b"ok")
        assert type(late.error) is UpstreamTimeout
        assert [head.split(b" ")[1] for head in instance.heads] == [b"/first", b"/patient"]
