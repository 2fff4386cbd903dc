"""The hub's contract: what a serving protocol must be able to do to be translated from and to every other.

A dialect is one file with one stateless object. It knows its URLs, its bodies and its errors, and turns them
into the neutral form of `tensors.py` and back; it knows no other dialect. It never sees sockets, policies or
pools.

Translation is the exception. When client and backend speak the same dialect, bytes are forwarded unchanged
and only the URL is rewritten (`path_for`); the body is read at most once, and only if a policy asks for
rows, a canonical key or validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes

from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    UNSUPPORTED,
    WRONG_NAME,
    BackendError,
    InvalidPrediction,
    kind_of,
)
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.metadata import Metadata, Signature
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor
from gateway.http.message import Headers, find


class Operation(Enum):
    """What a client wants of a model server."""

    INFER = "infer"
    CLASSIFY = "classify"  # TensorFlow's tf.Example API (tf_example.py)
    REGRESS = "regress"
    METADATA = "metadata"
    STATUS = "status"  # the states of a model's versions
    READY = "ready"  # of a model
    LIVE = "live"  # of the server
    SERVER_READY = "server_ready"
    SERVER_METADATA = "server_metadata"
    STREAM = "stream"  # predictions one after another in one call
    RELOAD = "reload"  # of a server's models
    EXPLAIN = "explain"  # KServe V1
    MODELS = "models"  # the list of them


EXAMPLES: Final = frozenset((Operation.CLASSIFY, Operation.REGRESS))


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL of a dialect names.

    model: "" for the server's own operations. inside: the URL names none, but the message does
    (`Dialect.locate`).
    """

    dialect: Dialect
    operation: Operation
    model: str = ""
    version: str | None = None
    label: str | None = None
    inside: bool = False


class Call(NamedTuple):
    """A request to a backend, without Host and Content-Length."""

    method: bytes
    path: bytes
    headers: Headers
    body: bytes


class Answer(NamedTuple):
    """A response to a client, without Content-Length."""

    status: int
    headers: Headers
    body: bytes


class VersionState(NamedTuple):
    """A version of a model. state: TensorFlow's START, LOADING, AVAILABLE, UNLOADING, END or UNKNOWN."""

    version: str
    state: str = "AVAILABLE"
    message: str = ""


class Dialect(Protocol):
    """One serving protocol over HTTP; gRPC's over HTTP/2.

    Where `is_grpc`, the headers given to `succeeded` and `read_error` hold the trailers too, and those of a
    written answer its `grpc-status`, which goes out behind the body.

    All readers raise InvalidPrediction and nothing else, whatever the bytes; `recognise`, `read_error` and
    `read_ready` never raise.
    """

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        ...

    @property
    def is_grpc(self) -> bool:
        """Calls over HTTP/2, whose outcome stands in trailers."""
        ...

    @property
    def is_typed(self) -> bool:
        """Whether its answers name tensors and datatypes; else they can't be read without a signature."""
        ...

    @property
    def has_parameters(self) -> bool:
        """Whether a prediction, a tensor and an answer may say more than tensors (V2's `parameters`)."""
        ...

    @property
    def hides_failures(self) -> bool:
        """Whether an answer that looks like a success may be none: its body tells (`succeeded`)."""
        ...

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect. path: without the query."""
        ...

    def locate(self, target: Target, headers: Headers, body: bytes) -> Target:
        """Read from the whole body which model a target is about that is named inside.

        Raises InvalidPrediction.
        """
        ...

    def renamed(
        self, target: Target, headers: Headers, body: bytes, model: str, version: str | None
    ) -> bytes:
        """The same request for a backend that calls the model `model`, where the body names it."""
        ...

    def read_request(
        self, target: Target, headers: Headers, body: bytes, signature: Signature | None
    ) -> InferRequest:
        """Read a client's prediction. signature: the model's, None if unknown (then JSON without datatypes
        is refused as signature_unknown)."""
        ...

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction for a backend that calls the model `model`.

        Version None: the backend chooses.
        """
        ...

    def succeeded(self, status: int, headers: Headers, body: bytes) -> bool:
        """Whether a whole answer is a prediction; else `read_error` says what it is."""
        ...

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's success. signature: the one used, i.e. `signature.named(request.signature)`."""
        ...

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction for the client that sent `request`: its id, its style, the outputs it wanted."""
        ...

    def write_error(
        self, status: int, code: str, message: str, details: dict[str, object] | None = None
    ) -> tuple[Headers, bytes]:
        """Write an error as this dialect's clients expect it, with the stable `code` as one more member."""
        ...

    def read_error(self, status: int, headers: Headers, body: bytes) -> BackendError:
        """Understand a backend's answer that is no success."""
        ...

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The URL path of the same operation on a backend that calls the model `model`.

        The label is resolved by the gateway, so it is never written; version None writes no version.
        """
        ...

    def is_ambiguous(self, status: int) -> bool:
        """Whether only the body tells if this status means a failure or the client's mistake."""
        ...

    def metadata_request(self, model: str, version: str | None) -> Call:
        """Ask a backend for a model's signature."""
        ...

    def read_metadata(self, body: bytes) -> Metadata:
        """Read a backend's answer to `metadata_request`."""
        ...

    def write_metadata(
        self, model: str, versions: Sequence[str], signature: Signature, version: str = ""
    ) -> tuple[Headers, bytes]:
        """Describe a model. versions: ascending. version: whose signature it is; default the newest."""
        ...

    def write_status(self, target: Target, states: Sequence[VersionState]) -> Answer:
        """Answer STATUS or READY about a model from the states of its versions (empty: no such model)."""
        ...

    def write_server(self, target: Target, ready: bool, name: str, version: str) -> Answer:
        """Answer LIVE, SERVER_READY or SERVER_METADATA for this gateway."""
        ...

    def health_path(self, model: str) -> bytes:
        """The path to ask to learn whether a backend can serve the model ("": the server itself)."""
        ...

    def health_request(self, model: str) -> Call:
        """What to ask there: a GET, or a call."""
        ...

    def read_ready(self, status: int, body: bytes) -> bool:
        """Whether the answer to `health_path` means ready."""
        ...


class OverHttp:
    """What all dialects have in common whose URLs name the model and whose statuses say how it went."""

    __slots__ = ()

    @property
    def is_grpc(self) -> bool:
        """Calls over HTTP/2, whose outcome stands in trailers."""
        return False

    @property
    def hides_failures(self) -> bool:
        """A 200 is a prediction."""
        return False

    @property
    def has_parameters(self) -> bool:
        """Most protocols have no place for them."""
        return False

    @property
    def is_typed(self) -> bool:
        """Most JSON has neither names nor datatypes."""
        return False

    def locate(self, target: Target, headers: Headers, body: bytes) -> Target:
        """Return the target: its URL said it."""
        return target

    def renamed(
        self, target: Target, headers: Headers, body: bytes, model: str, version: str | None
    ) -> bytes:
        """Return the body: it names no model."""
        return body

    def succeeded(self, status: int, headers: Headers, body: bytes) -> bool:
        """Whether the status is 200."""
        return status == 200

    def write_error(
        self, status: int, code: str, message: str, details: dict[str, object] | None = None
    ) -> tuple[Headers, bytes]:
        """Write `{"error": message, "code": code}` with the details as further members."""
        return [JSON_TYPE], write_json({**(details or {}), "error": message, "code": code})

    def read_error(self, status: int, headers: Headers, body: bytes) -> BackendError:
        """Understand `{"error": ...}`, FastAPI's `{"detail": ...}` or plain text."""
        return understand(status, body)

    def is_ambiguous(self, status: int) -> bool:
        """500: Triton's parser, the KServe SDK and others say so of a client's mistake."""
        return status == 500


JSON_TYPE: Final = (b"content-type", b"application/json")
GRPC_TYPE: Final = (b"content-type", b"application/grpc")
LOSSY: Final = b"x-headgate-lossy"  # what of a prediction or its answer had no place (losses.py)
GETS: Final = frozenset((b"GET", b"HEAD"))


def decode_name(raw: bytes, forbidden: str = "/") -> str | None:
    """Percent-decode a name in a path.

    None if it is no plain UTF-8 or holds a control or forbidden character.
    """
    if b"%" not in raw and raw.isalnum():
        return raw.decode()
    try:
        name = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return None
    if name in ("", ".", "..") or not name.isprintable() or any(sign in name for sign in forbidden):
        return None
    return name


def encode_name(name: str) -> bytes:
    """Percent-encode a name for a path, `/` and `:` included."""
    return quote(name, safe="").encode()


def require_infer(target: Target, headers: Headers) -> None:
    """Refuse what is recognised but not read: other operations, compressed bodies."""
    if target.operation is not Operation.INFER:
        raise InvalidPrediction(
            UNSUPPORTED,
            f"the operation {target.operation.value!r} is not supported; use a prediction instead",
        )
    require_plain(headers)


def require_plain(headers: Headers) -> None:
    """Refuse a body that is compressed still; raises InvalidPrediction (unsupported)."""
    encoding = find(headers, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise InvalidPrediction(
            UNSUPPORTED, "compressed request bodies can't be read here; send it uncompressed"
        )


def require_object(document: object) -> dict[str, object]:
    """Return the document if it is an object; raises InvalidPrediction (malformed_request)."""
    if type(document) is not dict:
        raise InvalidPrediction(MALFORMED_REQUEST, "the body must be a JSON object")
    return document


def require_text(name: str, value: object) -> str:
    """Return a member that must be a string; raises InvalidPrediction (malformed_request)."""
    if type(value) is not str:
        raise InvalidPrediction(MALFORMED_REQUEST, f"{name} must be a string")
    return value


def require_number(version: str | None) -> None:
    """Refuse a version that TensorFlow Serving could not have; raises InvalidPrediction (unsupported)."""
    if version is not None and not (version.isascii() and version.isdigit() and len(version) <= 18):
        raise InvalidPrediction(
            UNSUPPORTED, f"TensorFlow Serving's versions are numbers, and {version!r:.60} is none"
        )


def wanted(response: InferResponse, request: InferRequest) -> tuple[Tensor, ...]:
    """The outputs the client asked for, in its order.

    Raises InvalidPrediction (wrong_name) if one is missing.
    """
    if request.outputs is None:
        return response.outputs
    present = {tensor.name: tensor for tensor in response.outputs}
    for name in request.outputs:
        if name not in present:
            raise InvalidPrediction(WRONG_NAME, f"the answer has no output {name!r}")
    return tuple(present[name] for name in request.outputs)


def getting(path: bytes) -> Call:
    """Return a GET."""
    return Call(b"GET", path, [], b"")


def of_version(target: Target, states: Sequence[VersionState]) -> Sequence[VersionState]:
    """The states of the version that was asked about; of all where none was named."""
    return [each for each in states if target.version in (None, each.version)]


def understand(status: int, body: bytes) -> BackendError:
    """Read an error from JSON (`error`, or FastAPI's `detail`) or plain text; never raises."""
    message = ""
    try:
        document = read_json(body[:65536])
        if type(document) is dict:
            said = document.get("error", document.get("detail", ""))
            message = said if type(said) is str else repr(said) if said else ""
    except InvalidPrediction:
        message = body[:65536].decode("utf-8", "replace").strip()
    kind = kind_of(status, message)
    if "Traceback (most recent call last)" in message:  # MLServer; the last line says what, the others where
        message = message.rstrip().rpartition("\n")[2]
    return BackendError(kind, message[:2000] or f"the backend answered {status}")
