"""TorchServe's copy of V2 over gRPC (`TS_OPEN_INFERENCE_PROTOCOL=oip`): the same messages, another service.

It makes V2's JSON of a request for the model's handler, and an answer of the JSON that comes back. So it
reads typed contents only, and typed ones are written: FP16 has none. It has no word for NaN and infinities,
and prints unsigned numbers as signed ones (4294967295 becomes -1): both are refused. Parameters, signatures'
names and the choice of outputs do not reach the handler. BYTES go to it in base64; texts in its answer come
back in JSON's quotes, which are taken off, and put on for its clients. Its metadata names no tensors:
`signature:` in the pool does.

A handler's exception is UNAVAILABLE "Prediction failed", what is unknown INTERNAL: errors.py reads the words.

Source: pytorch/serve `OpenInferenceProtocolImpl.java`; TorchServe 0.12 as it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from gateway.dialects import wire
from gateway.dialects.errors import NOT_FINITE, UNSUPPORTED, WRONG_DTYPE, InvalidPrediction
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.kserve_v2_grpc import KServeV2Grpc
from gateway.dialects.kserve_v2_messages import has_typed, write_typed
from gateway.dialects.metadata import Signature
from gateway.dialects.over_grpc import answering, calling
from gateway.dialects.protocol import Call, Operation, wanted
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor, is_finite
from gateway.http.message import Headers

SERVICE: Final = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
_LARGEST: Final = {"UINT32": (1 << 31) - 1, "UINT64": (1 << 63) - 1}


class TorchServeGrpc(KServeV2Grpc):
    """The dialect `torchserve-grpc`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("torchserve-grpc", SERVICE)

    @property
    def has_parameters(self) -> bool:
        """They do not reach the handler."""
        return False

    def write_request(self, infer: InferRequest, model: str, version: str | None) -> Call:
        """Write a prediction with typed contents.

        Raises InvalidPrediction: not_finite, wrong_dtype, unsupported (a signature's name).
        """
        if infer.signature:
            raise InvalidPrediction(UNSUPPORTED, "TorchServe knows no signatures but the default one")
        for tensor in infer.inputs:
            _require_exact(tensor)
        head = wire.string(1, model) + wire.string(2, version or "") + wire.string(3, infer.id or "")
        return calling(self.path_of(Operation.INFER), head + write_typed(5, infer.inputs))

    def read_response(self, headers: Headers, body: bytes, signature: Signature | None) -> InferResponse:
        """Read a backend's answer; texts without the quotes that TorchServe leaves around them."""
        said = super().read_response(headers, body, signature)
        return replace(said, outputs=tuple([_changed(tensor, _unquoted) for tensor in said.outputs]))

    def write_response(self, response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
        """Write a prediction as TorchServe does: typed (raw where one output can't be), texts in quotes."""
        outputs = tuple([_changed(tensor, _quoted) for tensor in wanted(response, request)])
        if not all(map(has_typed, outputs)):
            return super().write_response(replace(response, outputs=outputs), request)
        version = response.version or request.version or ""
        head = wire.string(1, request.model) + wire.string(2, version) + wire.string(3, request.id or "")
        return answering(head + write_typed(5, outputs))


def _require_exact(tensor: Tensor) -> None:
    name, data = tensor.name, tensor.data
    if not is_finite(tensor):
        raise InvalidPrediction(
            NOT_FINITE, f"{name!r} holds NaN or infinity, which TorchServe has no word for"
        )
    largest = _LARGEST.get(tensor.dtype)
    if largest is not None and not isinstance(data, list) and data.size and int(data.max()) > largest:
        raise InvalidPrediction(
            WRONG_DTYPE, f"{name!r} holds a number beyond {largest}, which TorchServe would make negative"
        )


def _changed(tensor: Tensor, change: Callable[[bytes], bytes]) -> Tensor:
    """Return the tensor with all byte strings changed."""
    if not isinstance(tensor.data, list):
        return tensor
    return replace(tensor, data=[change(element) for element in tensor.data])


def _quoted(element: bytes) -> bytes:
    try:
        return write_json(element.decode())
    except UnicodeDecodeError:
        return element  # the handler's JSON could not have held it


def _unquoted(element: bytes) -> bytes:
    if len(element) < 2 or element[:1] != b'"' or element[-1:] != b'"':
        return element
    try:
        text = read_json(element)
    except InvalidPrediction:
        return element
    return text.encode() if type(text) is str else element
