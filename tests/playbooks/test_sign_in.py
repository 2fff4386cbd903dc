"""Who may ask what, through the whole exchange: refusals reach no instance, credentials go no further."""

from __future__ import annotations

from hashlib import sha256

import pytest

from gateway.config.schema import IssuerConfig, Match
from gateway.filters.allow import KIND as ALLOW
from gateway.filters.allow import Allow
from gateway.filters.authenticate import KIND as AUTHENTICATE
from gateway.filters.authenticate import Authenticate
from gateway.filters.cors import KIND as CORS
from gateway.filters.cors import Cors
from gateway.filters.headers import KIND as HEADERS
from gateway.filters.headers import Changes, HeaderChanges
from gateway.filters.permit import Permit
from gateway.http.message import Headers
from gateway.pipeline.directory import Credential, Directory
from gateway.pipeline.filter import Filter, Rule
from gateway.pipeline.ports import Principal
from gateway.pipeline.routes import Routes
from tests.fakes.context import make_parts
from tests.fakes.issuer import AUDIENCE, ISSUER, FakeKeys, sign
from tests.playbooks.stage import Stage

PAGE = b"https://app.example.org"
ALICE = Principal("alice", "free", "acme", endpoints=frozenset({"api"}))
BOB = Principal("bob")
CORP = IssuerConfig(name="corp", issuer=ISSUER, audiences=(AUDIENCE,), jwks="keys.json")


class SignIn:
    """A stage with the filters that decide who may ask, in their fixed order."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.keys = FakeKeys({"o": "ed"})
        directory = Directory(
            {sha256(b"alice").digest(): Credential(ALICE), sha256(b"bob").digest(): Credential(BOB)},
            (ALICE, BOB),
        )
        parts = make_parts(
            endpoint="api",
            model="",
            clock=self.stage.clock,
            directory=directory,
            issuers={"corp": self.keys},
            issuer_configs={"corp": CORP},
        )
        change = HeaderChanges(
            Changes(set_={"authorization": "Bearer ours"}), Changes(set_={"x-frame": "deny"})
        )
        forth, back = HEADERS.build([Rule(change)], parts)
        filters: list[Filter] = [
            back,
            *CORS.build([Rule(Cors((PAGE.decode(),)), "pages")], parts),
            *AUTHENTICATE.build([Rule(Authenticate(), "sign-in")], parts),
            Permit(parts),
            *ALLOW.build([Rule(Allow(plans=("free",)), "house")], parts),
            forth,
        ]
        self.stage = Stage(filters)
        routes = Routes((), [(self.stage.endpoint, Match("/orders", methods=("POST",)))])
        object.__setattr__(self.stage.snapshot, "find_endpoint", routes.find)

    def ask(self, *headers: tuple[bytes, bytes], method: bytes = b"POST", path: bytes = b"/orders") -> Stage:
        self.stage.start(method, path, list(headers))
        return self.stage

    def token(self) -> bytes:
        wall = self.stage.clock.wall()
        return sign({"iss": ISSUER, "aud": AUDIENCE, "sub": "t", "exp": wall + 60}, "ed", "EdDSA", "o")


def answered(stage: Stage) -> tuple[int, dict[bytes, bytes]]:
    assert stage.answer is not None
    return stage.answer.status, dict(stage.answer.headers)


def test_a_known_caller_passes_and_its_credential_stays_here() -> None:
    stage = SignIn().ask(
        (b"x-api-key", b"alice"), (b"x-headgate-principal", b"root"), (b"connection", b"authorization")
    )
    (sent,) = stage.sent
    fields = dict(sent.headers)

    assert b"x-api-key" not in fields
    assert fields[b"x-headgate-principal"] == b"alice"
    assert (
        fields[b"authorization"] == b"Bearer ours"
    )  # the policy's, though the client named it in Connection

    stage.respond()
    status, headers = answered(stage)
    assert (status, headers[b"x-frame"]) == (200, b"deny")
    stage.assert_all_released()


@pytest.mark.parametrize(
    ("headers", "status", "reason", "policy"),
    [
        pytest.param([], 401, b"missing_credentials", b"sign-in", id="nobody"),
        pytest.param([(b"x-api-key", b"eve")], 401, b"invalid_key", b"sign-in", id="a wrong key"),
        pytest.param(
            [(b"x-api-key", b"bob")], 403, b"not_allowed", b"principals.bob", id="without permission"
        ),
    ],
)
def test_whoever_may_not_ask_reaches_no_instance(
    headers: Headers, status: int, reason: bytes, policy: bytes
) -> None:
    stage = SignIn().ask((b"origin", PAGE), *headers)

    assert stage.sent == []
    told, fields = answered(stage)
    assert (told, fields[b"x-headgate-reason"], fields[b"x-headgate-policy"]) == (status, reason, policy)
    assert fields[b"access-control-allow-origin"] == PAGE  # so that the page can read why
    assert fields[b"x-frame"] == b"deny"
    assert (b"www-authenticate" in fields) is (status == 401)
    stage.assert_all_released()


def test_a_preflight_is_answered_for_the_endpoint_that_is_meant() -> None:
    stage = SignIn().ask((b"origin", PAGE), (b"access-control-request-method", b"POST"), method=b"OPTIONS")
    status, headers = answered(stage)

    assert (status, headers[b"access-control-allow-origin"]) == (204, PAGE)
    assert stage.sent == []
    stage.assert_all_released()


def test_a_preflight_for_a_method_that_nobody_takes_finds_nothing() -> None:
    stage = SignIn().ask((b"origin", PAGE), (b"access-control-request-method", b"DELETE"), method=b"OPTIONS")
    assert answered(stage)[0] == 405


def test_an_options_request_that_is_no_preflight_is_like_any_other() -> None:
    assert answered(SignIn().ask(method=b"OPTIONS"))[0] == 405


def test_a_request_whose_issuer_is_away_gets_503_and_is_released() -> None:
    scene = SignIn()
    scene.keys.away = True
    stage = scene.ask((b"authorization", b"Bearer " + scene.token()))

    status, headers = answered(stage)
    assert (status, headers[b"x-headgate-reason"]) == (503, b"issuer_unavailable")
    assert b"retry-after" in headers
    stage.assert_all_released()


def test_a_client_that_leaves_while_its_token_is_proved_leaves_nothing_behind() -> None:
    scene = SignIn()
    scene.keys.slow = True
    stage = scene.ask((b"authorization", b"Bearer " + scene.token()))
    assert stage.exchange is not None
    stage.exchange.on_client_gone()
    scene.keys.arrive()

    assert stage.sent == []
    assert stage.answer is None
    stage.assert_all_released()
