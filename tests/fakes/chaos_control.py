"""A healthy client in a process of its own, while others misbehave: did it notice?

    python -m tests.fakes.chaos_control PORT

Asks every 5 ms over a kept-alive connection, every tenth time over a new one, until its input ends; then
prints one JSON line: how many requests, how many errors, and the times in ms. A process of its own, so that
what it measures is the gateway and not the test's own work.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Health:
    """What the healthy client saw. Times in ms."""

    requests: int = 0
    errors: list[str] = field(default_factory=list)
    worst: float = 0.0
    p50: float = 0.0
    p99: float = 0.0

    def __str__(self) -> str:
        return (
            f"others: {self.requests} requests, {len(self.errors)} errors, "
            f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms, worst {self.worst:.1f} ms"
        )


@contextlib.contextmanager
def healthy_client(port: int, path: str = "/healthy") -> Iterator[Health]:
    """Run the healthy client beside the block; what it saw is there when the block is left."""
    health = Health()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.chaos_control", str(port), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield health
    finally:
        seen = json.loads(process.communicate("")[0])
        for name, value in seen.items():
            setattr(health, name, value)


def main(port: int, path: str) -> None:
    """Ask until the input ends."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    times: list[float] = []
    errors: list[str] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not ended.wait(0.005):
        if len(times) % 10 == 9:
            connection.close()
        before = time.perf_counter()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                errors.append(str(answer.status))
        except (OSError, http.client.HTTPException) as error:
            errors.append(repr(error))
            connection.close()
        times.append((time.perf_counter() - before) * 1000)
        if len(times) == 1:
            print("ready", flush=True)
    connection.close()
    times.sort()
    found = {
        "requests": len(times),
        "errors": errors,
        "worst": times[-1],
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
