"""The moments of a request at which a policy may act, and the base class of everything that acts.

A filter overrides the moments it needs; `Chain` (chain.py) keeps, per moment, only those that do. A filter
holds its checked config and its ports, nothing per request: that lives in the Context. Filters import no
other filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.promise import Eventual

if TYPE_CHECKING:  # a pool is built before the filters that name it: a type alone here
    from gateway.pipeline.pool import Pool


@mypyc_attr(allow_interpreted_subclasses=True)  # also where this file is compiled and the filter is not
class Filter:
    """One policy at work. Override the moments that matter; each is called at most once per request, but
    chunks.

    name: the verb, as in YAML. place: the fixed order (filters/catalog.py). needs_body: on_request sees the
    whole, bounded body in `ctx.request.body`; otherwise the body may still be on its way.
    """

    name: str = ""
    place: int = 0
    needs_body: bool = False

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Before any attempt.

        None: go on. A Response: the answer. A Refusal: a No that `degrade` may soften.
        """
        return None

    def on_request_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """A piece of a streamed request body on its way upstream."""
        return chunk

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """An answer on its way back, in reverse order; only where this filter's on_request was reached.

        Also for answers that a filter gave, refusals included. response.body is None while it streams past,
        unless `ctx.want_whole` asked for it and it fitted.
        """
        return response

    def on_response_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """A piece of a streamed answer on its way to the client."""
        return chunk

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        """Another filter refused: a lesser answer, another pool to try, or None."""
        return None

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        """All attempts failed before the first byte went out: a lesser answer, another pool, or None."""
        return None

    def on_done(self, ctx: Context) -> None:
        """The end, exactly once for each filter that was reached: release and settle. Must not raise."""
        return

    def close(self) -> None:
        """The filter left the running snapshot (its rules changed): let go of what it holds."""
        return
