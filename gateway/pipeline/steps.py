"""What acts on an endpoint's requests, moment by moment: what the exchange reads of a chain (chain.py).

Apart from the chain, which knows interpreted filters and is interpreted itself, so that a compiled exchange
finds these fields without a look-up.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy_extensions import mypyc_attr

from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.moments import Filter
from gateway.pipeline.pool import Pool
from gateway.pipeline.promise import Eventual

OnRequest = Callable[[Context], Eventual[Response | Refusal | None]]
OnResponse = Callable[[Context, Response], Eventual[Response]]
OnChunk = Callable[[Context, bytes, bool], bytes]
OnRefusal = Callable[[Context, Refusal], Response | Pool | None]
OnError = Callable[[Context, GatewayError], Response | Pool | None]
OnDone = Callable[[Context], None]


@mypyc_attr(allow_interpreted_subclasses=True)
class Steps:
    """Filters and their methods by moment; the int beside a method is its filter's position.

    on_request: position, needs_body, name and method.
    """

    filters: tuple[Filter, ...]
    on_request: tuple[tuple[int, bool, str, OnRequest], ...]
    on_request_chunk: tuple[OnChunk, ...]
    on_response: tuple[tuple[int, OnResponse], ...]
    on_response_chunk: tuple[OnChunk, ...]
    on_refusal: tuple[OnRefusal, ...]
    on_error: tuple[OnError, ...]
    on_done: tuple[tuple[int, OnDone], ...]
