"""`headgate serve`: run the gateway on a policy folder."""

from __future__ import annotations

import argparse
import os
import signal
from typing import Any

from gateway.cli.common import add_policies


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("serve", help="run the gateway")
    add_policies(parser)
    add_listening(parser)
    parser.add_argument(
        "--registry",
        metavar="URL",
        help="overrule the policies: local, static or etcd://host:2379[/namespace]",
    )
    parser.add_argument(
        "--access-log", metavar="TARGET", help="overrule log.access: stdout, stderr, off or a file"
    )
    parser.add_argument(
        "--workers", metavar="N", help="overrule workers: processes that serve; auto: one per core"
    )
    parser.set_defaults(run=run)


def add_listening(parser: argparse.ArgumentParser) -> None:
    """Add `--http`, `--grpc` and `--admin-listen`."""
    parser.add_argument(
        "--http", metavar="HOST:PORT", default=_from_env("HEADGATE_HTTP_PORT"), help="overrule listen.http"
    )
    parser.add_argument(
        "--grpc", metavar="HOST:PORT", default=_from_env("HEADGATE_GRPC_PORT"), help="overrule listen.grpc"
    )
    parser.add_argument(
        "--admin-listen",
        metavar="HOST:PORT",
        default=_from_env("HEADGATE_ADMIN_PORT"),
        help="overrule listen.admin.address",
    )


def _from_env(name: str) -> str | None:
    port = os.environ.get(name)
    return f"127.0.0.1:{port}" if port else None


def run(args: argparse.Namespace) -> int:
    """Exit code 0 after a clean stop; 1: the policies are invalid; 3: a port is taken."""
    for number in (signal.SIGHUP, signal.SIGUSR2):  # their default would end what is only starting
        signal.signal(number, signal.SIG_IGN)
    from gateway.runtime.serve import serve

    return serve(
        args.policies,
        http=args.http,
        admin=args.admin_listen,
        registry=args.registry,
        access_log=args.access_log,
        workers=args.workers,
        grpc=args.grpc,
    )
