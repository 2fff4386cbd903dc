"""Who may use the admin API: tables of requests and what is said to them."""

from __future__ import annotations

import hmac

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.admin.guard import Guard
from gateway.config.secret import Secret

TOKEN = Secret("s3cret")


def verdict(guard: Guard, remote: str | None = "127.0.0.1", **fields: str) -> tuple[int, str]:
    headers = {"Host": "127.0.0.1:9080", **{name.replace("_", "-"): value for name, value in fields.items()}}
    request = make_mocked_request("GET", "/config", headers=headers)
    refused = guard.refuse(request.clone(remote=remote) if remote is not None else request)
    return (200, "") if refused is None else (refused.status, refused.text or "")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9080", "localhost:9080", "LOCALHOST", "[::1]:9080", "[::1]", "gate.internal:9080"],
)
def test_a_gateway_answers_to_its_own_names(host: str) -> None:
    assert verdict(Guard("gate.internal", None), Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[::2]",
        "[::1",
    ],
)
def test_a_rebound_name_is_refused(host: str) -> None:
    status, text = verdict(Guard("127.0.0.1", None), Host=host)
    assert (status, "unknown_host" in text) == (403, True)


@pytest.mark.parametrize(
    ("remote", "status"),
    [
        ("127.0.0.1", 200),
        ("127.9.9.9", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 403),
        ("10.0.0.7", 403),
        ("fe80::1%eth0", 403),
        ("", 403),
        ("somewhere", 403),
    ],
)
def test_without_a_token_only_this_machine_may_ask(remote: str, status: int) -> None:
    assert verdict(Guard("127.0.0.1", None), remote)[0] == status


@pytest.mark.parametrize(
    ("credential", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer  s3cret ", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3cretx", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer", 401),
        ("", 401),
    ],
)
def test_a_token_is_asked_of_everybody_and_compared_whole(credential: str, status: int) -> None:
    assert verdict(Guard("127.0.0.1", TOKEN), "10.0.0.7", Authorization=credential)[0] == status
    assert verdict(Guard("127.0.0.1", TOKEN), "127.0.0.1", Authorization=credential)[0] == status


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert verdict(Guard("127.0.0.1", TOKEN), Authorization="Bearer guess")[0] == 401
    assert compared == [(b"guess", b"s3cret")]


def test_a_refused_token_shows_nothing_of_the_right_one() -> None:
    assert "s3cret" not in verdict(Guard("127.0.0.1", TOKEN), Authorization="Bearer s3cre")[1]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:9080"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8080"}, 403),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
    ids=str,
)
@pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "token"])
def test_another_site_may_not_ask_through_a_browser(
    fields: dict[str, str], status: int, token: Secret | None
) -> None:
    assert verdict(Guard("127.0.0.1", token), Authorization="Bearer s3cret", **fields)[0] == status
