"""What one exchange costs in Python alone: no socket, no kernel, an upstream that answers at once.

    python -m loadtests.micro.exchange_cpu [--policies DIR] [--profile] [--refused]

The hot loop flatters: in a serving process caches are cold and the same work costs two to three times as
much (loadtests/bench measures that). It shows where the work is, and whether a change made it less.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from functools import partial
from pathlib import Path

from gateway.http.message import Request, Response
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.exchange import begin
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Facts
from gateway.pipeline.ports import Peer
from gateway.pipeline.pressure import Pressure
from gateway.runtime.build import Ports, build
from gateway.runtime.membership import written
from gateway.runtime.policies import read
from gateway.runtime.world import SystemClock, SystemIds
from gateway.stores.memory import MemoryCounters
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Telemetry

PLAIN = """
log: {access: off}
pools: {backend: {instances: [127.0.0.1:9000]}}
endpoints: {everything: {match: {path: "/**"}, authenticate: none, send: backend}}
"""


class Instant:
    """An upstream that answers at once, a client that takes everything, timers that never fire."""

    def send(self, instance, request, until, sink):  # type: ignore[no-untyped-def]
        self.sink = sink
        return self

    def respond(self) -> None:
        headers = [(b"server", b"b"), (b"content-type", b"application/json"), (b"content-length", b"2")]
        self.sink.on_response(Response(200, headers, b"{}"))

    def at(self, deadline, callback):  # type: ignore[no-untyped-def]
        return self

    def cancel(self) -> None:
        pass

    def reply(self, response: Response) -> None:
        pass

    def signature(self, pool, model, version):  # type: ignore[no-untyped-def]
        return None


def stage(folder: Path):  # type: ignore[no-untyped-def]
    loaded = read(folder)
    if loaded.schema is None:
        raise SystemExit(loaded.report())
    clock, ids, instant = SystemClock(), SystemIds(), Instant()
    counters = MemoryCounters()
    ports = Ports(
        clock,
        ids,
        counters,
        counters,
        None,
        AnswerStore(1 << 20),
        lambda configs: {},
        instant,
        Pressure(),
        lambda: 1,
    )
    built = build(loaded.schema, loaded.digest, ports, None)
    for name, config in built.pool_configs.items():
        facts = written(config) if config.find is None else [Facts("a", "127.0.0.1", 9000)]
        built.snapshot.pools[name].update(facts, clock.now())
    telemetry = Telemetry(Metrics(), AccessLog("off", clock, chance=ids.chance))
    gateway = Gateway(
        built.snapshot,
        upstream=instant,
        clock=clock,
        timers=instant,
        ids=ids,
        signatures=instant,
        observer=telemetry,
        pressure=ports.pressure,
    )
    return partial(begin, gateway), instant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--refused", action="store_true", help="by a full pool whose queue is full, too")
    parser.add_argument("--number", type=int, default=20_000)
    options = parser.parse_args()
    if options.policies is None:
        folder = Path(tempfile.mkdtemp())
        (folder / "plain.yaml").write_text(PLAIN)
        options.policies = folder
    start, instant = stage(options.policies)
    headers = [
        (b"host", b"127.0.0.1:8080"),
        (b"content-type", b"application/json"),
        (b"accept", b"application/json"),
        (b"user-agent", b"bench/1.0"),
        (b"x-api-key", b"demo-0123456789abcdef0123456789abcdef"),
        (b"content-length", b"300"),
    ]
    body, peer = b"x" * 300, Peer("127.0.0.1", 5000)

    def rounds(number: int) -> None:
        for _ in range(number):
            request = Request(
                b"POST", b"/v1/models/m1/predict", headers, host=b"127.0.0.1:8080", length=300, body=body
            )
            start(request, peer, instant).start()
            if not options.refused:
                instant.respond()

    if options.refused:
        for pool in start.args[0].snapshot.pools.values():
            pool.in_flight = int(pool.limit)
    rounds(2000)
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(rounds, options.number)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    best = []
    for _ in range(7):
        before = time.process_time()
        rounds(options.number)
        best.append((time.process_time() - before) / options.number * 1e6)
    print(f"one exchange: min {min(best):.2f} us, median {sorted(best)[3]:.2f} us")


if __name__ == "__main__":
    main()
