"""CPU per request of Headgate and of NGINX doing the same work, measured side by side.

    python -m loadtests.bench --rounds 6 --json

A shared machine drifts by more than the differences that matter, so absolute figures of two runs can't be
compared. All peers are up at once; a round gives each one second of load in turn; the ratio to NGINX is
taken within the round, and the median of the ratios is the result. Peers are pinned to core 0; wrk and a
trivial backend in C to core 1. CPU is what the kernel accounts to all threads of the peer's process tree
(/proc/<pid>/task/*/schedstat, ns), not wall time; where the user may, all run at real-time priority.
Differences under 15 to 20 % are not resolved here.

Each run appends one line to loadtests/history/bench.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE / "peers"
HISTORY = HERE / "history" / "bench.jsonl"
ROOT = HERE.parent
CONNECTIONS = 64
SETTLE = 0.3  # s between two windows

# name -> (command, folder or file of configuration to fill in). In both, @NAME@ is replaced.
PEER_COMMANDS: dict[str, tuple[list[str], str]] = {
    "nginx": (["nginx", "-c", "@CONFIG@", "-e", "@RUN@/nginx-error.log"], "nginx-plain.conf"),
    "relay": ([sys.executable, "-m", "tests.fakes.relay", "@PORT@", "@BACKEND@"], ""),
    "headgate": ([sys.executable, "-m", "gateway", "serve", "--policies", "@CONFIG@"], "headgate-plain"),
}
BASELINE = "nginx"


@dataclass(frozen=True, slots=True)
class Window:
    """One second of load on one peer: requests done, CPU µs each, requests/s, p50 and p99 in ms."""

    requests: int
    cpu_us: float
    rate: float
    p50: float
    p99: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    missing = [
        tool for tool in ("wrk", "cc", "taskset", BASELINE) if shutil.which(tool, path=_path()) is None
    ]
    if missing:
        print(
            f"the bench needs {', '.join(missing)} (Debian: apt-get install wrk gcc util-linux nginx-light)"
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder, contextlib.ExitStack() as stack:
        run = Path(folder)
        backend = _free_port()
        stack.enter_context(_started("backend", [str(_build_backend(run)), str(backend)], backend, core=1))
        peers = {name: stack.enter_context(_peer(name, run, backend)) for name in options.peers}
        rounds = measure(peers, options.rounds)
    result = {**_machine(), "rounds": options.rounds, "peers": summarise(rounds)}
    if options.record:
        HISTORY.parent.mkdir(exist_ok=True)
        with HISTORY.open("a") as history:
            history.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=2) if options.json else _table(result["peers"]))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="windows per peer (default: 6)")
    parser.add_argument(
        "--peers", type=_names, default=["nginx", "relay", "headgate"], help="of nginx,relay,headgate"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument(
        "--no-record", dest="record", action="store_false", help="leave loadtests/history alone"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.peers) - set(PEER_COMMANDS)
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEER_COMMANDS)}")
    if BASELINE not in options.peers:
        options.peers.insert(0, BASELINE)
    return options


def _names(text: str) -> list[str]:
    return text.split(",")


# Peers


@contextlib.contextmanager
def _peer(name: str, run: Path, backend: int) -> Iterator[tuple[int, int]]:
    """Start a peer; yields (pid, port)."""
    command, template = PEER_COMMANDS[name]
    port = _free_port()
    words = {"PORT": str(port), "ADMIN": str(_free_port()), "BACKEND": str(backend), "RUN": str(run)}
    words["CONFIG"] = str(_fill_in(PEERS / template, run / name, words)) if template else ""
    filled = [_replace(word, words) for word in command]
    with _started(name, filled, port, core=0) as pid:
        yield pid, port


def _fill_in(template: Path, target: Path, words: dict[str, str]) -> Path:
    if template.is_file():
        target.write_text(_replace(template.read_text(), words))
        return target
    target.mkdir()
    for file in template.iterdir():
        (target / file.name).write_text(_replace(file.read_text(), words))
    return target


def _replace(text: str, words: dict[str, str]) -> str:
    return re.sub("@([A-Z]+)@", lambda match: words[match[1]], text)


@cache
def _may_go_first() -> bool:
    """May we ask for real-time priority? Then whatever else runs here doesn't preempt what is measured."""
    probe = ["chrt", "-f", "10", "true"]
    return shutil.which("chrt") is not None and not subprocess.run(probe, capture_output=True).returncode


def _pinned(core: int) -> list[str]:
    return [*(["chrt", "-f", "10"] if _may_go_first() else []), "taskset", "-c", str(core)]


@contextlib.contextmanager
def _started(name: str, command: list[str], port: int, core: int) -> Iterator[int]:
    """Run a server pinned to a core until the block ends; yields its pid once the port answers."""
    process = subprocess.Popen(
        [*_pinned(core), *command],
        cwd=ROOT,
        env={**os.environ, "PATH": _path()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _await_port(name, process, port)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _await_port(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(f"{name} ended: {process.stderr.read().decode(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"{name} does not answer on port {port}")


def _build_backend(run: Path) -> Path:
    target = run / "backend"
    subprocess.run(["cc", "-O2", "-o", str(target), str(PEERS / "backend.c")], check=True)
    return target


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


# Measuring


def measure(peers: dict[str, tuple[int, int]], rounds: int) -> list[dict[str, Window]]:
    """Return one window per peer and round; a first round warms up and is thrown away."""
    measured = []
    for number in range(rounds + 1):
        windows = {}
        for name, (pid, port) in peers.items():
            time.sleep(SETTLE)
            windows[name] = _window(name, pid, port)
        if number:
            measured.append(windows)
    return measured


def _window(name: str, pid: int, port: int) -> Window:
    url = f"http://127.0.0.1:{port}/v1/models/m1/predict"
    before = _cpu_ns(pid)
    wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", "--latency", "-s", str(PEERS / "predict.lua"), url]
    output = subprocess.run([*_pinned(1), *wrk], capture_output=True, text=True, check=True).stdout
    spent = _cpu_ns(pid) - before
    failures = re.search(r"Non-2xx.*|Socket errors.*", output)
    if failures:
        raise SystemExit(f"{name}: {failures[0]}")
    requests = int(re.findall(r"(\d+) requests in", output)[0])
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", output)[0])
    p50, p99 = (_milliseconds(re.findall(rf"\s{part}%\s+(\S+)", output)[0]) for part in (50, 99))
    return Window(requests, spent / 1000 / requests, rate, p50, p99)


def _milliseconds(text: str) -> float:
    number, unit = re.findall(r"([\d.]+)(us|ms|s)", text)[0]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _cpu_ns(pid: int) -> int:
    """CPU that the kernel accounted to the process, its threads and its children, ns."""
    total = 0
    for member in _tree(pid):
        for schedstat in Path(f"/proc/{member}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(schedstat.read_text().split()[0])
    return total


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _tree(int(child))


# Telling


def summarise(rounds: list[dict[str, Window]]) -> dict[str, dict[str, float]]:
    """Return, per peer, CPU µs per request, rate, latencies, and the ratio to the baseline."""
    summary = {}
    for name in rounds[0]:
        windows = [windows[name] for windows in rounds]
        costs = sorted(window.cpu_us for window in windows)
        ratios = [windows[name].cpu_us / windows[BASELINE].cpu_us for windows in rounds]
        summary[name] = {
            "cpu_us_min": round(costs[0], 1),
            "cpu_us_quartile": round(costs[len(costs) // 4], 1),
            "cpu_us_median": round(statistics.median(costs), 1),
            "rate_median": round(statistics.median(window.rate for window in windows)),
            "p50_ms": round(statistics.median(window.p50 for window in windows), 2),
            "p99_ms": round(statistics.median(window.p99 for window in windows), 2),
            "ratio_median": round(statistics.median(ratios), 2),
            "ratio_min": round(min(ratios), 2),
            "ratio_max": round(max(ratios), 2),
        }
    return summary


def _table(peers: dict[str, dict[str, float]]) -> str:
    lines = [
        "peer        CPU µs/request: min / quart / median   requests/s   p50 / p99 ms   × NGINX (min–max)"
    ]
    lines += [
        f"{name:<12}{row['cpu_us_min']:>22} / {row['cpu_us_quartile']:>6} / {row['cpu_us_median']:>6}"
        f"{row['rate_median']:>13}{row['p50_ms']:>8} / {row['p99_ms']:<7}"
        f"{row['ratio_median']:>8} ({row['ratio_min']}–{row['ratio_max']})"
        for name, row in peers.items()
    ]
    return "\n".join(lines)


def _machine() -> dict[str, object]:
    """What a reader needs to judge the figures; nothing that names the machine."""
    models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
