from __future__ import annotations

import json
import math
from pathlib import Path

import orjson
import pytest
from onnx import TensorProto

from backends.errors import Invalid, MethodNotAllowed, NotFound, Unsupported
from backends.messages import Reply
from backends.tensorflow_serving import TensorFlowServing
from tests.backends.conftest import Loader
from tests.backends.models import DIGITS, adder, echo, graph, logarithm, put, value


def named_bytes() -> bytes:
    """image_bytes = x, text [n]."""
    from onnx import helper

    nodes = [helper.make_node("Identity", ["x"], ["image_bytes"])]
    text = TensorProto.STRING
    return graph(nodes, [value("x", text, ["n"])], [value("image_bytes", text, ["n"])])


def predict(dialect: TensorFlowServing, name: str, request: object) -> object:
    """Read, run and write one request without the queue."""
    body = request if isinstance(request, bytes) else orjson.dumps(request)
    served = dialect.find(f"/v1/models/{name}:predict")
    inference = dialect.read(body, {}, served)
    return json_of(dialect.write(served, inference, served.engine.run(inference.inputs)))


def json_of(reply: Reply) -> object:
    return json.loads(reply.body)


@pytest.fixture
async def dialect(load: Loader, tmp_path: Path) -> TensorFlowServing:
    broken = {"sample": {"inputs": {"left": [[0, 0]], "right": [[0, 0]]}, "outputs": {"sum": [[9, 9]]}}}
    put(tmp_path, "add", "1", adder())
    put(tmp_path, "add", "2", adder(), broken)
    put(tmp_path, "log", "1", logarithm())
    put(tmp_path, "text", "1", named_bytes())
    put(tmp_path, "one", "1", echo(TensorProto.INT64))
    put(tmp_path, "broken", "1", adder(), broken)
    return TensorFlowServing(load(tmp_path))


def test_row_form_of_one_input_and_one_output_has_no_names(dialect: TensorFlowServing) -> None:
    assert predict(dialect, "one", {"instances": [1, 2]}) == {"predictions": [1, 2]}


def test_column_form_of_one_input_and_one_output_has_no_names(dialect: TensorFlowServing) -> None:
    assert predict(dialect, "one", {"inputs": [1, 2]}) == {"outputs": [1, 2]}
    assert predict(dialect, "one", {"inputs": {"x": [1, 2]}}) == {"outputs": [1, 2]}


def test_several_inputs_are_named_in_both_forms(dialect: TensorFlowServing) -> None:
    rows = [{"left": [1, 2], "right": [3, 4]}, {"right": [5, 6], "left": [0, 0]}]
    assert predict(dialect, "add", {"instances": rows}) == {"predictions": [[4, 6], [5, 6]]}
    columns = {"left": [[1, 2], [0, 0]], "right": [[3, 4], [5, 6]]}
    assert predict(dialect, "add", {"inputs": columns}) == {"outputs": [[4, 6], [5, 6]]}


async def test_several_outputs_are_objects_by_row_and_columns_by_column(load: Loader) -> None:
    dialect = TensorFlowServing(load(DIGITS))
    sample = json.loads((DIGITS / "samples.json").read_text())[7]
    rows = predict(
        dialect, "digits", {"signature_name": "serving_default", "instances": [sample["pixels"]] * 2}
    )
    assert [row["label"] for row in rows["predictions"]] == [sample["label"]] * 2
    assert len(rows["predictions"][0]["probabilities"]) == 10
    columns = predict(dialect, "digits", {"inputs": [sample["pixels"]]})
    assert columns["outputs"]["label"] == [sample["label"]]
    assert columns["outputs"]["probabilities"][0] == rows["predictions"][0]["probabilities"]


def test_not_a_number_and_infinity_travel_both_ways(dialect: TensorFlowServing) -> None:
    reply = predict(dialect, "log", b'{"instances": [0.0, NaN, Infinity]}')
    low, nan, high = reply["predictions"]
    assert (low, high) == (-math.inf, math.inf)
    assert math.isnan(nan)


def test_binary_text_is_base64_in_and_out(dialect: TensorFlowServing) -> None:
    assert predict(dialect, "text", {"instances": [{"b64": "w6k="}, "b"]}) == {
        "predictions": [{"b64": "w6k="}, {"b64": "Yg=="}]
    }
    assert predict(dialect, "text", {"inputs": {"x": [{"b64": "Yg=="}]}}) == {"outputs": [{"b64": "Yg=="}]}


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        pytest.param("one", b"", "malformed JSON", id="empty"),
        pytest.param("one", b'{"instances": [NaN', "malformed JSON", id="malformed with NaN"),
        pytest.param("one", b"[1]", "must be a JSON object", id="no object"),
        pytest.param(
            "one", {}, "Missing 'inputs' or 'instances' key; expected one(x INT64 [n])", id="no key"
        ),
        pytest.param("one", {"inputs": [1], "instances": [1]}, "exclude each other", id="both keys"),
        pytest.param("one", {"instances": 1}, "'instances' must be a list", id="no list"),
        pytest.param("one", {"instances": []}, "at least one row", id="no rows"),
        pytest.param("one", {"inputs": []}, "the request has no rows", id="no rows in a column"),
        pytest.param("one", {"instances": [1.5]}, "values that are not INT64", id="type"),
        pytest.param("one", {"instances": [[1], [1, 2]]}, "ragged", id="ragged"),
        pytest.param("one", {"instances": [[1]]}, "has shape [1, 1]; expected one(x INT64 [n])", id="shape"),
        pytest.param("one", {"instances": [{"z": 1}]}, "unknown input 'z'; expected one(x", id="name"),
        pytest.param("one", {"instances": [1], "signature_name": "s"}, 'name: "s" not found', id="signature"),
        pytest.param("add", {"instances": [[1, 2]]}, "each value needs its name", id="no names"),
        pytest.param("add", {"instances": [{"left": [1, 2]}]}, "missing input 'right'", id="missing"),
        pytest.param(
            "add", {"instances": [{"left": [1, 2]}, {"right": [1, 2]}]}, "same inputs", id="rows differ"
        ),
        pytest.param("text", {"instances": [{"b64": "!"}]}, "no base64", id="no base64"),
        pytest.param("text", {"inputs": {"x": [{"y": "Yg=="}]}}, "no base64", id="no b64 key"),
        pytest.param("text", b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", "input 'x'", id="deep"),
    ],
)
def test_a_bad_request_is_refused_with_the_expected_signature(
    dialect: TensorFlowServing, name: str, request_: object, message: str
) -> None:
    with pytest.raises(Invalid) as caught:
        predict(dialect, name, request_)
    assert message in str(caught.value)


# URLs


async def test_versions_and_labels_choose_and_case_does_not_matter(load: Loader) -> None:
    dialect = TensorFlowServing(load(DIGITS))
    assert dialect.find("/v1/models/digits:predict").version == "2"
    assert dialect.find("/v1/models/digits/versions/1:predict").version == "1"
    assert dialect.find("/V1/Models/digits/LABELS/stable:PREDICT").version == "1"
    assert dialect.find("/v1/models/digits%2Dlite:predict").name == "digits-lite"


def test_status_shows_every_version_newest_first_with_those_that_failed(dialect: TensorFlowServing) -> None:
    good = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    failed = {"error_code": "FAILED_PRECONDITION", "error_message": "the version failed its checks"}
    bad = {"version": "2", "state": "END", "status": failed}
    assert json_of(dialect.get("/v1/models/add", True)) == {
        "name": "add",  # KServe V1's name and ready
        "ready": True,
        "model_version_status": [bad, good],
    }
    assert json_of(dialect.get("/v1/models/add/versions/1", True)) == {"model_version_status": [good]}
    assert json_of(dialect.get("/v1/models/add/versions/2", True)) == {"model_version_status": [bad]}
    broken = json_of(dialect.get("/v1/models/broken", True))
    assert broken["model_version_status"] == [bad | {"version": "1"}]
    assert broken["ready"] is False
    assert b'"UNLOADING"' in dialect.get("/v1/models/add/versions/1", False).body


def test_metadata_is_the_signature_def(dialect: TensorFlowServing) -> None:
    tensor = {
        "dtype": "DT_INT64",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    }
    default = {
        "inputs": {"x": tensor | {"name": "x"}},
        "outputs": {"y": tensor | {"name": "y"}},
        "method_name": "tensorflow/serving/predict",
    }
    assert json_of(dialect.get("/v1/models/one/metadata", True)) == {
        "model_spec": {"name": "one", "signature_name": "", "version": "1"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": default}}},
    }


@pytest.mark.parametrize(
    "path", ["/v1/models/nope", "/v1/models/add/versions/7", "/v1/models/add/labels/x/metadata"]
)
def test_unknown_models_versions_and_labels_are_not_found(dialect: TensorFlowServing, path: str) -> None:
    with pytest.raises(NotFound):
        dialect.get(path, True)


def test_other_verbs_and_urls_are_refused(dialect: TensorFlowServing) -> None:
    with pytest.raises(Invalid, match=r"classify needs a tf\.Example signature"):
        dialect.find("/v1/models/add:classify")
    with pytest.raises(Unsupported, match="no explainer"):
        dialect.find("/v1/models/add:explain")
    with pytest.raises(Invalid, match="Malformed request: POST /v1/models/add:guess"):
        dialect.find("/v1/models/add:guess")
    with pytest.raises(MethodNotAllowed, match="use POST"):
        dialect.get("/v1/models/add:predict", True)
    with pytest.raises(MethodNotAllowed, match="use GET"):
        dialect.find("/v1/models/add")


def test_errors_have_the_protocols_form(dialect: TensorFlowServing) -> None:
    reply = dialect.error(NotFound("gone"))
    assert (reply.status, json_of(reply)) == (404, {"error": "gone"})


# KServe V1, which is the row form at the same URLs


async def test_kserve_v1_lists_models_and_asks_whether_one_is_ready(dialect: TensorFlowServing) -> None:
    assert json_of(dialect.get("/v1/models", True)) == {"models": ["add", "log", "one", "text"]}
    one = json_of(dialect.get("/v1/models/one", True))
    assert (one["name"], one["ready"]) == ("one", True)
    assert json_of(dialect.get("/v1/models/one", False))["ready"] is False
