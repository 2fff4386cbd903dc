"""The canonical key of a prediction: one key per question, however it is written.

`1`, `1.0` and `1e0`, flat or nested lists, another order of members, TensorFlow Serving's rows or columns,
V2's JSON or binary tensors: the same model is asked the same question. So the key is taken from the parsed
tensors, never from the bytes of the body. -0.0 counts as 0.0 and all NaNs as one; another datatype or shape
is another question.

Every ingredient is prefixed with its length, so no two different lists of ingredients make the same bytes.
What says nothing about the answer (`id`, `timeout`, `priority`, `trace`) stays out; what the caller may
share is its choice of `scope`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
import orjson

from gateway.dialects.binary import little_endian
from gateway.dialects.tensors import Array, InferRequest, Tensor

KEY_BYTES: Final = 16
_ABOUT_DELIVERY: Final = frozenset(("id", "timeout", "priority", "trace"))
ABOUT_SEQUENCES: Final = frozenset(("sequence_id", "sequence_start", "sequence_end"))


def cacheable(request: InferRequest) -> bool:
    """Whether asking again would give the same answer: no sequence, and no sampling without a seed."""
    params = request.params
    if not params:
        return True
    if not ABOUT_SEQUENCES.isdisjoint(params):
        return False
    temperature = params.get("temperature")
    return "seed" in params or temperature is None or temperature == 0


def canonical_key(request: InferRequest, model: str, version: str, scope: bytes) -> bytes:
    """Return the 16-byte BLAKE2b key of a prediction.

    model and version: those that will answer, not those asked for. scope: whom the answer may be shared with
    (a principal, a tenant, or b"" for everybody), and the digest of whatever configuration shapes the answer.
    """
    tensors: Sequence[Tensor] = request.inputs
    if len(tensors) > 1:
        tensors = sorted(tensors, key=_name)
    digest = blake2b(about(request, tensors, model, version, scope), digest_size=KEY_BYTES)
    for tensor in tensors:
        for part in content(tensor):
            digest.update(b"%d:" % len(part))
            digest.update(part)
    return digest.digest()


def about(
    request: InferRequest,
    tensors: Sequence[Tensor],
    model: str,
    version: str,
    scope: bytes,
    *,
    rows: bool = False,
) -> bytes:
    """Return everything that a key depends on but the tensors' contents.

    tensors: the inputs, by name. rows: the key is of one row, so how many there are is left out.
    """
    parts = [
        b"row" if rows else b"batch",
        model.encode(),
        version.encode(),
        scope,
        request.signature.encode(),
    ]
    parts.append(b"%d" % len(tensors))
    for tensor in tensors:
        shape = tensor.shape[1:] if rows else tensor.shape
        parts.append(tensor.name.encode())
        parts.append(tensor.dtype.encode())
        parts.append(b"%d" % len(shape))
        parts += [b"%d" % dim for dim in shape]
        parts.append(_settings(tensor.params))
    parts.append(_settings(request.params))
    if request.outputs is None:
        parts.append(b"all")
    else:
        parts.append(b"some")
        parts += sorted({name.encode() for name in request.outputs})
    return b"%d " % len(parts) + b"".join([b"%d:%b" % (len(part), part) for part in parts])


def _name(tensor: Tensor) -> str:
    return tensor.name


def content(tensor: Tensor) -> list[bytes]:
    """Return what a tensor holds, one string of bytes for numbers, each of its own for byte strings."""
    data = tensor.data
    if isinstance(data, list):
        return data
    if data.dtype.kind == "f":
        return [little_endian(_one_zero_one_nan(data))]
    return [little_endian(data)]


def _one_zero_one_nan(data: Array) -> Array:
    """Turn -0.0 into 0.0 and every NaN into the same one."""
    clean = np.empty_like(data)  # an array also where data is a scalar, which `data + 0` would not be
    np.add(data, 0, out=clean)
    undefined = np.isnan(clean)
    if undefined.any():
        clean[undefined] = np.nan
    return clean


def _settings(params: Mapping[str, object]) -> bytes:
    if not params:
        return b"{}"
    kept = {name: value for name, value in params.items() if name not in _ABOUT_DELIVERY}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)
