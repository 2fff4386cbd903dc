"""What can go wrong with one request: refusals are returned, failures are raised, bugs are not caught.

A `Refusal` is a decision (401, 429, 503 …): a filter returns it, and it names the policy that decided. A
`GatewayError` is a failure; it says which side failed (`source`) and whether another try may help
(`retry`). Both have a stable `code` that clients, logs and metrics see; `answer.py` turns either into the
response.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from gateway.http.message import Headers


class Source(Enum):
    """Who failed."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"


class Retry(Enum):
    """When another attempt may help."""

    NEVER = "never"
    IF_REUSED = "if_reused"  # a kept-alive connection that was closing as we wrote: nothing was processed
    IF_IDEMPOTENT = "if_idempotent"  # the instance may have processed it
    ALWAYS = "always"  # not one byte of the request left this gateway


class Outcome(Enum):
    """What an attempt says about the instance that served it."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNREACHABLE = "unreachable"  # a failure that needs no second one to be believed: nobody listens there
    IGNORED = "ignored"  # the client left, or the answer says nothing of the instance's health


class Refusal:
    """A filter's No: status and stable code, in words, with the policy that decided and when to come back.

    retry_after: seconds, None where coming back makes no sense. details: numbers or texts for the body's
    extra members (expected signature, limit, …). headers: fields to add to the answer.
    """

    __slots__ = ("code", "details", "headers", "message", "policy", "retry_after", "status")

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        policy: str = "",
        retry_after: float | None = None,
        headers: Headers | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.policy = policy
        self.retry_after = retry_after
        self.headers: Headers = [] if headers is None else headers
        self.details: dict[str, object] = {} if details is None else details

    def __repr__(self) -> str:
        return f"<Refusal {self.status} {self.code} by {self.policy or 'the gateway'}>"


class GatewayError(Exception):
    """A failure of one request.

    Subclasses fix code, status, source and retry; str(error) is fit for a client.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    source: ClassVar[Source] = Source.GATEWAY
    retry: ClassVar[Retry] = Retry.NEVER
    retry_after: float | None = None


class UpstreamConnectError(GatewayError):
    """No connection to the instance: refused, unreachable, or its handshake failed. Nothing was sent."""

    code = "upstream_connect"
    status = 503
    source = Source.UPSTREAM
    retry = Retry.ALWAYS


class UpstreamRefused(GatewayError):
    """The instance turned the request away unread: REFUSED_STREAM, or a GOAWAY that leaves it out.

    RFC 9113 §8.7: nothing of it was processed, so that it may be sent again whatever its method is.
    """

    code = "upstream_refused"
    status = 503
    source = Source.UPSTREAM
    retry = Retry.ALWAYS


class UpstreamTlsError(UpstreamConnectError):
    """No trust in the instance: its certificate is wrong, or no TLS was agreed on. Nothing was sent."""

    code = "upstream_tls"
    status = 502


class UpstreamClosedIdle(GatewayError):
    """A kept-alive connection closed before the first response byte: the stale-connection race."""

    code = "upstream_reset"
    status = 502
    source = Source.UPSTREAM
    retry = Retry.IF_REUSED


class UpstreamReset(GatewayError):
    """The instance closed or reset the connection before its response was complete."""

    code = "upstream_reset"
    status = 502
    source = Source.UPSTREAM
    retry = Retry.IF_IDEMPOTENT


class UpstreamStreamReset(UpstreamReset):
    """The instance reset this one stream of HTTP/2; its connection is well (RFC 9113 §5.4.2)."""

    code = "upstream_stream_reset"


class UpstreamCancelled(UpstreamStreamReset):
    """The instance says that the call was cancelled (CANCEL)."""

    code = "upstream_cancelled"


class UpstreamCalm(UpstreamStreamReset):
    """The instance has had too much of this peer (ENHANCE_YOUR_CALM)."""

    code = "upstream_calm"
    status = 503


class UpstreamTooWeak(UpstreamStreamReset):
    """The instance wants better encryption than was agreed on (INADEQUATE_SECURITY)."""

    code = "upstream_too_weak"


class UpstreamProtocolError(GatewayError):
    """The instance's bytes are not HTTP/1.1 as RFC 9112 has it."""

    code = "upstream_protocol"
    status = 502
    source = Source.UPSTREAM
    retry = Retry.IF_IDEMPOTENT


class UpstreamAnswerTooLarge(GatewayError):
    """An answer that had to be read whole (to translate it) is larger than the bound."""

    code = "upstream_too_large"
    status = 502
    source = Source.UPSTREAM


class UpstreamUnreadable(GatewayError):
    """An answer that had to be translated is not what the pool's dialect promises."""

    code = "upstream_unreadable"
    status = 502
    source = Source.UPSTREAM


class UpstreamFailed(GatewayError):
    """A model server that was asked for a step of a graph, or for a batch, says that it failed."""

    code = "upstream_failed"
    status = 502
    source = Source.UPSTREAM


class UpstreamTimeout(GatewayError):
    """The instance did not answer within the time for one try or for the whole request."""

    code = "upstream_timeout"
    status = 504
    source = Source.UPSTREAM
    retry = Retry.IF_IDEMPOTENT


class NoInstance(GatewayError):
    """The pool has no instance that may be tried (none registered, all down or all tried)."""

    code = "unavailable"
    status = 503
    source = Source.UPSTREAM

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BreakerOpen(NoInstance):
    """Every instance that could be tried is behind an open breaker."""

    code = "breaker_open"


class Overloaded(GatewayError):
    """The pool's or the gateway's own capacity is used up: 503, ours, not the client's quota."""

    code = "overloaded"
    status = 503

    def __init__(self, message: str, retry_after: float | None = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BodyTooLarge(GatewayError):
    """The request's body is larger than the limit."""

    code = "body_too_large"
    status = 413
    source = Source.DOWNSTREAM


class BodyTimeout(GatewayError):
    """The client stopped sending its body."""

    code = "body_timeout"
    status = 408
    source = Source.DOWNSTREAM


class BadBody(GatewayError):
    """The request's body is framed wrongly (RFC 9112 §7.1)."""

    code = "bad_body"
    status = 400
    source = Source.DOWNSTREAM


class SignatureUnknown(GatewayError):
    """The prediction must be translated, and no instance has told the model's signature yet."""

    code = "signature_unknown"
    status = 503
    source = Source.UPSTREAM
    retry_after = 1.0
