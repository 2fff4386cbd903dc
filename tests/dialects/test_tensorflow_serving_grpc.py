"""TensorFlow Serving over gRPC: bytes that tensorflow-serving-api 2.21 wrote, read and written again."""

from __future__ import annotations

import pytest

from gateway.dialects import wire
from gateway.dialects.catalogue import TENSORFLOW_SERVING_GRPC as DIALECT
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.protocol import Operation, Target, VersionState
from tests.dialects.models import a_request, a_response, a_tensor

REQUEST = bytes.fromhex("0a0e0a016d120208071a056f7468657212130a0178120e08011204120208022a040000c03f1a0179")
BY_LABEL = bytes.fromhex("0a0b0a016d2206737461626c65")
ANSWER = bytes.fromhex(
    "0a190a017912140809120412020801520afdffffffffffffffff0112180a016d120208071a0f73657276696e675f64656661756c74"
)
METADATA = bytes.fromhex(
    "0a070a016d1202080712b8010a0d7369676e61747572655f64656612a6010a36747970652e676f6f676c65617069732e636f6d2f"
    "74656e736f72666c6f772e73657276696e672e5369676e61747572654465664d6170126c0a270a155f5f73617665645f6d6f6465"
    "6c5f696e69745f6f70120e120c0a025f5f12060a044e6f4f700a410a0f73657276696e675f64656661756c74122e0a1f0a0178"
    "121a0a03783a3010011a11120b08ffffffffffffffffff0112020802120b0a0179120610091a021801"
)
STATUS = bytes.fromhex("0a060807101e1a00")
PREDICT = Target(DIALECT, Operation.INFER, inside=True)


def test_a_request_is_found_and_read() -> None:
    body = wire.frame(REQUEST)
    target = DIALECT.locate(PREDICT, [], body)
    assert (target.model, target.version, target.label) == ("m", "7", None)
    infer = DIALECT.read_request(target, [], body, None)
    assert (infer.signature, infer.outputs) == ("other", ("y",))
    (x,) = infer.inputs
    assert (x.name, x.dtype, x.data.tolist()) == ("x", "FP32", [1.5, 1.5])  # type: ignore[union-attr]
    label = DIALECT.locate(PREDICT, [], wire.frame(BY_LABEL))
    assert (label.version, label.label) == (None, "stable")


def test_a_request_renamed_keeps_all_but_the_name_and_the_version() -> None:
    body = wire.frame(REQUEST)
    renamed = DIALECT.renamed(PREDICT, [], body, "inner", "8")
    target = DIALECT.locate(PREDICT, [], renamed)
    assert (target.model, target.version) == ("inner", "8")
    assert DIALECT.read_request(target, [], renamed, None).signature == "other"
    assert DIALECT.renamed(PREDICT, [], renamed, "m", "7") == body


def test_an_answer_is_read_and_written_with_the_version() -> None:
    answer = DIALECT.read_response([], wire.frame(ANSWER), None)
    assert (answer.model, answer.version) == ("m", "7")
    assert answer.outputs[0].data.tolist() == [-3]  # type: ignore[union-attr]
    _, body = DIALECT.write_response(answer, a_request(model="m"))
    assert DIALECT.read_response([], body, None).version == "7"
    other = a_response(a_tensor("y", "FP32", [1]), version="1.0")  # no int64: left out
    assert DIALECT.read_response([], DIALECT.write_response(other, a_request())[1], None).version == ""


def test_metadata_leaves_out_what_is_no_signature() -> None:
    told = DIALECT.read_metadata(wire.frame(METADATA))
    expected = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "INT64", None),))
    assert (told.signature, told.versions) == (expected, ("7",))
    _, body = DIALECT.write_metadata("m", ["7"], expected)
    assert DIALECT.read_metadata(body) == told


def test_a_model_is_ready_while_a_version_is_available() -> None:
    assert DIALECT.read_ready(200, wire.frame(STATUS))
    assert not DIALECT.read_ready(200, wire.frame(b""))
    asked = Target(DIALECT, Operation.STATUS, "m")
    assert DIALECT.write_status(asked, [VersionState("7")]).body == wire.frame(STATUS)
    assert DIALECT.write_status(asked, [VersionState("1.0")]).status == 404


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        (b"/tensorflow.serving.PredictionService/Predict", Operation.INFER),
        (b"/tensorflow.serving.PredictionService/Classify", Operation.CLASSIFY),
        (b"/tensorflow.serving.ModelService/GetModelStatus", Operation.STATUS),
        (b"/tensorflow.serving.ModelService/HandleReloadConfigRequest", Operation.RELOAD),
    ],
)
def test_calls(path: bytes, operation: Operation) -> None:
    target = DIALECT.recognise(b"POST", path)
    assert target is not None
    assert target.operation is operation
    assert DIALECT.recognise(b"GET", path) is None


def test_what_would_reload_the_server_is_refused() -> None:
    answer = DIALECT.write_server(Target(DIALECT, Operation.RELOAD), True, "headgate", "1")
    assert (b"grpc-status", b"12") in answer.headers
