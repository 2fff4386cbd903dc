"""Our table of messages against the ones that a client library was generated with: the same on the wire."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2

from backends.open_inference import _MESSAGES, message


def theirs(name: str):
    outer, _, inner = name.rpartition(".")
    found = getattr(service_pb2, outer or inner)
    return getattr(found, inner) if outer else found


@pytest.mark.parametrize("name", _MESSAGES)
def test_every_field_has_the_number_and_type_that_clients_know(name):
    known = {field.name: field for field in theirs(name).DESCRIPTOR.fields}
    for field in message(name).DESCRIPTOR.fields:
        assert field.number == known[field.name].number
        assert field.type == known[field.name].type
        assert field.is_repeated == known[field.name].is_repeated


def test_what_a_client_writes_is_read():
    request = service_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"\x01\x02"])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.parameters["unknown"].string_param = "kept"
    read = message("ModelInferRequest").FromString(request.SerializeToString())
    assert (read.model_name, read.id, list(read.raw_input_contents)) == ("m", "7", [b"\x01\x02"])
    assert list(read.inputs[0].shape) == [1, 2]
    assert service_pb2.ModelInferRequest.FromString(read.SerializeToString()) == request
