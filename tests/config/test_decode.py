from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.decode import FAILED, Decoder
from gateway.config.kind import REQUIRED, setting
from gateway.config.problem import Mark
from gateway.config.secret import Secret
from gateway.config.units import Address, Duration, Ratio, Size
from gateway.config.yaml_tree import Scalar, parse_yaml


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    ttl: Duration = setting(REQUIRED, "how long", example="30s", short=True)
    depth: int = setting(1, "how deep", "levels", at_least=1, at_most=9)
    from_: str = setting("", "whence")


@dataclass(frozen=True, slots=True)
class Worded:
    n: int = setting(0, "a number")

    @classmethod
    def from_text(cls, text: str) -> Worded:
        if not text.isdigit():
            raise ValueError(f"expected digits, found {text!r}")
        return cls(int(text))

    def __post_init__(self) -> None:
        if self.n == 13:
            raise ValueError("expected anything but 13")


@dataclass(frozen=True, slots=True)
class Weighed:
    weights: Mapping[str, Ratio] = setting(REQUIRED, "shares", short=True)
    sticky: bool = setting(False, "whether")


@dataclass(frozen=True, slots=True)
class Other:
    name: str = setting(REQUIRED, "name")


def read(text, expected, env=None, folder=Path()):
    root, found = parse_yaml(f"a: {text}", "f.yaml")
    assert not found
    decoder = Decoder(env or {}, folder)
    value = decoder.decode(root.entries[0][1], expected, "a")
    return value, [str(problem) for problem in decoder.problems]


@pytest.mark.parametrize(
    ("text", "expected", "value"),
    [
        ("1.10", str, "1.10"),
        ("off", str, "off"),
        ("22:30", str, "22:30"),
        ("1e-3", float, 0.001),
        ("0.001", float, 0.001),
        ("1_000", int, 1000),
        ("-5", int, -5),
        ("true", bool, True),
        ("False", bool, False),
        ("off", Literal["off", "on"], "off"),
        ("2", Literal[1, 2], 2),
        ("red", Colour, Colour.RED),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("7", tuple[int, ...], (7,)),
        ("", tuple[int, ...], ()),
        ("[a, a]", frozenset[str], frozenset("a")),
        ("{1: x, 1.10: y}", Mapping[str, str], {"1": "x", "1.10": "y"}),
        ("", dict[str, int], {}),
        ("null", int | None, None),
        ("'null'", str | None, "null"),
        ("5", int | str, 5),
        ("five", int | str, "five"),
        ("64KiB", Size, 65536),
        ("20%", Annotated[Ratio, "note"], 0.2),
        ("127.0.0.1:1", Address, Address("127.0.0.1", 1)),
        ("30s", Inner, Inner(Duration(30.0))),
        ("{ttl: 30s, from: x}", Inner, Inner(Duration(30.0), 1, "x")),
        ("7", Worded, Worded(7)),
        ("'7'", Worded, Worded(7)),
        ("{n: 7}", Worded, Worded(7)),
        ("", Worded, Worded()),
        ("{a: 95%, b: 5%}", Weighed, Weighed({"a": Ratio(0.95), "b": Ratio(0.05)})),
        ("{weights: {a: 1}, sticky: true}", Weighed, Weighed({"a": Ratio(1.0)}, True)),
        ("{name: x}", Inner | Other, Other("x")),
        ("[{name: x}, {ttl: 1s}]", tuple[Inner | Other, ...], (Other("x"), Inner(Duration(1.0)))),
        ("5s", Literal["never"] | Duration, 5.0),
    ],
)
def test_a_value_is_read_as_the_type_expected_there(text, expected, value):
    assert read(text, expected) == (value, [])


@pytest.mark.parametrize(
    ("text", "expected", "problem"),
    [
        ("on", bool, "f.yaml:1:4: a: expected true or false, found 'on'; did you mean 'true'?"),
        ("no", bool, "did you mean 'false'?"),
        ("'true'", bool, "found text in quotes: 'true'"),
        ("ture", bool, "did you mean 'true'?"),
        ("22:30", int, "expected a whole number, found '22:30'"),
        ("017", int, "octal is not read: write 15 or 17"),
        ("0o17", int, "octal is not read: write 15 or 17"),
        ("0x1F", int, "did you mean '31'?"),
        ("1e3", int, "did you mean '1000'?"),
        ("'5'", int, "found text in quotes: '5'; did you mean 5?"),
        (".inf", float, "expected a number, found '.inf'"),
        ("1e999", float, "found one too large"),
        ("017", float, "octal is not read"),
        ("nan", float, "expected a number"),
        ("rde", Colour, "expected red or blue, found 'rde'; did you mean 'red'?"),
        ("null", str, "expected text, found nothing"),
        ("[x]", str, "expected text, found a list"),
        ("{x: 1}", tuple[int, ...], "expected a list of a whole number, found a mapping"),
        ("x", Mapping[str, int], "expected a mapping of names, found 'x'"),
        ("nevr", Literal["never"] | Duration, "did you mean 'never'?"),
        ("x", Worded, "a: expected digits, found 'x'"),
        ("{n: 13}", Worded, "a: expected anything but 13"),
        ("[1]", Worded, "expected a mapping with n, found a list"),
        ("{ttl: 1s, depth: 10}", Inner, "f.yaml:1:21: a.depth: expected at most 9 (levels), found '10'"),
        ("{ttl: 1s, depth: 0}", Inner, "expected at least 1 (levels), found '0'"),
        ("{tll: 1s}", Inner, "a.tll: expected ttl, depth or from, found 'tll'; did you mean 'ttl'?"),
        ("{depth: 2}", Inner, "expected `ttl`, how long: a duration like 10s (`ttl: 30s`); found nothing"),
        ("hunter2", Secret, "found a secret in clear text"),
        ("redis://:hunter2@host/0", str, "found a password in clear text"),
        ("${env:NOPE}", str, "expected the environment variable NOPE to be set"),
        ("${NOPE}", str, "expected a reference like ${env:NAME}"),
        ("${env:NOPE", str, "expected a reference like ${env:NAME}"),
        ("${file:nowhere/at/all}", Secret, "expected a readable file nowhere/at/all: No such file"),
    ],
)
def test_what_does_not_fit_is_reported_with_position_and_hint(text, expected, problem):
    value, problems = read(text, expected)
    assert value is FAILED
    assert problem in "\n".join(problems)
    assert "hunter2" not in "\n".join(problems)


def test_one_run_reports_everything():
    _, problems = read("{ttl: x, depth: y, zzz: 1, from: [1]}", Inner)
    assert [problem.split(":")[2] for problem in problems] == ["10", "20", "23", "37"]


def test_references_are_resolved_and_never_shown(tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    assert read("${file:token}", Secret, folder=tmp_path) == (Secret("s3cret"), [])
    assert read('"${env:PORT}"', int, {"PORT": "80"}) == (80, [])
    assert read("redis://:${env:PW}@h/0", str, {"PW": "x"}) == ("redis://:x@h/0", [])
    value, problems = read("${env:PORT}", int, {"PORT": "s3cret"})
    assert value is FAILED
    assert problems == ["f.yaml:1:4: a: expected a whole number, found something else in ${env:PORT}"]
    assert "s3cret" not in "".join(read("${env:PORT}", Worded, {"PORT": "s3cret"})[1])


def test_an_empty_secret_is_none():
    assert "expected a secret, found nothing" in read("${env:E}", Secret, {"E": ""})[1][0]


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12))
def test_no_scalar_makes_the_decoder_raise(text):

    for expected in (str, int, float, bool, Duration, Size, Ratio, Address, Secret, Worded, Inner, Colour):
        decoder = Decoder({}, Path())
        value = decoder.decode(Scalar(text, False, Mark("f", 1, 1)), expected, "a")
        assert (value is FAILED) == bool(decoder.problems)
