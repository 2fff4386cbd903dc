"""`headgate register` puts real Flask, Django and FastAPI servers into a real etcd, and out again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.discovery.etcd import EtcdSettings
from gateway.discovery.etcd_registry import EtcdRegistry
from gateway.discovery.members import Member
from tests.discovery.watching import QUICK, Watcher, following
from tests.services.etcd import EtcdServers, etcd

__all__ = ["etcd"]

pytestmark = [pytest.mark.service("etcd"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
PYTHON = sys.executable

# main.py has the whole command line; the command under test stands alone here.
REGISTER = """
import argparse, sys
from gateway.cli import register
parser = argparse.ArgumentParser()
register.add_parser(parser.add_subparsers())
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""

SERVERS = {
    "flask": ("sh", "-c", f"exec {PYTHON} -m flask --app {APPS}/flask_app.py run -p $PORT"),
    "django": ("sh", "-c", f"{PYTHON} {APPS}/django_app.py runserver 127.0.0.1:$PORT --noreload"),
    "fastapi": ("sh", "-c", f"exec {PYTHON} -m uvicorn --app-dir {APPS} fastapi_app:app --port $PORT"),
}


@contextmanager
def registering(
    servers: EtcdServers, command: Sequence[str], *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    flags = ("--service", "web", "--version", "v1", "--ttl", "2s", *options)
    process = subprocess.Popen(
        [PYTHON, "-c", REGISTER, "register", *flags, "--", *command],
        cwd=ROOT,
        env={**os.environ, "HEADGATE_REGISTRY": f"etcd://127.0.0.1:{servers.nodes[0].port}"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=15)


def registry(servers: EtcdServers) -> EtcdRegistry:
    return EtcdRegistry(EtcdSettings(servers=servers.urls, timeout=0.5), timing=QUICK)


async def the_only(watcher: Watcher, within: float = 20.0) -> Member:
    await watcher.until_true(lambda: bool(watcher.seen and watcher.seen[-1]), within)
    (member,) = watcher.seen[-1]
    return member


def answer(member: Member) -> str:
    with urllib.request.urlopen(f"http://{member.authority}/who", timeout=5) as response:
        body: bytes = response.read()
        return body.decode()


@pytest.mark.parametrize("framework", SERVERS)
async def test_a_server_of_any_framework_is_found_while_it_serves(etcd: EtcdServers, framework: str) -> None:
    options = ("--health", "/health", "--label", f"framework={framework}")
    async with following(registry(etcd), "web") as watcher:
        with registering(etcd, SERVERS[framework], *options) as process:
            member = await the_only(watcher)
            assert await asyncio.to_thread(answer, member) == framework
            assert (member.version, member.labels) == ("v1", (("framework", framework),))
            process.terminate()
            assert await watcher.until(set()) < 1.0
            await asyncio.to_thread(process.wait, 10)


async def test_it_leaves_the_registry_before_the_server_stops(etcd: EtcdServers) -> None:
    """The server takes a second to die; the gateway knew at once."""
    code = "import http.server as h, os, signal, sys, time\n"
    code += "signal.signal(signal.SIGTERM, lambda *a: (time.sleep(1), os._exit(7)))\n"
    code += "h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), h.SimpleHTTPRequestHandler).serve_forever()"
    async with following(registry(etcd), "web") as watcher:
        with registering(etcd, (PYTHON, "-c", code)) as process:
            await the_only(watcher)
            process.terminate()
            await watcher.until(set(), within=1.0)
            assert process.poll() is None
            assert await asyncio.to_thread(process.wait, 10) == 7


async def test_a_server_that_dies_is_deregistered_and_its_exit_code_is_ours(etcd: EtcdServers) -> None:
    code = "import http.server as h, os, threading\n"
    code += "threading.Timer(1.5, lambda: os._exit(3)).start()\n"
    code += "h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), h.SimpleHTTPRequestHandler).serve_forever()"
    async with following(registry(etcd), "web") as watcher:
        with registering(etcd, (PYTHON, "-c", code)) as process:
            await the_only(watcher)
            await watcher.until(set(), within=5.0)
            assert await asyncio.to_thread(process.wait, 5) == 3


async def test_when_the_registrant_is_killed_its_lease_runs_out(etcd: EtcdServers) -> None:
    code = "import http.server as h, os, threading\n"
    code += (
        "threading.Timer(5, lambda: os._exit(0)).start()\n"  # an orphan must not outlive the test for long
    )
    code += "h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), h.SimpleHTTPRequestHandler).serve_forever()"
    async with following(registry(etcd), "web") as watcher:
        with registering(etcd, (PYTHON, "-c", code)) as process:
            await the_only(watcher)
            process.send_signal(signal.SIGKILL)
            assert await watcher.until(set(), within=6.0) < 2.0 + 1.0
