"""Processes that are measured: pinned to a core, started, counted, ended.

CPU is what the kernel accounts to all threads of a process tree (/proc/PID/task/*/schedstat, ns), not wall
time; memory is the tree's proportional share (PSS, /proc/PID/smaps_rollup). Gateways are pinned to core 0,
load and instances to core 1. Where the user may, all run at real-time priority, so that whatever else runs
here doesn't preempt what is measured.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

GATEWAYS: Final = 0  # the core of what is measured
LOAD: Final = 1  # the core of the load generators and the instances
PATIENCE: Final = 30.0  # s until a server must have its port open
PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class NotStarted(Exception):
    """A process that ended, or opened no port in time; the text says what it printed."""


@cache
def _may_go_first() -> bool:
    probe = ["chrt", "-f", "10", "true"]
    return shutil.which("chrt") is not None and not subprocess.run(probe, capture_output=True).returncode


def pinned(core: int) -> list[str]:
    """Return the words that put a command on a core, before everybody else if we may."""
    return [*(["chrt", "-f", "10"] if _may_go_first() else []), "taskset", "-c", str(core)]


def allow_many_files() -> int:
    """Raise the limit of open files, for us and for what we start; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536
    for limits in ((wanted, max(hard, wanted)), (hard, hard)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return limits[0]
    return soft


@contextlib.contextmanager
def started(
    command: Sequence[str], port: int, core: int, folder: Path, environment: Mapping[str, str] = {}
) -> Iterator[int]:
    """Run a server pinned to a core until the block ends; yields its pid once the port answers.

    Its output goes to files in the folder. Raises NotStarted.
    """
    with (folder / "output").open("wb") as output, (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [*pinned(core), *command],
            cwd=folder,
            env={**os.environ, "PATH": PATH, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
    try:
        _await_port(process, port, folder)
        yield process.pid
    finally:
        _end(process)


def _await_port(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if process.poll() is not None:
            said = (folder / "errors").read_text(errors="replace") + (folder / "output").read_text(
                errors="replace"
            )
            raise NotStarted(f"ended with {process.returncode}: {said[-400:].strip()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise NotStarted(f"has no open port after {PATIENCE:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    members = list(tree(process.pid))
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def tree(pid: int) -> Iterator[int]:
    """Yield the process and its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from tree(int(child))


def cpu_ns(pid: int) -> int:
    """CPU that the kernel accounted to the process, its threads and its descendants, ns."""
    total = 0
    for member in tree(pid):
        for schedstat in Path(f"/proc/{member}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(schedstat.read_text().split()[0])
    return total


def pss(pid: int) -> int:
    """Memory of the process and its descendants, each page divided by those who share it, bytes."""
    total = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total
