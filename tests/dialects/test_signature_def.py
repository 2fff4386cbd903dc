from __future__ import annotations

import json

import pytest

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Metadata, Signature, TensorSpec
from gateway.dialects.signature_def import read_metadata, write_metadata
from tests.dialects.models import DIGITS, HALF


def test_metadata_as_the_server_writes_it_is_read() -> None:
    body = b"""{"model_spec":{"name":"digits","signature_name":"","version":"1"},"metadata":{"signature_def":{
      "signature_def":{
        "__saved_model_init_op":{"inputs":{},"outputs":{"op":{"dtype":"DT_INVALID",
            "tensor_shape":{"dim":[],"unknown_rank":true},"name":"NoOp"}},"method_name":""},
        "other":{"inputs":{"s":{"dtype":"DT_STRING","tensor_shape":{"dim":[],"unknown_rank":true},"name":"s:0"}},
            "outputs":{},"method_name":"tensorflow/serving/predict"},
        "serving_default":{
          "inputs":{"input":{"dtype":"DT_FLOAT","tensor_shape":{"dim":[{"size":"-1","name":""},
            {"size":"64","name":""}],"unknown_rank":false},"name":"input:0"}},
          "outputs":{"label":{"dtype":"DT_INT64","tensor_shape":{"dim":[{"size":"-1","name":""}],
            "unknown_rank":false},"name":"label:0"}},
          "method_name":"tensorflow/serving/predict"}}}}}"""
    metadata = read_metadata(body)
    assert metadata.versions == ("1",)
    assert metadata.signature.render() == "input: FP32[-1,64] -> label: INT64[-1]"
    assert [other.render() for other in metadata.signature.others] == ["s: BYTES[...] -> "]


def test_metadata_written_is_read_back() -> None:
    other = Signature((TensorSpec("s", "BYTES", None), TensorSpec("t", "FP16", ())), HALF.outputs, "other")
    signature = Signature(DIGITS.inputs, DIGITS.outputs, others=(other,))
    body = write_metadata("digits", ["1", "2"], signature)
    assert read_metadata(body) == Metadata(signature, ("2",))
    body = write_metadata("digits", [], HALF)
    assert read_metadata(body) == Metadata(HALF, ())


@pytest.mark.parametrize(
    "document",
    [
        1,
        {},
        {"metadata": 1},
        {"metadata": {}},
        {"metadata": {"signature_def": {"signature_def": {}}}},
        {"metadata": {"signature_def": {"serving_default": 1}}},
        {"metadata": {"signature_def": {"serving_default": {"inputs": {"x": {"dtype": "DT_VARIANT"}}}}}},
        {"metadata": {"signature_def": {"serving_default": {"inputs": {"x": {"dtype": 1}}}}}},
        {
            "metadata": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "a"}]}}}
                    }
                }
            }
        },
        {
            "metadata": {
                "signature_def": {
                    "serving_default": {"inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": 1}}}}
                }
            }
        },
    ],
)
def test_metadata_that_is_none_is_refused(document: object) -> None:
    with pytest.raises(InvalidPrediction):
        read_metadata(json.dumps(document).encode())
