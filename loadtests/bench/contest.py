"""One row: start everybody who can do the work, check that they do it, let them take turns, sum up."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from loadtests.bench import closed, growth, memory, openloop
from loadtests.bench.checks import Different, check, reached
from loadtests.bench.peers import BASELINE, Peer, Running, running
from loadtests.bench.processes import NotStarted
from loadtests.bench.rows import Row
from loadtests.bench.site import Site
from loadtests.bench.summary import Figures, add_latency, summarise
from loadtests.bench.window import Broken, Window, failures, interleave

DIRECT = "direct"  # the load without a gateway


@dataclass(frozen=True, slots=True)
class Result:
    """A row's figures by contestant. skipped: who was left out, and why. notes: what a reader must know."""

    row: str
    peers: Mapping[str, Figures]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def hold(row: Row, peers: Sequence[Peer], rounds: int, site: Site, said: Callable[[str], None]) -> Result:
    """Measure a row. What can't be measured is left out and told, whatever the reason."""
    if row.kind == "growth":
        return Result(row.name, *growth.measure(peers, row.rounds_of(rounds), site, said))
    with contextlib.ExitStack() as stack:
        up, skipped = start(row, peers, site, stack)
        for name, why in skipped.items():
            said(f"{name}: left out: {why}")
        if not up:
            return Result(row.name, {}, skipped)
        if row.kind == "memory":
            return Result(row.name, memory.measure(up, site, said), skipped)
        before = sum(reached(site))
        windows = _windows(row, up, site)
        measured, broken = interleave(windows, row.rounds_of(rounds), said=said)
        notes = [f"{name}: {count} requests failed" for name, count in failures(measured).items()]
        if row.kind == "latency":
            notes.append(_own_lateness(row, site))
        if row.cached and (asked := sum(reached(site)) - before):
            notes.append(f"{asked} requests reached an instance")
    skipped |= broken
    figures = summarise(measured, BASELINE)
    if row.kind == "latency" and DIRECT in figures:
        add_latency(figures, measured, DIRECT, BASELINE)
    return Result(row.name, figures, skipped, notes)


def start(
    row: Row, peers: Sequence[Peer], site: Site, stack: contextlib.ExitStack
) -> tuple[dict[str, Running], dict[str, str]]:
    """Start and check the peers; returns who is up, and why the others aren't."""
    up: dict[str, Running] = {}
    skipped: dict[str, str] = {}
    for peer in peers:
        if row.variant not in peer.variants():
            continue  # it can't do this work: docs/benchmarks.md says why
        if (install := peer.missing()) is not None:
            skipped[peer.name] = f"not here ({install})"
            continue
        own = contextlib.ExitStack()
        try:
            one = own.enter_context(running(peer, row.variant, site, f"{peer.name}-{row.name}"))
            check(one, row, site)
        except (NotStarted, Different) as error:
            own.close()
            skipped[peer.name] = " ".join(str(error).split())
            continue
        stack.push(own)
        up[peer.name] = one
    return up, skipped


def _windows(row: Row, up: Mapping[str, Running], site: Site) -> Mapping[str, Callable[[], Window]]:
    if row.kind == "latency":
        texts = openloop.requests(site, row.load.keys)
        direct = {DIRECT: partial(openloop.window, site.stable, None, site, texts)}
        return direct | {
            name: partial(openloop.window, one.port, one, site, texts) for name, one in up.items()
        }
    return {name: partial(closed.window, one, row.load_of(name), site) for name, one in up.items()}


def _own_lateness(row: Row, site: Site) -> str:
    """Say how late the generator itself sends: part of every latency, `direct` included."""
    texts = openloop.requests(site, row.load.keys)
    try:
        times = openloop.fire(site.stable, texts, str(site.folder / "openloop"))
    except Broken as error:
        return f"how late the generator itself is was not measured: {error}"
    p50, p99 = (openloop.lateness_ms(times, part) * 1000 for part in (0.5, 0.99))
    return f"the generator itself sends late by {p50:.0f} µs (p50), {p99:.0f} µs (p99)"


def spoiled(error: Exception) -> str:
    """Say in a line why a row could not be measured at all."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} ended with {error.returncode}: {str(error.stderr)[-300:]}"
    return str(error) or type(error).__name__
