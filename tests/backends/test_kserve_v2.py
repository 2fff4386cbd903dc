from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import orjson
import pytest
from onnx import TensorProto

from backends.errors import EngineFailure, Invalid, MethodNotAllowed, NotFound
from backends.kserve_v2 import HEADER_LENGTH, KServeV2
from backends.messages import Reply
from backends.tensors import Array
from tests.backends.conftest import Loader
from tests.backends.models import DIGITS, adder, echo, logarithm, put

X = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
LEFT = {"name": "left", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
RIGHT = {"name": "right", "datatype": "FP32", "shape": [1, 2], "data": [[3, 4]]}


def infer(
    dialect: KServeV2, name: str, request: object, raw: bytes = b"", headers: Mapping[str, str] | None = None
) -> Reply:
    """Read, run and write one request without the queue."""
    header = request if isinstance(request, bytes) else orjson.dumps(request)
    served = dialect.find(f"/v2/models/{name}/infer")
    fields = {HEADER_LENGTH: str(len(header))} if raw else {}
    inference = dialect.read(header + raw, {**fields, **(headers or {})}, served)
    return dialect.write(served, inference, served.engine.run(inference.inputs))


def json_of(reply: Reply) -> object:
    return orjson.loads(reply.body)


@pytest.fixture
async def dialect(load: Loader, tmp_path: Path) -> KServeV2:
    put(tmp_path, "add", "1", adder())
    put(tmp_path, "add", "2", adder())
    put(tmp_path, "log", "1", logarithm())
    put(tmp_path, "text", "1", echo(TensorProto.STRING))
    put(tmp_path, "half", "1", echo(TensorProto.FLOAT16))
    put(tmp_path, "flags", "1", echo(TensorProto.BOOL))
    put(tmp_path, "one", "1", echo(TensorProto.FLOAT, [2]))
    return KServeV2(load(tmp_path), "0.1")


def test_health_and_metadata(dialect: KServeV2) -> None:
    assert json_of(dialect.get("/v2/health/live", True)) == {"live": True}
    assert json_of(dialect.get("/v2/health/ready", True)) == {"ready": True}
    assert dialect.get("/v2/health/ready", False).status == 503
    assert dialect.get("/v2/health/live", False).status == 200
    assert json_of(dialect.get("/v2", True)) == {
        "name": "headgate-backend",
        "version": "0.1",
        "extensions": ["binary_tensor_data", "model_repository"],
    }
    assert json_of(dialect.get("/v2/models/add", True)) == {
        "name": "add",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "left", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "right", "datatype": "FP32", "shape": [-1, 2]},
        ],
        "outputs": [{"name": "sum", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert json_of(dialect.get("/v2/models/add/versions/2/ready", True)) == {"name": "add", "ready": True}
    assert dialect.get("/v2/models/add/ready", False).status == 503


@pytest.mark.parametrize(
    "path", ["/v2/models/nope", "/v2/models/add/versions/9/ready", "/v2/nothing", "/v2/models/add/explain"]
)
def test_unknown_urls_models_and_versions_are_not_found(dialect: KServeV2, path: str) -> None:
    with pytest.raises(NotFound):
        dialect.get(path, True)


def test_the_method_belongs_to_the_url(dialect: KServeV2) -> None:
    with pytest.raises(MethodNotAllowed, match="use POST"):
        dialect.get("/v2/models/add/infer", True)
    with pytest.raises(MethodNotAllowed, match="use GET"):
        dialect.find("/v2/models/add/ready")


def test_flat_and_nested_data_give_the_same_answer_with_id_only_if_sent(dialect: KServeV2) -> None:
    assert json_of(infer(dialect, "add", {"id": "a1", "inputs": [LEFT, RIGHT]})) == {
        "model_name": "add",
        "model_version": "2",
        "id": "a1",
        "outputs": [{"name": "sum", "datatype": "FP32", "shape": [1, 2], "data": [4, 6]}],
    }
    assert "id" not in json_of(infer(dialect, "add", {"inputs": [RIGHT, LEFT]}))


def test_the_version_in_the_url_chooses(dialect: KServeV2) -> None:
    assert dialect.find("/v2/models/add/versions/1/infer").version == "1"


async def test_only_the_outputs_asked_for_come_back_in_their_order(load: Loader) -> None:
    dialect = KServeV2(load(DIGITS), "0.1")
    pixels = {"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}
    for names in (["label"], ["label", "probabilities"]):
        reply = json_of(
            infer(dialect, "digits", {"inputs": [pixels], "outputs": [{"name": n} for n in names]})
        )
        assert [output["name"] for output in reply["outputs"]] == names


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        pytest.param(b"{", "malformed JSON", id="malformed"),
        pytest.param(b"[]", "must be a JSON object", id="no object"),
        pytest.param(b'{"inputs":[{"name":"x","data":NaN}]}', "malformed JSON", id="NaN is no JSON"),
        pytest.param({}, "'inputs' must be a list of tensors; expected log(x FP32 [n])", id="no inputs"),
        pytest.param({"inputs": []}, "'inputs' must be a list", id="empty inputs"),
        pytest.param({"inputs": [1]}, "every input needs a 'name'", id="no name"),
        pytest.param(
            {"inputs": [X | {"name": "z"}]}, "unknown input 'z'; expected log(x FP32 [n])", id="name"
        ),
        pytest.param({"inputs": [X, X]}, "input 'x' stands there twice", id="twice"),
        pytest.param(
            {"inputs": [X | {"datatype": "INT64"}]}, "has datatype 'INT64'; expected log(x", id="dtype"
        ),
        pytest.param(
            {"inputs": [X | {"shape": [2, 1]}]}, "has shape [2, 1]; expected log(x FP32 [n])", id="shape"
        ),
        pytest.param(
            {"inputs": [X | {"shape": [-1]}]}, "'shape' must be a list of sizes", id="negative size"
        ),
        pytest.param({"inputs": [X | {"shape": [3]}]}, "holds 2 values, its shape [3] needs 3", id="count"),
        pytest.param({"inputs": [X | {"data": ["a", "b"]}]}, "values that are not FP32", id="text"),
        pytest.param(
            {"inputs": [{k: X[k] for k in ("name", "datatype", "shape")}]}, "has no 'data'", id="no data"
        ),
        pytest.param({"inputs": [X], "outputs": [{"name": "z"}]}, "unknown output 'z'", id="output"),
        pytest.param({"inputs": [X], "outputs": "y"}, "'outputs' must be a list", id="outputs"),
        pytest.param({"inputs": [X], "id": 7}, "'id' must be a string", id="id"),
    ],
)
def test_a_bad_request_is_refused_with_the_expected_signature(
    dialect: KServeV2, request_: object, message: str
) -> None:
    with pytest.raises(Invalid) as caught:
        infer(dialect, "log", request_)
    assert message in str(caught.value)


def test_an_output_that_json_cannot_carry_is_an_error_and_binary_carries_it(dialect: KServeV2) -> None:
    with pytest.raises(EngineFailure, match="output 'y' is not finite"):
        infer(dialect, "log", {"inputs": [X | {"data": [0, 1]}]})
    reply = infer(
        dialect, "log", {"inputs": [X | {"data": [0, 1]}], "parameters": {"binary_data_output": True}}
    )
    assert tensors(reply)["y"].tolist() == [-np.inf, 0]


def test_a_model_without_rows_is_served(dialect: KServeV2) -> None:
    reply = json_of(infer(dialect, "one", {"inputs": [X]}))
    assert reply["outputs"][0]["data"] == [1, 2]


# Binary tensors


def tensors(reply: Reply) -> dict[str, Array]:
    """Decode the binary outputs of a reply."""
    length = int(reply.headers[HEADER_LENGTH])
    raw, found = reply.body[length:], {}
    for output in orjson.loads(reply.body[:length])["outputs"]:
        if "data" not in output:
            size = output["parameters"]["binary_data_size"]
            dtype = {"FP32": "<f4", "FP16": "<f2", "BOOL": "?"}[output["datatype"]]
            found[output["name"]] = np.frombuffer(raw[:size], dtype).reshape(output["shape"])
            raw = raw[size:]
    assert raw == b""
    return found


def binary(name: str, datatype: str, shape: list[int], size: object) -> dict[str, object]:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def test_binary_and_json_tensors_may_be_mixed(dialect: KServeV2) -> None:
    request = {
        "inputs": [binary("left", "FP32", [1, 2], 8), RIGHT],
        "outputs": [{"name": "sum", "parameters": {"binary_data": True}}],
    }
    reply = infer(dialect, "add", request, struct.pack("<2f", 1, 2))
    assert reply.content_type == "application/octet-stream"
    assert tensors(reply)["sum"].tolist() == [[4, 6]]


@pytest.mark.parametrize(
    ("model", "datatype", "raw"),
    [("half", "FP16", np.array([0.5, 2], "<f2").tobytes()), ("flags", "BOOL", b"\x01\x00")],
)
def test_other_types_keep_their_bytes(dialect: KServeV2, model: str, datatype: str, raw: bytes) -> None:
    request = {
        "inputs": [binary("x", datatype, [2], len(raw))],
        "parameters": {"binary_data_output": True},
    }
    assert tensors(infer(dialect, model, request, raw))["y"].tobytes() == raw


def test_text_travels_as_json_and_as_bytes(dialect: KServeV2) -> None:
    entry = {"name": "x", "datatype": "BYTES", "shape": [2], "data": ["é", "null"]}
    reply = json_of(infer(dialect, "text", {"inputs": [entry]}))
    assert reply["outputs"][0]["data"] == ["é", "null"]
    raw = b"\x02\x00\x00\x00\xc3\xa9\x00\x00\x00\x00"
    request = {"inputs": [binary("x", "BYTES", [2], len(raw))], "parameters": {"binary_data_output": True}}
    assert infer(dialect, "text", request, raw).body.endswith(raw)


@pytest.mark.parametrize(
    ("entry", "raw", "message"),
    [
        (binary("x", "FP32", [2], 9), b"12345678", "'binary_data_size' does not fit"),
        (binary("x", "FP32", [2], -1), b"12345678", "'binary_data_size' does not fit"),
        (binary("x", "FP32", [2], "8"), b"12345678", "'binary_data_size' does not fit"),
        (binary("x", "FP32", [2], 7), b"1234567", "no whole number of FP32"),
        (binary("x", "FP32", [1], 4), b"12345678", "4 bytes after the last tensor"),
        (binary("x", "FP32", [3], 8), b"12345678", "needs 3"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(
    dialect: KServeV2, entry: dict[str, object], raw: bytes, message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        infer(dialect, "log", {"inputs": [entry]}, raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"\x05\x00\x00\x00ab", "cut short"), (b"\x01", "cut short"), (b"\x01\0\0\0\xff", "UTF-8")],
)
def test_broken_text_is_refused(dialect: KServeV2, raw: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        infer(dialect, "text", {"inputs": [binary("x", "BYTES", [1], len(raw))]}, raw)


@pytest.mark.parametrize("length", ["0", "-1", "x", "9999"])
def test_a_header_length_that_cannot_be_is_refused(dialect: KServeV2, length: str) -> None:
    with pytest.raises(Invalid, match="must be the length of the JSON"):
        infer(dialect, "log", {"inputs": [X]}, headers={HEADER_LENGTH: length})


def test_errors_have_the_protocols_form(dialect: KServeV2) -> None:
    reply = dialect.error(NotFound("gone"))
    assert (reply.status, json_of(reply)) == (404, {"error": "gone"})
