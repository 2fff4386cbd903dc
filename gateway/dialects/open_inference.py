"""V2's description of a model in JSON: the answer to `GET /v2/models/M`, also by KServe's V1 servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dialects.errors import MALFORMED_REQUEST, WRONG_DTYPE, InvalidPrediction
from gateway.dialects.json_text import read_json
from gateway.dialects.metadata import Metadata, Signature, TensorSpec, dimension
from gateway.dialects.protocol import require_object, require_text
from gateway.dialects.tensors import DTYPES

_DTYPES: Final = frozenset(DTYPES)


def read_model(body: bytes) -> Metadata:
    """Read inputs, outputs and versions (null and absent mean: not said); raises InvalidPrediction."""
    document = require_object(read_json(body))
    versions = document.get("versions")
    if versions is None:
        versions = []
    if type(versions) is not list or not all(type(version) in (str, int) for version in versions):
        raise InvalidPrediction(MALFORMED_REQUEST, "'versions' must be a list of strings")
    signature = Signature(_specs(document, "inputs"), _specs(document, "outputs"))
    return Metadata(signature, tuple(map(str, versions)))


def describe_model(model: str, versions: Sequence[str], signature: Signature) -> dict[str, object]:
    """Return the description of a model's default signature."""
    return {
        "name": model,
        "versions": list(versions),
        "platform": "",
        "inputs": [_describe(spec) for spec in signature.inputs],
        "outputs": [_describe(spec) for spec in signature.outputs],
    }


def _specs(document: Mapping[str, object], key: str) -> tuple[TensorSpec, ...]:
    listed = document.get(key)
    if type(listed) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, f"the metadata has no list of '{key}'")
    return tuple(_spec(require_object(each)) for each in listed)


def _spec(each: dict[str, object]) -> TensorSpec:
    name = require_text("a tensor's name", each.get("name"))
    dtype = each.get("datatype")
    if type(dtype) is not str or dtype not in _DTYPES:
        raise InvalidPrediction(WRONG_DTYPE, f"{name!r} has the unsupported datatype {dtype!r:.40}")
    shape = each.get("shape")
    if type(shape) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, f"the shape of {name!r} is malformed")
    return TensorSpec(name, dtype, tuple(dimension(name, dim) for dim in shape))


def _describe(spec: TensorSpec) -> dict[str, object]:
    shape = [-1] if spec.shape is None else list(spec.shape)  # the protocol has no word for any rank
    return {"name": spec.name, "datatype": spec.dtype, "shape": shape}
