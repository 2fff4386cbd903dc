"""Traces, from a request through a whole gateway to a receiver that reads the exporter's real bytes."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway.pipeline.context import Context
from gateway.runtime.world import SystemClock
from gateway.telemetry import tracing
from gateway.telemetry.tracing import Tracing
from tests.fakes.context import make_context
from tests.runtime.running import BASE, Running, backend, echo_page, running, until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"


class Receiver:
    """An OTLP/HTTP receiver. status: what it answers."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=answer, content_type="application/x-protobuf")

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    async with TestServer(app, host="127.0.0.1") as server:
        made.url = str(server.make_url("/v1/traces"))
        yield made


def told(attributes: Iterator[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in attributes}


@asynccontextmanager
async def traced(folder: Path, url: str, verbs: str = "", sample: str = "0%") -> AsyncIterator[Running]:
    base = f"{BASE}telemetry: {{otlp: '{url}', sample: {sample}, service: front}}\n"
    async with backend() as behind, running(folder, echo_page(behind.port, verbs), base) as gateway:
        yield gateway


def finished() -> Context:
    ctx = make_context()
    ctx.sampled, ctx.trace_id, ctx.span_id = True, TRACE.encode(), b"1" * 16
    ctx.status, ctx.finished = 200, 1000.5
    return ctx


# Through a whole gateway


async def test_a_sampled_request_arrives_with_its_trace_its_parent_and_what_became_of_it(
    tmp_path: Path,
) -> None:
    async with receiver() as otlp, traced(tmp_path, otlp.url) as gateway:
        before = time.time_ns()
        assert await gateway.status("/echo/a?api_key=secret", traceparent=SAMPLED) == 200
        await until(lambda: otlp.spans)
        (span,) = otlp.spans
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.span_id not in (bytes(8), bytes.fromhex(PARENT))
        assert (span.name, span.kind) == ("GET echo", Span.SPAN_KIND_SERVER)
        assert before - 1e8 < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns() + 1e8
        assert {
            "http.request.method": "GET",
            "url.path": "/echo/a",
            "http.response.status_code": 200,
            "client.address": "127.0.0.1",
            "headgate.endpoint": "echo",
            "headgate.pool": "echo",
            "headgate.attempts": 1,
            "server.address": "127.0.0.1",
        }.items() <= told(iter(span.attributes)).items()
        resource = told(iter(otlp.requests[0].resource_spans[0].resource.attributes))
        assert resource["service.name"] == "front"
        assert "secret" not in str(otlp.requests)


async def test_the_instance_is_told_our_span_as_its_parent(tmp_path: Path) -> None:
    async with receiver() as otlp, backend() as behind:
        base = f"{BASE}telemetry: {{otlp: '{otlp.url}', sample: 0%}}\n"
        async with running(tmp_path, echo_page(behind.port), base) as gateway:
            await gateway.status("/echo/a", traceparent=SAMPLED)
            await until(lambda: otlp.spans)
        (request,) = behind.requests
        assert request.headers["traceparent"] == f"00-{TRACE}-{otlp.spans[0].span_id.hex()}-01"


async def test_who_was_not_sampled_leaves_no_trace(tmp_path: Path) -> None:
    async with receiver() as otlp, traced(tmp_path, otlp.url, sample="100%") as gateway:
        await gateway.status("/echo/a", traceparent=UNSAMPLED)
        await gateway.status("/echo/b", traceparent=SAMPLED)
        await until(lambda: otlp.spans)
        assert [told(iter(span.attributes))["url.path"] for span in otlp.spans] == ["/echo/b"]


@pytest.mark.parametrize(("sample", "spans"), [("100%", 1), ("0%", 0)])
async def test_the_share_decides_where_the_client_did_not(tmp_path: Path, sample: str, spans: int) -> None:
    async with receiver() as otlp, traced(tmp_path, otlp.url, sample=sample) as gateway:
        await gateway.status("/echo/a")
        await gateway.worker.stop()
        assert len(otlp.spans) == spans
        assert all(span.parent_span_id == b"" for span in otlp.spans)


async def test_a_refusal_names_its_policy_and_is_no_error_of_ours(tmp_path: Path) -> None:
    verbs = "    throttle: 1/h burst 1\n"
    async with receiver() as otlp, traced(tmp_path, otlp.url, verbs) as gateway:
        statuses = [await gateway.status("/echo/a", traceparent=SAMPLED) for _ in range(2)]
        await until(lambda: len(otlp.spans) == 2)
    attributes = told(iter(otlp.spans[1].attributes))
    assert statuses == [200, 429]
    assert attributes["headgate.policy"] == "endpoints.echo"
    assert attributes["headgate.reason"]
    assert otlp.spans[1].status.code == Status.STATUS_CODE_UNSET


async def test_a_failure_is_an_error_with_its_type(tmp_path: Path) -> None:
    async with receiver() as otlp:
        base = f"{BASE}telemetry: {{otlp: '{otlp.url}', sample: 0%}}\n"
        async with running(tmp_path, echo_page(1), base) as gateway:  # nobody listens at port 1
            assert await gateway.status("/echo/a", traceparent=SAMPLED) >= 500
            await until(lambda: otlp.spans)
    (span,) = otlp.spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert told(iter(span.attributes))["error.type"]


async def test_the_receivers_headers_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTLP_TOKEN", "Bearer otlp-token")
    async with receiver() as otlp, backend() as behind:
        headers = "{authorization: '${env:OTLP_TOKEN}'}"
        base = f"{BASE}telemetry: {{otlp: '{otlp.url}', headers: {headers}}}\n"
        async with running(tmp_path, echo_page(behind.port), base) as gateway:
            await gateway.status("/echo/a", traceparent=SAMPLED)
            await until(lambda: otlp.spans)
        assert otlp.headers[0]["authorization"] == "Bearer otlp-token"


# Receivers that don't take them


async def test_a_receiver_that_is_away_is_counted_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "TIMEOUT", 0.3)
    async with traced(tmp_path, "http://127.0.0.1:1/v1/traces") as gateway:
        for _ in range(5):
            assert await gateway.status("/echo/a", traceparent=SAMPLED) == 200
        await until(lambda: b"headgate_traces_dropped_total 5.0" in gateway.worker.metrics())


async def test_a_receiver_that_refuses_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with receiver() as otlp:
        otlp.status = 400
        traces = Tracing.over_otlp(otlp.url, SystemClock())
        traces.start()
        traces.observe(finished())
        await until(lambda: traces.dropped == 1)
        await asyncio.to_thread(traces.close)
    assert (traces.exported, traces.dropped) == (0, 1)


class Silent:
    """An exporter that does not come back until it is shut down."""

    def __init__(self) -> None:
        import threading

        self.over = threading.Event()

    def export(self, spans: object) -> object:
        self.over.wait(5.0)
        return None

    def shutdown(self) -> None:
        self.over.set()


@contextmanager
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    monkeypatch.setattr(tracing, "PATIENCE", 0.05)
    traces = Tracing(Silent(), SystemClock())  # type: ignore[arg-type]  # as much of an exporter as is used
    traces.start()
    yield traces


def test_the_end_does_not_wait_for_a_receiver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent(monkeypatch) as traces:
        for _ in range(7):
            traces.observe(finished())
        started = time.monotonic()
        traces.close()
        assert time.monotonic() - started < 1.0
        assert traces.dropped == 7


def test_what_waits_for_a_receiver_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "QUEUE", 10)
    monkeypatch.setattr(tracing, "BATCH", 1)
    with silent(monkeypatch) as traces:
        for _ in range(100):
            traces.observe(finished())
        assert traces.dropped >= 89  # ten wait, and at most one is on its way
        traces.close()


def test_an_exporter_that_raises_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Silent):
        def export(self, spans: object) -> object:
            raise ValueError("no")

    traces = Tracing(Raising(), SystemClock())  # type: ignore[arg-type]  # as much of an exporter as is used
    traces.start()
    for expected in (1, 2):
        traces.observe(finished())
        end = time.monotonic() + 5
        while traces.dropped < expected:
            assert time.monotonic() < end
            time.sleep(0.01)
    traces.close()


def test_an_unsampled_request_is_not_queued() -> None:
    traces = Tracing(Silent(), SystemClock())  # type: ignore[arg-type]  # as much of an exporter as is used
    traces.observe(make_context())
    assert len(traces._queue) == 0


# What it costs who does not trace


def test_without_a_receiver_nothing_of_the_sdk_is_imported(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from gateway.runtime.policies import read\n"
        "from gateway.runtime.serve import overrule\n"
        "from gateway.runtime.worker import Worker\n"
        "async def main():\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        "    loaded = read(folder)\n"
        "    schema = overrule(loaded.schema, '127.0.0.1:0', '127.0.0.1:0', None, 'off')\n"
        "    worker = Worker(folder, loaded, schema)\n"
        "    await worker.start()\n"
        "    await worker.stop()\n"
        "asyncio.run(main())\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
