"""TensorFlow Serving over gRPC: PredictionService's Predict, GetModelMetadata; ModelService's GetModelStatus.

Tensors are read in both encodings, `tensor_content` (raw, little-endian) and the typed `*_val` fields, where
fewer values than the shape needs are filled up with the last one (tensor.cc); they go back as
`tensor_content`, text as `string_val`. Refused: Classify, Regress and MultiInference, which need a tf.Example
signature that an ONNX graph has not; GetModelMetadata of anything but `signature_def`; and
HandleReloadConfigRequest: which models are served is the repository's to say (docs/adr/0030).

Source: tensorflow_serving/apis/*.proto, tensorflow_serving/model_servers/get_model_status_impl.cc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np

from backends.catalogue import Catalogue
from backends.errors import Invalid, NotFound, Unsupported
from backends.grpc_server import Context, Unary, ends, tell_load, unary
from backends.predicting import counted
from backends.protobuf_table import Message
from backends.served import Served
from backends.tensorflow_messages import MODEL_SERVICE, PREDICTION_SERVICE, SIGNATURE_MAP_URL, message
from backends.tensorflow_serving import SIGNATURE
from backends.tensors import BY_NAME, Array, TensorSpec

# V2's name -> number of tensorflow.DataType, and the field of TensorProto that holds its values
_TYPES: Mapping[str, tuple[int, str]] = {
    "FP32": (1, "float_val"),
    "FP64": (2, "double_val"),
    "INT32": (3, "int_val"),
    "UINT8": (4, "int_val"),
    "INT16": (5, "int_val"),
    "INT8": (6, "int_val"),
    "BYTES": (7, "string_val"),
    "INT64": (9, "int64_val"),
    "BOOL": (10, "bool_val"),
    "UINT16": (17, "int_val"),
    "FP16": (19, "half_val"),
    "UINT32": (22, "uint32_val"),
    "UINT64": (23, "uint64_val"),
}
_NAMES = {number: name for name, (number, _) in _TYPES.items()}
_AVAILABLE, _UNLOADING, _END = 30, 40, 50  # ModelVersionStatus.State
_FAILED_PRECONDITION = 9  # tensorflow.error.Code


class TensorFlowServingGrpc:
    """Both services over one catalogue. ready: set while the server takes requests."""

    def __init__(self, catalogue: Catalogue, ready: asyncio.Event) -> None:
        self._catalogue = catalogue
        self._ready = ready

    def handlers(self) -> tuple[grpc.GenericRpcHandler, grpc.GenericRpcHandler]:
        """Return what the server is given."""
        anything = message("Anything")
        refused = {
            name: unary(_refused(name, why), anything, anything)
            for name, why in (
                ("Classify", "needs a tf.Example signature; use Predict"),
                ("Regress", "needs a tf.Example signature; use Predict"),
                ("MultiInference", "needs a tf.Example signature; use Predict"),
            )
        }
        reload = _refused("HandleReloadConfigRequest", "is not how models come here: change the repository")
        return (
            grpc.method_handlers_generic_handler(
                PREDICTION_SERVICE,
                {
                    "Predict": self._unary(self._predict, "Predict"),
                    "GetModelMetadata": self._unary(self._metadata, "GetModelMetadata"),
                    **refused,
                },
            ),
            grpc.method_handlers_generic_handler(
                MODEL_SERVICE,
                {
                    "GetModelStatus": self._unary(self._status, "GetModelStatus"),
                    "HandleReloadConfigRequest": unary(reload, anything, anything),
                },
            ),
        )

    @staticmethod
    def _unary(method: Unary, name: str) -> grpc.RpcMethodHandler:
        return unary(method, message(f"{name}Request"), message(f"{name}Response"))

    async def _predict(self, request: Message, context: Context) -> Message:
        try:
            served = self._find(request.model_spec)
            return await counted(served, self._catalogue.load, lambda: _answer(request, served, context))
        finally:
            tell_load(context, self._catalogue.load)

    async def _metadata(self, request: Message, context: Context) -> Message:
        served = self._find(request.model_spec)
        if list(request.metadata_field) != ["signature_def"]:
            raise Invalid("metadata_field must be signature_def")
        signature = message("SignatureDef")(method_name="tensorflow/serving/predict")
        for specs, described in (
            (served.signature.inputs, signature.inputs),
            (served.signature.outputs, signature.outputs),
        ):
            for spec in specs:
                described[spec.name].CopyFrom(_tensor_info(spec))
        named = message("SignatureDefMap")()
        named.signature_def[SIGNATURE].CopyFrom(signature)
        answer = message("GetModelMetadataResponse")(model_spec=_spec_of(served, ""))
        answer.metadata["signature_def"].CopyFrom(
            message("Packed")(type_url=SIGNATURE_MAP_URL, value=named.SerializeToString())
        )
        return answer

    async def _status(self, request: Message, context: Context) -> Message:
        spec = request.model_spec
        state = message("ModelVersionStatus")
        usable = _AVAILABLE if self._ready.is_set() else _UNLOADING
        failed = [
            state(version=int(version), state=_END, status=_failure())
            for name, version in self._catalogue.failed
            if name == spec.name and self._catalogue.get((name, version)) is None
        ]
        chosen = [self._find(spec)] if spec.HasField("version") or spec.version_label else []
        try:
            served = chosen or self._catalogue.versions(spec.name)
        except NotFound:
            if not failed:
                raise
            served = []
        states = [state(version=int(one.version), state=usable) for one in served]
        states += [] if chosen else failed
        return message("GetModelStatusResponse")(
            model_version_status=sorted(states, key=lambda one: int(one.version), reverse=True)
        )

    def _find(self, spec: Message) -> Served:
        version = str(spec.version.value) if spec.HasField("version") else None
        return self._catalogue.find(spec.name, version, spec.version_label or None)


async def _answer(request: Message, served: Served, context: Context) -> Message:
    signature = request.model_spec.signature_name or SIGNATURE
    if signature != SIGNATURE:
        raise Invalid(f'Serving signature name: "{signature}" not found in signature def')
    validator = served.validator
    inputs = {name: _read(tensor, validator.spec(name), served) for name, tensor in request.inputs.items()}
    rows = validator.count_rows(inputs)
    wanted = list(request.output_filter)
    outputs = validator.outputs(wanted) if wanted else served.signature.outputs
    deadline = ends(context, asyncio.get_running_loop().time())
    tensors = await served.batcher.submit(inputs, rows, deadline)
    answer = message("PredictResponse")(model_spec=_spec_of(served, SIGNATURE))
    for spec in outputs:
        answer.outputs[spec.name].CopyFrom(_write(tensors[spec.name], spec))
    return answer


def _refused(name: str, why: str) -> Unary:
    async def refuse(request: Message, context: Context) -> Message:
        raise Unsupported(f"{name} {why}")

    return refuse


# Tensors


def _read(tensor: Message, spec: TensorSpec, served: Served) -> Array:
    refuse = served.validator.refuse
    name = _NAMES.get(tensor.dtype)
    if name != spec.dtype.name:
        raise refuse(f"input {spec.name!r} has dtype {name or tensor.dtype}")
    if tensor.tensor_shape.unknown_rank:
        raise refuse(f"input {spec.name!r} has no shape")
    shape = tuple(int(dim.size) for dim in tensor.tensor_shape.dim)
    if any(size < 0 for size in shape) or not spec.fits(shape):
        raise refuse(f"input {spec.name!r} has shape {list(shape)}")
    count = int(np.prod(shape, dtype=np.int64))
    if tensor.tensor_content:
        if spec.dtype.name == "BYTES":
            raise refuse(f"input {spec.name!r}: text must be string_val")
        if len(tensor.tensor_content) != count * spec.dtype.numpy.itemsize:
            raise refuse(f"input {spec.name!r}: tensor_content does not fit the shape {list(shape)}")
        flat: Array = np.frombuffer(tensor.tensor_content, dtype=spec.dtype.numpy.newbyteorder("<"))
        return flat.astype(spec.dtype.numpy, copy=False).reshape(shape)
    return _fill(_values(tensor, spec, served), count, spec, served).reshape(shape)


def _values(tensor: Message, spec: TensorSpec, served: Served) -> Array:
    values = getattr(tensor, _TYPES[spec.dtype.name][1])
    try:
        if spec.dtype.name == "BYTES":
            return np.array([value.decode() for value in values], dtype=np.object_)
        if spec.dtype.name == "FP16":  # their bits, one in each int32
            return np.array(values, dtype=np.uint16).view(np.float16)
        return np.array(values, dtype=spec.dtype.numpy)
    except UnicodeDecodeError as e:
        raise served.validator.refuse("text is not UTF-8") from e
    except OverflowError as e:
        raise served.validator.refuse(f"input {spec.name!r} holds values beyond {spec.dtype.name}") from e


def _fill(values: Array, count: int, spec: TensorSpec, served: Served) -> Array:
    """Repeat the last value up to `count` (tensor.cc, FromProtoField)."""
    if len(values) == count:
        return values
    if len(values) == 0 or len(values) > count:
        raise served.validator.refuse(
            f"input {spec.name!r} holds {len(values)} values, its shape needs {count}"
        )
    return np.concatenate([values, np.repeat(values[-1:], count - len(values))])


def _write(tensor: Array, spec: TensorSpec) -> Message:
    proto = message("TensorProto")(dtype=_TYPES[spec.dtype.name][0], tensor_shape=_shape(tensor.shape))
    if spec.dtype.name == "BYTES":
        proto.string_val.extend(str(text).encode() for text in tensor.ravel())
    else:
        proto.tensor_content = tensor.astype(spec.dtype.numpy.newbyteorder("<"), copy=False).tobytes()
    return proto


# Descriptions


def _shape(sizes: tuple[int, ...]) -> Message:
    dim = message("TensorShapeProto.Dim")
    return message("TensorShapeProto")(dim=[dim(size=size) for size in sizes])


def _tensor_info(spec: TensorSpec) -> Message:
    number = _TYPES[BY_NAME[spec.dtype.name].name][0]
    return message("TensorInfo")(name=spec.name, dtype=number, tensor_shape=_shape(spec.shape))


def _spec_of(served: Served, signature: str) -> Message:
    version: Any = message("Int64Value")(value=int(served.version))
    return message("ModelSpec")(name=served.name, version=version, signature_name=signature)


def _failure() -> Message:
    return message("StatusProto")(
        error_code=_FAILED_PRECONDITION, error_message="the version failed its checks"
    )
