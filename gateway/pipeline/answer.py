"""From a refusal, a failure or a bug to the response: the only place where that happens.

The body is in the client's dialect when its URL named one, else `application/problem+json` (RFC 9457); a
gRPC client gets the same as fields of a Trailers-Only answer (http/grpc.py), `status` then being what HTTP
would have said, for the record. All carry the same stable code. `x-headgate-reason` and `x-headgate-policy`
are there for programs that read no bodies. Nothing of an upstream's internals, no address and no stack goes
out.
"""

from __future__ import annotations

from math import ceil, isfinite

import orjson

import gateway
from gateway.dialects.protocol import Operation, Target
from gateway.http.grpc import is_grpc, status_of_refusal, trailers_only
from gateway.http.message import Headers, Request, Response
from gateway.http.status import reason
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError, Overloaded, Refusal
from gateway.pipeline.snapshot import Found

PROBLEM = b"application/problem+json"


def refused(ctx: Context, refusal: Refusal) -> Response:
    """Answer a filter's No."""
    response = _answer(
        ctx,
        refusal.status,
        refusal.code,
        refusal.message,
        refusal.policy,
        refusal.retry_after,
        refusal.details,
    )
    response.headers += refusal.headers
    return response


def failed(ctx: Context, error: GatewayError) -> Response:
    """Answer a failure of the upstream, the client's connection or the gateway's capacity."""
    message = str(error) or (type(error).__doc__ or error.code).split("\n")[0]
    policy = "" if ctx.endpoint is None else ctx.endpoint.name
    if isinstance(error, Overloaded) and ctx.dialect is None and not is_grpc(ctx.request.headers):
        seconds = error.retry_after
        if seconds is not None and isfinite(seconds) and ctx.request_id:
            return _made_before(ctx, error, message, policy, max(1, ceil(seconds)))
    return _answer(ctx, error.status, error.code, message, policy, error.retry_after, {})


def crashed(ctx: Context) -> Response:
    """Answer a bug of ours: a code and the request id, nothing else."""
    return _answer(ctx, 500, "internal", "the gateway failed to handle this request", "", None, {})


def without_endpoint(ctx: Context, found: Found) -> Response | Refusal:
    """Answer what goes to no endpoint: for the gateway itself, or refused because nobody takes it."""
    if found.target is not None and not found.target.model:
        return of_server(ctx, found.target)
    if ctx.request.path == b"*":
        return of_gateway()
    if found.allowed:
        allow = ", ".join(found.allowed)
        headers: Headers = [(b"allow", allow.encode())]
        return Refusal(405, "method_not_allowed", f"this path takes {allow}", headers=headers)
    if found.target is not None and found.target.model:
        return Refusal(404, "unknown_model", f"no endpoint serves the model '{found.target.model}'")
    return Refusal(404, "unknown_endpoint", "no endpoint takes this path")


def is_stream_of_calls(found: Found) -> bool:
    """Tell whether a request that goes to no endpoint is a stream of requests that do."""
    return found.target is not None and found.target.operation is Operation.STREAM


def of_server(ctx: Context, target: Target) -> Response:
    """Answer what a dialect asks of the server itself, not of a model.

    Is it alive, is it ready, what is it.
    """
    usable = all(
        endpoint.pool is None or endpoint.pool.usable(ctx.now) for endpoint in ctx.snapshot.endpoints.values()
    )
    status, headers, body = target.dialect.write_server(target, usable, "headgate", gateway.__version__)
    return Response(status, list(headers), body)


def of_gateway() -> Response:
    """Answer an OPTIONS that asks nobody behind this gateway: `*`, or one whose last hop this is.

    RFC 9110 §9.3.7, §7.6.2: what may be asked at all; what a path takes its endpoint decides.
    """
    return Response(204, [(b"allow", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")])


def would_send(ctx: Context, request: Request) -> Response:
    """Answer an explained request that was not sent."""
    assert ctx.instance is not None
    assert ctx.pool is not None
    sent = {
        "would_send": {
            "pool": ctx.pool.name,
            "instance": ctx.instance.id,
            "method": request.method.decode("latin-1"),
            "path": request.target.decode("latin-1"),
        }
    }
    return Response(200, [(b"content-type", b"application/json")], orjson.dumps(sent))


def would_ask(ctx: Context, members: tuple[str, ...]) -> Response:
    """Answer an explained prediction of a graph: nobody was asked."""
    assert ctx.pool is not None
    asked = {"would_ask": {"pool": ctx.pool.name, "members": members}}
    return Response(200, [(b"content-type", b"application/json")], orjson.dumps(asked))


_BEGINNINGS: dict[tuple[str, str], tuple[bytes, Headers]] = {}
"""Of refusals for want of capacity, by message and endpoint: all that isn't this request's own."""


def _made_before(ctx: Context, error: Overloaded, message: str, policy: str, seconds: int) -> Response:
    """Answer as `_answer` does, from bytes made when the first one was: these come in thousands."""
    known = _BEGINNINGS.get((message, policy))
    if known is None:
        if len(_BEGINNINGS) >= 1024:
            _BEGINNINGS.clear()
        problem: dict[str, object] = {
            "type": f"urn:headgate:{error.code}",
            "title": reason(error.status),
            "status": error.status,
            "code": error.code,
            "detail": message,
        }
        headers: Headers = [(b"content-type", PROBLEM), (b"x-headgate-reason", error.code.encode())]
        if policy:
            problem["policy"] = policy
            headers.append((b"x-headgate-policy", policy.encode("latin-1", "replace")))
        headers.append((b"cache-control", b"no-store"))
        known = _BEGINNINGS[(message, policy)] = (orjson.dumps(problem)[:-1], headers)
    body = b'%b,"request_id":"%b","retry_after":%d}' % (known[0], ctx.request_id, seconds)
    return Response(error.status, [*known[1], (b"retry-after", b"%d" % seconds)], body)


def _answer(
    ctx: Context,
    status: int,
    code: str,
    message: str,
    policy: str,
    retry_after: float | None,
    details: dict[str, object],
) -> Response:
    if retry_after is not None and isfinite(retry_after):
        seconds = max(1, ceil(retry_after))
        details = {**details, "retry_after": seconds}
    else:
        seconds = 0
    request_id = ctx.request_id.decode("latin-1")
    if is_grpc(ctx.request.headers):
        meaning = status_of_refusal(status, code)
        ctx.grpc_status = int(meaning)
        pushback = retry_after if status in (429, 503) and seconds else None
        headers, body = trailers_only(meaning, message, pushback), b""
    elif ctx.dialect is not None:
        extra = {**details, "request_id": request_id} if request_id else details
        if policy:
            extra = {**extra, "policy": policy}
        headers, body = ctx.dialect.write_error(status, code, message, extra)
        headers = list(headers)
    else:
        problem = {
            "type": f"urn:headgate:{code}",
            "title": reason(status),
            "status": status,
            "code": code,
            "detail": message,
            **({"policy": policy} if policy else {}),
            **({"request_id": request_id} if request_id else {}),
            **details,
        }
        headers, body = [(b"content-type", PROBLEM)], orjson.dumps(problem, default=str)
    headers.append((b"x-headgate-reason", code.encode()))
    if policy:
        headers.append((b"x-headgate-policy", policy.encode("latin-1", "replace")))
    if seconds:
        headers.append((b"retry-after", b"%d" % seconds))
    headers.append((b"cache-control", b"no-store"))
    return Response(status, headers, body)
