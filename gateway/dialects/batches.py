"""Predictions put together and taken apart along the batch axis, as tensors.

Right only for a model whose rows are independent of one another, and whose inputs and outputs have the batch
axis first: whoever calls has been told so by a policy. rows.py does the same for single rows as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from gateway.dialects.errors import WRONG_SHAPE, InvalidPrediction
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor

Form = tuple[object, ...]


def form_of(request: InferRequest) -> Form | None:
    """Return what two predictions must share to be put into one batch; None: it can't be in any.

    Every input needs a first axis of the same length. Request parameters differ between callers and may
    change what the model does, so whoever sends some is alone.
    """
    rows = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    if len(rows) != 1 or not min(rows) or request.params or any(one.params for one in request.inputs):
        return None
    inputs = tuple((tensor.name, tensor.dtype, tensor.shape[1:]) for tensor in request.inputs)
    return (request.model, request.version, request.label, request.signature, request.outputs, inputs)


def put_requests_together(requests: Sequence[InferRequest]) -> InferRequest:
    """Return one prediction of all their rows, in order. They have one `form_of`; at least one."""
    first = requests[0]
    inputs = tuple(
        _joined([request.inputs[index] for request in requests]) for index in range(len(first.inputs))
    )
    return InferRequest(
        None,
        first.model,
        first.version,
        first.label,
        first.signature,
        inputs,
        first.outputs,
        first.params,
        first.style,
    )


def put_responses_together(responses: Sequence[InferResponse]) -> InferResponse:
    """Return one answer of all their rows, in order; at least one.

    Raises InvalidPrediction (wrong_shape) where their outputs are not alike.
    """
    first = responses[0]
    forms = {
        tuple((one.name, one.dtype, one.shape[1:]) for one in response.outputs) for response in responses
    }
    if len(forms) != 1 or not all(tensor.shape for tensor in first.outputs):
        raise InvalidPrediction(WRONG_SHAPE, "the parts of the batch were answered in different forms")
    outputs = tuple(
        _joined([response.outputs[index] for response in responses]) for index in range(len(first.outputs))
    )
    return InferResponse(first.id, first.model, first.version, outputs, first.params)


def take_response_apart(response: InferResponse, sizes: Sequence[int]) -> list[InferResponse]:
    """Return one answer for each of `sizes` rows, in order.

    Raises InvalidPrediction (wrong_shape) when an output has not exactly that many rows.
    """
    total = sum(sizes)
    for tensor in response.outputs:
        if not tensor.shape or tensor.shape[0] != total:
            raise InvalidPrediction(
                WRONG_SHAPE, f"the output {tensor.name!r} has {list(tensor.shape[:1])} rows for {total}"
            )
    parts, begin = [], 0
    for size in sizes:
        outputs = tuple(_cut(tensor, begin, begin + size) for tensor in response.outputs)
        parts.append(InferResponse(None, response.model, response.version, outputs, response.params))
        begin += size
    return parts


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    shape = (sum(tensor.shape[0] for tensor in tensors), *first.shape[1:])
    strings: list[bytes] = []
    arrays = []
    for tensor in tensors:
        if isinstance(tensor.data, list):
            strings += tensor.data
        else:
            arrays.append(tensor.data)
    if arrays:
        return Tensor(first.name, first.dtype, shape, np.concatenate(arrays), first.params)
    return Tensor(first.name, first.dtype, shape, strings, first.params)


def _cut(tensor: Tensor, begin: int, end: int) -> Tensor:
    shape = (end - begin, *tensor.shape[1:])
    if isinstance(tensor.data, list):
        width = prod(tensor.shape[1:])
        data = tensor.data[begin * width : end * width]
        return Tensor(tensor.name, tensor.dtype, shape, data, tensor.params)
    return Tensor(
        tensor.name, tensor.dtype, shape, np.ascontiguousarray(tensor.data[begin:end]), tensor.params
    )
