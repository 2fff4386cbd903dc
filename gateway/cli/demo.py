"""`headgate demo`: the gateway with real models behind it on this machine, and lines to try."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gateway.cli.common import add_policies
from gateway.cli.serve import add_listening


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="the gateway with two versions of a real model behind it")
    add_policies(parser)
    add_listening(parser)
    parser.add_argument(
        "--etcd", metavar="URL", help="find the models in this etcd, like http://127.0.0.1:2379, not built in"
    )
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="another repository of models than the built-in"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs until Ctrl-C, which stops everything it started."""
    from gateway.runtime.demo import Demo

    return Demo(
        args.policies,
        http=args.http,
        grpc=args.grpc,
        admin=args.admin_listen,
        etcd=args.etcd,
        models=args.models,
    ).run()
