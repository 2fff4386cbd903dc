"""The server process: load, listen, register, serve, and leave in the right order.

start: models are opened and proven -> the socket listens -> `ready …` on stdout -> the registry is told
stop (SIGTERM, SIGINT): deregister -> not ready -> no new connections -> those in use get their last answer,
marked `Connection: close` -> requests in flight finish -> exit 0
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from backends.app import App
from backends.engine import EngineSettings
from backends.errors import LoadError
from backends.registration import Lease, register
from backends.repository import find_models
from backends.served import Catalogue, load_models
from backends.settings import Address, Settings

LINGER = 0.25  # s, at most: connections that are in use send their next request within it

_log = logging.getLogger("backends.server")


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. LoadError or ConfigError when it cannot start."""
    limit_memory(settings.memory)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(settings.threads, thread_name_prefix="engine") as executor:
        catalogue = load(settings, executor)
        app = App(catalogue, executor, max_body=settings.max_body, server_version=distribution_version())
        runner = web.ServerRunner(_server(app, settings.max_body), shutdown_timeout=settings.drain)
        await runner.setup()
        try:
            listening = await listen(runner, settings.address)
            lease = await announce(settings, listening, catalogue)
            async with speaking_grpc(settings, catalogue):
                await stop.wait()
            await leave(app, lease, runner)
        finally:
            await runner.cleanup()
    _log.info("stopped")


def load(settings: Settings, executor: ThreadPoolExecutor) -> Catalogue:
    """Open and prove what the settings choose; a model chosen by name must be servable."""
    engine = EngineSettings(settings.device, settings.gpu_memory)
    found = find_models(settings.repository, settings.models)
    return load_models(found, engine, executor, settings.threads, all_or_none=bool(settings.models))


async def listen(runner: web.ServerRunner, address: Address) -> Address:
    """Bind, and return where it really listens."""
    site = web.TCPSite(runner, address.host, address.port, backlog=1024)
    try:
        await site.start()
    except OSError as e:
        raise LoadError(f"cannot listen on {address}: {e.strerror or e}") from e
    host, port = runner.addresses[0][:2]
    return Address(str(host), int(port))


@asynccontextmanager
async def speaking_grpc(settings: Settings, catalogue: Catalogue) -> AsyncIterator[None]:
    """Speak gRPC, too, where the settings say so: registered while it does."""
    if settings.grpc_address is None:
        yield
        return
    try:
        from backends.kserve_v2_grpc import GrpcServer  # only where it is spoken: it loads slowly
    except ImportError as e:
        raise LoadError(f"gRPC needs more packages: {e} (pip install 'headgate[serve]')") from e
    server = GrpcServer(catalogue, distribution_version(), settings.max_body)
    listening = await server.start(settings.grpc_address)
    _log.info("speaking gRPC on %s", listening)
    lease = None
    if settings.registry is not None:
        lease = await register(settings.registry, listening, list(catalogue), grpc=True)
    try:
        yield
    finally:
        server.drain()
        if lease is not None:
            await lease.close()
        await server.stop(settings.drain)


async def announce(settings: Settings, listening: Address, catalogue: Catalogue) -> Lease | None:
    """Print the line that scripts wait for, and register where the settings say so."""
    served = list(catalogue)
    lease = None
    if settings.registry is not None:
        lease = await register(settings.registry, listening, served)
        _log.info(
            "registering service=%s registry=%s",
            settings.registry.service,
            _without_user(settings.registry.url),
        )
    models = ",".join(f"{one.name}:{one.version}" for one in served)
    sys.stdout.write(f"ready http://{listening} models={models}\n")
    sys.stdout.flush()
    return lease


async def leave(app: App, lease: Lease | None, runner: web.ServerRunner) -> None:
    """Deregister first, so that nobody is sent here any more; then part from each connection with an answer.

    Closing a kept-alive connection at once would race with the request that is already on its way.
    """
    _log.info("stopping")
    if lease is not None:
        await lease.close()
    app.drain()
    for site in list(runner.sites):
        await site.stop()
    ends = asyncio.get_running_loop().time() + LINGER
    while runner.server is not None and runner.server.connections:
        if asyncio.get_running_loop().time() >= ends:
            break
        await asyncio.sleep(LINGER / 20)


def limit_memory(limit: int | None) -> None:
    """Let the kernel refuse memory beyond `limit` bytes of private data (RLIMIT_DATA).

    A refused allocation fails one request or the start, instead of the machine running out.
    """
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def distribution_version() -> str:
    """Return the installed version, or `unknown` when run from a bare checkout."""
    try:
        return version("headgate")
    except PackageNotFoundError:
        return "unknown"


def run(main: Coroutine[object, object, None]) -> None:
    """Run on uvloop where it exists."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _server(app: App, max_body: int) -> web.Server:
    """Return aiohttp's server with our body limit in place of its 1 MiB, and without its access log."""
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body)

    # handler_cancellation: a client that leaves frees its place in the queue.
    return web.Server(app.handle, request_factory=make_request, handler_cancellation=True, access_log=None)


def _without_user(url: str) -> str:
    """Return the URL without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
