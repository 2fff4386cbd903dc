"""Who asks a pool and hears what came of it: the exchange of a client's request, or an errand of our own.

The base class of both, so that tries.py knows neither. Says nothing by itself.
"""

from __future__ import annotations

from gateway.http.message import Response
from gateway.pipeline.errors import GatewayError


class Asker:
    """What tries report to. body_begun: an instance gets the body as it comes: nobody else can have it."""

    __slots__ = ("body_begun",)

    def __init__(self) -> None:
        self.body_begun = False

    def on_upstream_ready(self) -> None:
        """The instance takes the body."""

    def on_upstream_interim(self, response: Response) -> None:
        """The instance says something before its answer (1xx)."""

    def on_upstream_response(self, response: Response) -> None:
        """The head of an answer (its body too, when it came in one piece)."""

    def on_upstream_chunk(self, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""

    def on_upstream_error(self, error: GatewayError) -> None:
        """No attempt is under way any more; this is how the last one failed."""

    def on_upstream_writable(self, ready: bool) -> None:
        """The instance's connection has room for more of the body (True), or not (False)."""

    def crash(self, bug: Exception) -> None:
        """A bug escaped from one of these."""
