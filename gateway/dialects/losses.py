"""What a translation has to leave out: said in `x-headgate-lossy`, or refused, never dropped in silence.

    parameters          of the request or of its tensors, where the server's protocol has no place for any
    answer-parameters   of the answer or of its tensors, where the client's protocol has none
    precision           a double where Examples are answered with floats (tf_example.py)
    answer-version      TensorFlow Serving's gRPC has numbers only (tensorflow_serving_grpc.py)

The parameters of a sequence (a model that remembers) are refused where they have no place: such a model would
answer another question. All else a dialect carries as it is, the gateway keeps for it (ids, the choice of
outputs), or it refuses when it writes (docs/serving.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.dialects.canonical import ABOUT_SEQUENCES
from gateway.dialects.errors import UNSUPPORTED, InvalidPrediction
from gateway.dialects.protocol import LOSSY, Dialect
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor
from gateway.http.message import Headers

NONE: Final[tuple[str, ...]] = ()


def of_request(infer: InferRequest, theirs: Dialect) -> tuple[str, ...]:
    """Return what of a request an instance that speaks `theirs` does not get.

    Raises InvalidPrediction (unsupported) for part of a sequence.
    """
    if theirs.has_parameters or not (infer.params or _any(infer.inputs)):
        return NONE
    if not ABOUT_SEQUENCES.isdisjoint(infer.params):
        message = f"{theirs.name} has no sequences: without them the model would answer another question"
        raise InvalidPrediction(UNSUPPORTED, message)
    return ("parameters",)


def write_response(
    ours: Dialect, response: InferResponse, request: InferRequest, lost: tuple[str, ...] = NONE
) -> tuple[Headers, bytes]:
    """Write an answer as `Dialect.write_response` does, and say in its header what was left out.

    lost: of the request, on its way there.
    """
    headers, body = ours.write_response(response, request)
    if not ours.has_parameters and (response.params or _any(response.outputs)):
        lost = (*lost, "answer-parameters")
    return ([*headers, (LOSSY, ", ".join(lost).encode())] if lost else headers), body


def _any(tensors: Iterable[Tensor]) -> bool:
    return any(tensor.params for tensor in tensors)
