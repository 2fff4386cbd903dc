"""Every reader of every dialect, on the same bytes: as a client's request, a server's answer, its metadata.

Law: a reader returns, or raises InvalidPrediction; `read_error`, `read_ready` and `succeeded` return. What
was read can be written by its own dialect, or is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gateway.dialects import kserve_v2_stream, wire
from gateway.dialects.catalogue import DIALECTS
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.protocol import Dialect, Operation, Target
from gateway.dialects.tensors import NOTHING, InferRequest, InferResponse, Tensor

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1,))), (TensorSpec("y", "INT64", (-1,)),)
)
CLASSES = Signature(SIGNATURE.inputs, (TensorSpec("y", "FP32", (-1, 1)),))
EXAMPLES = ("tensorflow-serving", "tensorflow-serving-grpc")
JSON = [(b"content-type", b"application/json")]


def read_everything(data: bytes) -> str:
    """Return how each reader of each dialect read it."""
    return "; ".join(f"{one.name}: {_read(one, data)}" for one in DIALECTS)


def _read(dialect: Dialect, data: bytes) -> str:
    body = wire.frame(data) if dialect.is_grpc else data
    target = Target(dialect, Operation.INFER, "m", inside=dialect.is_grpc)
    shown = []
    for signature in (None, SIGNATURE):
        shown.append(_tried(lambda s=signature: _again(dialect, dialect.read_request(target, JSON, body, s))))
        shown.append(_tried(lambda s=signature: _names(dialect.read_response(JSON, body, s).outputs)))
    shown.append(_tried(lambda: dialect.read_metadata(body).signature.render()))
    shown.append(_tried(lambda: dialect.locate(target, [], data).model))
    shown.append(_tried(lambda: str(len(dialect.renamed(target, [], body, "other", "1")))))
    for operation in (Operation.CLASSIFY, Operation.REGRESS) if dialect.name in EXAMPLES else ():
        examples = Target(dialect, operation, "m", inside=dialect.is_grpc)
        shown.append(_tried(lambda t=examples: _names(dialect.read_request(t, JSON, body, CLASSES).inputs)))
    if dialect.name == "paddle-serving":
        message = [(b"content-type", b"application/proto")]
        shown.append(_tried(lambda: _again(dialect, dialect.read_request(target, message, body, None))))
    kserve_v2_stream.failed(JSON, data, "error")
    dialect.read_error(500, JSON, body)
    dialect.succeeded(200, JSON, body)
    dialect.read_ready(200, body)
    return " ".join(shown)


def _tried(read: Callable[[], str]) -> str:
    try:
        return read()
    except InvalidPrediction as refused:
        return refused.code


def _names(tensors: tuple[Tensor, ...]) -> str:
    return repr([(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors])


def _again(dialect: Dialect, infer: InferRequest) -> str:
    written = _tried(lambda: str(len(dialect.write_request(infer, "m", None).body)))
    return f"{_names(infer.inputs)} {written}"


def seeds() -> list[bytes]:
    """Requests and answers of every dialect, as they write them themselves."""
    x = Tensor("x", "FP32", (2, 2), np.array([[0.5, -1], [3e38, 0]], np.float32))
    s = Tensor("s", "BYTES", (2,), [b"one", b""])
    y = Tensor("y", "INT64", (2,), np.array([-(2**63), 7]))
    infer = InferRequest("i", "m", "1", None, "", (x, s), ("y",), NOTHING, "binary")
    answer = InferResponse("i", "m", "1", (y,), {"n": 1, "f": 0.5, "t": "x", "b": True})
    found = []
    for dialect in DIALECTS:
        bodies = [dialect.write_request(infer, "m", "1").body, dialect.write_response(answer, infer)[1]]
        bodies.append(dialect.write_metadata("m", ["1"], SIGNATURE, "1")[1])
        found += [body[5:] if dialect.is_grpc else body for body in bodies]
    found += [
        b'{"examples":[{"x":[0.5,-1],"s":"a"},{"x":[1,2]}],"context":{"s":{"b64":"/w=="}}}',
        wire.block(
            2, wire.block(1, wire.block(1, b"\n\x11\n\x0f\n\x01x\x12\n\x12\x08\n\x06\x00\x00\x00?\x00\x00"))
        ),
        b'{"code":503,"type":"InternalServerException","message":"Prediction failed"}',
        b'{"err_no":5000,"err_msg":"bad","key":[],"value":[],"tensors":[]}',
        b'{"key":["x"],"value":["[[nan, 1]]"],"tensors":'
        b'[{"name":"s","elem_type":12,"shape":[1],"str_data":["a"]}]}',
        _typed(b"\x32\x08\x00\x00\x80?\x00\x00\x00@", "FP32"),  # fp32_contents, packed
        _typed(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10\x05", "INT8"),  # int_contents, one by one
        b"\n\x03\n\x01m\x12\x12\n\x01x\x12\r\x08\x01\x12\x04\x12\x02\x08\x02*\x04\x00\x00\x80?",  # float_val
    ]
    return found


def _typed(contents: bytes, dtype: str) -> bytes:
    tensor = wire.string(1, "x") + wire.string(2, dtype) + wire.packed(3, (1, 2)) + wire.block(5, contents)
    return wire.string(1, "m") + wire.block(5, tensor)
