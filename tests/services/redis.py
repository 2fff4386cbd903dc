"""Real redis-server processes for tests: on free loopback ports, killed for real.

`RedisServer` starts, kills (SIGKILL), freezes (SIGSTOP) and restarts one server. Its `control` is
redis-py's plain client: no test checks our client with our client. Fixture: `redis_server` (one fresh
server). A test that uses it is marked `@pytest.mark.service("redis")`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis

from tests.services.etcd import free_port

BINARY = shutil.which("redis-server")


class RedisServer:
    """One redis-server. extra: more options, as on its command line."""

    def __init__(self, folder: Path, extra: Sequence[str] = (), *, wait: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.extra = list(extra)
        self.process: subprocess.Popen[bytes] | None = None
        self.start(wait=wait)

    def start(self, *, wait: bool = True) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(BINARY or "redis-server", "--bind", "127.0.0.1", "--port", str(self.port)),
                    *("--dir", str(self.folder), "--save", "", "--appendonly", "no"),
                    *self.extra,
                ],
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait()

    def wait(self, within: float = 10.0) -> None:
        """Until it answers; an error answer (no password given) is one too."""
        end = time.monotonic() + within
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(64):
                        return
            except OSError:
                pass
            if time.monotonic() > end or (self.process is not None and self.process.poll() is not None):
                self.kill()
                raise TimeoutError(f"redis-server not up, see {self.folder}/log")
            time.sleep(0.02)

    def control(self, **options: str) -> redis.Redis:
        """Return an independent client; close it."""
        return redis.Redis(port=self.port, socket_timeout=5, **options)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """Start again, empty, on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def need_redis() -> None:
    if BINARY is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    need_redis()
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()
