"""A real gateway process, and a recording instance beside it, for tests that speak bytes and not HTTP.

`Recorder` is an instance on an event loop in a thread of its own. It keeps every byte that reaches it, reads
requests with its own few lines (so that a fault in the gateway's parser is not repeated here), and answers
what its script says. `speak` is a client that sends pieces and returns everything up to the end of the
connection. Nothing here tries again or forgives.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.running import Running

PATIENCE = 5.0  # s that an answer may take
PAGE = """\
pools:
  all: {{instances: ['127.0.0.1:{port}']{pool}}}
endpoints:
  all: {{match: '/**', authenticate: none, send: all{endpoint}}}
"""
BASE = """\
log: {access: off, level: warning}
limits: {%s}
"""


@contextlib.contextmanager
def gateway(
    folder: Path, port: int, *, limits: str = "", pool: str = "", endpoint: str = "", pages: str = ""
) -> Iterator[Running]:
    """`headgate serve` in a process of its own before one instance at `port`; every path goes there.

    limits, pool, endpoint: further members of those YAML mappings. pages: a whole page of one's own.
    """
    policies = folder / "policies"
    policies.mkdir(parents=True)
    (policies / "gateway.yaml").write_text(BASE % limits)
    (policies / "page.yaml").write_text(pages or PAGE.format(port=port, pool=pool, endpoint=endpoint))
    with Running(folder) as running:
        yield running


# The client


def speak(
    port: int,
    pieces: Sequence[bytes],
    *,
    patience: float = PATIENCE,
    half_close: bool = False,
    source: str = "127.0.0.1",
) -> bytes:
    """Send the pieces, each in a packet of its own; return all that came until the gateway closed.

    Raises TimeoutError when it has not closed within `patience` seconds of silence. half_close: say after
    the last piece that no more will come. source: a client address of one's own.
    """
    with socket.create_connection(("127.0.0.1", port), patience, (source, 0)) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got = b""
        try:
            for piece in pieces:
                wire.sendall(piece)
            if half_close:
                wire.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it answered and closed before it had read everything
        with contextlib.suppress(ConnectionResetError):
            while data := wire.recv(65536):
                got += data
        return got


STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all final answers in what a client received; bodies must hold no status line."""
    return [int(found) for found in STATUS.findall(answer) if found >= b"200"]


# The instance


@dataclass
class Asked:
    """One whole request as the recorder read it. wire: its bytes."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    wire: bytes

    def field(self, name: bytes) -> bytes:
        """Return the value of the only field of this name, b"" without one."""
        (value,) = [value for key, value in self.fields if key.lower() == name] or [b""]
        return value


class Asker:
    """One connection of the gateway to the recorder."""

    def __init__(
        self, recorder: Recorder, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.recorder = recorder
        self.reader = reader
        self.writer = writer
        self.served = 0

    async def head(self) -> Asked:
        """Read a head. Raises IncompleteReadError when the connection ends before it is complete."""
        wire = await self.reader.readuntil(b"\r\n\r\n")
        self.recorder.seen += wire
        first, *lines = wire[:-4].split(b"\r\n")
        method, target, version = first.split(b" ")
        assert version == b"HTTP/1.1"
        fields = [(name, value.strip(b" ")) for name, _, value in (line.partition(b":") for line in lines)]
        return Asked(method, target, fields, b"", wire)

    async def body(self, asked: Asked) -> None:
        """Read the body of a request whose head was read."""
        if asked.field(b"transfer-encoding"):
            assert asked.field(b"transfer-encoding") == b"chunked"
            while size := int(await self._until(asked, b"\r\n"), 16):
                asked.body += await self._exactly(asked, size)
                assert await self._exactly(asked, 2) == b"\r\n"
            while await self._until(asked, b"\r\n") != b"\r\n":
                pass  # trailers
        else:
            asked.body = await self._exactly(asked, int(asked.field(b"content-length") or 0))
        self.recorder.asked.append(asked)

    async def request(self) -> Asked:
        """Read a whole request."""
        asked = await self.head()
        await self.body(asked)
        self.served += 1
        return asked

    async def _exactly(self, asked: Asked, size: int) -> bytes:
        data = await self.reader.readexactly(size)
        asked.wire += data
        self.recorder.seen += data
        return data

    async def _until(self, asked: Asked, end: bytes) -> bytes:
        data = await self.reader.readuntil(end)
        asked.wire += data
        self.recorder.seen += data
        return data

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Serve = Callable[[Asker], Awaitable[None]]


async def echo(asker: Asker) -> None:
    """Answer every request with its body."""
    while True:
        asked = await asker.request()
        body = b"" if asked.method == b"HEAD" else asked.body
        await asker.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(asked.body), body))


@dataclass
class Recorder:
    """An instance that follows a script and keeps what it got. Use as a context manager."""

    serve: Serve = echo
    port: int = 0
    seen: bytearray = field(default_factory=bytearray)  # every byte that was read
    asked: list[Asked] = field(default_factory=list)  # whole requests
    accepted: int = 0  # connections, up to now
    ended: int = 0  # of these
    bugs: list[BaseException] = field(default_factory=list)  # faults of a script: a test must look
    _loop: asyncio.AbstractEventLoop | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __enter__(self) -> Recorder:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def run(self, work: Awaitable[None]) -> None:
        """Run on the recorder's loop, and wait for the end."""

        async def wrapped() -> None:
            await work

        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(PATIENCE)

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return self.accepted - self.ended

    def forget(self) -> None:
        """Begin a new page of the record."""
        self.seen.clear()
        self.asked.clear()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._follow(Asker(self, reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, asker: Asker) -> None:
        self.accepted += 1
        try:
            await self.serve(asker)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as bug:  # shown by the test, not by a thread's log
            self.bugs.append(bug)
        finally:
            self.ended += 1
            asker.writer.close()
