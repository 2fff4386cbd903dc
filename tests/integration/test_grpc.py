"""gRPC clients through a whole gateway to gRPC servers: Google's own library on both sides."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from tests.fakes.echo_service import Echo, echo_service
from tests.runtime.running import Running, running, until

T = TypeVar("T")

KEY = "demo-pro"
HASH = "sha256:de4562274bd40421c1e8c1a589f4ec9f96c4c6e529fa843be4ef0d99d9256b7e"


@pytest.fixture
def service() -> Iterator[Echo]:
    with echo_service() as made:
        yield made


ANYBODY = "    authenticate: none\n"


def page(*ports: int, verbs: str = ANYBODY) -> str:
    """One endpoint in front of the service's instances."""
    addresses = ", ".join(f"'127.0.0.1:{port}'" for port in ports)
    return (
        f"pools:\n  echo: {{instances: [{addresses}], speaks: grpc}}\n"
        f"endpoints:\n  echo:\n    match: {{grpc: [test.Echo]}}\n    send: echo\n{verbs}"
    )


@asynccontextmanager
async def through(
    folder: Path, policies: str, options: tuple[tuple[str, object], ...] = ()
) -> AsyncIterator[tuple[Running, grpc.Channel]]:
    """A gateway with these policies, and a channel to it."""
    async with running(folder, policies) as gateway:
        target = "{}:{}".format(*gateway.worker.http_address)
        unbounded = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        with grpc.insecure_channel(target, options=(*unbounded, *options)) as channel:
            yield gateway, channel


async def off(call: Callable[[], T]) -> T:
    """Make a call from a thread: the gateway has this one."""
    return await asyncio.to_thread(call)


async def failing(call: Callable[[], object]) -> grpc.RpcError:
    """Make a call that must fail; returns its error."""
    with pytest.raises(grpc.RpcError) as failed:
        await off(call)
    return failed.value


# Every kind of call


async def test_a_unary_call_comes_back_with_its_trailers(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        unary = channel.unary_unary("/test.Echo/Unary")
        message, call = await off(lambda: unary.with_call(b"hello", timeout=10))
    assert message == b"hello"
    assert call.code() is grpc.StatusCode.OK
    assert ("x-served", "yes") in call.trailing_metadata()


async def test_an_empty_message_is_a_message(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        assert await off(lambda: channel.unary_unary("/test.Echo/Unary")(b"", timeout=10)) == b""


async def test_a_server_stream_comes_message_by_message(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        count = channel.unary_stream("/test.Echo/Count")
        numbers = await off(lambda: list(count(b"500", timeout=10)))
    assert numbers == [b"%d" % number for number in range(500)]


async def test_a_client_stream_is_summed_up(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        total = channel.stream_unary("/test.Echo/Sum")
        answer = await off(lambda: total(iter([b"x" * 1000] * 300), timeout=10))
    assert answer == b"300000"


async def test_a_bidirectional_stream_answers_while_the_client_still_speaks(tmp_path, service):
    """Each message is sent only after the answer to the one before: both directions flow at once."""
    answered = threading.Semaphore(1)

    def questions() -> Iterator[bytes]:
        for number in range(20):
            assert answered.acquire(timeout=10)
            yield b"%d" % number

    def talk() -> list[bytes]:
        answers = []
        for answer in channel.stream_stream("/test.Echo/Talk")(questions(), timeout=20):
            answers.append(answer)
            answered.release()
        return answers

    async with through(tmp_path, page(service.port)) as (_, channel):
        assert await off(talk) == [b"you said %d" % number for number in range(20)]


async def test_big_messages_pass_both_ways(tmp_path, service):
    big = bytes(range(256)) * 40_000  # 10 MiB
    async with through(tmp_path, page(service.port)) as (_, channel):
        assert await off(lambda: channel.unary_unary("/test.Echo/Unary")(big, timeout=60)) == big


async def test_many_calls_share_few_connections(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (gateway, channel):
        unary = channel.unary_unary("/test.Echo/Unary")

        def burst() -> list[bytes]:
            futures = [unary.future(b"%d" % number, timeout=20) for number in range(300)]
            return [future.result() for future in futures]

        assert await off(burst) == [b"%d" % number for number in range(300)]
        assert gateway.worker._listeners["http"].connections <= 2


async def test_compressed_messages_pass_untouched(tmp_path):
    with echo_service(grpc.Compression.Gzip) as service:
        async with through(tmp_path, page(service.port)) as (_, channel):
            unary = channel.unary_unary("/test.Echo/Unary")
            data = b"again and again " * 10_000
            back = await off(lambda: unary(data, timeout=10, compression=grpc.Compression.Gzip))
    assert back == data


# Metadata and deadlines


async def test_metadata_passes_both_ways_also_binary(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        metadata = (("x-text", "word"), ("x-blob-bin", b"\x00\x01\xfe"))
        call = channel.unary_unary("/test.Echo/Metadata")
        answer, done = await off(lambda: call.with_call(b"", timeout=10, metadata=metadata))
    seen = json.loads(answer)
    assert seen["x-text"] == "word"
    assert seen["x-blob-bin"] == "0001fe"
    assert ("x-raw-bin", b"\x00\xff") in done.initial_metadata()
    assert ("x-last-bin", b"\x01\x02") in done.trailing_metadata()


async def test_the_gateway_names_itself_to_the_service_and_not_the_client_s_words(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        metadata = (("x-headgate-principal", "root"),)
        call = channel.unary_unary("/test.Echo/Metadata")
        seen = json.loads(await off(lambda: call(b"", timeout=10, metadata=metadata)))
    assert "x-headgate-principal" not in seen
    assert seen["via"] == "2 headgate"
    assert seen["x-request-id"]


async def test_a_deadline_is_kept_and_the_server_learns_of_it(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        started = time.monotonic()
        slow = channel.unary_unary("/test.Echo/Slow")
        error = await failing(lambda: slow(b"5", timeout=0.4))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 3
        await until(service.cancelled.is_set)


async def test_the_time_that_is_left_is_sent_on(tmp_path, service):
    verbs = ANYBODY + "    timeout: 3s\n"
    async with through(tmp_path, page(service.port, verbs=verbs)) as (_, channel):
        call = channel.unary_unary("/test.Echo/Metadata")
        seen = json.loads(await off(lambda: call(b"", timeout=2)))
    assert 0 < seen["time_remaining"] <= 2


async def test_a_cancelled_call_is_cancelled_at_the_instance(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        future = channel.unary_unary("/test.Echo/Slow").future(b"3", timeout=20)
        await until(lambda: "Slow" in service.calls)
        future.cancel()
        await until(service.cancelled.is_set)


# Errors, theirs and ours


@pytest.mark.parametrize(
    "name", ["INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL", "UNIMPLEMENTED", "DATA_LOSS"]
)
async def test_an_error_of_the_service_comes_back_as_it_is(tmp_path, service, name):
    async with through(tmp_path, page(service.port)) as (_, channel):
        fail = channel.unary_unary("/test.Echo/Fail")
        error = await failing(lambda: fail(f"{name}:für 100 %".encode(), timeout=10))
    assert error.code() is grpc.StatusCode[name]
    assert error.details() == "für 100 %"


async def test_an_error_in_mid_stream_comes_behind_what_was_sent(tmp_path, service):
    got: list[bytes] = []

    def read() -> None:
        got.extend(channel.unary_stream("/test.Echo/Break")(b"", timeout=10))

    async with through(tmp_path, page(service.port)) as (_, channel):
        call = channel.unary_stream("/test.Echo/Break")(b"", timeout=10)
        assert await off(lambda: next(call)) == b"one"
        error = await failing(lambda: next(call))
    assert error.code() is grpc.StatusCode.DATA_LOSS


async def test_a_call_that_no_endpoint_takes_is_unimplemented(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (_, channel):
        error = await failing(lambda: channel.unary_unary("/other.Service/Do")(b"", timeout=10))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert ("x-headgate-reason", "unknown_endpoint") in [
        *error.initial_metadata(),
        *error.trailing_metadata(),
    ]


async def test_a_quota_is_resource_exhausted_with_a_pushback(tmp_path, service):
    verbs = ANYBODY + "    throttle: 1/min\n"
    async with through(tmp_path, page(service.port, verbs=verbs)) as (_, channel):
        unary = channel.unary_unary("/test.Echo/Unary")
        assert await off(lambda: unary(b"1", timeout=10)) == b"1"
        error = await failing(lambda: unary(b"2", timeout=10))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert 0 < int(pushback) <= 75_000  # up to a quarter more than the truth


async def test_who_is_unknown_is_unauthenticated_and_who_may_not_is_denied(tmp_path, service):
    people = (
        "plans: {free: {}}\nprincipals:\n"
        f"  pro: {{plan: free, tenant: acme, keys: ['{HASH}'], may: {{models: []}}}}\n"
    )
    policies = page(service.port, verbs="    authenticate: api_key\n") + people
    async with through(tmp_path, policies) as (_, channel):
        unary = channel.unary_unary("/test.Echo/Unary")
        nobody = await failing(lambda: unary(b"", timeout=10))
        somebody = await failing(lambda: unary(b"", timeout=10, metadata=(("x-api-key", KEY),)))
    assert nobody.code() is grpc.StatusCode.UNAUTHENTICATED
    assert somebody.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_instance_that_is_not_there_is_unavailable(tmp_path, unused_tcp_port):
    async with through(tmp_path, page(unused_tcp_port)) as (_, channel):
        error = await failing(lambda: channel.unary_unary("/test.Echo/Unary")(b"", timeout=10))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_unavailable_is_tried_again_where_the_endpoint_says_that_it_may(tmp_path, service):
    verbs = ANYBODY + "    safe_to_retry: true\n    balance: round_robin\n"
    with echo_service() as other:
        service.fail_first = 1000
        async with through(tmp_path, page(service.port, other.port, verbs=verbs)) as (_, channel):
            unary = channel.unary_unary("/test.Echo/Unary")
            for number in range(6):
                assert await off(lambda number=number: unary(b"%d" % number, timeout=10)) == b"%d" % number
        assert "Unary" in service.calls


async def test_unavailable_is_told_where_calls_must_not_be_repeated(tmp_path, service):
    service.fail_first = 1
    async with through(tmp_path, page(service.port)) as (_, channel):
        unary = channel.unary_unary("/test.Echo/Unary")
        error = await failing(lambda: unary(b"", timeout=10))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "not now"


async def test_bad_input_is_not_the_instance_s_failure_and_internal_errors_are(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (gateway, channel):
        fail = channel.unary_unary("/test.Echo/Fail")
        await failing(lambda: fail(b"INVALID_ARGUMENT:no", timeout=10))
        (instance,) = gateway.worker.snapshot.pools["echo"].members.instances
        assert (instance.successes, instance.failures) == (1, 0)
        await failing(lambda: fail(b"INTERNAL:broken", timeout=10))
        assert (instance.successes, instance.failures) == (1, 1)


# Who takes which call


async def test_endpoints_match_by_service_and_method(tmp_path, service):
    policies = (
        f"pools:\n  echo: {{instances: ['127.0.0.1:{service.port}'], speaks: grpc}}\n"
        "endpoints:\n"
        "  all:\n    match: {grpc: ['test.*']}\n    authenticate: none\n    send: echo\n"
        "  one:\n    match: {grpc: [test.Echo/Unary]}\n    authenticate: none\n    send: echo\n"
        "    throttle: 1/min\n"
    )
    async with through(tmp_path, policies) as (_, channel):
        unary = channel.unary_unary("/test.Echo/Unary")
        assert await off(lambda: unary(b"", timeout=10)) == b""
        error = await failing(lambda: unary(b"", timeout=10))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await off(lambda: list(channel.unary_stream("/test.Echo/Count")(b"3", timeout=10)))


# The end


async def test_calls_under_way_are_finished_when_the_gateway_stops(tmp_path, service):
    async with through(tmp_path, page(service.port)) as (gateway, channel):
        future = channel.unary_unary("/test.Echo/Slow").future(b"0.6", timeout=20)
        await until(lambda: "Slow" in service.calls)
        await gateway.worker.stop()
        assert await off(future.result) == b"done"
