"""multi-model-server (MMS) over HTTP, and SageMaker's form of it; what its handlers take and give:
handler_server.py.

    POST /predictions/M      POST /models/M/invoke      POST /invocations      GET /ping      GET /models/M

A model has one version, and no URL names it. `/invocations` names no model either: it is for the only model
that this gateway serves, and refused where there are several. Readiness is a READY worker in the management
API's description of the model (`health: {port: 8081}`).
"""

from __future__ import annotations

import re
from typing import Final

from gateway.dialects.handler_server import HandlerServer
from gateway.dialects.protocol import GETS, Operation, Target, decode_name, encode_name

_PREDICTION: Final = re.compile(rb"/(?:predictions/([^/]+)|models/([^/]+)/invoke)")
_MODEL: Final = re.compile(rb"/models/([^/]+)")


class MultiModelServer(HandlerServer):
    """The dialect `multi-model-server`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The word for it in a policy's `speaks:`."""
        return "multi-model-server"

    def __repr__(self) -> str:
        return "<Dialect multi-model-server>"

    def recognise(self, method: bytes, path: bytes) -> Target | None:
        """Say what a request wants, or None when the URL is not of this dialect."""
        if path == b"/ping":
            return Target(self, Operation.LIVE) if method in GETS else None
        if path == b"/invocations":
            return Target(self, Operation.INFER) if method == b"POST" else None
        match, operation = _PREDICTION.fullmatch(path), Operation.INFER
        if match is None:
            match, operation = _MODEL.fullmatch(path), Operation.STATUS
        if match is None or (method != b"POST" if operation is Operation.INFER else method not in GETS):
            return None
        model = decode_name(next(raw for raw in match.groups() if raw is not None))
        return None if model is None else Target(self, operation, model)

    def predict_path(self, model: str, version: str | None) -> bytes:
        """The path of a prediction; it names no version."""
        return b"/predictions/" + encode_name(model)

    def path_for(self, target: Target, model: str, version: str | None) -> bytes:
        """The URL path of the same operation on a backend that calls the model `model`."""
        if target.operation is Operation.LIVE:
            return b"/ping"
        if target.operation is Operation.INFER:
            return self.predict_path(model, version)
        return b"/models/" + encode_name(model)
