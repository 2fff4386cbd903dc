"""`python -m backends serve`: the command line of the reference backend.

    python -m backends serve --repository backends/models --models digits=1 --address 127.0.0.1:0
    python -m backends serve --config server.yaml --threads 4

A flag overrides the same key of the file. stdout carries the one line `ready http://HOST:PORT models=…`,
stderr the log. Exit status: 0 after a stop by signal, 2 when it could not start, with the reason on
stderr.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from backends.card import VersionPolicy
from backends.errors import LoadError
from backends.repository import Choice
from backends.settings import Address, Device, LogLevel, RegistrySettings, Settings
from backends.strict_yaml import ConfigError, load, parse_seconds, parse_size

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    flags = _parser().parse_args(arguments)
    try:
        settings = read_settings(flags)
        logging.basicConfig(
            level=settings.log_level.upper(),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
        )
        # Imported last: ONNX Runtime and aiohttp take their time, and --help needs neither.
        from backends.server import run, serve

        run(serve(settings))
    except (ConfigError, LoadError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def read_settings(flags: argparse.Namespace) -> Settings:
    """Return the file's settings with the flags over them. ConfigError for either.

    A repository named in the file is looked for beside the file, one named by a flag in the working
    folder.
    """
    given = {key: value for key, value in vars(flags).items() if value is not None and key != "command"}
    registry = {key: given.pop("registry_" + key) for key in _REGISTRY_FLAGS if "registry_" + key in given}
    config = given.pop("config", None)
    settings = Settings()
    if config is not None:
        settings = load(Settings, config)
        if "://" not in settings.repository:
            settings = replace(settings, repository=str(config.parent / settings.repository))
    try:
        return replace(settings, **given, registry=_registry(settings.registry, registry))
    except ValueError as e:
        raise ConfigError(str(e)) from e


_REGISTRY_FLAGS = ("url", "service", "version", "labels", "weight", "ttl", "advertise")


def _registry(from_file: RegistrySettings | None, flags: dict[str, Any]) -> RegistrySettings | None:
    if from_file is not None:
        return replace(from_file, **flags)
    if not flags:
        return None
    missing = [name for name, key in (("--register", "url"), ("--service", "service")) if key not in flags]
    if missing:
        raise ConfigError(f"to register, {' and '.join(missing)} is needed too")
    return RegistrySettings(**flags)


def _labels(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(key and sign for key, sign, _ in pairs):
        raise ValueError(f"expected KEY=VALUE,…, got {text!r}")
    return {key: value for key, _, value in pairs}


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let argparse show the parser's own message."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from e

    return checked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m backends", description="Headgate's reference model server.")
    serve = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser(
        "serve", help="serve a repository of ONNX models: KServe V2 and V1, TensorFlow Serving, REST and gRPC"
    )
    add = serve.add_argument
    add("--config", type=Path, metavar="FILE", help="YAML settings; flags override them")
    add(
        "--repository",
        metavar="DIR|URL",
        help="folder of <model>/<version>/model.onnx, or s3://… and the like",
    )
    add("--cache", type=Path, metavar="DIR", help="where a remote repository is copied to")
    add(
        "--versions",
        type=_checked(VersionPolicy.parse),
        metavar="POLICY",
        help="all, 'latest N' or 'specific N N': of models whose card says nothing (all)",
    )
    add("--poll", type=_checked(parse_seconds), metavar="TIME", help="look for changes so often (never)")
    add("--control", action="store_true", default=None, help="let clients load and unload models")
    add("--models", type=Choice.parse, nargs="+", metavar="NAME[=VERSION]", help="what to serve (everything)")
    add(
        "--address",
        type=_checked(Address.parse),
        metavar="HOST:PORT",
        help="where to listen (127.0.0.1:8500)",
    )
    add(
        "--grpc-address",
        type=_checked(Address.parse),
        metavar="HOST:PORT",
        help="where to speak gRPC (V2, TensorFlow Serving), registered as SERVICE-grpc (nowhere)",
    )
    add("--threads", type=int, metavar="N", help="engine calls at the same time (the number of cores)")
    add("--log-level", choices=get_args(LogLevel), help="what the log on stderr shows (info)")
    add("--half", action="store_true", default=None, help="TensorRT may compute in FP16")
    add("--device", choices=get_args(Device), help="where models run (auto)")
    add(
        "--memory",
        type=_checked(parse_size),
        metavar="SIZE",
        help="limit of the process's data, such as 2GiB",
    )
    add("--gpu-memory", type=_checked(parse_size), metavar="SIZE", help="limit of each model's CUDA arena")
    add("--max-body", type=_checked(parse_size), metavar="SIZE", help="longest request (16MiB)")
    add(
        "--drain",
        type=_checked(parse_seconds),
        metavar="TIME",
        help="time for requests in flight to finish (10s)",
    )
    group = serve.add_argument_group("registration").add_argument
    group(
        "--register",
        dest="registry_url",
        metavar="URL",
        help="http://ADMIN or etcd://HOST:PORT[,…][/NAMESPACE]",
    )
    group("--service", dest="registry_service", metavar="NAME", help="the name that pools look for")
    group(
        "--version-tag",
        dest="registry_version",
        metavar="TAG",
        help="of the service (v + the model's version)",
    )
    group(
        "--labels",
        dest="registry_labels",
        type=_checked(_labels),
        metavar="KEY=VALUE,…",
        help="shown to lookers",
    )
    group("--weight", dest="registry_weight", type=int, metavar="N", help="share of the traffic (100)")
    group(
        "--ttl", dest="registry_ttl", type=_checked(parse_seconds), metavar="TIME", help="of the lease (10s)"
    )
    group("--advertise", dest="registry_advertise", type=_checked(Address.parse), metavar="HOST:PORT",
          help="where gateways reach this backend (the address that it listens on)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
