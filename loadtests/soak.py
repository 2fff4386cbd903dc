"""An hour at half load: does anything grow?

    python -m loadtests.soak [--minutes 60] [--rate 0]           make soak SOAK="--minutes 60"

One gateway process with a policy as people have them (keys, a bucket per principal, breaker, compression, an
access log), an instance and clients in processes of their own. What the gateway can do is measured first, for
five seconds; then requests come at half that rate from an open loop: most over kept-alive connections, some
over new ones, with bodies, chunks, refusals, broken-off clients and a reload every minute.

Every five seconds: memory (PSS), tasks, descriptors, connections. Their growth per hour is the Theil-Sen
slope (the median of the slopes between all pairs of samples, which a burst can't bend) after a warm-up of a
tenth of the time, one minute at least. It fails above 1 MiB an hour, one task or eight descriptors more, or
any error. The picture and samples are in loadtests/out/, and one line goes to loadtests/history/soak.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.integration.running import Running, kept_memory, sum_of

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "loadtests/out"
HISTORY = ROOT / "loadtests/history/soak.jsonl"
EVERY = 5.0  # s between two samples
CALIBRATION = 5.0  # s
CLIENTS = 32
MOST = 1.0  # MiB per hour
SPARE = 8.0  # descriptors: kept-alive connections to the instance come and go with the load
NOISE = 0.75  # MiB: a run of minutes may vary by so much; it counts only what grew by more in all

GATEWAY = """\
log: {access: access.log, level: warning}
limits: {connections_per_client: 5000}
"""
PAGE = """\
# written anew every minute: EDITION
pools:
  all: {{instances: ['127.0.0.1:{port}'], breaker: {{}}, per_try_timeout: 2s}}
principals:
  soak: {{keys: ['sha256:{digest}'], may: {{endpoints: [all]}}}}
endpoints:
  all: {{match: '/all/**', send: all, compress: true, throttle: 1000000/s per principal}}
"""
KEY = "soak-key"
JSON = b'{"outputs": [' + b"0.125, " * 200 + b"0]}"


# The instance


class Instance(asyncio.Protocol):
    """Answers every request with the same JSON, as soon as its last byte is there."""

    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(JSON),
        JSON,
    )

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            if b"transfer-encoding" in head:
                last = self._buffer.find(b"0\r\n\r\n", end)
                size = last + 5 if last >= 0 else len(self._buffer) + 1
            else:
                at = head.find(b"content-length: ")
                size = end + 4 + (int(head[at + 16 :].split(b"\r\n")[0]) if at >= 0 else 0)
            if len(self._buffer) < size:
                return
            self._buffer = self._buffer[size:]
            self._transport.write(self.ANSWER)


async def serve() -> None:
    """Be the instance: print the port, serve until killed."""
    server = await asyncio.get_running_loop().create_server(Instance, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


# The clients

HEAD = b"%b /all/%d HTTP/1.1\r\nHost: soak\r\nX-API-Key: soak-key\r\n%b\r\n"


def request(rng: random.Random) -> tuple[bytes, int]:
    """One request and the status it must get."""
    number = rng.randrange(1000)
    match rng.randrange(20):
        case 0:
            return b"GET /nowhere HTTP/1.1\r\nHost: soak\r\n\r\n", 404
        case 1:
            return b"GET /all/1 HTTP/1.1\r\nHost: soak\r\nX-API-Key: wrong\r\n\r\n", 401
        case 2 | 3:
            return HEAD % (b"GET", number, b"Accept-Encoding: gzip\r\n"), 200
        case 4 | 5:
            chunks = b"400\r\n" + b"b" * 1024 + b"\r\n0\r\n\r\n"
            return HEAD % (b"POST", number, b"Transfer-Encoding: chunked\r\n") + chunks, 200
        case 6:
            return HEAD % (b"POST", number, b"Content-Length: 100000\r\n") + b"b" * 100_000, 200
        case _:
            return HEAD % (b"POST", number, b"Content-Length: 300\r\n") + b"b" * 300, 200


@dataclass
class Tally:
    """What the clients saw."""

    answers: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def err(self, what: str) -> None:
        """Note an error; a few are enough to tell."""
        self.errors.append(what)
        del self.errors[100:]


async def client(port: int, pause: float, ends: float, seed: int, tally: Tally) -> None:
    """Ask until the end: by the clock, or as fast as answers come where `pause` is 0."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    due = loop.time() + rng.random() * pause
    wire: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while loop.time() < ends:
        if pause:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += pause
        try:
            if wire is None:
                wire = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = wire
            data, expected = request(rng)
            if rng.random() < 0.002:  # leave in the middle of something
                writer.write(data[: rng.randrange(1, len(data))])
                writer.transport.abort()
                wire = None
                continue
            writer.write(data)
            status = await read(reader)
            tally.answers[status] += 1
            if status != expected:
                tally.err(f"{status} for {data[:40]!r}")
            if rng.random() < 0.01:
                writer.close()
                wire = None
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.err(repr(error))
            wire = None
    if wire is not None:
        wire[1].close()


async def read(reader: asyncio.StreamReader) -> int:
    """Read one answer; returns its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    at = head.lower().find(b"content-length: ")
    if at < 0:
        raise OSError("an answer without length")
    await reader.readexactly(int(head[at + 16 :].split(b"\r\n")[0]))
    return int(head[9:12])


async def crowd(port: int, rate: float, seconds: float, tally: Tally) -> None:
    """Run the clients; rate: requests a second of all of them, 0 for as many as it takes."""
    ends = asyncio.get_running_loop().time() + seconds
    pause = CLIENTS / rate if rate else 0.0
    await asyncio.gather(*(client(port, pause, ends, seed, tally) for seed in range(CLIENTS)))


def clients(port: int, rate: float, seconds: float) -> None:
    """Be the clients: prints what they saw."""
    import uvloop

    tally = Tally()
    uvloop.run(crowd(port, rate, seconds, tally))
    print(json.dumps({"answers": tally.answers, "errors": tally.errors}), flush=True)


# What is measured


@dataclass
class Sample:
    """The gateway at one instant. at: s since the start; memory: MiB of PSS."""

    at: float
    memory: float
    tasks: float
    descriptors: float
    connections: float
    bugs: float


def sample(running: Running, started: float) -> Sample:
    """Look at the gateway."""
    assert running.process is not None
    pid = running.process.pid
    text = running.ask_admin("/metrics").body.decode()
    return Sample(
        time.monotonic() - started,
        kept_memory(pid),
        sum_of(text, "headgate_tasks", {}),
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        sum_of(text, "headgate_connections", {}),
        sum_of(text, "headgate_bugs_total", {}),
    )


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the Theil-Sen slope per hour: the median over all pairs of at most 400 samples."""
    step = max(1, len(times) // 400)
    points = list(zip(times, values, strict=True))[::step]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in itertools.combinations(points, 2) if t > s]
    return statistics.median(slopes) * 3600 if slopes else 0.0


@dataclass
class Growth:
    """How much one figure grows. grew: last tenth against the first tenth, in its own unit."""

    per_hour: float
    grew: float
    first: float
    last: float

    def __str__(self) -> str:
        return f"{self.first:.1f} -> {self.last:.1f} ({self.per_hour:+.2f} per hour)"


def growth(samples: Sequence[Sample], name: str) -> Growth:
    """Measure it over these samples."""
    values = [float(getattr(one, name)) for one in samples]
    tenth = max(1, len(values) // 10)
    first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    return Growth(slope([one.at for one in samples], values), last - first, first, last)


def judge(samples: Sequence[Sample], errors: Sequence[str]) -> list[str]:
    """Return what is wrong; samples: after the warm-up."""
    memory = growth(samples, "memory")
    found = [f"clients saw errors: {errors[:5]}"] if errors else []
    if memory.per_hour > MOST and memory.grew > NOISE:
        found.append(f"memory grows: {memory} MiB")
    for name, spare in (("tasks", 1.0), ("descriptors", SPARE)):
        grown = growth(samples, name)
        if grown.grew > spare and grown.per_hour > spare:
            found.append(f"{name} grow: {grown}")
    if samples[-1].bugs:
        found.append(f"{samples[-1].bugs:g} bugs")
    return found


def draw(samples: Sequence[Sample], warm_up: float, path: Path) -> None:
    """Draw memory, tasks, descriptors and connections over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(4, 1, sharex=True, figsize=(8, 8))
    names = [
        ("memory", "MiB"),
        ("tasks", "tasks"),
        ("descriptors", "descriptors"),
        ("connections", "connections"),
    ]
    for row, (name, label) in zip(rows, names, strict=True):
        row.plot([one.at / 60 for one in samples], [getattr(one, name) for one in samples])
        row.axvspan(0, warm_up / 60, alpha=0.15)
        row.set_ylabel(label)
        row.set_ylim(bottom=0)
    rows[-1].set_xlabel("minutes")
    rows[0].set_title("a gateway at half load; shaded: warm-up")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


# The run


@contextlib.contextmanager
def instance() -> Iterator[int]:
    """Run the instance in a process of its own; its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.soak", "--be", "instance"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def drive(port: int, rate: float, seconds: float) -> subprocess.Popen[str]:
    """Start the clients in a process of their own."""
    command = [sys.executable, "-m", "loadtests.soak", "--be", "clients", str(port), str(rate), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def soak(minutes: float, rate: float) -> int:
    """Run; print what was found; 1 when something grows."""
    import hashlib

    folder = Path(tempfile.mkdtemp(prefix="headgate-soak-"))
    (folder / "policies").mkdir()
    (folder / "policies/gateway.yaml").write_text(GATEWAY)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    page = folder / "policies/page.yaml"
    with instance() as port:
        text = PAGE.format(port=port, digest=digest)
        page.write_text(text)
        with Running(folder) as running:
            if not rate:
                seen = json.loads(drive(running.http, 0, CALIBRATION).communicate()[0])
                rate = sum(seen["answers"].values()) / CALIBRATION / 2
            print(f"{minutes:g} minutes at {rate:.0f} requests a second", flush=True)
            load = drive(running.http, rate, minutes * 60)
            started = time.monotonic()
            samples: list[Sample] = []
            edition = 0
            while load.poll() is None:
                samples.append(sample(running, started))
                if samples[-1].at // 60 > edition:
                    edition += 1
                    draft = page.with_name(".page.draft")
                    draft.write_text(text.replace("EDITION", str(edition)))
                    draft.replace(page)
                time.sleep(max(0.0, started + len(samples) * EVERY - time.monotonic()))
            assert load.stdout is not None
            seen = json.loads(load.stdout.read())
            load.stdout.close()
    return report(samples, seen, minutes, rate)


def report(samples: Sequence[Sample], seen: dict[str, object], minutes: float, rate: float) -> int:
    """Judge, print, draw, keep."""
    warm_up = min(max(60.0, minutes * 6), minutes * 30)
    warm = [one for one in samples if warm_up <= one.at <= minutes * 60 - EVERY]
    errors = seen["errors"]
    assert isinstance(errors, list)
    wrong = judge(warm, errors)
    figures = {name: growth(warm, name) for name in ("memory", "tasks", "descriptors", "connections")}
    for name, grown in figures.items():
        print(f"{name:12} {grown}")
    print(f"answers {seen['answers']}, errors {len(errors)}")
    OUT.mkdir(exist_ok=True)
    (OUT / "soak.json").write_text(json.dumps([asdict(one) for one in samples]))
    draw(samples, warm_up, OUT / "soak.png")
    line = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "minutes": minutes,
        "rate": round(rate),
        "answers": seen["answers"],
        "errors": len(errors),
        **{
            name: {key: round(value, 3) for key, value in asdict(grown).items()}
            for name, grown in figures.items()
        },
        "ok": not wrong,
    }
    with HISTORY.open("a") as history:
        history.write(json.dumps(line) + "\n")
    print("\n".join(wrong) or "nothing grows", f"(picture: {OUT / 'soak.png'})")
    return 1 if wrong else 0


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description="Does anything grow?")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests a second; 0: half of what it can do"
    )
    parser.add_argument("--be", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    match args.be:
        case ["instance"]:
            asyncio.run(serve())
        case ["clients", port, rate, seconds]:
            clients(int(port), float(rate), float(seconds))
        case _:
            return soak(args.minutes, args.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
