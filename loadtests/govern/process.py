"""A gateway in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(page: str) -> Iterator[tuple[int, int]]:
    """Run a gateway with these policies; its port and its admin API's. RuntimeError: no start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "policies"
        folder.mkdir()
        (folder / "gateway.yaml").write_text(page)
        port, admin = _free_port(), _free_port()
        command = [sys.executable, "-m", "gateway", "serve", "--policies", str(folder)]
        command += ["--http", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"]
        log = Path(name) / "log"
        with log.open("wb") as told:
            process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        try:
            _await(process, port, log)
            yield port, admin
        finally:
            process.terminate()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(200):
        time.sleep(0.05)
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            continue
        return
    process.kill()
    raise RuntimeError(f"the gateway did not start: {log.read_text()}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
