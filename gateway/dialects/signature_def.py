"""TensorFlow's SignatureDef in protobuf's JSON, as the `/metadata` route carries it.

`metadata.signature_def.signature_def` maps names to `{inputs, outputs, method_name}`. int64 is text there, -1
is a dimension that may vary, and a zero is left out. TensorFlow 2 models carry `__saved_model_init_op`, a
signature without a usable datatype: unreadable signatures other than the default one are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.dialects.errors import MALFORMED_REQUEST, WRONG_DTYPE, InvalidPrediction
from gateway.dialects.json_text import read_json, write_json
from gateway.dialects.metadata import DEFAULT_SIGNATURE, Metadata, Signature, TensorSpec, dimension
from gateway.dialects.protocol import require_object, require_text
from gateway.dialects.tensors import BYTES

_DT: Final[Mapping[str, str]] = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    BYTES: "DT_STRING",
}
_V2: Final[Mapping[str, str]] = {theirs: ours for ours, theirs in _DT.items()}


def read_metadata(body: bytes) -> Metadata:
    """Read the answer of the `/metadata` route; raises InvalidPrediction."""
    document = require_object(read_json(body))
    found = _signatures(document)
    default = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in found else next(iter(found), "")
    if not default:
        raise InvalidPrediction(MALFORMED_REQUEST, "the metadata holds no signature")
    others: list[Signature] = []
    for name, definition in found.items():
        if name != default:
            try:
                others.append(_signature(name, definition))
            except InvalidPrediction:
                continue
    first = _signature(default, found[default])
    spec = document.get("model_spec")
    version = spec.get("version") if type(spec) is dict else None
    versions = (str(version),) if type(version) in (str, int) and version != "" else ()
    return Metadata(Signature(first.inputs, first.outputs, first.name, tuple(others)), versions)


def write_metadata(model: str, versions: Sequence[str], signature: Signature) -> bytes:
    """Write the answer of the `/metadata` route about the last of the versions."""
    definitions = {each.name: _define(each) for each in (signature, *signature.others)}
    spec = {"name": model, "signature_name": "", "version": versions[-1] if versions else ""}
    metadata = {"signature_def": {"signature_def": definitions}}
    return write_json({"model_spec": spec, "metadata": metadata})


def _signatures(document: dict[str, object]) -> dict[str, object]:
    """Find the definitions: `metadata.signature_def.signature_def` as the server writes them."""
    level: object = document.get("metadata")
    for _ in range(2):
        inner = level.get("signature_def") if type(level) is dict else None
        if inner is None:
            break
        level = inner
    if type(level) is not dict or level is document.get("metadata"):
        raise InvalidPrediction(MALFORMED_REQUEST, "the metadata holds no signature_def")
    return level


def _signature(name: str, definition: object) -> Signature:
    definition = require_object(definition)
    return Signature(_specs(definition.get("inputs", {})), _specs(definition.get("outputs", {})), name)


def _specs(infos: object) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, require_object(info)) for name, info in require_object(infos).items())


def _spec(name: str, info: dict[str, object]) -> TensorSpec:
    dtype = _V2.get(require_text(f"the dtype of {name!r}", info.get("dtype", "")))
    if dtype is None:
        raise InvalidPrediction(
            WRONG_DTYPE, f"the dtype of {name!r} is not supported: {info.get('dtype')!r:.60}"
        )
    shape = require_object(info.get("tensor_shape", {}))
    dims = shape.get("dim", [])
    if shape.get("unknown_rank") is True:
        return TensorSpec(name, dtype, None)
    if type(dims) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, f"the shape of {name!r} is malformed")
    return TensorSpec(name, dtype, tuple(dimension(name, require_object(dim).get("size", 0)) for dim in dims))


def _define(signature: Signature) -> dict[str, object]:
    return {
        "inputs": {spec.name: _info(spec) for spec in signature.inputs},
        "outputs": {spec.name: _info(spec) for spec in signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }


def _info(spec: TensorSpec) -> dict[str, object]:
    dims = [{"size": str(dim), "name": ""} for dim in spec.shape or ()]
    shape = {"dim": dims, "unknown_rank": spec.shape is None}
    return {"dtype": _DT[spec.dtype], "tensor_shape": shape, "name": f"{spec.name}:0"}
