"""Protobuf messages from a table in place of generated code: field numbers and types are there to be read.

    "ModelSpec": "string name 1, Int64Value version 2, string signature_name 3"
    "PredictRequest": "ModelSpec model_spec 1, map TensorProto inputs 2, repeated string output_filter 3"

A dot in a message's name nests it, a capital in a field's type makes it a message, `map T` is
`map<string, T>`. Each table has a pool of its own, so that a client library with the same names can be loaded
beside it. Fields that are left out are kept unread by protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Message = Any  # of protobuf, whose attributes no type checker knows


class Table:
    """The messages of one package."""

    __slots__ = ("_package", "_pool")

    def __init__(self, package: str, messages: Mapping[str, str]) -> None:
        self._package = package
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(_declare(package, messages))

    def message(self, name: str) -> Message:
        """Return the class of a message."""
        descriptor = self._pool.FindMessageTypeByName(f"{self._package}.{name}")
        return message_factory.GetMessageClass(descriptor)


def _declare(package: str, messages: Mapping[str, str]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"headgate/{package}.proto", package=package, syntax="proto3"
    )
    made: dict[str, Message] = {}
    for name, fields in messages.items():
        outer, _, inner = name.rpartition(".")
        made[name] = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
        for field in filter(None, fields.split(", ")):
            _add_field(made[name], f"{package}.{name}", package, field)
    return file


def _add_field(message: Message, whole_name: str, package: str, text: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    *marks, kind, name, number = text.split(" ")
    field = message.field.add(name=name, number=int(number))
    field.label = kinds.LABEL_REPEATED if marks else kinds.LABEL_OPTIONAL
    if marks == ["map"]:
        entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "", package, "string key 1")
        _add_field(entry, "", package, f"{kind} value 2")
        field.type = kinds.TYPE_MESSAGE
        field.type_name = f".{whole_name}.{entry.name}"
    elif kind[0].isupper():
        field.type = kinds.TYPE_MESSAGE
        field.type_name = f".{package}.{kind}"
    else:
        field.type = getattr(kinds, f"TYPE_{kind.upper()}")
