"""How the verbs of this folder are written in policy files: short forms, long forms, and mistakes."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.config.units import Duration
from gateway.filters.allow import Allow
from gateway.filters.authenticate import Authenticate
from gateway.filters.catalog import KINDS
from gateway.filters.cors import Cors
from gateway.filters.debug import Debug
from gateway.filters.headers import Changes, HeaderChanges
from gateway.filters.safe_to_retry import SafeToRetry
from gateway.filters.timeout import Timeout
from gateway.filters.validate import Validate

PAGE = """\
pools: {{p: {{instances: ["127.0.0.1:1"]}}}}
plans: {{free: {{}}}}
issuers: {{corp: {{issuer: "https://id.example", audiences: [gateway], jwks: "https://id.example/keys"}}}}
endpoints:
  digits:
    model: digits
    send: p
    {line}
"""


def read(folder: Path, line: str) -> object:
    """Return the struct that a verb's line on an endpoint's page is read as, or the problems as text."""
    (folder / "page.yaml").write_text(PAGE.format(line=line))
    loaded = load(folder, KINDS, {"SECRET": "s3cret"})
    if loaded.schema is None:
        return loaded.report()
    (placed,) = loaded.schema.endpoints["digits"].verbs[line.split(":")[0]]
    return placed.value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("authenticate: [api_key, jwt]", Authenticate(("api_key", "jwt"))),
        ("authenticate: jwt", Authenticate(("jwt",))),
        ("authenticate: none", Authenticate(("none",))),
        (
            "authenticate: {methods: [jwt], issuers: [corp], header: x-key}",
            Authenticate(("jwt",), header="x-key", issuers=("corp",)),
        ),
        ("allow: 10.0.0.0/8", Allow((ip_network("10.0.0.0/8"),))),
        ("allow: [10.0.0.0/8, '::1']", Allow((ip_network("10.0.0.0/8"), ip_network("::1")))),
        (
            "allow: {addresses: [127.0.0.1], plans: [free]}",
            Allow((ip_network("127.0.0.1"),), plans=("free",)),
        ),
        ("cors: https://app.example.org", Cors(("https://app.example.org",))),
        ("cors: '*'", Cors(("*",))),
        ("cors: {origins: ['*'], max_age: 1h}", Cors(("*",), max_age=Duration(3600.0))),
        ("headers: {response: {remove: server}}", HeaderChanges(response=Changes(remove=("server",)))),
        (
            "headers: {request: {set: {x-key: '${env:SECRET}', x-who: '{principal}'}}}",
            HeaderChanges(Changes(set_={"x-key": "s3cret", "x-who": "{principal}"})),
        ),
        ("debug: true", Debug(True)),
        ("debug: false", Debug(False)),
        ("timeout: 250ms", Timeout(Duration(0.25))),
        ("timeout: {total: 2s, client: false}", Timeout(Duration(2.0), client=False)),
        ("safe_to_retry: true", SafeToRetry(True)),
        ("validate: true", Validate(True)),
        ("validate: {rows: 64}", Validate(rows=64)),
    ],
)
def test_a_line_is_read_as_meant(tmp_path: Path, line: str, expected: object) -> None:
    assert read(tmp_path, line) == expected


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("authenticate: [api_keys]", "did you mean 'api_key'"),
        ("authenticate: {issuers: [crop]}", "did you mean 'corp'"),
        ("authenticate: []", "none alone"),
        ("allow: 10.1.0.0/8", "did you mean '10.0.0.0/8'"),
        ("allow: {plans: [fre]}", "did you mean 'free'"),
        ("allow: {}", "at least one"),
        ("cors: {origins: ['*'], credentials: true}", "stands alone"),
        ("headers: {request: {set: {host: x}}}", "gateway's own"),
        ("debug: yes", "did you mean 'true'"),
        ("timeout: 2", "did you mean '2s'"),
        ("timeout: 0s", "0"),
        ("validate: {rows: 0}", "rows"),
        ("safe_to_retry: {on: maybe}", "true or false"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, line: str, hint: str) -> None:
    told = read(tmp_path, line)
    assert isinstance(told, str)
    assert hint in told
    assert "page.yaml:8:" in told


def test_a_header_value_from_a_reference_is_not_shown_when_it_is_refused(tmp_path: Path) -> None:
    told = read(tmp_path, "headers: {request: {set: {x-key: '${env:SECRET}{nobody}'}}}")
    assert isinstance(told, str)
    assert "s3cret" not in told


def test_a_verb_that_reads_predictions_is_refused_where_there_are_none(tmp_path: Path) -> None:
    page = "pools: {a: {find: a}}\nendpoints: {e: {match: /e, send: a, validate: true}}\n"
    (tmp_path / "a.yaml").write_text(page)
    (problem,) = load(tmp_path, KINDS).errors
    assert "on an endpoint with `model:`" in str(problem)


def test_two_issuers_of_the_same_tokens_are_refused(tmp_path: Path) -> None:
    one = "{issuer: 'https://id.example', audiences: [g], jwks: keys.json}"
    (tmp_path / "a.yaml").write_text(f"issuers: {{one: {one}, two: {one}}}\n")
    (problem,) = load(tmp_path, KINDS).errors
    assert "issuers.two.issuer: expected an issuer of its own, found that of one" in str(problem)
