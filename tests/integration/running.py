"""The whole gateway as a stranger runs it: real processes, real sockets, the standard library's client.

`Demo` is `headgate demo` in a folder of its own with a copy of the repository's policies on free ports.
`Client` is one kept-alive connection that never tries again by itself, so that a lost request is seen.
`Hammer` is several such clients in threads; what they were answered is judged afterwards.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.services.etcd import free_port

ROOT = Path(__file__).parents[2]
HEADGATE = Path(sys.executable).parent / "headgate"
POLICIES = ROOT / "policies"
SAMPLES: list[dict[str, Any]] = json.loads((ROOT / "backends/models/samples.json").read_text())
NAMES = {"digits-v1-a", "digits-v1-b", "digits-v2-a", "digits-lite-a"}

PRO = {"X-API-Key": "demo-pro"}
FREE = {"X-API-Key": "demo-free"}
GUEST = {"X-API-Key": "demo-guest"}
CANARY = {**PRO, "x-headgate-send": "canary"}

PREDICT = "/v1/models/digits:predict"
INFER = "/v2/models/digits/infer"

_seeds = itertools.count(1)


def slack() -> float:
    """How much longer than promised anything may take: machines of CI are shared."""
    return float(os.environ.get("HEADGATE_TEST_SLACK", "3"))


# Requests


def fresh_row() -> list[int]:
    """A picture that nobody has asked about in this run."""
    rng = random.Random(next(_seeds) * 1_000_003 + os.getpid())
    return [rng.randint(0, 16) for _ in range(64)]


def tfs(*rows: Sequence[float]) -> bytes:
    """The body of a TensorFlow Serving client."""
    return json.dumps({"instances": [list(row) for row in rows]}).encode()


def v2(*rows: Sequence[float], name: str = "input", datatype: str = "FP32") -> bytes:
    """The body of a KServe V2 client."""
    data = [value for row in rows for value in row]
    shape = [len(rows), len(rows[0])]
    return json.dumps(
        {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}
    ).encode()


@dataclass(slots=True)
class Answer:
    """What came back. Header fields by any case; several of a name joined with ', '."""

    status: int
    fields: Message
    body: bytes
    took: float = 0.0

    def __getitem__(self, name: str) -> str:
        return ", ".join(self.fields.get_all(name, []))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = PRO,
        method: str | None = None,
    ) -> Answer:
        before = time.monotonic()
        fields = {"Content-Type": "application/json", **headers} if body is not None else dict(headers)
        try:
            self._connection.request(method or ("GET" if body is None else "POST"), path, body, fields)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        return Answer(response.status, response.headers, content, time.monotonic() - before)

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Outcome:
    """One request of a Hammer. status: 0 when none came, then `error` says why."""

    at: float
    status: int
    pool: str = ""
    degraded: str = ""
    error: str = ""


class Hammer:
    """Predictions without end, each of another picture, until the block is left.

    pause: s between a client's answer and its next request. A refused connection ends a client without
    failure when `until_refused`: the port was closed on purpose.
    """

    def __init__(
        self, port: int, *, clients: int = 4, pause: float = 0.04, until_refused: bool = False
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.refused = 0
        self._port = port
        self._pause = pause
        self._until_refused = until_refused
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        client = Client(self._port)
        while not self._stopping.is_set():
            body = tfs(fresh_row())
            at = time.monotonic()
            try:
                answer = client.ask(PREDICT, body)
            except ConnectionRefusedError as error:
                if self._until_refused:
                    self.refused += 1
                    break
                self.outcomes.append(Outcome(at, 0, error=repr(error)))
            except (OSError, http.client.HTTPException) as error:
                self.outcomes.append(Outcome(at, 0, error=repr(error)))
            else:
                why = "" if answer.status == 200 else answer.body.decode(errors="replace")
                self.outcomes.append(
                    Outcome(at, answer.status, answer["x-headgate-pool"], answer["x-degraded"], why)
                )
            time.sleep(self._pause)
        client.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.outcomes) >= len(self._threads), "the first answers under load")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(20)

    def wait_for_the_end(self, within: float = 20.0) -> None:
        """Until every client was refused."""
        for thread in self._threads:
            thread.join(within)

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status != 200]

    def summary(self) -> Counter[tuple[int, str, str]]:
        return Counter((outcome.status, outcome.pool, outcome.degraded) for outcome in self.outcomes)


def until(holds: Callable[[], object], what: str, within: float = 10.0) -> float:
    """Wait until it holds; returns the seconds that took."""
    before = time.monotonic()
    while not holds():
        if time.monotonic() - before > within:
            raise AssertionError(f"{what}: not within {within:g} s")
        time.sleep(0.02)
    return time.monotonic() - before


# Processes


def command(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `headgate …` to its end."""
    return subprocess.run(
        [str(HEADGATE), *map(str, arguments)],
        cwd=cwd,
        env=clean_env(**(env or {})),
        capture_output=True,
        text=True,
        timeout=60,
    )


def clean_env(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
    return {**kept, **more}


def kept_memory(pid: int) -> float:
    """The process's proportional share of memory (PSS), MiB; RSS counts what others share as its own."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss in smaps_rollup")


@dataclass(slots=True)
class Process:
    """A running process of the demo."""

    pid: int
    argv: list[str]
    cwd: Path
    name: str

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)


def children(pid: int) -> list[Process]:
    """The child processes of a demo that still run, by the names of their logs."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                argv = (entry / "cmdline").read_bytes().decode().split("\0")[:-1]
                log = Path(os.readlink(entry / "fd/1"))
                found.append(Process(int(entry.name), argv, Path(os.readlink(entry / "cwd")), log.stem))
    return found


class Running:
    """A gateway that was started here: `headgate serve` or `headgate demo` on a policy folder."""

    verb = "serve"

    def __init__(
        self, folder: Path, *options: str, policies: Path = POLICIES, env: Mapping[str, str] | None = None
    ):
        self.folder = folder
        self.policies = folder / (
            options[options.index("--policies") + 1] if "--policies" in options else "policies"
        )
        folder.mkdir(parents=True, exist_ok=True)
        if not self.policies.exists():
            shutil.copytree(policies, self.policies, ignore=shutil.ignore_patterns("overrides.yaml"))
        self.http = free_port()
        self.admin = free_port()
        self.grpc = free_port()
        self.options = options
        self.env = dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._clients: list[Client] = []

    # Its life

    def start(self) -> Self:
        with (self.folder / "out.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [str(HEADGATE), self.verb, *self.options],
                cwd=self.folder,
                env=clean_env(
                    HEADGATE_HTTP_PORT=str(self.http),
                    HEADGATE_ADMIN_PORT=str(self.admin),
                    **({"HEADGATE_GRPC_PORT": str(self.grpc)} if self.verb == "demo" else {}),
                    **self.env,
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            self.wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_until_up(self) -> None:
        until(lambda: self.is_ready() or self._ended(), "a ready gateway", 60)

    def _ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}:\n{self.output()}")
        return False

    def stop(self) -> int:
        """SIGTERM, and whatever was started beside it; returns its exit code."""
        for client in self._clients:
            client.close()
        for process in self._spawned:
            process.terminate()
        code = 0
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
            code = self.process.wait(20)
        for process in self._spawned:
            process.wait(20)
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def output(self) -> str:
        return (self.folder / "out.txt").read_text()

    # Asking it

    def client(self) -> Client:
        client = Client(self.http)
        self._clients.append(client)
        return client

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = PRO,
        method: str | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        client = Client(self.http)
        try:
            return client.ask(path, body, headers, method)
        finally:
            client.close()

    def predict(self, *, headers: Mapping[str, str] = PRO) -> Answer:
        """A prediction that no cache knows."""
        return self.ask(PREDICT, tfs(fresh_row()), headers)

    def ask_admin(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answer:
        client = Client(self.admin)
        try:
            return client.ask(path, body, headers or {}, method)
        finally:
            client.close()

    def admin_json(self, path: str) -> Any:
        answer = self.ask_admin(path)
        assert answer.status == 200, answer.body
        return answer.json

    def is_ready(self) -> bool:
        try:
            return self.ask_admin("/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def ask_health(self) -> int:
        """Its status of health; 0 while nobody answers."""
        try:
            return self.ask_admin("/healthz").status
        except (OSError, http.client.HTTPException):
            return 0

    def instances(self, pool: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin_json("/instances")
        return [one for one in found if pool in (None, one["pool"])]

    def up(self, pool: str) -> int:
        return sum(1 for one in self.instances(pool) if one["state"] in ("up", "down_weighted"))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that bear these labels."""
        return sum_of(self.ask_admin("/metrics").body.decode(), name, labels)

    def last_reload(self) -> dict[str, Any]:
        found: dict[str, Any] = self.admin_json("/config")["last_reload"]
        return found

    def headgate(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run another command of the CLI beside it."""
        return command(*arguments, cwd=self.folder, env={"HEADGATE_ADMIN_PORT": str(self.admin)})

    # Changing it

    def edit(self, file: str, old: str, new: str) -> None:
        """Save a policy file as an editor does: a new file under the old name."""
        path = self.policies / file
        text = path.read_text()
        assert old in text
        draft = path.with_name(f".{file}.draft")
        draft.write_text(text.replace(old, new))
        draft.replace(path)

    def spawn(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start another process beside it; it ends with it."""
        with (self.folder / "spawned.txt").open("ab") as output:
            process = subprocess.Popen(argv, cwd=self.folder, stdout=output, stderr=output, env=clean_env())
        self._spawned.append(process)
        return process


class Demo(Running):
    """`headgate demo`: a gateway, two instances of digits 1, one of digits 2, one of digits-lite."""

    verb = "demo"

    def wait_until_up(self) -> None:
        until(lambda: "Headgate is up" in self.output() or self._ended(), "a demo", 60)

    def parts(self) -> dict[str, Process]:
        """Its processes: gateway, digits-v1-a, digits-v1-b, digits-v2-a, digits-lite-a."""
        assert self.process is not None
        return {child.name: child for child in children(self.process.pid)}

    def address_of(self, name: str) -> str:
        """Where an instance listens, from its log."""
        log = (self.folder / f".demo/{name}.log").read_text()
        return log.rpartition("ready http://")[2].split()[0]


def sum_of(text: str, name: str, labels: Mapping[str, str]) -> float:
    total = 0.0
    for line in text.splitlines():
        if line.startswith((name + "{", name + " ")) and all(
            f'{key}="{value}"' in line for key, value in labels.items()
        ):
            total += float(line.rpartition(" ")[2])
    return total


def backend_requests(address: str) -> float:
    """How many inference requests a backend has answered, as it counts itself."""
    client = Client(int(address.rpartition(":")[2]))
    try:
        return sum_of(client.ask("/metrics", headers={}).body.decode(), "headgate_backend_requests_total", {})
    finally:
        client.close()
