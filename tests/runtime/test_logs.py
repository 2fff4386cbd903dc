from __future__ import annotations

import logging

import pytest

from gateway.runtime.logs import FieldsFormatter


def line(message: str, **fields: object) -> str:
    record = logging.getLogger("headgate.x").makeRecord(
        "headgate.x", logging.WARNING, "f", 1, message, (), None, extra=fields
    )
    return FieldsFormatter().format(record).partition(" WARNING ")[2]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "headgate.x event"),
        ({"service": "digits", "count": 3}, "headgate.x event service=digits count=3"),
        ({"reason": "no such file"}, "headgate.x event reason='no such file'"),
        ({"reason": "two\nlines"}, "headgate.x event reason='two\\nlines'"),
        ({"reason": ""}, "headgate.x event reason=''"),
    ],
    ids=str,
)
def test_an_events_fields_stand_behind_its_name(fields: dict[str, object], shown: str) -> None:
    assert line("event", **fields) == shown


def test_a_stack_comes_behind_the_fields() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        record = logging.makeLogRecord(
            {"msg": "event", "exc_info": (type(error), error, error.__traceback__)}
        )
    record.service = "digits"
    text = FieldsFormatter().format(record)
    assert text.splitlines()[0].endswith("event service=digits")
    assert text.splitlines()[-1] == "ValueError: why"
