"""The demo as a stage: started on free ports over a copy of the policies, its processes found, killed, frozen
and started again; its admin API read. Everything that touches processes and sockets is in this file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90.0  # s until the demo must be up
LOOK = 0.05  # s between two looks at /instances


class StageError(RuntimeError):
    """The demo can't be set up or steered; says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """One model server of the demo, seen from both sides."""

    id: str
    pool: str
    port: int
    process: psutil.Process
    command: list[str]


class Stage:
    """The running demo. A context manager: what it started ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policies = folder / "policies"
        shutil.copytree(ROOT / "policies", self.policies)
        (self.policies / "overrides.yaml").unlink(missing_ok=True)
        http, admin = _free_port(), _free_port()
        self.url, self.admin = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{admin}"
        self._log = (folder / "demo.log").open("wb")
        self._demo = subprocess.Popen(
            [
                *(sys.executable, "-m", "gateway", "demo", "--policies", str(self.policies)),
                *("--http", f"127.0.0.1:{http}", "--admin-listen", f"127.0.0.1:{admin}"),
                *("--grpc", "127.0.0.1:0"),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._restarted: list[subprocess.Popen[bytes]] = []
        self._frozen: list[psutil.Process] = []

    def wait(self) -> None:
        """Until the demo says that it is up. Raises StageError."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self._demo.poll() is not None:
                raise StageError(f"the demo ended:\n{(self.folder / 'demo.log').read_text()}")
            if "Headgate is up" in (self.folder / "demo.log").read_text():
                return
            time.sleep(0.1)
        raise StageError(f"the demo was not up within {PATIENCE:g} s")

    # Its processes

    def members(self, pool: str) -> list[Member]:
        """The instances of a pool with their processes, in the order of /instances."""
        listening = {}
        for process in psutil.Process(self._demo.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended while we looked
                command = process.cmdline()
                for connection in process.net_connections(kind="tcp4") if "backends" in command else ():
                    if connection.status == psutil.CONN_LISTEN:
                        listening[connection.laddr.port] = (process, command)
        found = []
        for one in self.instances():
            port = int(str(one["address"]).rpartition(":")[2])
            if one["pool"] == pool and port in listening:
                found.append(Member(str(one["id"]), pool, port, *listening[port]))
        return found

    def kill(self, member: Member) -> None:
        """Send kill -9: nothing is said, nothing is closed in order."""
        member.process.send_signal(signal.SIGKILL)

    def restart(self, member: Member) -> None:
        """Start it again, as the demo's printed line does."""
        self._restarted.append(
            subprocess.Popen(
                member.command,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        )

    def freeze(self, member: Member) -> None:
        """SIGSTOP: its connections stay open and nobody answers."""
        member.process.send_signal(signal.SIGSTOP)
        self._frozen.append(member.process)

    def thaw(self, member: Member) -> None:
        """Let it go on."""
        member.process.send_signal(signal.SIGCONT)
        self._frozen.clear()

    # Its policies

    def set_free_plan(self, rate: str) -> None:
        """Edit the free plan's throttle, as an editor does: by replacing the file."""
        path = self.policies / "house-rules.yaml"
        before, line, after = _cut(path.read_text(), "    throttle: ")
        self._save(path, f"{before}    throttle: {rate} per principal burst 5{after}")
        assert yaml.safe_load(path.read_text())["policies"]["free-tier"]["throttle"].startswith(rate), line

    def spoil(self) -> str:
        """Save a mistake, an unknown verb. Returns the text before it."""
        path = self.policies / "house-rules.yaml"
        text = path.read_text()
        self._save(path, text.replace("    throttle: ", "    throtle: ", 1))
        return text

    def mend(self, text: str) -> None:
        """Save what was there before."""
        self._save(self.policies / "house-rules.yaml", text)

    def _save(self, path: Path, text: str) -> None:
        draft = self.folder / "draft.yaml"
        draft.write_text(text)
        draft.replace(path)

    # Its admin API

    def ask(self, path: str) -> object:
        """GET JSON from the admin API."""
        with urllib.request.urlopen(self.admin + path, timeout=5) as answer:
            return json.load(answer)

    def instances(self) -> list[dict[str, object]]:
        """Every instance, as /instances shows it."""
        listed = self.ask("/instances")
        assert isinstance(listed, list)
        return listed

    def last_reload(self) -> dict[str, object]:
        """How the last reading of the policies went."""
        config = self.ask("/config")
        assert isinstance(config, dict)
        report = config["last_reload"]
        assert isinstance(report, dict)
        return report

    def requests_by_status(self) -> dict[int, int]:
        """headgate_requests_total of all endpoints, by status."""
        with urllib.request.urlopen(self.admin + "/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        counted: dict[int, int] = {}
        for line in lines:
            if line.startswith("headgate_requests_total{"):
                status = int(line.partition('status="')[2].partition('"')[0])
                counted[status] = counted.get(status, 0) + int(float(line.rpartition(" ")[2]))
        return counted

    # The end

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._frozen:
            process.send_signal(signal.SIGCONT)
        for one in (*self._restarted, self._demo):
            if one.poll() is None:
                one.send_signal(signal.SIGINT if one is self._demo else signal.SIGTERM)
        for one in (*self._restarted, self._demo):
            try:
                one.wait(timeout=12)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self._log.close()


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at /instances. asked, seen: monotonic instants around it; the truth lies between."""

    asked: float
    seen: float
    instances: list[dict[str, object]]

    def of(self, id: str) -> dict[str, object] | None:
        """What it said of one instance; None when it was not there."""
        return next((one for one in self.instances if one["id"] == id), None)


class Watch(threading.Thread):
    """Looks at /instances again and again; `sights` grows."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(name="watch", daemon=True)
        self.sights: list[Sight] = []
        self._stage = stage
        self._over = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._over.wait(LOOK):
            asked = time.monotonic()
            try:
                listed = self._stage.instances()
            except (OSError, urllib.error.URLError):
                continue  # a missed look widens the bounds of what is measured with it
            self.sights.append(Sight(asked, time.monotonic(), listed))

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join(timeout=10)


def _cut(text: str, start: str) -> tuple[str, str, str]:
    """Split the text around the first line that begins like this; the line break stays with the rest."""
    begin = text.index(start)
    end = text.index("\n", begin)
    return text[:begin], text[begin:end], text[end:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
