"""`authenticate: [certificate]`: who the holder of a verified client certificate is."""

from __future__ import annotations

from hashlib import sha256

import pytest

from gateway.filters.authenticate import KIND, Authenticate
from gateway.pipeline.context import Context
from gateway.pipeline.directory import Credential, Directory
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Rule
from gateway.pipeline.ports import ClientCertificate, Peer, Principal
from tests.fakes.clock import ManualClock
from tests.fakes.context import make_context, make_parts

ALICE, BILLING, OPS, LATE = (Principal(name) for name in ("alice", "billing", "ops.internal", "late"))
KEY = b"hg_0123456789abcdefghijklmnopqrstuv"
SUBJECT = "CN=billing,O=Acme"


def knock(config: Authenticate, *names: str, key: bytes | None = None) -> tuple[Context, Refusal | None]:
    """Ask with a certificate of these names; the first is its subject."""
    clock = ManualClock()
    known = {one.name: Credential(one) for one in (ALICE, BILLING, OPS)}
    known["late"] = Credential(LATE, expires=clock.wall())
    directory = Directory(
        {sha256(KEY).digest(): known["alice"]},
        (ALICE, BILLING, OPS, LATE),
        holders={
            "CN=alice,O=Acme": known["alice"],
            "DNS:ops.internal": known["ops.internal"],
            "URI:spiffe://acme/late": known["late"],
        },
        named=known,
    )
    (filter,) = KIND.build((Rule(config, policy="p"),), make_parts(clock=clock, directory=directory))
    ctx = make_context(*([] if key is None else [(b"x-api-key", key)]))
    if names:
        ctx.peer = Peer("127.0.0.1", 1, "https", ClientCertificate(names[0], names))
    said = filter.on_request(ctx)
    assert said is None or isinstance(said, Refusal)
    return ctx, said


CERTIFICATE = Authenticate(methods=("certificate",))
BOTH = Authenticate(methods=("certificate", "api_key"))


@pytest.mark.parametrize(
    ("names", "principal"),
    [
        (("CN=alice,O=Acme", "CN=alice"), "alice"),
        (("CN=x", "DNS:a.internal", "DNS:ops.internal"), "ops.internal"),
    ],
    ids=["by its subject", "by one of its alternative names"],
)
def test_a_certificate_that_a_principal_lists_is_its_proof(names: tuple[str, ...], principal: str) -> None:
    ctx, refusal = knock(CERTIFICATE, *names)
    assert refusal is None
    assert ctx.principal is not None
    assert ctx.principal.name == principal
    assert ctx.credential_field == b""


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ((), "missing_credentials"),
        ((SUBJECT, "CN=billing"), "unknown_certificate"),
        (("CN=alice",), "unknown_certificate"),
        (("CN=alice,O=Acme", "DNS:ops.internal"), "ambiguous_certificate"),
        (("CN=x", "URI:spiffe://acme/late"), "expired_principal"),
    ],
    ids=["no certificate", "not listed", "a part of what is listed", "two principals", "expired"],
)
def test_any_other_certificate_proves_nothing(names: tuple[str, ...], code: str) -> None:
    ctx, refusal = knock(CERTIFICATE, *names)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (401, code)
    assert (b"www-authenticate", b'Certificate realm="headgate"') in refusal.headers
    assert ctx.principal is None


@pytest.mark.parametrize(
    ("named_by", "names", "principal"),
    [
        ("common_name", (SUBJECT, "CN=billing"), "billing"),
        ("common_name", ("CN=billing",), "billing"),
        ("common_name", (r"CN=billing\,O=Evil",), None),
        ("subject", ("billing",), "billing"),
        ("subject", (SUBJECT, "CN=billing"), None),
        ("dns", (SUBJECT, "CN=billing", "DNS:ops.internal"), "ops.internal"),
        ("uri", (SUBJECT, "CN=billing"), None),
        ("listed", (SUBJECT, "CN=billing"), None),
    ],
)
def test_a_part_of_the_certificate_may_be_the_name(
    named_by: str, names: tuple[str, ...], principal: str | None
) -> None:
    config = Authenticate(methods=("certificate",), certificate=named_by)  # type: ignore[arg-type]  # a word
    ctx, refusal = knock(config, *names)
    assert (ctx.principal.name if ctx.principal else None) == principal
    assert (refusal is None) is (principal is not None)


def test_the_requests_own_credential_comes_before_the_connections() -> None:
    ctx, refusal = knock(BOTH, "DNS:ops.internal", key=KEY)
    assert refusal is None
    assert ctx.principal is ALICE
    ctx, refusal = knock(BOTH, "CN=alice,O=Acme", key=b"wrong")
    assert refusal is not None
    assert refusal.code == "invalid_key"
    ctx, refusal = knock(BOTH, "CN=alice,O=Acme")
    assert refusal is None


def test_a_certificate_counts_only_where_it_is_asked_for() -> None:
    _, refusal = knock(Authenticate(methods=("api_key",)), "CN=alice,O=Acme")
    assert refusal is not None
    assert refusal.code == "missing_credentials"
