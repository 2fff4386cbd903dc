"""The admin application on its port."""

from __future__ import annotations

import errno

from aiohttp import web


class AdminBindError(Exception):
    """The admin address can't be listened on."""


class Listening:
    """One TCP site of a runner."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any free one. Raises AdminBindError that names the address."""
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            reason = (
                "the port is taken by another process" if error.errno == errno.EADDRINUSE else error.strerror
            )
            raise AdminBindError(f"can't listen on {host}:{port}: {reason}") from error

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._runner.addresses[0][:2]
        return host, port
