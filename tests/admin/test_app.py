"""Every route of the admin API, on a whole gateway in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.running import (
    Backend,
    Running,
    backend,
    echo_page,
    kserve,
    model_page,
    question,
    running,
    until,
    write,
)

THROTTLE = "    throttle: 2/h burst 2\n"
TOKEN_BASE = (
    "log: {access: off}\nlisten: {admin: {address: '127.0.0.1:9080', token: '${env:HEADGATE_TEST_TOKEN}'}}\n"
)


@pytest.fixture
async def behind() -> AsyncIterator[Backend]:
    async with backend() as made:
        yield made


@pytest.fixture
async def gateway(tmp_path: Path, behind: Backend) -> AsyncIterator[Running]:
    async with running(tmp_path, echo_page(behind.port, THROTTLE)) as made:
        yield made


async def get(gateway: Running, path: str, **options: Any) -> tuple[int, Any]:
    return await ask(gateway, "GET", path, **options)


async def ask(gateway: Running, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with gateway.admin.request(method, path, **options) as answer:
        body = await answer.read()
        return answer.status, await answer.json(content_type=None) if body else None


# What anyone may see


async def test_a_ready_gateway_says_so(gateway: Running) -> None:
    async with gateway.admin.get("/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")
    assert await get(gateway, "/readyz") == (200, {"ready": True})


async def test_a_pool_without_instances_is_why_it_is_not_ready(tmp_path: Path) -> None:
    page = "pools: {a: {find: service}}\nendpoints: {a: {match: /a, send: a}}\n"
    async with running(tmp_path, page) as gateway:
        status, told = await get(gateway, "/readyz")
        assert (status, told) == (503, {"ready": False, "reasons": ["pool 'a' has no usable instance"]})
        await ask(gateway, "POST", "/registry/service", json={"id": "a", "address": "127.0.0.1:9"})
        await until(lambda: gateway.worker.snapshot.pools["a"].members.instances)
        assert (await get(gateway, "/readyz"))[0] == 200


async def test_an_ill_instance_does_not_make_it_ready(gateway: Running) -> None:
    for instance in gateway.worker.snapshot.pools["echo"].members.instances:
        instance.healthy = False
    assert (await get(gateway, "/readyz"))[0] == 503


async def test_once_ready_a_dead_pool_is_a_trouble_and_no_reason_to_take_the_others_away(
    gateway: Running,
) -> None:
    assert (await get(gateway, "/readyz"))[0] == 200
    for instance in gateway.worker.snapshot.pools["echo"].members.instances:
        instance.healthy = False
    told = {"ready": True, "troubles": ["pool 'echo' has no usable instance"]}
    assert await get(gateway, "/readyz") == (200, told)


async def test_a_gateway_that_stops_is_not_ready_and_still_alive(gateway: Running) -> None:
    gateway.worker.draining = True
    status, told = await get(gateway, "/readyz")
    assert (status, told["reasons"]) == (503, ["the gateway is stopping"])
    async with gateway.admin.get("/healthz") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/config"),
        ("GET", "/policies"),
        ("GET", "/endpoints"),
        ("GET", "/pools"),
        ("GET", "/instances"),
        ("POST", "/reload"),
        ("POST", "/explain"),
        ("DELETE", "/cache"),
        ("GET", "/registry"),
        ("POST", "/registry/digits"),
        ("PUT", "/registry/leases/x"),
        ("DELETE", "/registry/leases/x"),
        ("GET", "/nothing-here"),
        ("GET", "/healthz/"),
    ],
    ids=" ".join,
)
async def test_everything_else_is_behind_the_guard(
    tmp_path: Path, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_TEST_TOKEN", "admin-token")
    async with running(tmp_path, "", TOKEN_BASE) as gateway:
        assert (await ask(gateway, method, path))[0] == 401
        for open_path in ("/healthz", "/readyz", "/metrics"):
            async with gateway.admin.get(open_path) as answer:
                assert answer.status == 200
        allowed = {"Authorization": "Bearer admin-token"}
        assert (await ask(gateway, method, path, headers=allowed))[0] not in (401, 403)


# What runs


async def test_config_shows_what_runs_with_its_digest_as_the_entity_tag(gateway: Running) -> None:
    async with gateway.admin.get("/config") as answer:
        told, tag = await answer.json(), answer.headers["ETag"]
    assert tag == f'"{told["digest"]}"'
    assert [one["name"] for one in told["endpoints"]] == ["echo"]
    assert [one["name"] for one in told["pools"]] == ["echo"]
    assert told["registry"]["name"] == "local"
    assert told["last_reload"]["ok"] is True


async def test_endpoints_pools_and_instances_are_shown(gateway: Running, behind: Backend) -> None:
    await gateway.status("/echo/a")
    _, (endpoint,) = await get(gateway, "/endpoints")
    _, (pool,) = await get(gateway, "/pools")
    _, (instance,) = await get(gateway, "/instances")
    assert (endpoint["name"], endpoint["pool"], endpoint["model"]) == ("echo", "echo", None)
    assert "throttle" in endpoint["filters"]
    assert "page.yaml:" in endpoint["defined_at"]
    assert (pool["name"], pool["instances"], pool["usable"], pool["in_flight"]) == ("echo", 1, 1, 0)
    assert (instance["address"], instance["state"]) == (f"127.0.0.1:{behind.port}", "up")
    assert (instance["successes"], instance["failures"]) == (1, 0)


async def test_policies_are_listed_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_TEST_TOKEN", "admin-token")
    allowed = {"Authorization": "Bearer admin-token"}
    async with (
        running(tmp_path, "", TOKEN_BASE) as gateway,
        gateway.admin.get("/policies", headers=allowed) as answer,
    ):
        text = await answer.text()
    assert "listen.admin.token = (secret)" in text
    assert "admin-token" not in text


# Reload


async def test_a_reload_takes_what_is_in_the_folder(gateway: Running, behind: Backend) -> None:
    write(gateway.folder, echo_page(behind.port))
    status, told = await ask(gateway, "POST", "/reload")
    assert (status, told["ok"], told["digest"]) == (200, True, gateway.worker.snapshot.digest)
    assert "throttle" not in (await get(gateway, "/endpoints"))[1][0]["filters"]


async def test_a_reload_of_mistakes_says_where_they_are_and_changes_nothing(gateway: Running) -> None:
    before = gateway.worker.snapshot
    write(gateway.folder, "endpoints: {echo: {macht: /x}}\n")
    status, told = await ask(gateway, "POST", "/reload")
    assert (status, told["ok"]) == (422, False)
    assert "page.yaml:1:" in told["errors"][0]
    assert gateway.worker.snapshot is before
    assert (await get(gateway, "/config"))[1]["last_reload"]["ok"] is False


@pytest.mark.parametrize(
    ("field", "status"),
    [("{tag}", 200), ('"other", {tag}', 200), ("W/{tag}", 200), ("*", 200), ('"other"', 412), ("", 412)],
    ids=["same", "list", "weak", "any", "other", "empty"],
)
async def test_a_reload_may_be_bound_to_what_the_operator_saw(
    gateway: Running, field: str, status: int
) -> None:
    async with gateway.admin.get("/config") as answer:
        tag = answer.headers["ETag"]
    assert (await ask(gateway, "POST", "/reload", headers={"If-Match": field.format(tag=tag)}))[0] == status


# The cache


async def test_a_purge_forgets_one_endpoints_answers_or_all(tmp_path: Path, behind: Backend) -> None:
    behind.handler = kserve
    page = model_page(behind.port, "    cache: {ttl: 60s, scope: shared}\n")
    other = "  other: {match: /other, authenticate: none, send: m}\n"

    async def cached(gateway: Running, *row: float) -> str:
        async with gateway.http.post("/v2/models/m/infer", json=question(*row)) as answer:
            assert answer.status == 200
            return answer.headers["Cache-Status"].partition("; ")[2].partition(";")[0]

    async with running(tmp_path, page + other) as gateway:
        assert [await cached(gateway, row, 0) for row in (1, 2, 1, 2)] == ["fwd=miss"] * 2 + ["hit"] * 2
        status, told = await ask(gateway, "DELETE", "/cache?endpoint=nobody")
        assert (status, told["code"]) == (404, "unknown_endpoint")
        assert await ask(gateway, "DELETE", "/cache?endpoint=other") == (200, {"purged": 0})
        assert await cached(gateway, 1, 0) == "hit"
        assert await ask(gateway, "DELETE", "/cache?endpoint=m") == (200, {"purged": 2})
        assert await cached(gateway, 1, 0) == "fwd=miss"
        assert await ask(gateway, "DELETE", "/cache") == (200, {"purged": 1})
        assert await cached(gateway, 1, 0) == "fwd=miss"
        for which in ("/cache?model=other", "/cache?tag=none", "/cache?url=a/b", f"/cache?key={'0' * 32}"):
            assert await ask(gateway, "DELETE", which) == (200, {"purged": 0})
        assert await ask(gateway, "DELETE", "/cache?model=m") == (200, {"purged": 1})
        assert await cached(gateway, 1, 0) == "fwd=miss"
        for wrong in ("/cache?key=7", "/cache?what=1", "/cache?model=m&endpoint=m"):
            assert (await ask(gateway, "DELETE", wrong))[0] == 400


# Explain


async def test_an_explanation_spends_nothing_and_sends_nothing(gateway: Running, behind: Backend) -> None:
    for _ in range(5):
        status, told = await ask(gateway, "POST", "/explain", json={"url": "/echo/a"})
        assert (status, told["status"], told["endpoint"]) == (200, 200, "echo")
    assert behind.paths == []
    counted = [line for line in gateway.worker.metrics().splitlines() if b'{endpoint="echo"' in line]
    assert [line for line in counted if not line.endswith(b" 0.0")] == []
    assert [await gateway.status("/echo/a") for _ in range(3)] == [200, 200, 429]  # burst 2: all of it
    for _ in range(3):
        _, told = await ask(gateway, "POST", "/explain", json={"url": "/echo/a"})
        assert (told["status"], "passes_if" in told) == (429, True)
    pool = gateway.worker.snapshot.pools["echo"]
    assert (pool.in_flight, pool.members.instances[0].in_flight) == (0, 0)
    assert (pool.members.instances[0].successes, gateway.worker.gateway.pressure.in_flight) == (2, 0)


async def test_an_explanation_says_which_line_decided_with_what_numbers(gateway: Running) -> None:
    _, told = await ask(gateway, "POST", "/explain", json={"url": "/echo/a"})
    (decision,) = [one for one in told["trail"] if one["filter"] == "throttle"]
    assert "page.yaml:" in decision["origin"]
    assert decision["numbers"]


async def test_nothing_is_explained_as_nothing(gateway: Running) -> None:
    _, told = await ask(gateway, "POST", "/explain", json={"url": "/nowhere"})
    assert (told["status"], told["endpoint"], told["reason"]) == (404, None, "unknown_endpoint")


@pytest.mark.parametrize(
    ("method", "url"),
    [("GET", "no-slash"), ("G ET", "/echo/a"), ("GET", "/echo/\r\nx: y"), ("GET", "")],
    ids=repr,
)
async def test_what_is_no_request_is_explained_as_the_parser_refuses_it(
    gateway: Running, method: str, url: str
) -> None:
    status, told = await ask(gateway, "POST", "/explain", json={"method": method, "url": url})
    assert (status, told["status"]) == (200, 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"url": 1}',
        b'{"url": "/", "method": 1}',
        b'{"url": "/", "headers": []}',
        b'{"url": "/", "headers": {"a": 1}}',
        b'{"url": "/", "body": {}}',
        b'{"url": "\\ud800"}',
        b"\xff",
    ],
    ids=repr,
)
async def test_a_malformed_question_is_a_400(gateway: Running, body: bytes) -> None:
    status, told = await ask(gateway, "POST", "/explain", data=body)
    assert (status, told["code"]) == (400, "malformed")


# The local registry


async def test_a_lease_is_opened_shown_renewed_and_ended(gateway: Running) -> None:
    status, lease = await ask(
        gateway, "POST", "/registry/digits", json={"id": "a", "address": "127.0.0.1:9", "ttl": 7}
    )
    assert (status, lease["ttl"]) == (201, 7.0)
    _, services = await get(gateway, "/registry")
    assert [one["id"] for one in services["digits"]] == ["a"]
    assert lease["lease"] not in str(services)
    url = f"/registry/leases/{lease['lease']}"
    assert await ask(gateway, "PUT", url) == (200, {"ttl": 7.0})
    assert await ask(gateway, "DELETE", url) == (204, None)
    for method in ("PUT", "DELETE"):
        status, told = await ask(gateway, method, url)
        assert (status, told["code"]) == (404, "unknown_lease")
    assert (await get(gateway, "/registry"))[1] == {}


@pytest.mark.parametrize(("ttl", "given"), [(0, 1.0), (-5, 1.0), (0.5, 1.0), (30, 30.0), (1e9, 3600.0)])
async def test_a_lease_is_neither_too_short_nor_for_ever(gateway: Running, ttl: float, given: float) -> None:
    fields = {"id": "a", "address": "127.0.0.1:9", "ttl": ttl}
    assert (await ask(gateway, "POST", "/registry/digits", json=fields))[1]["ttl"] == given


async def test_a_registration_that_names_no_lease_gets_the_policies(tmp_path: Path) -> None:
    async with running(tmp_path, "", "log: {access: off}\nregistry: {local: {ttl: 42s}}\n") as gateway:
        fields = {"id": "a", "address": "127.0.0.1:9"}
        assert (await ask(gateway, "POST", "/registry/digits", json=fields))[1]["ttl"] == 42.0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"id": 1, "address": "127.0.0.1:9"}', 422),
        (b'{"id": "a"}', 422),
        (b'{"id": "", "address": "127.0.0.1:9"}', 422),
        (b'{"id": "a", "address": "nowhere"}', 422),
        (b'{"id": "a", "address": "127.0.0.1:99999"}', 422),
        (b'{"id": "a", "address": "127.0.0.1:9", "ttl": "soon"}', 422),
        (b'{"id": "a", "address": "127.0.0.1:9", "ttl": true}', 422),
        (b'{"id": "a", "address": "127.0.0.1:9", "ttl": NaN}', 400),
    ],
    ids=repr,
)
async def test_a_malformed_registration_is_refused_with_a_reason(
    gateway: Running, body: bytes, status: int
) -> None:
    found, told = await ask(gateway, "POST", "/registry/digits", data=body)
    assert (found, bool(told["detail"])) == (status, True)
    assert (await get(gateway, "/registry"))[1].get("digits", []) == []


async def test_without_the_local_registry_its_routes_are_not_there(tmp_path: Path) -> None:
    async with running(tmp_path, "", "log: {access: off}\nregistry: static\n") as gateway:
        assert (await get(gateway, "/registry"))[0] == 404
        assert (await get(gateway, "/config"))[1]["registry"] is None


# What goes wrong


async def test_what_is_not_there_or_not_meant_so_is_a_problem_with_a_code(gateway: Running) -> None:
    assert (await get(gateway, "/nothing"))[1]["code"] == "not_found"
    async with gateway.admin.delete("/config") as answer:
        assert (answer.status, "GET" in answer.headers["Allow"]) == (405, True)
        assert answer.content_type == "application/problem+json"


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.app.BODY_LIMIT", 1000)
    async with running(tmp_path, "") as gateway:
        for path in ("/registry/digits", "/explain"):
            status, told = await ask(gateway, "POST", path, data=b" " * 2000)
            assert (status, told["status"]) == (413, 413)


async def test_a_bug_shows_no_stack_to_the_client_and_one_to_the_log(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("the reason is secret")

    monkeypatch.setattr(gateway.worker, "listing", broken)
    async with gateway.admin.get("/policies") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (500, "internal")
        text = await answer.text()
    assert "Traceback" not in text
    assert "secret" not in text
    assert "the reason is secret" in caplog.text


async def test_a_token_of_odd_bytes_is_a_wrong_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_TEST_TOKEN", "admin-token")
    async with running(tmp_path, "", TOKEN_BASE) as gateway:
        reader, writer = await asyncio.open_connection(*gateway.worker.admin_address)
        writer.write(
            b"GET /config HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xe9\xff\r\nConnection: close\r\n\r\n"
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_a_request_by_a_rebound_name_reaches_no_handler(gateway: Running) -> None:
    status, told = await ask(gateway, "POST", "/reload", headers={"Host": "evil.example"})
    assert (status, told["code"]) == (403, "unknown_host")
