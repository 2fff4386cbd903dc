"""The receiver of a request that is over, or was refused before it had one."""

from __future__ import annotations

from gateway.pipeline.errors import GatewayError


class Nobody:
    """Listens to nothing."""

    __slots__ = ()

    def start(self) -> None:
        """Begin nothing."""

    def on_body(self, data: bytes, last: bool) -> None:
        """Drop it."""

    def on_body_error(self, error: GatewayError) -> None:
        """There is nothing to fail."""

    def on_writable(self, ready: bool) -> None:
        """There is nothing to send."""

    def on_client_gone(self) -> None:
        """There is nothing to give back."""

    def crash(self, bug: Exception) -> None:
        """There is nothing to answer."""
