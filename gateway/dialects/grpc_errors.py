"""What gRPC dialects share: the outcome of a call in its trailers, and what a status means of a model server.

Servers disagree here as well: a model that does not exist is NOT_FOUND (Triton, MLServer), UNKNOWN
(MLServer's ModelReady) or INTERNAL (TorchServe); bad input is INVALID_ARGUMENT (Triton) or INTERNAL
(MLServer, the KServe SDK). So the words decide where the status alone can't, as over HTTP (errors.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects.errors import BackendError, ErrorKind, kind_of
from gateway.http.grpc import Status, read_message, read_status, status_of_refusal, trailers_only
from gateway.http.message import Headers, find

_KINDS: Final[Mapping[Status, ErrorKind]] = {
    Status.INVALID_ARGUMENT: ErrorKind.INVALID,
    Status.FAILED_PRECONDITION: ErrorKind.INVALID,  # TensorFlow Serving: 400 over HTTP, both
    Status.OUT_OF_RANGE: ErrorKind.INVALID,
    Status.NOT_FOUND: ErrorKind.NOT_FOUND,
    Status.UNIMPLEMENTED: ErrorKind.UNIMPLEMENTED,
    Status.DEADLINE_EXCEEDED: ErrorKind.TIMEOUT,
    Status.RESOURCE_EXHAUSTED: ErrorKind.OVERLOADED,
    Status.UNAVAILABLE: ErrorKind.UNAVAILABLE,
}
_UNSURE: Final = frozenset((Status.UNKNOWN, Status.INTERNAL, Status.UNAVAILABLE))
_OURS: Final[Mapping[str, Status]] = {"not_found": Status.NOT_FOUND}


def succeeded(status: int, headers: Headers) -> bool:
    """Whether a call ended well. headers: the trailers among them."""
    return status == 200 and read_status(find(headers, b"grpc-status")) is Status.OK


def read_error(status: int, headers: Headers) -> BackendError:
    """Understand a failed call; never raises. headers: the trailers among them."""
    if status != 200:
        return BackendError(kind_of(status, ""), f"the backend answered HTTP {status}")
    said = read_status(find(headers, b"grpc-status"))
    message = read_message(find(headers, b"grpc-message") or b"")[:2000]
    message = message or f"the backend answered {said.name}"
    kind = _KINDS.get(said, ErrorKind.BACKEND)
    if said in _UNSURE:
        words = kind_of(500, message)
        kind = kind if words is ErrorKind.BACKEND else words
    return BackendError(kind, message)


def write_error(status: int, code: str, message: str) -> tuple[Headers, bytes]:
    """Write an answer that is an error from its first byte."""
    return trailers_only(_OURS.get(code) or status_of_refusal(status, code), message), b""
