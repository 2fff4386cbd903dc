"""CPU of the reference backend per digits request, and where it goes.

    python loadtests/micro/backend_cpu.py [--seconds 3] [--rounds 4] [--concurrency 32] [--row 'backend*']

Each row is one server process answering the same KServe V2 request (one row, JSON) over keep-alive
connections of wrk; all are up at once and take turns, so that a busy machine slows them alike. CPU is the
scheduler's own count (/proc/PID/task/*/schedstat), divided by the requests completed. Needs Linux, wrk, and
the `test` extra for httptools.

    backend             what `python -m backends serve` does: the engine called inline on the event loop
    backend thread      the same with `execution: thread`
    backend tfs         as the first, TensorFlow Serving's row form
    backend binary      as the first, the tensor as raw bytes
    aiohttp alone       aiohttp's low-level server, body read, orjson both ways, no model: the first's floor
    httptools alone     the same over httptools in an asyncio.Protocol
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "backends" / "models"
PIXELS = json.loads((MODELS / "samples.json").read_text())[0]["pixels"]
V2_PATH = "/v2/models/digits/infer"
V2_INPUT = {"name": "input", "datatype": "FP32", "shape": [1, 64]}
V2_BODY = json.dumps({"inputs": [V2_INPUT | {"data": [float(p) for p in PIXELS]}]}).encode()
TFS_BODY = json.dumps({"instances": [[float(p) for p in PIXELS]]}).encode()

FLOOR = """
import asyncio, sys, uvloop, orjson
ANSWER = {"model_name": "digits", "model_version": "1", "outputs": [
    {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": [0.123456789] * 10},
    {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}]}
def answer(body):
    orjson.loads(body)
    return orjson.dumps(ANSWER)
"""
AIOHTTP = (
    FLOOR
    + """
from aiohttp import web
async def handle(request):
    return web.Response(body=answer(await request.read()), content_type="application/json")
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(web.Server(handle, access_log=None), "127.0.0.1", 0)
    print("ready http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""
)
HTTPTOOLS = (
    FLOOR
    + """
import httptools
class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.parser, self.body = transport, httptools.HttpRequestParser(self), b""
    def data_received(self, data):
        self.parser.feed_data(data)
    def on_message_begin(self):
        self.body = b""
    def on_header(self, name, value):
        pass
    def on_body(self, body):
        self.body += body
    def on_message_complete(self):
        out = answer(self.body)
        head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n"
        self.transport.write(head % len(out) + out)
async def main():
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print("ready http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""
)


@dataclass
class Row:
    name: str
    command: list[str]
    path: str = V2_PATH
    body: bytes = V2_BODY
    headers: dict[str, str] = field(default_factory=dict)
    figures: list[float] = field(default_factory=list)  # CPU, µs per request
    rates: list[float] = field(default_factory=list)  # requests/s


def rows(scratch: Path) -> list[Row]:
    threaded = scratch / "thread"
    shutil.copytree(MODELS, threaded)
    with (threaded / "digits" / "1" / "model.yaml").open("a") as card:
        card.write("execution: thread\n")
    header, raw = binary_request()
    return [
        Row("backend", serve(MODELS)),
        Row("backend thread", serve(threaded)),
        Row("backend tfs", serve(MODELS), "/v1/models/digits:predict", TFS_BODY),
        Row("backend binary", serve(MODELS), V2_PATH, raw, header),
        Row("aiohttp alone", [sys.executable, "-c", AIOHTTP]),
        Row("httptools alone", [sys.executable, "-c", HTTPTOOLS]),
    ]


def binary_request() -> tuple[dict[str, str], bytes]:
    entry = V2_INPUT | {"parameters": {"binary_data_size": 256}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, head + struct.pack("<64f", *PIXELS)


def serve(repository: Path) -> list[str]:
    flags = ["--models", "digits=1", "--address", "127.0.0.1:0", "--log-level", "warning"]
    return [sys.executable, "-m", "backends", "serve", "--repository", str(repository), *flags]


@contextmanager
def started(command: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the process's id and its URL."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            if line[:1] != ["ready"]:
                raise SystemExit(f"did not start: {' '.join(command[:6])}")
            yield process.pid, line[1]
        finally:
            process.terminate()


def cpu_seconds(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def lua(row: Row) -> str:
    body = "".join(f"\\{byte:03d}" for byte in row.body)
    fields = {"Content-Type": "application/json"} | row.headers
    headers = "".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}\n" for k, v in fields.items())
    return f'wrk.method = "POST"\n{headers}wrk.body = "{body}"\n'


def load(url: str, script: Path, concurrency: int, seconds: int) -> tuple[int, float]:
    """Return completed requests and requests/s; any answer that is no 2xx ends the measurement."""
    wrk = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "-s", str(script), url]
    out = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(out)
    done, rate = re.search(r"(\d+) requests in", out), re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert done is not None
    assert rate is not None
    return int(done[1]), float(rate[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of the reference backend per digits request.")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--row", default="*", help="only the rows whose name matches this pattern")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (Debian: apt-get install wrk)")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen = [row for row in rows(scratch) if fnmatch.fnmatch(row.name, arguments.row)]
        running = [stack.enter_context(started(row.command)) for row in chosen]
        for index, row in enumerate(chosen):
            (scratch / f"{index}.lua").write_text(lua(row))
        for _ in range(arguments.rounds):
            for index, (row, (pid, url)) in enumerate(zip(chosen, running, strict=True)):
                before = cpu_seconds(pid)
                script = scratch / f"{index}.lua"
                done, rate = load(url + row.path, script, arguments.concurrency, arguments.seconds)
                row.figures.append((cpu_seconds(pid) - before) / done * 1e6)
                row.rates.append(rate)
    print(f"{'':18} CPU us/request: min  median     max   requests/s (median)")
    for row in chosen:
        low, middle, high = min(row.figures), statistics.median(row.figures), max(row.figures)
        print(f"{row.name:18} {low:19.1f} {middle:7.1f} {high:7.1f} {statistics.median(row.rates):21,.0f}")


if __name__ == "__main__":
    main()
