"""What can go wrong between a request and a prediction, and the status each fault has in every dialect.

A message is written for the client: it never holds a trace, a path of this machine or a library's
internals. Whatever the client may not see goes to the log where the fault is mapped.
"""

from __future__ import annotations


class BackendError(Exception):
    """A request that gets no prediction. `status` is the HTTP status; str(error) is the client's
    message."""

    status = 500


class Invalid(BackendError):
    """The request is malformed or does not fit the model's signature. Sending it again will not help."""

    status = 400


class NotFound(BackendError):
    """No such model, version, label or URL."""

    status = 404


class Gone(BackendError):
    """The version was retired. successor: who answers in its place, as (model, version); either may be empty.

    RFC 9110 §15.5.11.
    """

    status = 410

    def __init__(self, message: str, successor: tuple[str, str] = ("", "")) -> None:
        super().__init__(message)
        self.successor = successor


class Forbidden(BackendError):
    """The server was not started with what this needs."""

    status = 403


class MethodNotAllowed(BackendError):
    """The URL exists, but not for this method. `allow` is the one that it takes."""

    status = 405

    def __init__(self, allow: str) -> None:
        super().__init__(f"method not allowed; use {allow}")
        self.allow = allow


class TooLarge(BackendError):
    """The body is longer than the server accepts."""

    status = 413


class Unsupported(BackendError):
    """The protocol knows it; this server doesn't do it."""

    status = 501


class Overloaded(BackendError):
    """The model's queue is full; another instance, or this one a little later, may answer."""

    status = 503


class Unavailable(BackendError):
    """The model's own process crashed and is being started again; a little later it may answer."""

    status = 503


class Expired(BackendError):
    """The request could no longer be answered within the time that its client gives it."""

    status = 504


class EngineFailure(BackendError):
    """The engine failed on a valid request."""

    status = 500


class LoadError(Exception):
    """A model version that cannot be served, and why. Shown to the operator, not to clients."""
