"""What the whole path costs without a kernel: bytes of a request in, bytes of its answer out.

    python -m loadtests.micro.path_cpu plain|policy|cache [--number N] [--rounds N] [--profile]

A worker as `headgate serve` makes it, with the bench's own policies; transports that keep what is written
stand in for sockets, an instance that answers at once for the backend. What the kernel, the event loop and
the thread of the access log do is left out, and so is what cold caches cost. So a change shows here before it
shows beside other gateways, and how many instructions a request takes can be counted, which nothing else that
runs on the machine disturbs (how: docs/adr/0032-less-work.md).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.runtime.policies import read
from gateway.runtime.serve import settle_memory
from gateway.runtime.worker import Worker
from gateway.server.connection import ServerConnection
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.connections import Connections
from loadtests.bench.site import IN_TURN, KEYS, PEERS, TARGET, fill_in, headgate_keys, key, tenants

BODY = (
    b'{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":[0.11,0.22,0.33,0.44,0.55,0.66,0.77,'
    b'0.88,0.99,1.01,1.12,1.23,1.34,1.45,1.56,1.67]}],"parameters":{"units":"metric","batch":"nightly",'
    b'"user":"user-000001","caller":"pricing/1.4"},"id":"abcdefabcdefabcdefabcdef0123456789abcdef"}'
)
RESULT = b'{"model_name":"m1","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[0.5]}]}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(RESULT)
    + RESULT
)
CONNECTIONS = 64


class Wire:
    """A transport that keeps what is written, and sends nothing."""

    def __init__(self) -> None:
        self.said = b""

    def write(self, data: bytes) -> None:
        self.said = data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits here."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 50000) if name == "peername" else default

    def close(self) -> None:
        """Nobody listens."""

    abort = close


def requests() -> list[bytes]:
    """Return what wrk sends in the bench (loadtests/peers/request.lua)."""
    head = (
        "POST {} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\nX-API-Key: {}\r\n"
        "User-Agent: bench/1.0\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n"
    )
    own = [key(number * KEYS // IN_TURN) for number in range(IN_TURN)]
    return [head.format(TARGET, one, len(BODY)).encode() + BODY for one in own]


def policies(variant: str, folder: Path) -> None:
    """Write the bench's policies of this variant."""
    words = {
        "PORT": "0",
        "ADMIN": "0",
        "LOG": str(folder / "access.log"),
        "STABLE": "9001",
        "CANARY": "9002",
    }
    text = fill_in((PEERS / "headgate" / f"{variant}.yaml").read_text(), words)
    (folder / "gateway.yaml").write_text(text)
    if "plans:" in text:
        (folder / "keys.yaml").write_text(headgate_keys(tenants()))


class Stage:
    """A worker between wires."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.listener = worker._listeners["http"]
        self.upstream = worker._upstream
        loop = asyncio.get_running_loop()
        self.clients = [(ServerConnection(self.listener), Wire()) for _ in range(CONNECTIONS)]
        for client, wire in self.clients:
            client.connection_made(wire)  # type: ignore[arg-type]  # by shape
        self.groups: list[Connections] = []
        for port in (9001, 9002):
            group = self.upstream._connections_to(("127.0.0.1", port, None))
            for _ in range(2):
                connection = UpstreamConnection(group)
                connection.connection_made(Wire())  # type: ignore[arg-type]  # by shape
            self.groups.append(group)
        self.loop = loop

    def turn(self, sent: list[bytes], number: int) -> None:
        """Let `number` requests through, one after the other."""
        clients, groups = self.clients, self.groups
        flush_up, flush_down = self.upstream._outbox.flush, self.listener.outbox.flush
        for i in range(number):
            client, _ = clients[i % CONNECTIONS]
            client.data_received(sent[i % len(sent)])
            self.settle(flush_up, flush_down, groups)
        if not number:
            self.settle(flush_up, flush_down, groups)

    @staticmethod
    def settle(up: Callable[[], None], down: Callable[[], None], groups: list[Connections]) -> None:
        """Let the instances answer whatever they were asked."""
        while True:
            up()
            asked = [one for group in groups for one in group._open if one._call is not None]
            if not asked:
                break
            for connection in asked:
                connection.data_received(ANSWER)
        down()


async def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policies(options.variant, folder)
        loaded = read(folder)
        if loaded.schema is None:
            raise SystemExit(loaded.report())
        worker = Worker(folder, loaded, loaded.schema)
        await worker.start()
        stage = Stage(worker)
        sent = requests()
        stage.turn(sent, CONNECTIONS)
        while any(client.stream is not None for client, _ in stage.clients):  # the model's signature is asked
            await asyncio.sleep(0.01)
            stage.turn(sent, 0)
        stage.turn(sent, 3 * IN_TURN)
        if not all(wire.said.startswith(b"HTTP/1.1 200 OK\r\n") for _, wire in stage.clients):
            raise SystemExit(f"not answered: {stage.clients[0][1].said!r}")
        settle_memory()
        _hold(options, lambda: stage.turn(sent, options.number))
        if options.show:
            print(stage.clients[0][1].said)
        await worker.stop(grace=0.0)


def _hold(options: argparse.Namespace, run: Callable[[], None]) -> None:
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(run)
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return
    spent = []
    for _ in range(options.rounds):
        before = time.thread_time()
        run()
        spent.append((time.thread_time() - before) / options.number * 1e6)
    spent.sort()
    quartile = spent[len(spent) // 4]
    median = spent[len(spent) // 2]
    print(f"{options.variant}: min {spent[0]:.2f}, quartile {quartile:.2f}, median {median:.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=("plain", "policy", "cache"))
    parser.add_argument("--number", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--show", action="store_true", help="print the last answer")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
