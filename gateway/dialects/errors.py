"""What goes wrong in translation: the client's input is invalid, or a backend said no.

`InvalidPrediction` is the only exception that reading or writing a prediction raises, whatever the bytes. Its
`code` is stable and machine-readable; its text is fit for a client. Who wrote the bytes decides whose fault
it is: an `InvalidPrediction` from `read_request` is the client's, one from `read_response` the backend's.

Backends disagree on status codes: the same malformed input is 400 (Triton), 422 (MLServer) or 500 (Triton's
parser, the KServe SDK). `kind_of` re-derives the kind from status and words, so that bad input never counts
as a failure of the instance. The wordings were observed on Triton 2.51, MLServer 1.7 and KServe SDK 0.21,
and read in TensorFlow Serving's sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

MALFORMED_JSON: Final = "malformed_json"  # not JSON, or nested too deeply
DUPLICATE_KEY: Final = "duplicate_key"  # an object names a member twice
MALFORMED_REQUEST: Final = "malformed_request"  # JSON, but not the dialect's shape
WRONG_NAME: Final = "wrong_name"  # an input or output that the model has not, or one missing
WRONG_DTYPE: Final = "wrong_dtype"  # another datatype, or a value that this datatype can't hold
WRONG_SHAPE: Final = "wrong_shape"  # another rank or dimension, or ragged data
UNKNOWN_SIGNATURE: Final = "unknown_signature"  # a signature_name that the model has not
SIGNATURE_UNKNOWN: Final = "signature_unknown"  # the form can't be read before the model's signature is known
NOT_FINITE: Final = "not_finite"  # NaN or infinity where the protocol's JSON has no word for it
NOT_TEXT: Final = "not_text"  # bytes where the protocol's JSON can only carry UTF-8 text
UNSUPPORTED: Final = "unsupported"  # legal in the protocol, not done here

_STATUS: Final[Mapping[str, int]] = {
    MALFORMED_JSON: 400,
    DUPLICATE_KEY: 400,
    MALFORMED_REQUEST: 400,
    SIGNATURE_UNKNOWN: 503,
    UNSUPPORTED: 501,
}


class InvalidPrediction(Exception):
    """A prediction that can't be read, checked or written in a dialect.

    code: one of the constants above. details: extra members for the error's body (`expected`: the signature).
    """

    def __init__(self, code: str, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: Mapping[str, object] = {} if details is None else details

    @property
    def status(self) -> int:
        """The HTTP status for a client that sent it: 400 unreadable, 422 read but wrong, 501, 503."""
        return _STATUS.get(self.code, 422)


class ErrorKind(Enum):
    """What a backend's refusal means, whatever its status code."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    BACKEND = "backend"
    UNIMPLEMENTED = "unimplemented"

    @property
    def blames_instance(self) -> bool:
        """Whether the instance failed; False where any healthy instance would have answered the same."""
        return self not in (ErrorKind.INVALID, ErrorKind.NOT_FOUND, ErrorKind.UNIMPLEMENTED)

    @property
    def status(self) -> int:
        """The status this gateway gives to its own client for it."""
        return _KIND_STATUS[self]


_KIND_STATUS: Final[Mapping[ErrorKind, int]] = {
    ErrorKind.INVALID: 422,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.OVERLOADED: 503,
    ErrorKind.TIMEOUT: 504,
    ErrorKind.BACKEND: 502,
    ErrorKind.UNIMPLEMENTED: 501,
}


class BackendError(NamedTuple):
    """A backend's refusal, understood."""

    kind: ErrorKind
    message: str


_BY_STATUS: Final[Mapping[int, ErrorKind]] = {
    400: ErrorKind.INVALID,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    411: ErrorKind.INVALID,
    413: ErrorKind.INVALID,
    415: ErrorKind.INVALID,
    422: ErrorKind.INVALID,
    429: ErrorKind.OVERLOADED,
    501: ErrorKind.UNIMPLEMENTED,
    502: ErrorKind.UNAVAILABLE,
    503: ErrorKind.UNAVAILABLE,
    504: ErrorKind.TIMEOUT,
}

# Wordings that outweigh the status, in this order. Only sentences that a server says of its input, its
# queue or its models: a bare "ValueError" may as well be the model's own bug, and stays a failure.
_BY_WORDS: Final = (
    (
        re.compile(
            # Triton and TensorFlow Serving, the KServe SDK, Triton again, ONNX Runtime
            r"failed to parse the request json|unable to parse '|json parse error|"
            r"keyerror : '?(instances|inputs)|cannot reshape array|could not convert string|"
            r"unexpected shape for input|unexpected total byte size|unexpected number of elements|"
            r"got invalid dimensions for input|invalid rank for input|unexpected input data type|"
            r"invalid feed input name|"
            r"prediction failed\s+org\.pytorch\.serve",  # TorchServe over gRPC: a handler's exception
            re.IGNORECASE,
        ),
        ErrorKind.INVALID,
    ),
    (
        re.compile(r"queue (to which .* )?is full|maximum queue size|too many requests", re.IGNORECASE),
        ErrorKind.OVERLOADED,
    ),
    (re.compile(r"not ready|no available versions|unloaded", re.IGNORECASE), ErrorKind.UNAVAILABLE),
    (
        re.compile(
            r"unknown model|servable not found|unrecognized servable version label|"
            r"model(version)?notfoundexception",  # TorchServe over gRPC
            re.IGNORECASE,
        ),
        ErrorKind.NOT_FOUND,
    ),
)


def kind_of(status: int, message: str) -> ErrorKind:
    """Derive what a backend's error means from its status and its words (2,000 characters at each end)."""
    if status not in (404, 429, 501, 504):
        words = message if len(message) <= 4000 else message[:2000] + message[-2000:]
        for pattern, kind in _BY_WORDS:
            if pattern.search(words):
                return kind
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    return ErrorKind.INVALID if 400 <= status < 499 and status not in (401, 403, 409) else ErrorKind.BACKEND
