from __future__ import annotations

from typing import Any

import pytest

from gateway.filters.catalog import PLACES
from gateway.filters.headers import KIND, PLACEHOLDERS, Changes, HeaderChanges, ResponseHeaders
from gateway.http.message import Headers, Response
from gateway.pipeline.chain import Chain, Chosen
from gateway.pipeline.context import Context
from gateway.pipeline.filter import Filter, Rule, Who
from gateway.pipeline.ports import Principal
from tests.fakes.clock import ManualClock
from tests.fakes.context import make_context, make_parts


def built(request: Changes | None = None, response: Changes | None = None) -> tuple[Filter, Filter]:
    changes = HeaderChanges(request or Changes(), response or Changes())
    forth, back = KIND.build([Rule(changes)], make_parts())
    return forth, back


def headers(request: Changes) -> Filter:
    return built(request)[0]


def back(filter: Filter, ctx: Context, *fields: tuple[bytes, bytes]) -> Headers:
    answered = filter.on_response(ctx, Response(200, list(fields)))
    assert isinstance(answered, Response)
    return answered.headers


def test_what_is_removed_or_set_is_taken_from_the_client() -> None:
    ctx = make_context((b"cookie", b"a"), (b"x-team", b"forged"), (b"accept", b"*/*"), (b"x-team", b"again"))
    headers(Changes(set_={"X-Team": "ours"}, add={"accept": "text/plain"}, remove=("Cookie",))).on_request(
        ctx
    )

    assert ctx.request.headers == [(b"accept", b"*/*")]
    assert list(ctx.forwarded) == [(b"x-team", b"ours"), (b"accept", b"text/plain")]


def test_what_identify_forwards_stays() -> None:
    ctx = make_context()
    ctx.forwarded = ((b"via", b"1.1 headgate"),)
    headers(Changes(set_={"x-a": "1"})).on_request(ctx)
    assert list(ctx.forwarded) == [(b"via", b"1.1 headgate"), (b"x-a", b"1")]


def test_a_credential_for_the_instance_is_not_taken_for_the_clients() -> None:
    ctx = make_context((b"authorization", b"Bearer client"))
    ctx.credential_field = b"authorization"
    headers(Changes(set_={"authorization": "Bearer backend"})).on_request(ctx)

    assert ctx.request.header(b"authorization") is None
    assert list(ctx.forwarded) == [(b"authorization", b"Bearer backend")]


def test_placeholders_are_filled_per_request() -> None:
    ctx = make_context(principal=Principal("jürgen", "free", "acme"), address="192.0.2.7")
    ctx.request_id, ctx.version = b"abc", "2"
    filter = headers(Changes(set_={"x-who": "{principal}/{plan}/{tenant} {client} {request_id} v{version}"}))
    filter.on_request(ctx)

    assert list(ctx.forwarded) == [(b"x-who", "jürgen/free/acme 192.0.2.7 abc v2".encode())]


def test_a_value_that_turns_out_empty_makes_no_field() -> None:
    ctx = make_context()
    headers(Changes(set_={"x-plan": "{plan}"})).on_request(ctx)
    assert list(ctx.forwarded) == []


def test_every_placeholder_has_a_value_in_a_bare_context() -> None:
    ctx = make_context()
    assert {name: piece(ctx) for name, piece in PLACEHOLDERS.items()}.keys() == PLACEHOLDERS.keys()


def test_other_braces_stand_for_themselves() -> None:
    ctx = make_context()
    headers(Changes(set_={"x-json": '{"a": 1}'})).on_request(ctx)
    assert list(ctx.forwarded) == [(b"x-json", b'{"a": 1}')]


def test_answers_are_changed_on_the_way_back() -> None:
    _, filter = built(
        response=Changes(set_={"server": "headgate"}, add={"vary": "Accept"}, remove=("x-powered-by",))
    )
    changed = back(filter, make_context(), (b"server", b"x"), (b"x-powered-by", b"y"), (b"vary", b"Origin"))

    assert changed == [(b"vary", b"Origin"), (b"server", b"headgate"), (b"vary", b"Accept")]


def test_each_way_acts_at_its_own_moment_and_place() -> None:
    forth, back = built(Changes(set_={"x-a": "1"}), Changes(set_={"x-b": "2"}))
    requests, responses = Chain([forth]), Chain([back])

    assert (len(requests.on_request), len(requests.on_response)) == (1, 0)
    assert (len(responses.on_request), len(responses.on_response)) == (0, 1)
    assert back.place < PLACES["cors"]
    assert forth.place > PLACES["send"]


def test_of_several_rules_the_answer_is_changed_by_the_one_for_its_principal() -> None:
    pro = Rule(Changes(set_={"x-a": "pro"}), who=Who(plans=frozenset({"pro"})))
    all_others = Rule(Changes(set_={"x-a": "others"}))
    chosen = Chosen([(rule, ResponseHeaders(rule.value)) for rule in (pro, all_others)], ManualClock())
    assert Chain([chosen]).on_request == ()

    ctx = make_context()
    ctx.principal = Principal("alice", "pro")  # known only after this filter's place was passed
    assert back(chosen, ctx) == [(b"x-a", b"pro")]
    assert back(chosen, make_context()) == [(b"x-a", b"others")]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"set_": {"x a": "1"}}, id="space in a name"),
        pytest.param({"set_": {"x-a:": "1"}}, id="colon in a name"),
        pytest.param({"set_": {"": "1"}}, id="empty name"),
        pytest.param({"add": {"x-a": "1\r\nx-b: 2"}}, id="line break in a value"),
        pytest.param({"add": {"x-a": "1\x00"}}, id="zero byte in a value"),
        pytest.param({"add": {"x-a": " 1"}}, id="space around a value"),
        pytest.param({"remove": ("Content-Length",)}, id="framing"),
        pytest.param({"set_": {"Transfer-Encoding": "chunked"}}, id="transfer coding"),
        pytest.param({"set_": {"host": "x"}}, id="host"),
        pytest.param({"set_": {"connection": "x"}}, id="connection"),
        pytest.param({"set_": {"X-Headgate-Principal": "root"}}, id="what we vouch for"),
        pytest.param({"set_": {"x-a": "{princpal}"}}, id="unknown placeholder"),
    ],
)
def test_a_change_that_could_break_a_message_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|own|control"):
        Changes(**wrong)


def test_the_instance_is_not_known_while_the_request_is_written() -> None:
    with pytest.raises(ValueError, match="not known yet"):
        HeaderChanges(request=Changes(set_={"x-a": "{instance}"}))


def test_values_may_be_secrets_and_are_not_shown() -> None:
    assert "s3cret" not in repr(HeaderChanges(Changes(set_={"x-a": "s3cret"}, add={"x-b": "s3cret"})))
