"""What Headgate's request costs as everything around it grows, each step beside the smallest in one run.

endpoints      10 → 10,000        requests take a thousand of them in turn
instances      1 → 200            of the one pool
keys           10 → 100,000       of a hundred tenants; requests take a thousand of them in turn
connections    1 → 10,000         open and idle, beside the 64 that are measured
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from loadtests.bench import closed, memory, openloop, processes
from loadtests.bench import site as sites
from loadtests.bench.closed import Load
from loadtests.bench.peers import Peer, Running, running
from loadtests.bench.processes import NotStarted
from loadtests.bench.site import TARGET, Site
from loadtests.bench.summary import Figures, summarise
from loadtests.bench.window import Broken, Window, interleave

STEPS: Final = {
    "endpoints": (10, 10_000),
    "instances": (1, 200),
    "keys": (10, 100_000),
    "connections": (1, 10_000),
}
PATHS: Final = "/v1/models/m{0}/predict"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step needs: policy files beside the configuration, its variant, and what is asked in turn."""

    variant: str
    files: Mapping[str, str]
    turns: str


def measure(
    peers: Sequence[Peer], rounds: int, site: Site, said: Callable[[str], None]
) -> tuple[dict[str, Figures], dict[str, str], list[str]]:
    """Return figures by size, who was skipped, notes. The compiled build is taken where it is there."""
    own = [peer for peer in peers if (peer.configurations or peer.name) == "headgate" and not peer.missing()]
    if not own:
        return {}, {"headgate": "neither build was asked for"}, []
    figures: dict[str, Figures] = {}
    skipped: dict[str, str] = {}
    for what, sizes in STEPS.items():
        try:
            figures |= _grown(own[0], what, sizes, rounds, site)
        except (NotStarted, OSError, memory.Refused, Broken) as error:
            skipped[what] = " ".join(str(error).split())
        said(what)
    return figures, skipped, [f"measured: {own[0].title}"]


def _grown(peer: Peer, what: str, sizes: Sequence[int], rounds: int, site: Site) -> dict[str, Figures]:
    names = [f"{size:,} {what if size > 1 else what.removesuffix('s')}" for size in sizes]
    with contextlib.ExitStack() as stack:
        windows = {
            name: stack.enter_context(_stage(peer, what, size, site))
            for name, size in zip(names, sizes, strict=True)
        }
        measured, broken = interleave(windows, rounds)
    if broken:
        raise Broken("; ".join(f"{name}: {why}" for name, why in broken.items()))
    return summarise(measured, names[0])


@contextlib.contextmanager
def _stage(peer: Peer, what: str, size: int, site: Site) -> Iterator[Callable[[], Window]]:
    label = f"growth-{what}-{size}"
    with contextlib.ExitStack() as stack:
        stage = _set(what, size, site, stack)
        turns = site.folder / f"{label}.turns"
        turns.write_text(stage.turns)
        one = stack.enter_context(running(peer, stage.variant, site, label, stage.files))
        if what == "connections":
            request = openloop.requests(site, keys=False).rstrip(b"\0")
            stack.enter_context(memory.idle(one.port, size, request))
        yield partial(_window, one, str(turns), site)


def _window(one: Running, turns: str, site: Site) -> Window:
    window = closed.window(one, Load(), site, turns)
    if window.failed:
        raise Broken(f"{window.failed} of {window.requests} requests failed")
    return window


def _set(what: str, size: int, site: Site, stack: contextlib.ExitStack) -> Stage:
    if what == "endpoints":
        targets = [PATHS.format(number) for number in range(size)]
        return Stage("empty", {"endpoints.yaml": endpoints(targets)}, sites.turns(targets))
    if what == "instances":
        ports = processes.free_ports(size)
        stack.enter_context(sites.instance(f"many-{size}", ports, site.folder))
        return Stage("empty", {"instances.yaml": instances(ports)}, sites.turns([TARGET]))
    if what == "keys":
        keys = {"keys.yaml": sites.headgate_keys(sites.tenants(size))}
        return Stage("policy", keys, sites.turns([TARGET], size))
    return Stage("plain", {}, sites.turns([TARGET]))


def endpoints(targets: Sequence[str]) -> str:
    """Return a policy file with one endpoint per path, all to the pool `stable`."""
    lines = [
        f'  e{number}: {{match: {{path: "{target}"}}, authenticate: none, send: stable}}\n'
        for number, target in enumerate(targets)
    ]
    return "endpoints:\n" + "".join(lines)


def instances(ports: Sequence[int]) -> str:
    """Return a policy file with one endpoint and one pool of these instances."""
    addresses = ", ".join(f"127.0.0.1:{port}" for port in ports)
    return (
        f"pools: {{many: {{instances: [{addresses}]}}}}\n"
        'endpoints: {everything: {match: {path: "/**"}, authenticate: none, send: many}}\n'
    )
