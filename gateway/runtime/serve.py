"""The gateway's process: command line over policies, event loop, signals, exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from gateway.admin.listening import AdminBindError
from gateway.config.schema import EtcdRegistry, GrpcListen, LocalRegistry, Registry, Schema
from gateway.config.secret import Secret
from gateway.config.units import parse_address
from gateway.runtime.logs import start_logging
from gateway.runtime.policies import PoliciesInvalid, read
from gateway.runtime.registries import CannotServe, CannotStart
from gateway.runtime.worker import Worker
from gateway.server.listener import BindError

MOST_WORKERS = 256

log = logging.getLogger("headgate")


def serve(
    folder: Path,
    *,
    http: str | None = None,
    admin: str | None = None,
    registry: str | None = None,
    access_log: str | None = None,
    grpc: str | None = None,
    workers: str | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, 1 for invalid policies, 2 a bad option, 3 a taken port.

    workers: a number or auto; above one they are processes under a supervisor (supervisor.py).
    """
    loaded = read(folder)
    if loaded.schema is None:
        print(loaded.report(), file=sys.stderr)
        return 1
    try:
        schema = overrule(loaded.schema, http, admin, registry, access_log, grpc)
        size = read_workers(workers or schema.workers)
    except ValueError as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 2
    start_logging(schema.log.level)
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        if size == 1:
            return runner.run(_run(partial(Worker, folder, loaded, schema)))
        from gateway.runtime.supervisor import Supervisor  # its workers, who run this module too, need it not

        overruled = {
            "http": http,
            "admin": admin,
            "registry": registry,
            "access_log": access_log,
            "grpc": grpc,
        }
        return runner.run(_run(partial(Supervisor, folder, loaded, schema, size, overruled)))


def read_workers(wanted: str | int) -> int:
    """Read a number of processes, or auto: one per processor core that this process may use."""
    if wanted == "auto":
        return len(os.sched_getaffinity(0))
    if isinstance(wanted, str) and not wanted.isdecimal():
        raise ValueError(f"expected --workers auto or a number, found {wanted!r}")
    if not 1 <= int(wanted) <= MOST_WORKERS:
        raise ValueError(f"expected 1 to {MOST_WORKERS} workers, found {wanted}")
    return int(wanted)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def overrule(
    schema: Schema,
    http: str | None,
    admin: str | None,
    registry: str | None,
    access_log: str | None,
    grpc: str | None = None,
) -> Schema:
    """Return the schema with what the command line says. Raises ValueError."""
    listen = schema.listen
    if http:
        listen = replace(listen, http=replace(listen.http, address=parse_address(http)))
    if grpc:
        listen = replace(listen, grpc=replace(listen.grpc or GrpcListen(), address=parse_address(grpc)))
    if admin:
        listen = replace(listen, admin=replace(listen.admin, address=parse_address(admin)))
    schema = replace(schema, listen=listen)
    if registry:
        schema = replace(schema, registry=read_registry(registry))
    if access_log:
        schema = replace(schema, log=replace(schema.log, access=access_log))
    return schema


def read_registry(text: str) -> Registry:
    """Read `local`, `static`, or etcd's address as `headgate register` takes it. Raises ValueError."""
    if text == "local":
        return Registry(local=LocalRegistry())
    if text == "static":
        return Registry()
    url = urlsplit(text)
    if url.scheme not in ("etcd", "etcds") or not url.netloc:
        raise ValueError(f"expected --registry local, static or etcd://host:2379[/namespace], found {text!r}")
    user, _, hosts = url.netloc.rpartition("@")
    name, _, password = user.partition(":")
    scheme = "https" if url.scheme == "etcds" else "http"
    return Registry(
        etcd=EtcdRegistry(
            servers=tuple(f"{scheme}://{host}" for host in hosts.split(",")),
            namespace=url.path.strip("/") or "default",
            user=name or None,
            password=Secret(password) if name else None,
        )
    )


class _Served(Protocol):
    """What runs here: one worker, or a supervisor of several."""

    schema: Schema
    admin_address: tuple[str, int]

    @property
    def http_address(self) -> tuple[str, int]: ...

    async def start(self) -> None: ...

    async def stop(self) -> int: ...

    def reload_soon(self) -> None: ...

    def exchange_soon(self) -> None: ...


async def _run(make: Callable[[], _Served]) -> int:
    stopping = asyncio.Event()
    early: list[Callable[[], None]] = []  # signals that came before everything is there
    loop = asyncio.get_running_loop()
    served = make()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: early.append(served.reload_soon))
    loop.add_signal_handler(signal.SIGUSR2, lambda: early.append(served.exchange_soon))
    code = await _start(served)
    if code:
        await served.stop()
        return code
    loop.add_signal_handler(signal.SIGHUP, served.reload_soon)
    loop.add_signal_handler(signal.SIGUSR2, served.exchange_soon)
    host, port = served.http_address
    admin_host, admin_port = served.admin_address
    scheme = "http" if served.schema.listen.http.tls is None else "https"
    print(
        f"ready {scheme}://{host}:{port} admin http://{admin_host}:{admin_port}", file=sys.stderr, flush=True
    )
    for act in dict.fromkeys(early):
        act()
    settle_memory()
    await stopping.wait()
    log.info("stopping: requests under way may take %g s to end", served.schema.limits.drain)
    broken = await served.stop()
    if broken:
        log.warning("%d connections were broken after the grace period", broken)
    return 0


async def _start(served: _Served) -> int:
    """Start; returns the exit code that says why it can't."""
    try:
        await served.start()
    except (BindError, AdminBindError) as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 3
    except PoliciesInvalid as invalid:
        print(invalid, file=sys.stderr)
        return 1
    except CannotStart as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 1
    except CannotServe as error:
        print(f"headgate: {error}", file=sys.stderr)
        return error.code
    return 0


def settle_memory() -> None:
    """What was built at the start stays: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
