from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from gateway.config.schema import Claims, IssuerConfig, May
from gateway.config.units import Duration, Size
from gateway.filters.authenticate import KIND, Authenticate, AuthenticateFilter
from gateway.http.message import Response
from gateway.pipeline import tokens
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.directory import Credential, Directory
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Rule
from gateway.pipeline.ports import Principal
from gateway.pipeline.promise import Promise
from tests.fakes.clock import ManualClock
from tests.fakes.context import make_context, make_parts
from tests.fakes.issuer import AUDIENCE, ISSUER, FakeKeys, part, private_key, sign, sign_raw

ALICE = Principal("alice", "free", "acme", models=frozenset({"digits"}))
KEY = b"hg_0123456789abcdefghijklmnopqrstuv"
EXPIRING, REVOKED = b"hg_expiring", b"hg_revoked"
EXPIRES_IN = 60.0

CORP = IssuerConfig(
    name="corp",
    issuer=ISSUER,
    audiences=(AUDIENCE,),
    jwks="keys.json",
    algorithms=("RS256", "ES256", "EdDSA"),
    claims=Claims(principal="sub", plan="plan", tenant="org.name", models="models", endpoints="endpoints"),
    plan="guest",
    may=May(models=("lite",)),
)


class Door:
    """An authenticate filter with everything around it, for one table row each."""

    def __init__(self, config: Authenticate | None = None, issuer: IssuerConfig = CORP) -> None:
        self.clock = ManualClock()
        self.keys = FakeKeys({"r": "rsa", "e": "p256", "o": "ed", "w": "weak"})
        directory = Directory(
            {
                sha256(KEY).digest(): Credential(ALICE),
                sha256(EXPIRING).digest(): Credential(ALICE, expires=self.clock.wall() + EXPIRES_IN),
                sha256(REVOKED).digest(): Credential(ALICE, revoked=True),
            },
            (ALICE,),
        )
        parts = make_parts(
            clock=self.clock,
            directory=directory,
            issuers={"corp": self.keys},
            issuer_configs={"corp": issuer},
        )
        (made,) = KIND.build([Rule(config or Authenticate(), "sign-in")], parts)
        assert isinstance(made, AuthenticateFilter)
        self.filter = made

    def claims(self, **changed: object) -> dict[str, object]:
        """What a good token says; None takes a claim out."""
        wall = self.clock.wall()
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "bob",
            "exp": wall + 600,
            "iat": wall,
        }
        claims.update(changed)
        return {name: value for name, value in claims.items() if value is not None}

    def ask(self, ctx: Context) -> Refusal | None:
        verdict = self.filter.on_request(ctx)
        if isinstance(verdict, Promise):
            box: list[Response | Refusal | None] = []
            verdict.then(box.append, pytest.fail)
            (verdict,) = box
        assert not isinstance(verdict, Response)
        return verdict

    def knock(self, *headers: tuple[bytes, bytes]) -> tuple[Context, Refusal | None]:
        ctx = make_context(*headers)
        return ctx, self.ask(ctx)

    def bear(self, token: bytes) -> tuple[Context, Refusal | None]:
        return self.knock((b"authorization", b"Bearer " + token))


# API keys


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        pytest.param([(b"x-api-key", KEY)], b"x-api-key", id="own field"),
        pytest.param([(b"authorization", b"Bearer " + KEY)], b"authorization", id="bearer"),
        pytest.param([(b"authorization", b"bEARER  " + KEY)], b"authorization", id="scheme in any case"),
        pytest.param(
            [(b"authorization", b"Basic eDp5"), (b"x-api-key", KEY)], b"x-api-key", id="beside another scheme"
        ),
    ],
)
def test_a_known_key_names_its_principal_and_the_field_that_held_it(
    headers: list[tuple[bytes, bytes]], field: bytes
) -> None:
    ctx, refusal = Door().knock(*headers)

    assert refusal is None
    assert ctx.principal is ALICE
    assert ctx.credential_field == field


def test_a_key_in_the_query_is_taken_out_of_the_url() -> None:
    door = Door(Authenticate(query="key"))
    ctx = make_context(query=b"a=1&key=" + KEY + b"&b=2", path=b"/p")

    assert door.ask(ctx) is None
    assert ctx.principal is ALICE
    assert (ctx.request.query, ctx.request.target) == (b"a=1&b=2", b"/p?a=1&b=2")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param([], 401, "missing_credentials", id="nothing"),
        pytest.param([(b"authorization", b"Basic eDp5")], 401, "missing_credentials", id="another scheme"),
        pytest.param([(b"authorization", b"Bearer")], 401, "invalid_token", id="bearer without anything"),
        pytest.param([(b"authorization", b"Bearer   ")], 401, "invalid_token", id="bearer with spaces"),
        pytest.param([(b"x-api-key", b"")], 401, "invalid_key", id="empty key"),
        pytest.param([(b"x-api-key", b"hg_wrong")], 401, "invalid_key", id="unknown key"),
        pytest.param([(b"x-api-key", KEY + b" ")], 401, "invalid_key", id="almost the key"),
        pytest.param(
            [(b"x-api-key", sha256(KEY).hexdigest().encode())], 401, "invalid_key", id="the hash itself"
        ),
        pytest.param(
            [(b"authorization", b"Bearer hg_wrong")], 401, "invalid_key", id="unknown key as bearer"
        ),
        pytest.param([(b"x-api-key", REVOKED)], 401, "revoked_key", id="revoked"),
        pytest.param([(b"x-api-key", b"k" * 8193)], 401, "oversized_credential", id="too long"),
        pytest.param([(b"x-api-key", KEY)] * 2, 400, "several_credentials", id="field twice"),
        pytest.param(
            [(b"x-api-key", KEY), (b"authorization", b"Bearer " + KEY)],
            400,
            "several_credentials",
            id="two fields",
        ),
        pytest.param(
            [(b"authorization", b"Bearer " + KEY), (b"authorization", b"Basic x")],
            400,
            "several_credentials",
            id="authorization twice",
        ),
    ],
)
def test_what_proves_nothing_is_refused(headers: list[tuple[bytes, bytes]], status: int, code: str) -> None:
    ctx, refusal = Door().knock(*headers)

    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.policy) == (status, code, "sign-in")
    assert ctx.principal is None


def test_a_key_is_refused_from_the_instant_it_expires() -> None:
    door = Door()
    door.clock.advance(EXPIRES_IN - 0.5)
    assert door.knock((b"x-api-key", EXPIRING))[1] is None

    door.clock.advance(0.5)
    _, refusal = door.knock((b"x-api-key", EXPIRING))
    assert refusal is not None
    assert refusal.code == "expired_key"


def test_every_401_says_what_would_do() -> None:
    _, missing = Door().knock()
    _, wrong = Door().bear(b"a.b.c")
    assert missing is not None
    assert wrong is not None

    bearer, key = missing.headers
    assert bearer == (b"www-authenticate", b'Bearer realm="headgate"')
    assert key == (b"www-authenticate", b'ApiKey realm="headgate", header="x-api-key"')
    assert b'error="invalid_token"' in wrong.headers[0][1]


def test_a_bearer_key_is_not_read_where_the_policy_says_so() -> None:
    door = Door(Authenticate(methods=("api_key",), bearer=False))

    assert door.knock((b"authorization", b"Bearer " + KEY))[1] is not None
    assert door.knock((b"authorization", b"Bearer x"), (b"x-api-key", KEY))[1] is None


def test_a_key_in_another_field_is_found_there_only() -> None:
    door = Door(Authenticate(methods=("api_key",), header="X-Team-Key"))

    assert door.knock((b"x-team-key", KEY))[1] is None
    assert door.knock((b"x-api-key", KEY))[1] is not None


def test_a_token_is_no_proof_where_only_keys_are_taken() -> None:
    door = Door(Authenticate(methods=("api_key",)))
    _, refusal = door.bear(sign(door.claims(), "rsa", "RS256", "r"))

    assert refusal is not None
    assert refusal.code == "invalid_key"
    assert door.keys.asked == []


# Good tokens


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [("rsa", "RS256", "r"), ("p256", "ES256", "e"), ("ed", "EdDSA", "o")],
    ids=["RS256", "ES256", "EdDSA"],
)
def test_a_good_token_names_its_principal(key: str, algorithm: str, kid: str) -> None:
    door = Door()
    ctx, refusal = door.bear(sign(door.claims(), key, algorithm, kid))

    assert refusal is None
    assert ctx.principal is not None
    assert ctx.principal.name == "bob"
    assert ctx.credential_field == b"authorization"


def test_claims_say_plan_tenant_and_what_may_be_called() -> None:
    door = Door()
    claims = door.claims(plan="pro", org={"name": "acme"}, models=["digits"], endpoints="orders bills")
    ctx, refusal = door.bear(sign(claims, "rsa", "RS256", "r"))

    assert refusal is None
    assert ctx.principal is not None
    assert (ctx.principal.plan, ctx.principal.tenant) == ("pro", "acme")
    assert ctx.principal.models == {"lite", "digits"}
    assert ctx.principal.endpoints == {"orders", "bills"}
    assert ctx.principal.claims == claims


def test_the_issuer_says_what_claims_do_not() -> None:
    door = Door()
    ctx, _ = door.bear(sign(door.claims(), "rsa", "RS256", "r"))

    assert ctx.principal is not None
    assert (ctx.principal.plan, ctx.principal.tenant, ctx.principal.models) == ("guest", "", {"lite"})


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"aud": ["other", AUDIENCE]}, id="one of several audiences"),
        pytest.param({"nbf": 0}, id="long valid"),
        pytest.param({"iat": None}, id="no iat"),
        pytest.param({"exp": 4_000_000_000.5}, id="fractions of a second"),
    ],
)
def test_other_shapes_of_good_claims_are_taken(changed: dict[str, object]) -> None:
    door = Door()
    assert door.bear(sign(door.claims(**changed), "rsa", "RS256", "r"))[1] is None


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_tokens_and_access_tokens_are_read(typ: str | None) -> None:
    door = Door()
    assert door.bear(sign(door.claims(), "rsa", "RS256", "r", typ=typ))[1] is None


# Attacks: RFC 8725 and what was found in the wild. Each row: how it is made, and the code it is refused with.

Forge = Callable[[Door], bytes]


def _confused(door: Door) -> bytes:
    """HS256 with the public key's PEM as the secret: the classic confusion of algorithms."""
    import hmac  # here only: the attacker's tool

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = private_key("rsa").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = part({"alg": "HS256", "typ": "JWT", "kid": "r"}) + b"." + part(door.claims())
    return signed + b"." + part(hmac.new(pem, signed, "sha256").digest())


def _unsigned(algorithm: str) -> Forge:
    return lambda door: part({"alg": algorithm, "typ": "JWT"}) + b"." + part(door.claims()) + b"."


def _headed(**header: object) -> Forge:
    """A true signature of the issuer's own key under a header with more members."""
    return lambda door: sign_raw(
        {"alg": "RS256", "typ": "JWT", "kid": "r", **header}, door.claims(), "rsa", "RS256"
    )


def _claimed(**changed: object) -> Forge:
    return lambda door: sign(door.claims(**changed), "rsa", "RS256", "r")


def _timed(**offsets: float) -> Forge:
    return lambda door: sign(
        door.claims(**{name: door.clock.wall() + seconds for name, seconds in offsets.items()}),
        "rsa",
        "RS256",
        "r",
    )


def _good(door: Door) -> bytes:
    return sign(door.claims(), "rsa", "RS256", "r")


def _changed_claims(door: Door) -> bytes:
    header, _, signature = _good(door).split(b".")
    return header + b"." + part(door.claims(sub="root")) + b"." + signature


def _respelled(door: Door) -> bytes:
    """The same signature bytes in another base64 spelling: unused bits set."""
    token = sign(door.claims(), "ed", "EdDSA", "o")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + bytes([alphabet[alphabet.index(token[-1]) ^ 1]])


def _twice(door: Door) -> bytes:
    claims = b'{"iss":"%b","aud":"%b","sub":"bob","sub":"root","exp":%d}' % (
        ISSUER.encode(),
        AUDIENCE.encode(),
        door.clock.wall() + 600,
    )
    return sign_raw({"alg": "RS256", "kid": "r"}, claims, "rsa", "RS256")


ATTACKS: dict[str, tuple[Forge, str]] = {
    "alg none": (_unsigned("none"), "invalid_token"),
    "alg None": (_unsigned("None"), "invalid_token"),
    "alg nOnE": (_unsigned("nOnE"), "invalid_token"),
    "alg none with a signature": (
        lambda door: part({"alg": "none", "kid": "r"}) + b"." + b".".join(_good(door).split(b".")[1:]),
        "invalid_token",
    ),
    "alg missing": (lambda door: sign_raw({"kid": "r"}, door.claims(), "rsa", "RS256"), "invalid_token"),
    "alg a list": (lambda door: sign_raw({"alg": ["RS256"]}, door.claims(), "rsa", "RS256"), "invalid_token"),
    "alg empty": (lambda door: sign_raw({"alg": ""}, door.claims(), "rsa", "RS256"), "invalid_token"),
    "HS256 with the public key": (_confused, "invalid_token"),
    "algorithm not configured": (lambda door: sign(door.claims(), "rsa", "PS256", "r"), "invalid_token"),
    "RS256 named, EC key meant": (
        lambda door: sign_raw({"alg": "RS256", "kid": "e"}, door.claims(), "rsa", "RS256"),
        "invalid_token",
    ),
    "ES256 named, RSA key meant": (
        lambda door: sign_raw({"alg": "ES256", "kid": "r"}, door.claims(), "p256", "ES256"),
        "invalid_token",
    ),
    "weak RSA key": (
        lambda door: sign_raw({"alg": "RS256", "kid": "w"}, door.claims(), "weak", "RS256"),
        "invalid_token",
    ),
    "another RSA key": (lambda door: sign(door.claims(), "rsa-other", "RS256", "r"), "invalid_token"),
    "another EC key": (lambda door: sign(door.claims(), "p256-other", "ES256", "e"), "invalid_token"),
    "zero ES256 signature": (
        lambda door: part({"alg": "ES256", "kid": "e"}) + b"." + part(door.claims()) + b"." + part(bytes(64)),
        "invalid_token",
    ),
    "claims changed": (_changed_claims, "invalid_token"),
    "signature cut off": (lambda door: _good(door).rsplit(b".", 1)[0] + b".", "invalid_token"),
    "signature shortened": (lambda door: _good(door)[:-8], "invalid_token"),
    "signature of nothing": (
        lambda door: _good(door).rsplit(b".", 1)[0] + b"." + part(bytes(256)),
        "invalid_token",
    ),
    "jwk in the header": (_headed(jwk={"kty": "RSA", "n": "AQ", "e": "AQAB"}), "invalid_token"),
    "jwk of the attacker": (
        lambda door: sign(door.claims(), "rsa-other", "RS256", "r", jwk={"kty": "RSA"}),
        "invalid_token",
    ),
    "jku": (_headed(jku="https://evil.example/jwks.json"), "invalid_token"),
    "x5u": (_headed(x5u="https://evil.example/cert.pem"), "invalid_token"),
    "x5c": (_headed(x5c=["MIIB"]), "invalid_token"),
    "crit": (_headed(crit=["exp"]), "invalid_token"),
    "crit empty": (_headed(crit=[]), "invalid_token"),
    "b64 false": (_headed(b64=False), "invalid_token"),
    "compressed": (_headed(zip="DEF"), "invalid_token"),
    "nested": (_headed(cty="JWT"), "invalid_token"),
    "logout token": (_headed(typ="logout+jwt"), "invalid_token"),
    "proof of possession": (_headed(typ="dpop+jwt"), "invalid_token"),
    "typ a number": (_headed(typ=1), "invalid_token"),
    "kid a path": (_headed(kid="../../dev/null"), "unknown_token_key"),
    "kid an SQL fragment": (_headed(kid="r' UNION SELECT 'x"), "unknown_token_key"),
    "kid a list": (_headed(kid=["r"]), "invalid_token"),
    "kid too long": (_headed(kid="r" * 257), "invalid_token"),
    "kid missing": (lambda door: sign(door.claims(), "rsa", "RS256"), "unknown_token_key"),
    "issuer unknown": (_claimed(iss="https://evil.example"), "unknown_issuer"),
    "issuer with a slash more": (_claimed(iss=ISSUER + "/"), "unknown_issuer"),
    "issuer missing": (_claimed(iss=None), "invalid_token"),
    "issuer a list": (
        lambda door: sign_raw({"alg": "RS256", "kid": "r"}, door.claims(iss=[ISSUER]), "rsa", "RS256"),
        "invalid_token",
    ),
    "audience of another": (_claimed(aud="other"), "wrong_audience"),
    "audience a part of ours": (_claimed(aud=AUDIENCE[:-1]), "wrong_audience"),
    "audience missing": (_claimed(aud=None), "wrong_audience"),
    "audience empty": (_claimed(aud=[]), "wrong_audience"),
    "audience of numbers": (_claimed(aud=[1, AUDIENCE]), "wrong_audience"),
    "audience an object": (_claimed(aud={AUDIENCE: 1}), "wrong_audience"),
    "expired": (_timed(exp=-31), "expired_token"),
    "exp missing": (_claimed(exp=None), "invalid_token"),
    "exp a text": (_claimed(exp="4000000000"), "invalid_token"),
    "exp true": (_claimed(exp=True), "invalid_token"),
    "exp null": (
        lambda door: sign_raw({"alg": "RS256", "kid": "r"}, {**door.claims(), "exp": None}, "rsa", "RS256"),
        "invalid_token",
    ),
    "exp infinite": (
        lambda door: sign_raw(
            {"alg": "RS256", "kid": "r"},
            b'{"iss":"%b","aud":"%b","sub":"bob","exp":1e999}' % (ISSUER.encode(), AUDIENCE.encode()),
            "rsa",
            "RS256",
        ),
        "invalid_token",
    ),
    "exp beyond floats": (_claimed(exp=10**400), "invalid_token"),
    "not valid yet": (_timed(nbf=31), "token_not_yet_valid"),
    "issued in the future": (_timed(iat=31), "token_not_yet_valid"),
    "nbf a text": (_claimed(nbf="0"), "invalid_token"),
    "sub missing": (_claimed(sub=None), "invalid_token"),
    "sub empty": (_claimed(sub=""), "invalid_token"),
    "sub a number": (_claimed(sub=7), "invalid_token"),
    "sub with a line break": (_claimed(sub="bob\r\nx-headgate-plan: pro"), "invalid_token"),
    "sub endless": (_claimed(sub="b" * 257), "invalid_token"),
    "plan with a line break": (_claimed(plan="pro\n"), "invalid_token"),
    "models a number": (_claimed(models=7), "invalid_token"),
    "models with a number": (_claimed(models=["digits", 7]), "invalid_token"),
    "a claim twice": (_twice, "invalid_token"),
    "claims a list": (
        lambda door: sign_raw({"alg": "RS256", "kid": "r"}, [1], "rsa", "RS256"),
        "invalid_token",
    ),
    "claims no JSON": (
        lambda door: sign_raw({"alg": "RS256", "kid": "r"}, b"{", "rsa", "RS256"),
        "invalid_token",
    ),
    "claims not UTF-8": (
        lambda door: sign_raw({"alg": "RS256", "kid": "r"}, b'{"iss":"\xff"}', "rsa", "RS256"),
        "invalid_token",
    ),
    "claims nested deeply": (
        lambda door: sign_raw({"alg": "RS256", "kid": "r"}, b"[" * 5000, "rsa", "RS256"),
        "invalid_token",
    ),
    "padding": (lambda door: _good(door) + b"==", "invalid_token"),
    "padded header": (lambda door: _good(door).replace(b".", b"=.", 1), "invalid_token"),
    "a foreign byte": (lambda door: _good(door).replace(b".", b"!.", 1), "invalid_token"),
    "a line break inside": (lambda door: _good(door)[:40] + b"\n" + _good(door)[40:], "invalid_token"),
    "plain base64 letters": (lambda door: _good(door)[:-1] + b"+", "invalid_token"),
    "another spelling of the signature": (_respelled, "invalid_token"),
    "header empty": (lambda door: b"." + b".".join(_good(door).split(b".")[1:]), "invalid_token"),
    "all empty": (lambda door: b"..", "invalid_token"),
    "encrypted form": (lambda door: _good(door) + b".eA.eA", "invalid_token"),
    "two tokens": (lambda door: _good(door) + b", Bearer " + _good(door), "invalid_token"),
    "oversized": (_claimed(sub="b" * 9000), "oversized_credential"),
}


@pytest.mark.parametrize(("forge", "code"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_by_token_is_refused(forge: Forge, code: str) -> None:
    door = Door(Authenticate(methods=("jwt",)))
    ctx, refusal = door.bear(forge(door))

    assert refusal is not None
    assert (refusal.status, refusal.code) == (401, code)
    assert ctx.principal is None


def test_nobody_is_asked_for_a_key_of_an_issuer_or_algorithm_that_is_not_configured() -> None:
    door = Door()
    for attack in (
        "issuer unknown",
        "algorithm not configured",
        "alg none",
        "jku",
        "HS256 with the public key",
    ):
        door.bear(ATTACKS[attack][0](door))

    assert door.keys.asked == []


def test_leeway_bridges_clocks_that_differ() -> None:
    door = Door(issuer=replace(CORP, leeway=Duration(30.0)))
    wall = door.clock.wall()

    assert door.bear(sign(door.claims(exp=wall - 29), "rsa", "RS256", "r"))[1] is None
    assert door.bear(sign(door.claims(nbf=wall + 29, iat=wall + 29), "rsa", "RS256", "r"))[1] is None


def test_only_the_issuers_that_the_policy_names_are_believed() -> None:
    clock = ManualClock()
    parts = make_parts(clock=clock, issuers={"corp": FakeKeys({"r": "rsa"})}, issuer_configs={"corp": CORP})
    (made,) = KIND.build([Rule(Authenticate(methods=("jwt",), issuers=("other",)))], parts)
    door = Door()
    door.filter = made  # type: ignore[assignment]  # built like the others

    _, refusal = door.bear(_good(door))
    assert refusal is not None
    assert refusal.code == "unknown_issuer"


# Keeping verified tokens, and issuers that are away


def test_a_verified_token_is_kept_until_it_expires() -> None:
    door = Door()
    token = sign(door.claims(exp=door.clock.wall() + 60), "rsa", "RS256", "r")
    first, _ = door.bear(token)
    second, _ = door.bear(token)
    assert len(door.keys.asked) == 1
    assert second.principal is first.principal

    door.clock.advance(60 + 30)
    _, refusal = door.bear(token)
    assert refusal is not None
    assert refusal.code == "expired_token"


def test_a_verified_token_is_proved_anew_when_the_issuers_keys_may_have_changed() -> None:
    door = Door(issuer=replace(CORP, refresh=Duration(10.0)))
    token = sign(door.claims(exp=door.clock.wall() + 3600), "rsa", "RS256", "r")
    door.bear(token)
    door.keys.keys.clear()
    door.clock.advance(10)

    _, refusal = door.bear(token)
    assert refusal is not None
    assert refusal.code == "unknown_token_key"


def test_the_tokens_kept_are_bounded() -> None:
    door = Door()
    door.filter._tokens_kept = 3
    for number in range(5):
        assert door.bear(sign(door.claims(sub=f"bob{number}"), "ed", "EdDSA", "o"))[1] is None

    assert "3 tokens kept" in repr(door.filter)


def test_a_refused_token_is_not_kept() -> None:
    door = Door()
    token = sign(door.claims(), "rsa-other", "RS256", "r")
    for _ in range(2):
        assert door.bear(token)[1] is not None
    assert "0 tokens kept" in repr(door.filter)


def test_an_issuer_that_is_away_makes_503_and_never_401() -> None:
    door = Door()
    door.keys.away = True
    _, refusal = door.bear(_good(door))

    assert refusal is not None
    assert (refusal.status, refusal.code) == (503, "issuer_unavailable")
    assert refusal.retry_after is not None


def test_a_request_waits_for_the_issuers_keys() -> None:
    door = Door()
    door.keys.slow = True
    ctx = make_context((b"authorization", b"Bearer " + _good(door)))
    verdict = door.filter.on_request(ctx)
    assert isinstance(verdict, Promise)
    assert ctx.principal is None
    box: list[Any] = []
    verdict.then(box.append, box.append)

    door.keys.arrive()

    assert box == [None]
    assert ctx.principal is not None


def test_a_bug_while_proving_reaches_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    door.keys.slow = True
    verdict = door.filter.on_request(make_context((b"authorization", b"Bearer " + _good(door))))
    assert isinstance(verdict, Promise)
    box: list[Any] = []
    verdict.then(box.append, box.append)
    bug = RuntimeError("a bug")
    monkeypatch.setattr(tokens, "verify", lambda *_: (_ for _ in ()).throw(bug))

    door.keys.arrive()

    assert box == [bug]


# Secrets, and the policy language


def test_no_refusal_record_or_repr_shows_a_credential() -> None:
    door = Door()
    token = _good(door)
    seen = []
    for credential in (KEY, REVOKED, b"hg_wrong-key", token, sign(door.claims(exp=1), "rsa", "RS256", "r")):
        for headers in ([(b"x-api-key", credential)], [(b"authorization", b"Bearer " + credential)]):
            ctx, refusal = door.knock(*headers)
            seen += [repr(ctx), repr(ctx.trail), repr(door.filter), repr(ctx.principal)]
            if refusal is not None:
                seen += [refusal.message, repr(refusal), repr(refusal.headers), repr(refusal.details)]
    text = "".join(seen)

    for secret in (KEY, b"wrong-key", REVOKED, token, token.split(b".")[2]):
        assert secret.decode() not in text


def test_the_record_says_who_was_let_in() -> None:
    ctx, _ = Door().knock((b"x-api-key", KEY))
    assert ctx.trail is not None
    assert ctx.trail[0].numbers["principal"] == "alice"


def test_none_asks_nobody() -> None:
    (made,) = KIND.build([Rule(Authenticate(methods=("none",)))], make_parts())
    assert Chain([made]).on_request == ()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"methods": ()}, id="no method"),
        pytest.param({"methods": ("none", "jwt")}, id="none and another"),
        pytest.param({"header": "x api key"}, id="no header name"),
        pytest.param({"header": "Authorization"}, id="authorization"),
        pytest.param({"header": ""}, id="empty header"),
        pytest.param({"query": ""}, id="empty parameter"),
    ],
)
def test_a_config_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Authenticate(**wrong)


def test_the_size_bound_is_the_configs() -> None:
    door = Door(Authenticate(token_bytes=Size(20)))
    _, refusal = door.knock((b"x-api-key", KEY))
    assert refusal is not None
    assert refusal.code == "oversized_credential"
