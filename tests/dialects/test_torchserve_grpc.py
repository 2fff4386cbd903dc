"""TorchServe's copy of V2 over gRPC: what the real server (0.12) reads, says and leaves out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.dialects import wire
from gateway.dialects.catalogue import KSERVE_V2_GRPC
from gateway.dialects.catalogue import TORCHSERVE_GRPC as DIALECT
from gateway.dialects.errors import ErrorKind
from gateway.dialects.tensors import NUMPY, Tensor
from tests.dialects.models import a_request, a_response, a_tensor, assert_same, caught, tensors
from tests.dialects.test_kserve_v2_grpc import VALUES

PATH = b"/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelInfer"


def test_the_service_has_a_name_of_its_own() -> None:
    call = DIALECT.write_request(a_request(a_tensor("x", "FP32", [1])), "m", None)
    assert call.path == PATH
    assert DIALECT.recognise(b"POST", PATH) is not None
    assert KSERVE_V2_GRPC.recognise(b"POST", PATH) is None


@pytest.mark.parametrize("dtype", VALUES)
def test_typed_contents_are_written_for_it_reads_no_others(dtype: str) -> None:
    field, values = VALUES[dtype]
    if dtype in ("UINT32", "UINT64"):
        values = [0, values[1] // 2]
    data = values if dtype == "BYTES" else np.array(values, NUMPY[dtype])
    tensor = Tensor("x", dtype, (2,), data)
    call = DIALECT.write_request(a_request(tensor, id="7"), "m", "1.0")
    asked = service_pb2.ModelInferRequest.FromString(call.body[5:])
    assert (asked.model_name, asked.model_version, asked.id) == ("m", "1.0", "7")
    assert list(getattr(asked.inputs[0].contents, field)) == values
    assert not asked.raw_input_contents
    _, body = DIALECT.write_response(a_response(tensor), a_request(id="7"))
    answer = service_pb2.ModelInferResponse.FromString(body[5:])
    told = values if dtype != "BYTES" else [b"\xff\x00", b'""']  # text in quotes, as its clients know it
    assert list(getattr(answer.outputs[0].contents, field)) == told


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        pytest.param(a_tensor("x", "FP32", [np.nan]), "not_finite", id="NaN: UNKNOWN without a word"),
        pytest.param(a_tensor("x", "FP16", [1]), "wrong_dtype", id="no typed contents"),
        pytest.param(a_tensor("x", "UINT32", [2**31]), "wrong_dtype", id="-2147483648 there"),
        pytest.param(a_tensor("x", "UINT64", [2**64 - 1]), "wrong_dtype", id="-1 there"),
    ],
)
def test_what_it_would_change_is_refused(tensor: Tensor, code: str) -> None:
    refused = caught(lambda: DIALECT.write_request(a_request(tensor), "m", None))
    assert refused is not None
    assert (refused.code, refused.status) == (code, 422)


@given(st.lists(st.text(max_size=4).map(str.encode) | st.binary(max_size=4), min_size=1, max_size=3))
def test_texts_are_the_same_behind_their_quotes(texts: list[bytes]) -> None:
    for more in ((), (a_tensor("h", "FP16", [1]),)):
        tensor = Tensor("y", "BYTES", (len(texts),), texts)
        headers, body = DIALECT.write_response(a_response(tensor, *more), a_request())
        assert DIALECT.read_response(headers, body, None).outputs[0].data == texts


def test_a_half_goes_raw_to_its_clients() -> None:
    half = a_tensor("y", "FP16", [6e-8])
    headers, body = DIALECT.write_response(a_response(half), a_request())
    assert_same(DIALECT.read_response(headers, body, None).outputs[0], half)


@given(tensors("x", finite=True))
def test_a_request_is_carried_or_refused(tensor: Tensor) -> None:
    refused = caught(lambda: DIALECT.write_request(a_request(tensor), "m", None))
    if refused is None:
        call = DIALECT.write_request(a_request(tensor), "m", None)
        target = DIALECT.locate(DIALECT.recognise(b"POST", PATH), [], call.body)  # type: ignore[arg-type]
        assert_same(DIALECT.read_request(target, [], call.body, None).inputs[0], tensor)
    else:
        assert tensor.dtype in ("FP16", "UINT32", "UINT64")


@pytest.mark.parametrize(
    ("said", "text"),
    [(b'"cat"', b"cat"), (b'"gr\\u00fcn"', "grün".encode()), (b'""', b""), (b"cat", b"cat"), (b'"', b'"')],
)
def test_texts_come_back_without_the_quotes_of_json(said: bytes, text: bytes) -> None:
    answer = service_pb2.ModelInferResponse(model_name="m")
    answer.outputs.add(name="y", datatype="BYTES", shape=[1]).contents.bytes_contents.append(said)
    read = DIALECT.read_response([], wire.frame(answer.SerializeToString()), None)
    assert read.outputs[0].data == [text]


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (14, b"Prediction failed\norg.pytorch.serve.http.InternalServerException", ErrorKind.INVALID),
        (
            13,
            b"Model not found: x\norg.pytorch.serve.archive.model.ModelNotFoundException",
            ErrorKind.NOT_FOUND,
        ),
        (
            13,
            b"Model version: 9 does not exist for model: double\n"
            b"org.pytorch.serve.archive.model.ModelVersionNotFoundException",
            ErrorKind.NOT_FOUND,
        ),
        (14, b'Model "double" has no worker to serve inference request', ErrorKind.UNAVAILABLE),
        (2, b"", ErrorKind.BACKEND),
    ],
)
def test_its_words_say_who_is_to_blame(status: int, message: bytes, kind: ErrorKind) -> None:
    headers = [(b"grpc-status", b"%d" % status), (b"grpc-message", message.replace(b"\n", b"%0A"))]
    assert DIALECT.read_error(200, headers, b"").kind is kind
