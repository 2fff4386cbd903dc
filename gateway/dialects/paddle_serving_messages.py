"""PaddleServing's C++ messages, as its own client sends them unless told otherwise (`application/proto`).

    Request{1 tensor, 2 fetch_var_names, 4 log_id}  ->  Response{1 outputs{1 tensor, 2 engine_name}, 5 err_no}
    Tensor{1 … 9 elements by type, 10 elem_type, 11 shape, 12 lod, 13 name, 14 alias_name, 15 tensor_content}

They say what the JSON says, so they are read into its members, and written from them (paddle_serving.py).
Field numbers are those of the module that paddle-serving-client 0.9.0 installs.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from gateway.dialects import wire

_WHOLE: Final = {1: "int64_data", 3: "int_data", 5: "uint32_data"}
_FLOATS: Final = {2: ("float_data", "<f4"), 4: ("float64_data", "<f8")}
_MEMBERS: Final = {
    "int64_data": 1,
    "float_data": 2,
    "int_data": 3,
    "float64_data": 4,
    "bool_data": 6,
    "data": 9,
    "elem_type": 10,
    "shape": 11,
    "tensor_content": 15,
}


def read_request(message: bytes) -> dict[str, object]:
    """Return the members that the JSON would have; raises InvalidPrediction."""
    tensors: list[object] = []
    wanted: list[object] = []
    for field in wire.fields(message):
        if field[0] == 1:
            tensors.append(_read_tensor(wire.nested(field)))
        elif field[0] == 2:
            wanted.append(wire.text(field))
    return {"tensor": tensors, "fetch_var_names": wanted}


def _read_tensor(message: bytes) -> dict[str, object]:
    lists: dict[str, list[object]] = {"shape": []}
    read: dict[str, object] = {}
    for field in wire.fields(message):
        match field[0]:
            case 1 | 3 | 5:
                whole = [wire.signed(value) for value in wire.varints(field)]
                lists.setdefault(_WHOLE[field[0]], []).extend(whole)
            case 2 | 4:
                name, dtype = _FLOATS[field[0]]
                lists.setdefault(name, []).extend(wire.fixed(field, dtype).tolist())
            case 6:
                lists.setdefault("bool_data", []).extend(value != 0 for value in wire.varints(field))
            case 9:
                lists.setdefault("data", []).append(wire.text(field))
            case 10:
                read["elem_type"] = wire.unsigned(field)
            case 11:
                lists["shape"].extend(wire.signed(value) for value in wire.varints(field))
            case 12:
                read["lod"] = True
            case 13:
                read["name"] = wire.text(field)
            case 14:
                read["alias_name"] = wire.text(field)
            case 15:
                read["tensor_content"] = b64encode(wire.nested(field)).decode()
    return {**read, **lists}


def write_response(tensors: Sequence[Mapping[str, object]], engine: str) -> bytes:
    """Write the answer of one engine. tensors: the members that the JSON would have."""
    outputs = b"".join([wire.block(1, _write_tensor(each)) for each in tensors])
    return wire.block(1, outputs + wire.string(2, engine))


def _write_tensor(members: Mapping[str, object]) -> bytes:
    name = str(members["name"])
    fields = [_write_member(member, value) for member, value in members.items() if member in _MEMBERS]
    fields += [(13, wire.string(13, name)), (14, wire.string(14, name))]
    return b"".join([field for _, field in sorted(fields)])


def _write_member(member: str, value: object) -> tuple[int, bytes]:
    tag = _MEMBERS[member]
    match member:
        case "float_data" | "float64_data":
            content = np.asarray(value).astype("<f4" if tag == 2 else "<f8").tobytes()
            return tag, wire.block(tag, content) if content else b""
        case "tensor_content":
            return tag, wire.block(tag, b64decode(str(value)))
        case "data" if isinstance(value, list):
            return tag, b"".join([wire.block(tag, text.encode()) for text in value])
        case "elem_type" if isinstance(value, int):
            return tag, wire.number(tag, value)
        case _:
            return tag, wire.packed(tag, np.asarray(value).reshape(-1).tolist())
