"""Real etcd processes for tests: one node or three, on free loopback ports, killed for real.

`EtcdServers` starts, kills (SIGKILL), freezes (SIGSTOP) and restarts nodes and keeps their data between.
Its few calls go straight to the JSON gateway with the standard library: no test checks our client with our
client. Fixtures: `etcd` (one fresh node), `etcd_trio` (three). A test using them is marked
`@pytest.mark.service("etcd")`.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

BINARY = shutil.which("etcd")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def encode(text: str | bytes) -> str:
    return b64encode(text if isinstance(text, bytes) else text.encode()).decode()


class EtcdNode:
    """One etcd process. url: where clients connect."""

    def __init__(self, name: str, folder: Path, scheme: str, extra: Sequence[str]) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.peer = f"http://127.0.0.1:{free_port()}"
        self.extra = list(extra)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str) -> None:
        with open(f"{self.folder}.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(BINARY or "etcd", "--name", self.name, "--data-dir", str(self.folder)),
                    *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                    *("--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer),
                    *("--initial-cluster", cluster, "--logger", "zap", "--log-level", "error"),
                    *self.extra,
                ],
                stdout=log,
                stderr=log,
            )

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class EtcdServers:
    """A cluster of `count` nodes under `folder`. extra: more flags for each node."""

    def __init__(
        self, folder: Path, count: int = 1, extra: Sequence[str] = (), scheme: str = "http", wait: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.nodes = [EtcdNode(f"n{index}", folder / f"n{index}", scheme, extra) for index in range(count)]
        self.cluster = ",".join(f"{node.name}={node.peer}" for node in self.nodes)
        for node in self.nodes:
            node.start(self.cluster)
        if wait:
            self.wait()

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(node.url for node in self.nodes)

    def wait(self, within: float = 20.0) -> None:
        """Until every running node serves a linearizable read."""
        end = time.monotonic() + within
        for node in self.nodes:
            while node.is_running:
                try:
                    self.post("/v3/kv/range", {"key": encode("ready")}, node=node, timeout=1.0)
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise TimeoutError(f"etcd not up, see {node.folder}.log") from None
                    time.sleep(0.03)

    def restart(self, node: EtcdNode | None = None, *, wipe: bool = False) -> None:
        """Start again a node that was killed. wipe: as an empty store."""
        node = node or self.nodes[0]
        if wipe:
            shutil.rmtree(node.folder, ignore_errors=True)
        node.start(self.cluster)

    def close(self) -> None:
        for node in self.nodes:
            node.kill()

    # Calls, each to the first node that runs or to the one named

    def post(
        self, path: str, body: object, *, node: EtcdNode | None = None, token: str = "", timeout: float = 5.0
    ) -> dict[str, object]:
        node = node or next(node for node in self.nodes if node.is_running)
        headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {})}
        request = urllib.request.Request(node.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                answer: dict[str, object] = json.loads(response.read())
                return answer
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"{path}: {error.code} {error.read()[:200]!r}") from None

    def put(self, key: str, value: str | bytes, *, lease: int = 0, node: EtcdNode | None = None) -> int:
        """Write a key; returns the revision."""
        body = {"key": encode(key), "value": encode(value), "lease": str(lease)}
        header = self.post("/v3/kv/put", body, node=node)["header"]
        assert isinstance(header, dict)
        return int(header["revision"])

    def delete(self, key: str, *, node: EtcdNode | None = None) -> None:
        self.post("/v3/kv/deleterange", {"key": encode(key)}, node=node)

    def delete_prefix(self, prefix: str) -> None:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        self.post("/v3/kv/deleterange", {"key": encode(prefix), "range_end": encode(end)})

    def compact(self, revision: int) -> None:
        self.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def grant(self, ttl: int) -> int:
        return int(str(self.post("/v3/lease/grant", {"TTL": str(ttl)})["ID"]))

    def keys(self, prefix: str) -> set[str]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self.post(
            "/v3/kv/range", {"key": encode(prefix), "range_end": encode(end), "keys_only": True}
        )
        kvs = answer.get("kvs", [])
        assert isinstance(kvs, list)
        return {b64decode(kv["key"]).decode() for kv in kvs}

    def leader(self) -> EtcdNode:
        for node in self.nodes:
            if node.is_running:
                status = self.post("/v3/maintenance/status", {}, node=node)
                header = status["header"]
                assert isinstance(header, dict)
                if status.get("leader") == header["member_id"]:
                    return node
        raise RuntimeError("no leader")


def require_etcd() -> None:
    if BINARY is None:
        pytest.skip("etcd is not installed (Debian: apt install etcd-server)")


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServers]:
    """One fresh etcd node."""
    require_etcd()
    servers = EtcdServers(tmp_path / "etcd")
    yield servers
    servers.close()


@pytest.fixture
def etcd_trio(tmp_path: Path) -> Iterator[EtcdServers]:
    """A fresh cluster of three."""
    require_etcd()
    servers = EtcdServers(tmp_path / "etcd", count=3)
    yield servers
    servers.close()
