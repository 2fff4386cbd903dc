"""A batch taken apart and put together: predictions row by row, in the neutral form.

A row of a prediction is what stands at one index of the first axis of every tensor. Taking a batch apart is
right only for a model whose rows are independent of one another. That no signature can say, so somebody has
to (`cache: {rows: true}`); what a signature can say, and must, is that every input and every output has the
batch axis first, free, and that an answer's other dimensions don't depend on who else is in the batch.

A row of an answer is kept as bytes: one line of JSON about the outputs, then each output's row as the binary
form of KServe V2 has it (little-endian numbers; byte strings behind their length). So NaN, infinities and
strings come back as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import prod
from typing import Final, NamedTuple

import numpy as np
import orjson

from gateway.dialects.binary import from_binary, to_binary
from gateway.dialects.canonical import KEY_BYTES, about, content
from gateway.dialects.errors import MALFORMED_REQUEST, WRONG_SHAPE, InvalidPrediction
from gateway.dialects.metadata import Signature
from gateway.dialects.tensors import BYTES, NUMPY, InferRequest, InferResponse, Tensor

MOST: Final = 4096  # rows that one request is taken apart into


def separable(signature: Signature) -> bool:
    """Whether all inputs and outputs share a free first axis, and outputs are otherwise of one shape."""
    return bool(signature.inputs and signature.outputs) and (
        all(spec.shape and spec.shape[0] == -1 for spec in signature.inputs)
        and all(spec.shape and spec.shape[0] == -1 and min(spec.shape[1:], default=0) >= 0
                for spec in signature.outputs)
    )  # fmt: skip


def count(request: InferRequest) -> int:
    """Return how many rows all inputs have, 0 where they don't agree."""
    sizes = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    return sizes.pop() if len(sizes) == 1 else 0


def row_keys(request: InferRequest, model: str, version: str, scope: bytes) -> list[bytes]:
    """Return the 16-byte key of every row; a batch of one has the key that its row has in any batch.

    Arguments: as of `canonical_key`. The inputs must agree on how many rows there are (`count`).
    """
    tensors = sorted(request.inputs, key=lambda tensor: tensor.name)
    common = blake2b(about(request, tensors, model, version, scope, rows=True), digest_size=KEY_BYTES)
    keys = []
    for parts in zip(*[_row_contents(tensor) for tensor in tensors], strict=True):
        digest = common.copy()
        for part in parts:
            digest.update(part)
        keys.append(digest.digest())
    return keys


def _row_contents(tensor: Tensor) -> list[bytes]:
    """Return each row's content. Numbers have the size that dtype and shape say; strings carry theirs."""
    rows, width = tensor.shape[0], prod(tensor.shape[1:])
    parts = content(tensor)
    if isinstance(tensor.data, list):
        measured = [b"%d:%b" % (len(part), part) for part in parts]
        return [b"".join(measured[row * width : (row + 1) * width]) for row in range(rows)]
    (whole,) = parts
    size = width * NUMPY[tensor.dtype].itemsize
    return [whole[row * size : (row + 1) * size] for row in range(rows)]


def pick(request: InferRequest, wanted: Sequence[int]) -> InferRequest:
    """Return the same prediction of some of its rows, in the order given."""
    inputs = tuple(_picked(tensor, wanted) for tensor in request.inputs)
    return InferRequest(
        request.id,
        request.model,
        request.version,
        request.label,
        request.signature,
        inputs,
        request.outputs,
        request.params,
        request.style,
    )


def _picked(tensor: Tensor, wanted: Sequence[int]) -> Tensor:
    shape = (len(wanted), *tensor.shape[1:])
    if isinstance(tensor.data, list):
        width = prod(tensor.shape[1:])
        data = [value for row in wanted for value in tensor.data[row * width : (row + 1) * width]]
        return Tensor(tensor.name, tensor.dtype, shape, data, tensor.params)
    return Tensor(tensor.name, tensor.dtype, shape, tensor.data[list(wanted)], tensor.params)


# Answers


class Row(NamedTuple):
    """One row of an answer. about: of all outputs, the same bytes for the rows that go together."""

    about: bytes
    content: bytes

    def pack(self) -> bytes:
        """Return it as one string of bytes."""
        return self.about + b"\n" + self.content


def unpack(packed: bytes) -> Row:
    """Read what `Row.pack` wrote."""
    known, _, rest = packed.partition(b"\n")
    return Row(known, rest)


def take_apart(response: InferResponse, rows: int) -> list[Row]:
    """Return the rows of an answer to `rows` rows.

    Raises InvalidPrediction (wrong_shape) when an output has another number of them.
    """
    known = orjson.dumps(
        {
            "model": response.model,
            "version": response.version,
            "outputs": [[tensor.name, tensor.dtype, tensor.shape[1:]] for tensor in response.outputs],
        }
    )
    contents: list[list[bytes]] = []
    for tensor in response.outputs:
        if not tensor.shape or tensor.shape[0] != rows:
            raise InvalidPrediction(
                WRONG_SHAPE, f"the output {tensor.name!r} has {list(tensor.shape[:1])} rows for {rows}"
            )
        raw = to_binary(tensor)
        if isinstance(tensor.data, list):
            width = prod(tensor.shape[1:])
            measured = [len(value).to_bytes(4, "little") + value for value in tensor.data]
            pieces = [b"".join(measured[row * width : (row + 1) * width]) for row in range(rows)]
        else:
            size = len(raw) // rows if rows else 0
            pieces = [raw[row * size : (row + 1) * size] for row in range(rows)]
        contents.append([len(piece).to_bytes(4, "little") + piece for piece in pieces])
    return [Row(known, b"".join(parts)) for parts in zip(*contents, strict=True)]


def put_together(rows: Sequence[Row], id: str | None) -> InferResponse:
    """Return the answer that consists of these rows, in order; at least one.

    Raises InvalidPrediction (wrong_shape) for rows of unlike answers, malformed_request for damaged ones.
    """
    known = rows[0].about
    if any(row.about != known for row in rows):
        raise InvalidPrediction(WRONG_SHAPE, "the rows are of answers of different forms")
    try:
        form = orjson.loads(known)
        outputs = [(str(name), str(dtype), tuple(map(int, shape))) for name, dtype, shape in form["outputs"]]
        if not all(dtype == BYTES or dtype in NUMPY for _, dtype, _ in outputs):
            raise ValueError("unknown dtype")
        model, version = str(form["model"]), str(form["version"])
    except (ValueError, KeyError, TypeError) as damaged:
        raise InvalidPrediction(MALFORMED_REQUEST, "a kept row is damaged") from damaged
    pieces: list[list[bytes]] = [[] for _ in outputs]
    for row in rows:
        at = 0
        for piece in pieces:
            size = int.from_bytes(row.content[at : at + 4], "little")
            piece.append(row.content[at + 4 : at + 4 + size])
            at += 4 + size
    tensors = tuple(
        _tensor(name, dtype, (len(rows), *shape), b"".join(piece))
        for (name, dtype, shape), piece in zip(outputs, pieces, strict=True)
    )
    return InferResponse(id, model, version, tensors, {})


def _tensor(name: str, dtype: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    data = from_binary(name, dtype, shape, raw)
    return Tensor(name, dtype, shape, data if dtype == BYTES else np.asarray(data))
