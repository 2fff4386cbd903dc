"""The attack list is in tests/filters/test_authenticate.py; here stand the laws."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.schema import Algorithm, Claims, IssuerConfig
from gateway.pipeline.token_keys import fits
from gateway.pipeline.tokens import InvalidToken, read, verify, whose
from tests.fakes.issuer import AUDIENCE, ISSUER, part, private_key, sign

CORP = IssuerConfig(name="corp", issuer=ISSUER, audiences=(AUDIENCE,), jwks="keys.json")
WALL = 1_790_000_000.0
GOOD = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "exp": WALL + 60}
TOKEN = sign(GOOD, "ed", "EdDSA", "o")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def accepted(token: bytes) -> bool:
    try:
        verify(read(token), private_key("ed").public_key(), CORP, WALL)
    except InvalidToken:
        return False
    return True


def test_the_good_token_is_good() -> None:
    assert accepted(TOKEN)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(token: bytes) -> None:
    assert not accepted(token)


@given(JSON, JSON)
def test_no_json_at_all_raises_anything_else(header: object, claims: object) -> None:
    assert not accepted(part(header) + b"." + part(claims) + b"." + part(b"signature"))


@given(st.integers(0, len(TOKEN) - 1), st.integers(0, 255))
def test_a_token_with_one_byte_changed_is_refused(at: int, byte: int) -> None:
    changed = TOKEN[:at] + bytes([byte]) + TOKEN[at + 1 :]
    assert accepted(changed) is (changed == TOKEN)


@given(st.dictionaries(st.sampled_from(["sub", "plan", "org", "models"]), JSON))
def test_claims_of_any_shape_name_a_principal_or_are_refused(claims: dict[str, object]) -> None:
    config = IssuerConfig(
        name="corp",
        issuer=ISSUER,
        audiences=(AUDIENCE,),
        jwks="keys.json",
        claims=Claims(plan="plan", tenant="org.name", models="models"),
    )
    try:
        principal = whose(claims, config)
    except InvalidToken:
        return
    assert all(name.isprintable() for name in (principal.name, principal.plan, principal.tenant))
    assert all(isinstance(model, str) for model in principal.models)


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        ("rsa", {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ("p256", {"ES256"}),
        ("p384", {"ES384"}),
        ("ed", {"EdDSA"}),
        ("weak", set()),
    ],
)
def test_a_key_fits_the_algorithms_of_its_own_type_only(key: str, algorithms: set[str]) -> None:
    every = [*get_args(Algorithm), "ES512", "HS256", "none"]
    assert {name for name in every if fits(private_key(key).public_key(), name)} == algorithms
    assert not any(fits(private_key(key), name) for name in every)  # a private key verifies nothing


@pytest.mark.parametrize("secret", [b"secret", "secret", None, {"kty": "oct"}])
def test_what_is_no_public_key_fits_nothing(secret: object) -> None:
    assert not any(fits(secret, name) for name in ("RS256", "ES256", "EdDSA", "HS256"))


def test_a_claim_with_dots_in_its_name_goes_before_a_nested_one() -> None:
    config = IssuerConfig(
        name="corp",
        issuer=ISSUER,
        audiences=(AUDIENCE,),
        jwks="keys.json",
        claims=Claims(tenant="https://corp.example/org"),
    )
    assert whose({"sub": "bob", "https://corp.example/org": "acme"}, config).tenant == "acme"


@pytest.mark.parametrize(
    "demand", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"b64": True}, {"jku": None}]
)
def test_what_a_header_demands_is_refused_before_any_key_is_asked_for(demand: dict[str, object]) -> None:
    with pytest.raises(InvalidToken):
        read(part({"alg": "EdDSA", **demand}) + b"." + part(GOOD) + b"." + part(b"signature"))


def test_an_issuers_prefix_keeps_its_principals_apart() -> None:
    assert whose({"sub": "alice"}, replace(CORP, prefix="corp:")).name == "corp:alice"


def test_a_repr_shows_no_token() -> None:
    assert repr(read(TOKEN)) == f"<Unverified EdDSA token of {len(TOKEN)} B>"
