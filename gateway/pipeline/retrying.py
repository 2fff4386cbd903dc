"""Whether another try is worth it after this failure, and after what pause. Decided here, done by tries.py.

    cause      what happened                                      another try
    connect    no connection: nothing was sent                    any request
    refused    the stream was turned away unread (HTTP/2)         any request
    reset      broken off, or not HTTP                            repeatable requests
    timeout    the time for one try passed                        repeatable requests
    500        the instance failed                                repeatable requests, at another instance
    502 504    the instance says that another one failed          repeatable requests, at another instance
    503        the instance can't                                 repeatable requests, at another instance

Repeatable: the method is idempotent (RFC 9110 §9.2.2) or the endpoint says `safe_to_retry`. A status that
means bad input (the pool's dialect says so) is nobody's failure. A Retry-After that is later than the
request's deadline is believed: nobody will answer in time.

Every further try costs a token of the pool's budget, with one exception: when nothing was processed and the
failure has taken its instance out (ejected, breaker), the next try meets another one, and the number of such
tries is bounded by the instances that can be taken out. So one dead instance never costs a client its
request, and in a total outage, where the last ones can't be taken out, the budget holds.

Pauses: none on the way to another instance. Before the same one again (there is no other), and after a 503
that asks to come back later, a part by chance of `backoff`, doubled per try: full jitter, so that those who
failed together do not come back together (Brooker, Exponential Backoff And Jitter, 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf
from typing import Final

from gateway.http.grpc import as_http
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    GatewayError,
    Outcome,
    Retry,
    Source,
    UpstreamConnectError,
    UpstreamRefused,
    UpstreamTimeout,
)
from gateway.pipeline.pool import Instance, Pool

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})  # RFC 9110 §9.2.2
NO: Final = -1.0  # no other try
LONGEST: Final = 1.0  # s of any pause


def repeatable(ctx: Context) -> bool:
    """Tell whether sending this request twice does no harm."""
    return ctx.safe_to_retry or ctx.request.method in IDEMPOTENT


def cause_of(error: GatewayError) -> str:
    """Return the failure's name in `retry: {on: …}`."""
    if isinstance(error, UpstreamConnectError):
        return "connect"
    if isinstance(error, UpstreamRefused):
        return "refused"
    return "timeout" if isinstance(error, UpstreamTimeout) else "reset"


def others(pool: Pool, tried: Sequence[Instance], now: float) -> bool:
    """Tell whether an instance that was not tried yet could take a call."""
    return any(one.usable(now) and one not in tried for one in pool.members.instances)


def after_error(
    pool: Pool, error: GatewayError, ctx: Context, failed: Instance, tried: Sequence[Instance], made: int
) -> float:
    """Return the pause before another try, or NO. Spends the budget where there is to be one.

    failed: the instance that failed last. made: tries so far, hedges not counted.
    """
    settings = pool.settings.retry
    if made > settings.attempts or error.retry is Retry.NEVER or error.source is not Source.UPSTREAM:
        return NO
    unprocessed = error.retry is Retry.ALWAYS
    if cause_of(error) not in settings.on or not (unprocessed or repeatable(ctx)):
        return NO
    if others(pool, tried, ctx.now):
        pause = 0.0
    elif _is_alone(pool, failed, ctx.now):
        pause = _back_off(pool, made)
    else:
        return NO
    if ctx.now + pause >= ctx.deadline:
        return NO
    if unprocessed and not failed.usable(ctx.now):
        return pause
    return pause if pool.retry_budget.spend(ctx.now) else NO


def after_answer(
    pool: Pool, response: Response, ctx: Context, tried: Sequence[Instance], made: int, wall: float
) -> float:
    """Return the pause before another try instead of this answer, or NO.

    wall: s since the epoch, for a Retry-After that is a date.
    """
    settings = pool.settings.retry
    status = as_http(response) if pool.is_grpc else response.status
    if made > settings.attempts or str(status) not in settings.on or not repeatable(ctx):
        return NO
    if pool.must_be_read(response):
        return NO  # it may be the client's mistake, which no other instance would answer otherwise
    if pool.judge(response, ctx) is not Outcome.FAILURE or not others(pool, tried, ctx.now):
        return NO
    asked = response.header(b"retry-after")
    pause = 0.0
    if asked is not None:
        if _seconds(asked, wall) > ctx.deadline - ctx.now:
            return NO
        if status == 503:
            pause = _back_off(pool, made)
    if ctx.now + pause >= ctx.deadline or not pool.retry_budget.spend(ctx.now):
        return NO
    return pause


def _is_alone(pool: Pool, instance: Instance, now: float) -> bool:
    """Tell whether this one, and no other, could take a call."""
    return [one for one in pool.members.instances if one.usable(now)] == [instance]


def _back_off(pool: Pool, made: int) -> float:
    longest: float = pool.settings.retry.backoff * float(1 << (made - 1))
    return pool.chance() * min(LONGEST, longest)


def _seconds(retry_after: bytes, wall: float) -> float:
    """Return what a Retry-After asks for (RFC 9110 §10.2.3); what can't be read asks for nothing."""
    if retry_after.isdigit():
        return float(retry_after) if len(retry_after) < 10 else inf
    try:
        instant = parsedate_to_datetime(retry_after.decode("latin-1"))
    except ValueError:
        return 0.0
    return instant.replace(tzinfo=instant.tzinfo or UTC).timestamp() - wall
