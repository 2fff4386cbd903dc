"""The real server as a process, and a client for it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]


class Backend:
    """`python -m backends serve …` on a free port. `ready` is its line on stdout, `url` what it printed."""

    def __init__(self, *flags: str, env: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "backends", "serve", "--address", "127.0.0.1:0", *flags]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        lines: queue.Queue[str] = queue.Queue()
        assert self.process.stdout is not None
        stdout = self.process.stdout
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        self.ready = lines.get(timeout=30).rstrip("\n")
        self.url = self.ready.split()[1] if self.ready else ""

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._log.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        return "".join(self._log)

    def wait(self) -> int:
        status = self.process.wait(timeout=20)
        self._reader.join(timeout=20)
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def until(self, path: str, status: int) -> None:
        """Wait for a GET of `path` to be answered with `status`."""
        ends = time.monotonic() + 20
        while self.get(path)[0] != status:
            assert time.monotonic() < ends, f"{path} never was {status}:\n{self.log}"
            time.sleep(0.02)

    def get(self, path: str) -> tuple[int, bytes]:
        status, body, _ = self.call("GET", path)
        return status, body

    def post(self, path: str, body: object) -> tuple[int, dict[str, object]]:
        status, answer, _ = self.call(
            "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        return status, json.loads(answer)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, Mapping[str, str]]:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        try:
            answer: HTTPResponse
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=20
            ) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read(), e.headers
