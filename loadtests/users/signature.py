"""What a model takes and gives, learnt from its metadata in either dialect. No I/O.

KServe V2 names datatypes FP32, INT64, BYTES …; TensorFlow Serving's SignatureDef says DT_FLOAT, DT_INT64,
DT_STRING and spells every number as text. Both become a `Signature` in KServe's words. -1 in a shape is a
dimension that the client chooses; a leading -1 is the batch.

Source: KServe V2 "Model Metadata"; tensorflow/serving `get_model_metadata.proto` as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

FROM_TENSORFLOW: Final = {
    "DT_BOOL": "BOOL",
    "DT_UINT8": "UINT8",
    "DT_UINT16": "UINT16",
    "DT_UINT32": "UINT32",
    "DT_UINT64": "UINT64",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_HALF": "FP16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_STRING": "BYTES",
}

Json = Mapping[str, object]


class Unreadable(ValueError):
    """The metadata is not what the dialect says it is."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One declared tensor. shape: None when the rank is unknown."""

    name: str
    datatype: str
    shape: tuple[int, ...] | None

    @property
    def batched(self) -> bool:
        """Whether the first dimension is the client's to choose."""
        return bool(self.shape) and self.shape is not None and self.shape[0] < 0


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of one model."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]

    @property
    def batched(self) -> bool:
        """Whether several rows fit into one request."""
        return all(spec.batched for spec in self.inputs)

    def output(self, name: str) -> Spec | None:
        """The output of this name."""
        return next((spec for spec in self.outputs if spec.name == name), None)


def from_kserve(metadata: object) -> Signature:
    """Read `GET /v2/models/NAME`. Raises Unreadable."""
    try:
        fields = cast(Mapping[str, list[Json]], metadata)
        return Signature(
            tuple(_kserve_spec(one) for one in fields["inputs"]),
            tuple(_kserve_spec(one) for one in fields.get("outputs", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"this is no KServe V2 model metadata: {_short(metadata)}") from error


def from_tensorflow(metadata: object, name: str = "serving_default") -> Signature:
    """Read `GET /v1/models/NAME/metadata`; `name` is the signature's. Raises Unreadable."""
    try:
        # a map inside a message: the field signature_def holds one field, signature_def
        signatures = metadata["metadata"]["signature_def"]["signature_def"]  # type: ignore[index]
        signature = signatures.get(name) or next(iter(signatures.values()))
        return Signature(
            tuple(_tensorflow_spec(key, one) for key, one in signature["inputs"].items()),
            tuple(_tensorflow_spec(key, one) for key, one in signature.get("outputs", {}).items()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise Unreadable(f"this is no TensorFlow Serving metadata: {_short(metadata)}") from error


def _kserve_spec(fields: Json) -> Spec:
    shape = tuple(int(size) for size in cast(list[int], fields["shape"]))
    return Spec(str(fields["name"]), str(fields["datatype"]), shape)


def _tensorflow_spec(name: str, fields: Json) -> Spec:
    shape = cast(Json, fields.get("tensor_shape", {}))
    known = not shape.get("unknown_rank", False)
    dimensions = cast(list[Mapping[str, str]], shape.get("dim", []))
    return Spec(
        name,
        FROM_TENSORFLOW[str(fields["dtype"])],
        tuple(int(one["size"]) for one in dimensions) if known else None,
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"
