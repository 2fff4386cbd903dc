"""`make bench-serving`: what the reference backend costs beside raw ONNX Runtime and other model servers.

    python -m loadtests.serving [--seconds 2] [--rounds 4] [--peers] [--record]

digits     CPU of the server per request of one row at concurrency 32, V2 as JSON and as raw bytes,
           TensorFlow Serving's rows, and the model in a process of its own. Target: V2 JSON <= 150 µs.
compute    rows per second of a compute-bound model at concurrency 8, backend against ONNX Runtime without a
           server (compute.py), interleaved; ratios are taken within a round. Target: >= 0.95.
double     (--peers) one row to every server that `make test-peers` installed, and to ours: the model does
           nothing, so what is left is the server. V2 JSON, or the server's own JSON where it has no V2.

Method: every contestant is up, and they take turns (a shared machine drifts by more than the differences);
wrk on the same cores; CPU is the scheduler's count of the whole process tree. --record appends a line to
loadtests/history/serving.jsonl, which docs/serving.md shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadtests.micro import backend_cpu
from loadtests.serving import compute

ROOT = Path(__file__).resolve().parents[2]
HISTORY = ROOT / "loadtests" / "history" / "serving.jsonl"
DIGITS_MOST = 150.0  # µs of CPU per request
COMPUTE_LEAST = 0.95
COMPUTE_AT_ONCE = 8  # calls
COMPUTE_SECONDS = (
    6  # of a window at least: a row takes 30 ms of a core, and what is under way at the end is lost
)
V2_DOUBLE = (
    "/v2/models/double/infer",
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]},
)
DOUBLES: dict[str, tuple[str, str, object]] = {  # server -> what it speaks, path, body
    **dict.fromkeys(("triton", "mlserver", "kserve"), ("kserve-v2", *V2_DOUBLE)),
    "torchserve": ("torchserve", "/predictions/double", {"instances": [[1.0, 2.0]]}),
    "litserve": ("http", "/predict", {"x": [[1.0, 2.0]]}),
}


@dataclass
class Contestant:
    """One server under load. figures: (CPU µs per request, requests per second) of each round."""

    name: str
    pid: int
    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    figures: list[tuple[float, float]] = field(default_factory=list)

    def window(self, script: Path, concurrency: int, seconds: int) -> None:
        """Load it for so long."""
        row = backend_cpu.Row(self.name, [], "", self.body, dict(self.headers))
        script.write_text(backend_cpu.lua(row))
        before = cpu_of_tree(self.pid)
        done, rate = backend_cpu.load(self.url, script, concurrency, seconds)
        self.figures.append(((cpu_of_tree(self.pid) - before) / done * 1e6, rate))

    @property
    def cpu(self) -> float:
        """The median of CPU µs per request."""
        return statistics.median(cpu for cpu, _ in self.figures)

    @property
    def rate(self) -> float:
        """The median of requests per second."""
        return statistics.median(rate for _, rate in self.figures)


def cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process and its children."""
    return sum(
        backend_cpu.cpu_seconds(one.pid) for one in (psutil.Process(pid), *psutil.Process(pid).children(True))
    )


@contextmanager
def backend(repository: Path, *flags: str) -> Iterator[tuple[int, str]]:
    """Our server on a repository."""
    command = [sys.executable, "-m", "backends", "serve", "--repository", str(repository)]
    with backend_cpu.started([*command, "--address", "127.0.0.1:0", "--log-level", "error", *flags]) as one:
        yield one


# What is compared


def digits(stack: ExitStack, scratch: Path) -> list[Contestant]:
    """One model, four ways to ask for it."""
    models = shutil.copytree(backend_cpu.MODELS, scratch / "isolated")
    with (models / "digits" / "1" / "model.yaml").open("a") as card:
        card.write("isolation: process\n")
    pid, url = stack.enter_context(backend(backend_cpu.MODELS, "--models", "digits=1"))
    alone, alone_url = stack.enter_context(backend(models, "--models", "digits=1"))
    headers, raw = backend_cpu.binary_request()
    v2, tfs = backend_cpu.V2_PATH, "/v1/models/digits:predict"
    return [
        Contestant("V2 JSON", pid, url + v2, backend_cpu.V2_BODY),
        Contestant("V2 binary", pid, url + v2, raw, headers),
        Contestant("TensorFlow Serving rows", pid, url + tfs, backend_cpu.TFS_BODY),
        Contestant("V2 JSON, own process", alone, alone_url + v2, backend_cpu.V2_BODY),
    ]


def doubles(stack: ExitStack, scratch: Path) -> list[Contestant]:
    """Every server that is installed, and ours, with a model that does nothing."""
    from tests.services.peers import servers

    repository = scratch / "double"
    (repository / "double" / "1").mkdir(parents=True)
    write_double(repository / "double" / "1" / "model.onnx")
    pid, url = stack.enter_context(backend(repository))
    path, body = V2_DOUBLE
    rows = [Contestant("Headgate's backend", pid, url + path, json.dumps(body).encode())]
    for name, (speaks, path, body) in DOUBLES.items():
        if not servers.is_installed(name):
            print(f"{name} is not installed (make test-peers)", flush=True)
            continue
        folder = scratch / name
        folder.mkdir()
        one = stack.enter_context(servers.SERVERS[name](folder))
        url = f"http://127.0.0.1:{one.pools[speaks]}{path}"
        rows.append(Contestant(f"{one.name} {one.version}", one.process.pid, url, json.dumps(body).encode()))
    return rows


def write_double(path: Path) -> None:
    """Write y = 2x, n = argmax x: the model of tests/services/peers."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("ArgMax", ["x"], ["n"], axis=1, keepdims=0),
        ],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("n", TensorProto.INT64, ["n"]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def against_raw(scratch: Path, rounds: int, seconds: int) -> dict[str, float]:
    """Return rows/s and CPU ms per row of both, and the medians of the ratios within a round."""
    cores = os.cpu_count() or 1
    folder = scratch / "compute" / "conv" / "1"
    folder.mkdir(parents=True)
    compute.write_model(folder / "model.onnx")
    headers, body = compute.request()
    seconds = max(seconds, COMPUTE_SECONDS)
    command = [
        sys.executable,
        "-m",
        "loadtests.serving.compute",
        str(folder / "model.onnx"),
        str(cores),
        str(seconds),
    ]
    raw: list[tuple[float, float]] = []
    with backend(scratch / "compute", "--threads", str(cores)) as (pid, url):
        ours = Contestant("backend", pid, f"{url}/v2/models/conv/infer", body, headers)
        for _ in range(rounds):
            ran = json.loads(
                subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
            )
            raw.append((ran["cpu"] / ran["items"] * 1e6, ran["items"] / ran["seconds"]))
            ours.window(scratch / "conv.lua", COMPUTE_AT_ONCE, seconds)
    ratios = [mine[1] / theirs[1] for mine, theirs in zip(ours.figures, raw, strict=True)]
    return {
        "raw_rows_per_second": statistics.median(rate for _, rate in raw),
        "rows_per_second": ours.rate,
        "raw_cpu_ms": statistics.median(cpu for cpu, _ in raw) / 1e3,
        "cpu_ms": ours.cpu / 1e3,
        "ratio": statistics.median(ratios),
        "cpu_ratio": statistics.median(
            theirs[0] / mine[0] for mine, theirs in zip(ours.figures, raw, strict=True)
        ),
        "at_once": COMPUTE_AT_ONCE,
    }


def measure(
    make: Callable[[ExitStack, Path], list[Contestant]], scratch: Path, rounds: int, seconds: int
) -> list[Contestant]:
    """Start all, warm up, and give each a window per round."""
    with ExitStack() as stack:
        rows = make(stack, scratch)
        for number in range(rounds + 1):
            for row in rows:
                row.window(scratch / "wrk.lua", 32, 1 if number == 0 else seconds)
        for row in rows:
            del row.figures[0]
    return rows


# What is said


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for; returns the line of the history."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows = measure(digits, scratch, arguments.rounds, arguments.seconds)
        ratio = against_raw(scratch, arguments.rounds, arguments.seconds)
        peers = measure(doubles, scratch, arguments.rounds, arguments.seconds) if arguments.peers else []
    return {
        **about(),
        "rounds": arguments.rounds,
        "seconds": round(time.monotonic() - started),
        "digits": _figures(rows),
        "compute": {name: round(value, 3) for name, value in ratio.items()},
        "double": _figures(peers),
    }


def _figures(rows: Sequence[Contestant]) -> dict[str, dict[str, float]]:
    return {row.name: {"cpu_us": round(row.cpu, 1), "rate": round(row.rate)} for row in rows}


def about() -> dict[str, object]:
    """Return what a reader needs to judge figures; nothing that names the machine."""
    import onnxruntime

    models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


def table(line: Mapping[str, Any]) -> str:
    """Return the figures as docs/serving.md shows them."""
    said = [
        f"{line['date']}, {line['cores']} cores of {line['cpu']}, Linux {line['kernel']}, "
        f"Python {line['python']}, ONNX Runtime {line['onnxruntime']}, {line['rounds']} rounds.",
        "",
        "| digits, one row per request, concurrency 32 | CPU µs per request | requests/s |",
        "|---|---|---|",
        *(f"| {name} | {row['cpu_us']:.1f} | {row['rate']:,} |" for name, row in line["digits"].items()),
    ]
    one = line["compute"]
    at_once = one.get("at_once", 4)  # as it was before it was kept
    said += [
        "",
        f"| compute-bound, one row per request, concurrency {at_once:g} | rows/s | CPU ms per row |",
        "|---|---|---|",
        f"| ONNX Runtime, no server | {one['raw_rows_per_second']:.1f} | {one['raw_cpu_ms']:.2f} |",
        f"| backend, V2 binary | {one['rows_per_second']:.1f} | {one['cpu_ms']:.2f} |",
        f"| backend / ONNX Runtime, median of the rounds | {one['ratio']:.3f} | {1 / one['cpu_ratio']:.3f} |",
    ]
    if line["double"]:
        said += [
            "",
            "| a model that does nothing, JSON, concurrency 32 | CPU µs per request | requests/s |",
            "|---|---|---|",
        ]
        said += [
            f"| {name} | {row['cpu_us']:.1f} | {row['rate']:,} |" for name, row in line["double"].items()
        ]
    return "\n".join(said)


def misses(line: Mapping[str, Any]) -> list[str]:
    """Return the targets that a run missed."""
    cpu, ratio = line["digits"]["V2 JSON"]["cpu_us"], line["compute"]["ratio"]
    said = []
    if cpu > DIGITS_MOST:
        said.append(f"digits: {cpu:.1f} µs of CPU per request, at most {DIGITS_MOST:.0f} wanted")
    if ratio < COMPUTE_LEAST:
        said.append(f"compute: {ratio:.3f} x raw ONNX Runtime, at least {COMPUTE_LEAST} wanted")
    return said


def main() -> int:
    """Exit code 1: a target was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.serving", description="What the backend costs."
    )
    parser.add_argument("--seconds", type=int, default=2, help="of a window")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--peers", action="store_true", help="installed model servers beside ours")
    parser.add_argument("--record", action="store_true", help="append to loadtests/history/serving.jsonl")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (Debian: apt-get install wrk)")
    line = run(arguments)
    print(table(line))
    if arguments.record:
        with HISTORY.open("a") as history:
            history.write(json.dumps(line, allow_nan=False) + "\n")
    for miss in misses(line):
        print(f"missed: {miss}")
    return 1 if misses(line) else 0


if __name__ == "__main__":
    sys.exit(main())
