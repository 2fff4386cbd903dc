"""tf.Example, the rows of TensorFlow Serving's `:classify` and `:regress`: into tensors, and answers back.

An Example is a set of features, each a list of byte strings, floats or int64s. What a feature holds is one
row of the input of its name, in the shape and the datatype that the model declares; a value that this
datatype can't hold is refused, and so are features that the model has not, lacks, or can't shape. A model
whose only input is a vector of byte strings, and no feature's name, gets the Examples themselves, serialised:
that is what TensorFlow's own classifiers and regressors take. A context's features are every Example's.

    :classify   outputs `classes` (BYTES [n,k]) and `scores` (floats [n,k]), or the only such outputs of
                other names; one of them is enough, as in TensorFlow (label "", score 0)
    :regress    output `outputs` (floats [n] or [n,1]), or the only such output

A model without such outputs has no mapping: 422, with its signature. Scores and values are floats: doubles
are rounded, and that is marked as a loss (losses.py).

Source: tensorflow `example.proto`, `feature.proto`; tensorflow/serving `json_tensor.cc`, `classifier.cc`,
`regressor.cc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Final

import numpy as np

from gateway.dialects import wire
from gateway.dialects.errors import (
    MALFORMED_REQUEST,
    NOT_TEXT,
    WRONG_DTYPE,
    WRONG_NAME,
    WRONG_SHAPE,
    InvalidPrediction,
)
from gateway.dialects.json_text import write_json, write_non_finite
from gateway.dialects.json_values import is_base64, read_base64
from gateway.dialects.metadata import DEFAULT_SIGNATURE, Signature, TensorSpec, wrong
from gateway.dialects.protocol import LOSSY, Operation, Target, require_object
from gateway.dialects.tensors import (
    BYTES,
    NOTHING,
    Array,
    InferRequest,
    Style,
    Tensor,
    is_finite,
    numbers,
)
from gateway.http.message import Headers

Example = Mapping[str, list[object]]
"""Features by name: their values, all of one kind (bytes, float, int)."""

Class = tuple[str, float]
"""Label and score."""

STYLES: Final[Mapping[Operation, Style]] = {Operation.CLASSIFY: "classify", Operation.REGRESS: "regress"}
_FLOATS: Final = frozenset(("FP16", "FP32", "FP64"))
_LIMITS: Final = np.iinfo(np.int64)


def ask(target: Target, asked: str, examples: Sequence[Example], signature: Signature) -> InferRequest:
    """Return the prediction that a list of Examples asks for.

    asked: the name of the signature, "" for the default one. Raises InvalidPrediction.
    """
    if not examples:
        raise InvalidPrediction(MALFORMED_REQUEST, "the request has no examples")
    chosen = signature.named("" if asked == DEFAULT_SIGNATURE else asked)
    style = STYLES[target.operation]
    outputs = _class_outputs(chosen) if style == "classify" else _value_output(chosen)
    return InferRequest(
        None,
        target.model,
        target.version,
        target.label,
        "" if chosen is signature else chosen.name,
        _tensors(examples, chosen),
        outputs,
        NOTHING,
        style,
    )


# Examples to tensors


def _tensors(examples: Sequence[Example], signature: Signature) -> tuple[Tensor, ...]:
    specs = signature.inputs
    names = {name for example in examples for name in example}
    if len(specs) == 1 and specs[0].dtype == BYTES and specs[0].name not in names and _is_vector(specs[0]):
        return (Tensor(specs[0].name, BYTES, (len(examples),), [_written(each) for each in examples]),)
    stray = names - {spec.name for spec in specs}
    if stray:
        raise wrong(WRONG_NAME, f"the model has no input {min(stray)!r}", signature)
    return tuple([_column(spec, examples, signature) for spec in specs])


def _is_vector(spec: TensorSpec) -> bool:
    return spec.shape is not None and len(spec.shape) == 1


def _column(spec: TensorSpec, examples: Sequence[Example], signature: Signature) -> Tensor:
    """Put the rows of one input together."""
    name, flat = spec.name, []
    sizes = set()
    for place, example in enumerate(examples):
        if name not in example:
            raise wrong(WRONG_NAME, f"the example {place} has no feature {name!r}", signature)
        flat += example[name]
        sizes.add(len(example[name]))
    inner = _inner(spec, sizes)
    if inner is None:
        raise wrong(WRONG_SHAPE, f"the values of the feature {name!r} do not fill rows of it", signature)
    shape = (len(examples), *inner)
    if spec.dtype == BYTES:
        texts = [value for value in flat if type(value) is bytes]
        if len(texts) < len(flat):
            raise wrong(WRONG_DTYPE, f"the feature {name!r} holds numbers", signature)
        return Tensor(name, BYTES, shape, texts)
    if any(type(value) is bytes for value in flat):
        raise wrong(WRONG_DTYPE, f"the feature {name!r} holds byte strings", signature)
    if spec.dtype == "BOOL" and all(value in (0, 1) and type(value) is int for value in flat):
        flat = [value == 1 for value in flat]  # TensorFlow's JSON makes 0 and 1 of false and true
    return Tensor(name, spec.dtype, shape, numbers(name, spec.dtype, shape, flat))


def _inner(spec: TensorSpec, sizes: set[int]) -> tuple[int, ...] | None:
    """Return the shape of one row, None if so many values have none (or have several)."""
    inner = spec.shape[1:] if spec.shape else (-1, -1)
    if inner.count(-1) > 1 or len(sizes) != 1:
        return None
    (size,) = sizes
    known = prod(dim for dim in inner if dim >= 0)
    if -1 in inner:
        if not known or size % known:
            return None
        return tuple([size // known if dim < 0 else dim for dim in inner])
    return inner if size == known else None


# Answers


def _class_outputs(signature: Signature) -> tuple[str, ...]:
    rank = [spec for spec in signature.outputs if spec.shape is not None and len(spec.shape) == 2]
    classes = _only(rank, "classes", frozenset((BYTES,)))
    scores = _only(rank, "scores", _FLOATS)
    if not classes and not scores:
        message = "the model is no classifier: that has one output of scores (floats [-1,k]) or of classes"
        raise wrong(WRONG_SHAPE, message, signature)
    return (*classes, *scores)


def _value_output(signature: Signature) -> tuple[str, ...]:
    one = [spec for spec in signature.outputs if spec.shape is not None and spec.shape[1:] in ((), (1,))]
    value = _only([spec for spec in one if spec.shape], "outputs", _FLOATS)
    if not value:
        message = "the model is no regressor: that has one output of one float for each row"
        raise wrong(WRONG_SHAPE, message, signature)
    return value


def _only(specs: Iterable[TensorSpec], name: str, dtypes: frozenset[str]) -> tuple[str, ...]:
    """The output of this name, or the only one of these datatypes; none of several."""
    fitting = [spec.name for spec in specs if spec.dtype in dtypes]
    if name in fitting:
        return (name,)
    return tuple(fitting) if len(fitting) == 1 else ()


def classifications(outputs: Sequence[Tensor]) -> tuple[list[list[Class]], Headers]:
    """Return the classes of each row, and what was lost.

    Raises InvalidPrediction: wrong_shape where the outputs are none, not_text for a label that is no text.
    """
    shapes = {tensor.shape for tensor in outputs}
    shape = shapes.pop()
    if shapes or len(shape) != 2:
        raise InvalidPrediction(WRONG_SHAPE, "the model's answer is no classification: [n,k] was expected")
    labels = [""] * prod(shape)
    scores = [0.0] * prod(shape)
    lost: Headers = []
    for tensor in outputs:
        if isinstance(tensor.data, list):
            labels = [_label(tensor.name, element) for element in tensor.data]
        else:
            scores, lost = _floats(tensor.data)
    flat, width = list(zip(labels, scores, strict=True)), shape[1]
    return [flat[row * width : (row + 1) * width] for row in range(shape[0])], lost


def regressions(outputs: Sequence[Tensor]) -> tuple[list[float], Headers]:
    """Return the value of each row, and what was lost; raises InvalidPrediction (wrong_shape)."""
    (tensor,) = outputs
    if not tensor.shape or tensor.shape[1:] not in ((), (1,)) or isinstance(tensor.data, list):
        raise InvalidPrediction(WRONG_SHAPE, "the model's answer is no regression: [n] was expected")
    return _floats(tensor.data)


def _label(name: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as refusal:
        raise InvalidPrediction(NOT_TEXT, f"{name!r} holds labels that are no text") from refusal


def _floats(data: Array) -> tuple[list[float], Headers]:
    with np.errstate(over="ignore"):
        narrow = data.astype(np.float32)
    rounded = data.dtype == np.float64 and not np.array_equal(narrow, data, equal_nan=True)
    values = [float(text) for text in narrow.reshape(-1).astype(str)]  # the shortest decimals of the floats
    return values, [(LOSSY, b"precision")] if rounded else []


# As JSON


def read_examples(document: Mapping[str, object]) -> list[Example]:
    """Read `{"examples": [{name: value or values}, ...], "context"?: {...}}`; raises InvalidPrediction."""
    listed = document.get("examples")
    if type(listed) is not list:
        raise InvalidPrediction(MALFORMED_REQUEST, "'examples' must be a list of objects")
    context = _example(document.get("context", {}))
    return [{**context, **_example(each)} for each in listed]


def _example(value: object) -> dict[str, list[object]]:
    return {name: _feature(name, content) for name, content in require_object(value).items()}


def _feature(name: str, content: object) -> list[object]:
    values = [_value(name, each) for each in (content if type(content) is list else [content])]
    if len(set(map(type, values))) > 1:
        raise InvalidPrediction(WRONG_DTYPE, f"the feature {name!r} holds values of several kinds")
    return values


def _value(name: str, value: object) -> object:
    if type(value) is str:
        return value.encode()
    if is_base64(value):
        return read_base64(name, value)
    if type(value) is bool:
        return int(value)
    if type(value) is float or (type(value) is int and _LIMITS.min <= value <= _LIMITS.max):
        return value
    raise InvalidPrediction(WRONG_DTYPE, f"the feature {name!r} holds what no Example can")


# As messages


def read_input(message: bytes) -> list[Example]:
    """Read Input{1 example_list: {1 examples}, 2 example_list_with_context: {1 examples, 2 context}}.

    Raises InvalidPrediction.
    """
    examples: list[bytes] = []
    context = b""
    for field in wire.fields(message):
        if field[0] not in (1, 2):
            continue
        examples, context = [], b""  # one of both: the last one counts
        for inner in wire.fields(wire.nested(field)):
            if inner[0] == 1:
                examples.append(wire.nested(inner))
            elif inner[0] == 2 and field[0] == 2:
                context += wire.nested(inner)
    return [_features(context + example) for example in examples]  # messages behind each other are merged


def _features(example: bytes) -> Example:
    """Read Example{1 features: {1 feature: map<string, Feature>}}; of equal names the last one counts."""
    found: dict[str, list[object]] = {}
    for field in wire.fields(example):
        if field[0] == 1:
            for inner in wire.fields(wire.nested(field)):
                if inner[0] == 1:
                    name, feature = wire.entry(wire.nested(inner))
                    found[name] = _list(feature)
    return found


def _list(feature: bytes) -> list[object]:
    """Read Feature: one of {1 bytes_list, 2 float_list, 3 int64_list}, each {1 value}."""
    values: list[object] = []
    kind = 0
    for field in wire.fields(feature):
        if field[0] not in (1, 2, 3):
            continue
        if field[0] != kind:
            kind, values = field[0], []
        for inner in wire.fields(wire.nested(field)):
            if inner[0] == 1 and kind == 1:
                values.append(wire.nested(inner))
            elif inner[0] == 1 and kind == 2:
                values += wire.fixed(inner, "<f4").tolist()
            elif inner[0] == 1:
                values += [wire.signed(value) for value in wire.varints(inner)]
    return values


def _written(example: Example) -> bytes:
    """Serialise an Example; raises InvalidPrediction (wrong_dtype) for numbers beyond floats."""
    entries = [
        wire.block(1, wire.string(1, name) + wire.block(2, _write_list(name, example[name])))
        for name in sorted(example)
    ]
    return wire.block(1, b"".join(entries))


def _write_list(name: str, values: list[object]) -> bytes:
    texts = [value for value in values if isinstance(value, bytes)]
    if texts:
        return wire.block(1, b"".join([wire.block(1, text) for text in texts]))
    whole = [value for value in values if isinstance(value, int)]
    if whole:
        return wire.block(3, wire.packed(1, whole))
    if not values:
        return b""
    floats = numbers(name, "FP32", (len(values),), values).astype("<f4")
    return wire.block(2, wire.block(1, floats.tobytes()))


def write_json_results(outputs: Sequence[Tensor], style: Style) -> tuple[bytes, Headers]:
    """Write `{"results": ...}`, as TensorFlow Serving does whatever its documentation says (`result`)."""
    results: object
    if style == "classify":
        results, lost = classifications(outputs)
    else:
        results, lost = regressions(outputs)
    finite = all(map(is_finite, outputs)) and not lost
    document = {"results": results}
    return write_json(document) if finite else write_non_finite(document), lost


def write_results(outputs: Sequence[Tensor], style: Style) -> tuple[bytes, Headers]:
    """Write ClassificationResult{1 {1 {1 label, 2 score}}} or RegressionResult{1 {1 value}}."""
    if style == "classify":
        rows, lost = classifications(outputs)
        written = [b"".join([wire.block(1, _write_class(each)) for each in row]) for row in rows]
    else:
        values, lost = regressions(outputs)
        written = [wire.float32(1, value) for value in values]
    return b"".join([wire.block(1, each) for each in written]), lost


def _write_class(one: Class) -> bytes:
    return wire.string(1, one[0]) + wire.float32(2, one[1])
