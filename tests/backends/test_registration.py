from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable

import pytest

from tests.backends.models import DIGITS
from tests.backends.process import ROOT, Backend
from tests.fakes.admin_registry import AdminRegistry, admin_registry
from tests.services.etcd import EtcdServers, encode, etcd

__all__ = ["etcd"]

SERVE = ["--repository", str(DIGITS), "--models", "digits=1"]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 another process sets off no Event
            await asyncio.sleep(0.02)


def entries(registry: AdminRegistry) -> list[dict[str, object]]:
    return registry.local.listing(0.0).get("digits", [])


async def test_a_backend_is_registered_while_it_serves_and_deregisters_first() -> None:
    flags = ["--service", "digits", "--weight", "7", "--labels", "zone=a,rack=2", "--ttl", "5s"]
    async with admin_registry() as registry:
        backend = await asyncio.to_thread(Backend, *SERVE, "--register", registry.url, *flags)
        with backend:
            await until(lambda: entries(registry))
            (entry,) = entries(registry)
            assert entry["address"] == f"127.0.0.1:{backend.port}"
            assert (entry["version"], entry["weight"], entry["ttl"]) == ("v1", 7, 5.0)
            assert entry["labels"] == {"zone": "a", "rack": "2"}
            assert entry["models"] == [{"name": "digits", "version": "1"}]
            backend.process.send_signal(signal.SIGTERM)
            await until(lambda: backend.process.poll() is not None)
            assert backend.wait() == 0
            assert entries(registry) == []
            assert registry.calls[-1] == "DELETE"


async def test_the_token_comes_from_the_environment_and_the_tag_from_a_flag() -> None:
    async with admin_registry(token="open sesame") as registry:
        flags = [*SERVE, "--register", registry.url, "--service", "digits", "--version-tag", "v1-blue"]
        env = {"HEADGATE_ADMIN_TOKEN": "open sesame"}
        with await asyncio.to_thread(lambda: Backend(*flags, env=env)) as backend:
            await until(lambda: entries(registry))
            assert entries(registry)[0]["version"] == "v1-blue"
            assert "sesame" not in backend.log


async def test_a_registry_that_is_down_does_not_stop_the_backend_from_serving() -> None:
    async with admin_registry() as registry:
        await registry.stop()
        flags = [*SERVE, "--register", registry.url, "--service", "digits"]
        with await asyncio.to_thread(Backend, *flags) as backend:
            assert (await asyncio.to_thread(backend.get, "/v2/health/ready"))[0] == 200
            await registry.start()
            await until(lambda: entries(registry))


@pytest.mark.service("etcd")
async def test_a_backend_registers_in_etcd(etcd: EtcdServers) -> None:
    url = etcd.urls[0].replace("http://", "etcd://") + "/tests"
    with await asyncio.to_thread(Backend, *SERVE, "--register", url, "--service", "digits") as backend:
        await until(lambda: etcd.keys("/"))
        (key,) = etcd.keys("/")
        (found,) = etcd.post("/v3/kv/range", {"key": encode(key)})["kvs"]
        assert json.loads(b64decode(found["value"]))["Metadata"]["models"] == [
            {"name": "digits", "version": "1"}
        ]
        assert "/tests/" in key
        assert "/digits/" in key
        assert await asyncio.to_thread(backend.stop) == 0
        assert etcd.keys("/") == set()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--register", "ftp://x"], "error: cannot register: a registry's URL starts with"),
        (
            ["--register", "http://127.0.0.1:1", "--ttl", "100ms"],
            "error: cannot register: ttl must be at least",
        ),
        (
            ["--register", "http://127.0.0.1:1", "--advertise", "0.0.0.0:1"],
            "error: cannot register: 0.0.0.0:1",
        ),
    ],
)
def test_what_no_registry_could_take_stops_the_start(flags: list[str], message: str) -> None:
    with Backend(*SERVE, "--service", "digits", *flags) as backend:
        assert backend.wait() == 2
        assert backend.ready == ""
        assert message in backend.log
        assert "Traceback" not in backend.log


def test_serving_without_a_registry_imports_no_gateway() -> None:
    code = (
        "import sys, backends.__main__, backends.server; "
        "print([name for name in sys.modules if name.split('.')[0] == 'gateway'])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
