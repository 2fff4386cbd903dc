from __future__ import annotations

import dataclasses

import pytest

from gateway.config import schema
from gateway.config.decode import hints, language_fields
from gateway.config.kind import setting_of
from gateway.config.reference import render, takes, write_reference
from gateway.config.secret import Secret
from gateway.config.units import Duration, Ratio, Size
from tests.config.sample_kinds import KINDS

TEXT = write_reference(KINDS)
STRUCTS = [
    one
    for one in vars(schema).values()
    if dataclasses.is_dataclass(one) and one.__module__ == schema.__name__
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_key_has_a_meaning_and_stands_in_the_reference(struct):
    for name, declared in language_fields(struct).items():
        assert setting_of(declared).meaning, name
        assert f"| `{name}` | " in TEXT
        assert hints(struct)[declared.name]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_verb_has_its_section(kind):
    assert f"\n## Verb `{kind.name}`\n" in TEXT


def test_a_row_says_type_default_meaning_and_example():
    row = "| `drain` | duration | `30s` | how long requests under way may take to end after SIGTERM | "
    assert row + "`drain: 30s` |" in TEXT
    assert "| `rate` | rate | **required** | how much may pass | `rate: 5/s` |" in TEXT


def test_places_and_precedence_are_said():
    assert "Stands on: pool, endpoint, policy. A property of pools. The most specific wins." in TEXT
    assert "A property of requests. Several accumulate: all must agree." in TEXT


def test_no_section_comes_twice():
    titles = [line for line in TEXT.splitlines() if line.startswith("## ")]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize(
    ("value", "expected", "text"),
    [
        (0.25, Duration, "250ms"),
        (0.25, Ratio | None, "25%"),
        (1024, Size, "1KiB"),
        (True, bool, "true"),
        ((1.0, 2.0), tuple[Duration, ...], "[1s, 2s]"),
        (Secret("x"), Secret, "(secret)"),
        (None, str | None, "none"),
    ],
)
def test_values_are_written_as_yaml_has_them(value, expected, text):
    assert render(value, expected) == text


def test_types_are_named_in_words():
    assert takes(tuple[Duration, ...] | None) == "list of duration"
