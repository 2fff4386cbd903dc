"""Learning a model from its metadata."""

from __future__ import annotations

import pytest

from loadtests.users.signature import Signature, Spec, Unreadable, from_kserve, from_tensorflow

KSERVE = {
    "name": "digits",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
}


def tensor(dtype: str, *sizes: str) -> dict[str, object]:
    return {"dtype": dtype, "tensor_shape": {"dim": [{"size": size, "name": ""} for size in sizes]}}


def tensorflow(name: str = "serving_default") -> dict[str, object]:
    signature = {
        "inputs": {"input": tensor("DT_FLOAT", "-1", "64")},
        "outputs": {"label": tensor("DT_INT64", "-1")},
    }
    return {"metadata": {"signature_def": {"signature_def": {name: signature}}}}


DIGITS = Signature((Spec("input", "FP32", (-1, 64)),), (Spec("label", "INT64", (-1,)),))


def test_both_dialects_tell_the_same() -> None:
    assert from_kserve(KSERVE) == from_tensorflow(tensorflow()) == DIGITS


def test_another_signature_name_will_do() -> None:
    assert from_tensorflow(tensorflow("predict")) == DIGITS


def test_an_unknown_rank_is_no_shape() -> None:
    document = {"inputs": {"x": {"dtype": "DT_STRING", "tensor_shape": {"unknown_rank": True, "dim": []}}}}
    signature = from_tensorflow({"metadata": {"signature_def": {"signature_def": {"a": document}}}})
    assert signature.inputs == (Spec("x", "BYTES", None),)
    assert not signature.batched


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"inputs": [{"name": "x"}]}, {"error": "no such model"}],
    ids=["nothing", "a list", "empty", "no shape", "an error"],
)
def test_other_documents_are_refused_with_what_they_are(document: object) -> None:
    with pytest.raises(Unreadable, match="this is no KServe V2 model metadata"):
        from_kserve(document)
    with pytest.raises(Unreadable, match="this is no TensorFlow Serving metadata"):
        from_tensorflow(document)


def test_only_a_leading_open_dimension_is_a_batch() -> None:
    assert Spec("x", "FP32", (-1, 3)).batched
    assert not Spec("x", "FP32", (3, -1)).batched
    assert not Spec("x", "FP32", ()).batched
