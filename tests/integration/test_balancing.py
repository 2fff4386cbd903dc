"""Balancing over processes: `headgate serve` with two workers before servers that fall ill."""

from __future__ import annotations

import http.client
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.running import Client, Running, until
from tests.services.etcd import free_port

pytestmark = pytest.mark.slow

APP = Path(__file__).parent / "apps" / "moody.py"
ILL = 10.0  # s

PAGE = """
log: {{access: off}}
pools: {{main: {{instances: [{addresses}], health: off}}}}
endpoints: {{api: {{match: /**, authenticate: none, send: main}}}}
"""


def asked(port: int) -> int:
    """Requests that this server got so far."""
    client = Client(port)
    try:
        return int(client.ask("/asked", headers={}).body)
    finally:
        client.close()


def is_up(port: int) -> bool:
    try:
        return asked(port) >= 0
    except (OSError, http.client.HTTPException):
        return False


def ask_for(seconds: float, port: int) -> Counter[int]:
    """Ask without a pause; return how often which status came."""
    statuses: Counter[int] = Counter()
    client = Client(port)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        statuses[client.ask("/", headers={}).status] += 1
        time.sleep(0.01)
    client.close()
    return statuses


def test_an_instance_that_fails_at_once_gets_a_hundredth_of_ten_seconds_traffic(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(4)]
    policies = tmp_path / "policies"
    policies.mkdir()
    addresses = ", ".join(f"'127.0.0.1:{port}'" for port in ports)
    (policies / "page.yaml").write_text(PAGE.format(addresses=addresses))
    gateway = Running(tmp_path, "--workers", "2")
    try:
        servers = [gateway.spawn([sys.executable, str(APP), str(port)]) for port in ports]
        until(lambda: all(map(is_up, ports)), "four servers")
        gateway.start()
        with ThreadPoolExecutor(8) as threads:
            load = [threads.submit(ask_for, 1.0, gateway.http) for _ in range(8)]
            assert sum((one.result() for one in load), Counter()).keys() == {200}
            before = [asked(port) for port in ports]
            assert min(before) > 0.1 * sum(before), before
            servers[0].send_signal(signal.SIGUSR1)
            load = [threads.submit(ask_for, ILL, gateway.http) for _ in range(8)]
            statuses = sum((one.result() for one in load), Counter())
        sent = [asked(port) - start for port, start in zip(ports, before, strict=True)]
        print(f"{sent[0]} of {sum(sent)} to the one that fails: {sent[0] / sum(sent):.2%}; {statuses}")
        assert sum(sent) > 1000
        assert 0 < sent[0] <= 0.01 * sum(sent)
        assert statuses.keys() == {200}, "every failure was tried elsewhere"
    finally:
        gateway.stop()
