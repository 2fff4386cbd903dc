"""What all dialects have in common that are calls over HTTP/2, with the model's name inside the message."""

from __future__ import annotations

from gateway.dialects import grpc_errors, wire
from gateway.dialects.errors import BackendError
from gateway.dialects.protocol import GRPC_TYPE, Call
from gateway.http.message import Headers


class OverGrpc:
    """A dialect whose outcomes stand in trailers."""

    __slots__ = ()

    @property
    def is_grpc(self) -> bool:
        """Calls over HTTP/2, whose outcome stands in trailers."""
        return True

    @property
    def hides_failures(self) -> bool:
        """OK is a prediction."""
        return False

    @property
    def is_typed(self) -> bool:
        """Tensors say their names and datatypes."""
        return True

    @property
    def has_parameters(self) -> bool:
        """Not all messages have a place for them."""
        return False

    def succeeded(self, status: int, headers: Headers, body: bytes) -> bool:
        """Whether the call ended well."""
        return grpc_errors.succeeded(status, headers)

    def write_error(
        self, status: int, code: str, message: str, details: dict[str, object] | None = None
    ) -> tuple[Headers, bytes]:
        """Write an answer that is an error from its first byte; the code stands in `x-headgate-reason`."""
        return grpc_errors.write_error(status, code, message)

    def read_error(self, status: int, headers: Headers, body: bytes) -> BackendError:
        """Understand `grpc-status` and `grpc-message`."""
        return grpc_errors.read_error(status, headers)

    def is_ambiguous(self, status: int) -> bool:
        """Never by its HTTP status: trailers tell, and their words."""
        return False


def calling(path: bytes, message: bytes) -> Call:
    """Return the unary call of one message."""
    return Call(b"POST", path, [GRPC_TYPE, (b"te", b"trailers")], wire.frame(message))


def answering(message: bytes) -> tuple[Headers, bytes]:
    """Return the answer of one message that ended well."""
    return [GRPC_TYPE, (b"grpc-status", b"0")], wire.frame(message)
