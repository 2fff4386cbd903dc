"""`headgate register … -- CMD`: run any server as a child process and keep it registered while it serves.

This file reads the command line; `registered_child.py` does the work and is imported only then, because
asyncio and aiohttp take longer to import than `headgate --help` may take.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.config.units import parse_duration
from gateway.discovery.members import parse_address

DEFAULT_REGISTRY: Final = "http://127.0.0.1:9080"

_EPILOG: Final = """\
examples:
  headgate register --service digits --version v1 -- sh -c 'exec uvicorn app:app --port $PORT'
  headgate register --service orders --address 10.0.0.5:8000 --health /healthz -- gunicorn -b :8000 app
  headgate register --service digits --registry etcd://10.0.0.2:2379 --model digits=1 -- python serve.py

The server finds its port in $PORT. Ctrl-C or SIGTERM deregisters first, then stops the server; the exit
code is the server's. HEADGATE_REGISTRY is the default of --registry, HEADGATE_ADMIN_TOKEN the token for a
gateway's admin port.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and how to register it. Times in s; the rest as in `Registration.open`."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    registry: str = field(repr=False)
    service: str
    address: tuple[str, int]
    token: str | None = field(default=None, repr=False)
    version: str | None = None
    weight: int = 100
    labels: Mapping[str, str] = field(default_factory=dict)
    models: tuple[tuple[str, str], ...] = ()
    ttl: float = 10.0
    health: str | None = None
    start_within: float = 60.0
    grace: float = 10.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; `args.run(args)` then runs it and returns the exit code."""
    parser = subparsers.add_parser(
        "register",
        help="run a server and keep it registered while it serves",
        description="Run a server, register it once it accepts connections, deregister it when it stops.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--service", required=True, help="the name that pools find it by")
    add("--version", help="its version, e.g. v1")
    add(
        "--address",
        metavar="HOST:PORT",
        help="where others reach it (default: 127.0.0.1 and $PORT or a free port)",
    )
    add("--port-env", metavar="NAME", default="PORT", help="the variable that tells the server its port")
    add(
        "--registry",
        metavar="URL",
        help=f"http(s):// a gateway's admin port, or etcd(s):// (default: {DEFAULT_REGISTRY})",
    )
    add("--ttl", type=_duration, default=10.0, help="how long a crash goes unnoticed (default: 10s)")
    add("--weight", type=int, default=100, help="its share of the traffic, 0–10000 (default: 100)")
    add("--label", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add(
        "--model",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=VERSION",
        help="a model it serves; may be repeated",
    )
    add("--health", metavar="PATH", help="wait until a GET of this path answers 200")
    add(
        "--start-within",
        type=_duration,
        default=60.0,
        help="give up if it does not serve by then (default: 60s)",
    )
    add("--grace", type=_duration, default=10.0, help="SIGKILL it this long after SIGTERM (default: 10s)")
    add("command", nargs=argparse.REMAINDER, metavar="-- CMD …", help="the server")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the server. Returns its exit code (128 + n if signal n ended it); 2 for a wrong command line."""
    from gateway.cli.registered_child import Trouble, run_child  # late: see the first lines of this file

    try:
        return run_child(_plan(args), _say)
    except (Trouble, ValueError) as error:
        _say(str(error))
        return 2 if isinstance(error, ValueError) else 1


def _plan(args: argparse.Namespace) -> Plan:
    command: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise ValueError("give the server's command after `--`")
    host, port = parse_address(args.address) if args.address else ("127.0.0.1", _port(args.port_env))
    return Plan(
        command=tuple(command),
        environment={**os.environ, args.port_env: str(port)},
        registry=args.registry or os.environ.get("HEADGATE_REGISTRY") or DEFAULT_REGISTRY,
        token=os.environ.get("HEADGATE_ADMIN_TOKEN"),
        service=args.service,
        address=(host, port),
        version=args.version,
        weight=args.weight,
        labels=dict(args.label),
        models=tuple(args.model),
        ttl=args.ttl,
        health=args.health,
        start_within=args.start_within,
        grace=args.grace,
    )


def _port(variable: str) -> int:
    """The port that the environment already chose, else a free one."""
    text = os.environ.get(variable)
    if text:
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise ValueError(f"${variable} is {text!r}: expected a port")
        return int(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _duration(text: str) -> float:
    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _say(message: str) -> None:
    print(f"headgate register: {message}", file=sys.stderr, flush=True)
