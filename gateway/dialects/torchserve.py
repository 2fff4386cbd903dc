"""TorchServe over HTTP; what its handlers take and give: handler_server.py.

    POST /predictions/M[/V]      GET /ping      GET /models/M[/V] (its management API, another port)

Versions are texts ("1.0") and the default one is chosen by hand. `/ping` answers 200 Healthy without one
working worker; readiness is a READY worker in the management API's description (`health: {port: 8081}`).
A POST to /v1/models/M:predict, which it has too, is read as TensorFlow Serving's; its gRPC copy of V2 is the
dialect `torchserve-grpc`. Models are registered and scaled through its own management API, not through this
gateway.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.dialects.handler_server import HandlerServer
from gateway.dialects.protocol import GETS, Operation, Target, decode_name, encode_name

_PREDICTION: Final = re.compile(rb"/predictions/([^/]+)(?:/([^/]+))?")
_MODEL: Final = re.compile(rb"/models/([^/]+)(?:/([^/]+))?")


class TorchServe(HandlerServer):
    """The dialect `torchserve`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "torchserve"

    def __repr__(self) -> str:
        return "<Dialect torchserve>"

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect."""
        if path == b"/ping":
            return Target(self, Operation.LIVE) if method in GETS else None
        match, operation = _PREDICTION.fullmatch(path), Operation.INFER
        if match is None:
            match, operation = _MODEL.fullmatch(path), Operation.STATUS
        if match is None or (method != b"POST" if operation is Operation.INFER else method not in GETS):
            return None
        raw_model, raw_version = match.groups()
        model = decode_name(raw_model)
        version = None if raw_version in (None, b"all") else decode_name(raw_version)
        if model is None or (raw_version not in (None, b"all") and version is None):
            return None
        return Target(self, operation, model, version)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The URL path of the same operation on a backend that calls the model `model`."""
        if target.operation is Operation.LIVE:
            return b"/ping"
        if target.operation is Operation.INFER:
            return self.predict_path(model, version)
        path = b"/models/" + encode_name(model)
        return path if version is None else path + b"/" + encode_name(version)
