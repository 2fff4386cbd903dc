"""V2's stream of predictions, taken apart into single ones and put together again.

    /inference.GRPCInferenceService/ModelStreamInfer
        stream of ModelInferRequest  ->  stream of ModelStreamInferResponse{1 error_message, 2 infer_response}

Each request is one of ModelInfer's. What became of it is its answer, or a message that begins with the
status that ModelInfer would have had; beside a message stands the id of the request, as from Triton.
"""

from __future__ import annotations

from gateway.dialects import wire
from gateway.dialects.errors import InvalidPrediction
from gateway.http.message import Headers


def path_of_one(path: bytes) -> bytes:
    """Return the path of the call for one prediction."""
    service, _, _ = path.rpartition(b"/")
    return service + b"/ModelInfer"


def answered(message: bytes) -> bytes:
    """Return what the stream says of an answer. message: a ModelInferResponse."""
    return wire.block(2, message)


def failed(headers: Headers, request: bytes, error: str) -> bytes:
    """Return what the stream says of a request that failed. request: its frame, as it came in."""
    text = error.encode("utf-8", "replace")
    return wire.block(1, text) + wire.block(2, wire.string(3, _id_of(headers, request)))


def _id_of(headers: Headers, request: bytes) -> str:
    id = ""
    try:
        for field in wire.fields(wire.unframe(headers, request)):
            if field[0] == 3:
                id = wire.text(field)
    except InvalidPrediction:
        return ""
    return id
