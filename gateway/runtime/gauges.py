"""What is read when somebody asks for metrics: pools and instances, listeners, policies, registry, logs.

`traffic` is known by the process that serves, `control` by the one that reads policies and registry. Where
one process does both, both are its own; telemetry/families.py says how those of several join.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import Metric

from gateway import __version__
from gateway.discovery.registry import RegistryStatus
from gateway.governance.breaker import State
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.snapshot import Snapshot
from gateway.pipeline.tunnel import Tunnels
from gateway.runtime.form import form
from gateway.runtime.listening import handshakes
from gateway.runtime.policies import Policies
from gateway.server.listener import Listener
from gateway.telemetry.caches import caches
from gateway.telemetry.drifts import drifts
from gateway.telemetry.metrics import counter, gauge
from gateway.telemetry.observer import Telemetry
from gateway.telemetry.queues import queues

BUILD: Final = (__version__, form(), platform.python_version())


def traffic(
    snapshot: Snapshot,
    listeners: Mapping[str, Listener],
    pressure: Pressure,
    tunnels: Tunnels,
    telemetry: Telemetry,
    now: float,
    answers: AnswerStore,
) -> Iterator[Metric]:
    """What one serving process does now."""
    yield from caches(answers)
    yield from _instances(snapshot, now)
    yield from queues(snapshot, now)
    yield from _objectives(pressure, now)
    yield from drifts(pressure)
    yield from _single(
        {
            "headgate_connections": (
                "Client connections open.",
                sum(listener.connections for listener in listeners.values()),
            ),
            "headgate_in_flight": ("Requests under way.", pressure.in_flight),
            "headgate_tasks": ("Tasks of the event loop.", len(asyncio.all_tasks())),
            "headgate_tunnels": ("Tunnels (WebSockets) open; they are under way, too.", tunnels.open),
            "headgate_pressure": ("0 at ease .. 1.", pressure.level),
            "headgate_loop_lag_seconds": ("p90 lateness of the event loop.", pressure.lag),
        }
    )
    yield counter("headgate_tunnels_opened", "Tunnels opened.", tunnels.opened)
    yield counter("headgate_tunnel_received_bytes", "Bytes from clients in tunnels.", tunnels.bytes_in)
    yield counter("headgate_tunnel_sent_bytes", "Bytes to clients in tunnels.", tunnels.bytes_out)
    yield handshakes(listeners)
    yield counter(
        "headgate_access_log_dropped", "Lines that could not be written.", telemetry.access_log.dropped
    )
    if telemetry.tracing is not None:
        yield counter(
            "headgate_traces_dropped",
            "Sampled requests whose spans did not reach the receiver.",
            telemetry.tracing.dropped,
        )


def _instances(snapshot: Snapshot, now: float) -> Iterable[Metric]:
    members = [(pool, one) for pool in snapshot.pools.values() for one in pool.members.instances]
    labels = ("pool", "instance")
    keyed = {(pool.name, one.id): one for pool, one in members}
    yield gauge(
        "headgate_instance_up",
        "1 where calls may go.",
        labels,
        {key: float(one.usable(now)) for key, one in keyed.items()},
    )
    yield gauge(
        "headgate_instance_ejected",
        "1 while an instance is left alone after failures.",
        labels,
        {key: float(now < one.ejected_until) for key, one in keyed.items()},
    )
    yield gauge(
        "headgate_instance_doubted",
        "1 while an instance gets a tenth of its share.",
        labels,
        {key: float(now < one.doubted_until) for key, one in keyed.items()},
    )
    yield gauge(
        "headgate_instance_share",
        "What an instance gets of the calls that it got if it were like the others of its pool, 0..1.",
        labels,
        {(pool.name, one.id): pool.members.picker.share(one, now) for pool, one in members},
    )
    yield gauge(
        "headgate_pool_breaker_open",
        "1 while a pool's own breaker is not closed.",
        ("pool",),
        {
            (pool.name,): float(pool.breaker.state is not State.CLOSED)
            for pool in snapshot.pools.values()
            if pool.breaker is not None
        },
    )
    yield gauge(
        "headgate_instance_breaker_open",
        "1 while its breaker is not closed.",
        labels,
        {key: float(one.state(now).startswith("breaker")) for key, one in keyed.items()},
    )
    yield gauge(
        "headgate_instance_in_flight",
        "Calls under way.",
        labels,
        {key: float(one.in_flight) for key, one in keyed.items()},
    )
    yield gauge(
        "headgate_pool_instances",
        "Instances known.",
        ("pool",),
        {(pool.name,): float(len(pool.members.instances)) for pool in snapshot.pools.values()},
    )


def _objectives(pressure: Pressure, now: float) -> Iterable[Metric]:
    rates = {endpoint: objective.rates(now) for endpoint, objective in pressure.objectives.items()}
    by_window = {
        (endpoint, window): rate
        for endpoint, both in rates.items()
        for window, rate in zip(("long", "short"), both, strict=True)
    }
    yield gauge(
        "headgate_slo_burn_rate",
        "Times faster than allowed that the error budget is spent.",
        ("endpoint", "window"),
        by_window,
    )
    yield gauge(
        "headgate_degrade_level",
        "Step of the ladder at which requests begin; 0: the full answer.",
        ("endpoint", "policy"),
        {key: float(ladder.level) for key, ladder in pressure.ladders.items()},
    )


def control(
    snapshot: Snapshot, policies: Policies, registry: RegistryStatus | None, workers: int, restarts: int
) -> Iterator[Metric]:
    """What one host runs. workers: processes that serve; restarts: of those that died, so far."""
    single: dict[str, tuple[str, float]] = {
        "headgate_policies_version": ("Counts loads.", snapshot.version),
        "headgate_policies_ok": ("0 when the last reading failed.", float(policies.report.ok)),
        "headgate_workers": ("Processes that serve.", workers),
    }
    if registry is not None:
        single["headgate_discovery_stale_seconds"] = ("Since the registry was live.", registry.stale)
    yield from _single(single)
    yield gauge(
        "headgate_build_info", "1; the labels say what runs.", ("version", "form", "python"), {BUILD: 1.0}
    )
    yield counter("headgate_policies_failures", "Readings that failed.", policies.failures)
    yield counter("headgate_worker_restarts", "Workers replaced because they died or hung.", restarts)


def _single(values: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    for name, (meaning, value) in values.items():
        yield gauge(name, meaning, (), {(): float(value)})
