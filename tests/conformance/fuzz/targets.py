"""What is fuzzed: one function per reader of untrusted bytes. Bytes in, a text out: how they were read.

A target raises whenever a law is broken: an exception that the reader does not promise, a reading that h11 or
llhttp does not share, pieces that are read otherwise than the whole, a value that could forge a line. Its
text is the same for the pure and the compiled twin, which is a law of its own (test_corpus.py).
"""

from __future__ import annotations

import contextlib
import gzip
import random
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import h11
import httptools

from gateway.config.load import load
from gateway.dialects.catalogue import DIALECTS
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.filters.catalog import KINDS
from gateway.http.codings import BadCoding, TooMuch, UnknownCoding, accepts_gzip, decoded
from gateway.http.forwarded import Forwarding
from gateway.http.framing import BadFraming, ChunkedReader
from gateway.http.hop_by_hop import end_to_end
from gateway.http.message import Headers, Request
from gateway.http.parse import BadRequest, BadResponse, HeadLimits, parse_request, parse_response_head
from gateway.http.proxy_protocol import SIGNATURE as SIGNATURE_V2
from gateway.http.proxy_protocol import BadProxyHeader, read_proxy_header
from gateway.http.serialize import write_request_head
from gateway.http.target import BadTarget, normalise_path, split_target
from tests.conformance import requests, responses
from tests.conformance.fuzz import dialects, http2
from tests.playbooks import test_conservation

Target = Callable[[bytes], str]
LIMITS = HeadLimits()


class LawBroken(AssertionError):
    """What must hold for any input doesn't."""


def law(holds: object, *shown: object) -> None:
    """Raise unless it holds; not an `assert`, so that no flag of the interpreter turns it off."""
    if not holds:
        raise LawBroken(*shown)


# Heads


def head_of(data: bytes) -> bytes:
    """Return the bytes up to the first empty line, which is where a caller cuts."""
    return data[: data.find(b"\r\n\r\n") + 4]


def request_head(data: bytes) -> str:
    """Whatever we accept, h11 accepts and reads alike, and so does what we write of it."""
    head = head_of(data)
    try:
        request = parse_request(head, LIMITS)
    except BadRequest as refused:
        law(400 <= refused.status < 500, refused.status)
        return f"{refused.status} {refused.code}"
    read_alike(head, request.method, request.headers)
    law(
        not request.path or request.path == b"*" or normalise_path(request.path) == request.path, request.path
    )
    forward = Request(
        request.method,
        request.path,
        end_to_end(request.headers),
        query=request.query,
        length=request.length,
        body=None,
    )
    if request.path != b"*":
        again = parse_request(write_request_head(forward, b"instance:80"), LIMITS)
        law((again.method, again.path, again.query) == (request.method, request.path, request.query), again)
        law(again.length == request.length, again.length, request.length)
        read_alike(write_request_head(forward, b"instance:80"), request.method, again.headers)
    return repr(
        (
            request.method,
            request.path,
            request.query,
            request.host,
            request.length,
            request.keep_alive,
            request.headers,
        )
    )


def read_alike(head: bytes, method: bytes, headers: Headers) -> None:
    """Check that h11 and llhttp read a request's head as we did."""
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    other.receive_data(head)
    event = other.next_event()
    law(isinstance(event, h11.Request), head)
    law(event.method == method, event.method, method)
    law([(name.lower(), value) for name, value in event.headers] == headers, event.headers, headers)
    if method not in LLHTTP_METHODS:
        return
    fields: Headers = []

    class Listener:
        def on_header(self, name: bytes, value: bytes) -> None:
            fields.append((name.lower(), value.strip(b" \t")))

    with contextlib.suppress(httptools.HttpParserUpgrade):  # the head was read; what follows is no HTTP
        httptools.HttpRequestParser(Listener()).feed_data(head)
    law(fields == headers, fields, headers)


LLHTTP_METHODS = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH"))


def response_head(data: bytes) -> str:
    """Whatever we accept of an instance, h11 accepts and frames alike."""
    head = head_of(data)
    try:
        response, framing, stays = parse_response_head(head, b"GET", LIMITS)
    except BadResponse:
        return "refused"
    if response.status == 101:  # h11 wants to have asked for it
        return "switching"
    other = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    other.send(h11.Request(method=b"GET", target=b"/", headers=[(b"host", b"a")]))
    other.send(h11.EndOfMessage())
    other.receive_data(head)
    event = other.next_event()
    law(isinstance(event, h11.Response | h11.InformationalResponse), head)
    law(event.status_code == response.status, event)
    ours = [
        (name, value.lower() if name == b"transfer-encoding" else value) for name, value in response.headers
    ]
    law([(name.lower(), value) for name, value in event.headers] == ours, event.headers)
    return repr((response.status, framing, stays, response.headers))


# Bodies


def chunked(data: bytes) -> str:
    """Pieces mean what the whole means; what we accept h11 decodes alike."""
    whole = feed([data])
    rng = random.Random(len(data))
    cuts = sorted(rng.sample(range(len(data) + 1), min(len(data), 7)))
    law(
        feed([data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])[0] == whole[0],
        "pieces",
    )
    if len(data) < 400:
        law(feed([data[at : at + 1] for at in range(len(data))])[0] == whole[0], "bytes")
    if whole[0] == "done":
        if SPACED_EXTENSION.search(data):  # RFC 9112 §7.1.1 allows what h11 refuses
            return repr(whole)
        other = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        other.receive_data(requests.CHUNKED + data)
        law(isinstance(other.next_event(), h11.Request))
        body = b""
        while isinstance(event := other.next_event(), h11.Data):
            body += bytes(event.data)
        law(isinstance(event, h11.EndOfMessage), event)
        law(body == whole[1], body, whole[1])
        law(bytes(other.trailing_data[0]) == whole[2], other.trailing_data, whole[2])
    return repr(whole)


SPACED_EXTENSION = re.compile(rb"[ \t][;=]|[;=][ \t]|=\"")


def feed(pieces: Iterable[bytes]) -> tuple[str, bytes, bytes]:
    """Return (state, body, rest) after these pieces; ("refused", b"", b"") for what is malformed."""
    reader = ChunkedReader(max_chunks=1000)
    body = b""
    rest = b""
    try:
        for piece in pieces:
            if reader.done:
                rest += piece
                continue
            body += reader.feed(piece)
            if reader.done:
                rest = reader.rest
    except BadFraming:
        return "refused", b"", b""
    return ("done" if reader.done else "more"), body, rest


def coding(data: bytes) -> str:
    """A Content-Encoding is undone within the bound or refused; an Accept-Encoding is always read."""
    field, _, body = data.partition(b"\n")
    accepted = accepts_gzip(field)
    try:
        plain = decoded(field, body, 100_000)
    except (BadCoding, TooMuch, UnknownCoding) as refused:
        return f"{accepted} {type(refused).__name__}"
    law(len(plain) <= max(100_000, len(body)), len(plain))
    return f"{accepted} {plain!r}"


# Values


def target(data: bytes) -> str:
    """A path is normalised once and for all: what comes out goes in unchanged, and climbs nowhere."""
    try:
        path, query = split_target(data)
    except BadTarget:
        return "refused"
    law(normalise_path(path) == path, path)
    law(path.startswith(b"/"), path)
    law(not any(part in (b".", b"..") for part in path.split(b"/")), path)
    law(b"//" not in path, path)
    law(all(0x20 < code < 0x7F for code in path + query), path, query)
    return repr((path, query))


def forwarded(data: bytes) -> str:
    """No peer's fields can forge a line, or make us believe what no trusted hop has said."""
    lines = data.split(b"\n")
    names = (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
    headers = [(names[number % 4], line.strip(b" \t\r\0")) for number, line in enumerate(lines[:8])]
    made = Forwarding(["10.0.0.0/8"]).add(headers, address="10.0.0.1", scheme="http", host=b"a")
    law(not any(sign in value for _, value in made.fields for sign in b"\r\n\0"), made)
    stranger = Forwarding(["10.0.0.0/8"]).add(headers, address="192.0.2.1", scheme="http", host=b"a")
    law(stranger.client == "192.0.2.1", stranger)
    return repr(made)


def hop_by_hop(data: bytes) -> str:
    """What Connection names stays here; framing and what nobody names is as it was."""
    headers = [(b"connection", line) for line in data.split(b"\n")] + [
        (b"x-a", b"1"),
        (b"content-length", b"1"),
    ]
    kept = end_to_end(headers)
    law(all(name not in (b"connection", b"content-length") for name, _ in kept), kept)
    return repr(kept)


def proxy_protocol(data: bytes) -> str:
    """A header is read, refused or waited for; it never takes more than there is."""
    try:
        header = read_proxy_header(data)
    except BadProxyHeader:
        return "refused"
    if header is None:
        law(len(data) < 70_000, len(data))
        return "more"
    law(0 < header.size <= len(data), header)
    law(0 <= header.port < 65536, header)
    return repr(header)


def header_block(data: bytes) -> str:
    """Whatever we read in a block of HPACK, `hpack` reads; what we don't, it doesn't either."""
    theirs = http2.fields_of(data)
    ours, why = http2.read_block(data)
    if ours is None:
        law(isinstance(theirs, str) or "too large" in why, why, theirs)
        return why
    law(ours == theirs, ours, theirs)
    return repr(ours)


def http2_frames(data: bytes) -> str:
    """Frames are refused as Broken or not at all, and in pieces they mean what they mean together."""
    whole = http2.play(data, len(data))
    law(http2.play(data, len(data) // 2) == whole, whole)
    law(http2.play(data, min(30, len(data))) == whole, whole)
    return whole


# Documents

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "INT64", (-1,)),))
PATHS = (b"/v1/models/m:predict", b"/v2/models/m/infer", b"/v2/models/m/versions/1/infer")


def dialect(data: bytes) -> str:
    """Whatever a body holds, it is a prediction or an InvalidPrediction; with and without a signature."""
    shown = []
    field, _, body = data.partition(b"\n") if data[:1] == b"#" else (b"", b"", data)
    headers = [(b"content-type", b"application/json")]
    if field:
        headers.append((b"inference-header-content-length", field[1:]))
    for one in DIALECTS:
        for path in PATHS:
            found = one.recognise(b"POST", path)
            if found is None:
                continue
            for signature in (None, SIGNATURE):
                try:
                    read = one.read_request(found, headers, body, signature)
                    shown.append(repr([(tensor.name, tensor.shape) for tensor in read.inputs]))
                except InvalidPrediction as wrong:
                    shown.append(wrong.code)
    return "; ".join(shown)


def dialect_readers(data: bytes) -> str:
    """Whatever a client or a server of any dialect says, it is read or refused (fuzz/dialects.py)."""
    return dialects.read_everything(data)


def config(data: bytes) -> str:
    """Any file is a schema, or a list of problems with places; reading it raises nothing."""
    loaded = load(Path("/nowhere"), KINDS, env={}, files={"page.yaml": data})
    law((loaded.schema is None) is bool(loaded.errors), loaded)
    return loaded.report()


def exchange(data: bytes) -> str:
    """Events in any order: one answer, and everything given back (tests/playbooks/test_conservation.py)."""
    law_of_conservation = test_conservation.test_everything_taken_is_given_back_exactly_once
    law_of_conservation.hypothesis.fuzz_one_input(data)
    return ""


TARGETS: Mapping[str, Target] = {
    one.__name__: one
    for one in (
        *(request_head, response_head, chunked, coding, target, forwarded, hop_by_hop, proxy_protocol),
        *(header_block, http2_frames, dialect, dialect_readers, config, exchange),
    )
}


# What to begin with


def seeds(name: str) -> list[bytes]:
    """Return the inputs that the tables of the conformance suite hold for a target."""
    match name:
        case "request_head":
            return [*requests.REFUSED.values(), *requests.ACCEPTED.values()]
        case "response_head":
            return [*responses.REFUSED.values(), *responses.CUT.values(), *responses.TAINTED.values()]
        case "chunked":
            return [body for body in requests.BROKEN_BODIES.values() if len(body) < 20_000] + [
                wire[len(requests.CHUNKED) :]
                for wire in requests.ACCEPTED.values()
                if wire.startswith(requests.CHUNKED)
            ]
        case "target":
            return [*requests.TARGETS, *(wire.split(b" ")[1] for wire in requests.ACCEPTED.values())]
        case "config":
            pages = Path(__file__).parents[3] / "policies"
            return [page.read_bytes() for page in sorted(pages.glob("*.yaml"))]
        case "coding":
            return [
                b"gzip\n" + gzip.compress(b"hello" * 100),
                b"deflate\n" + zlib.compress(b"hello"),
                b"gzip;q=0.5, *\nx",
            ]
        case "forwarded":
            return [
                b'for=10.0.0.2;proto=https, for="[::1]:80"\n192.0.2.1, 10.0.0.3\nhttps\na.b',
                b"for=_x\nunknown, 10.0.0.1",
            ]
        case "hop_by_hop":
            return [b"close, X-A", b"keep-alive\nx-a,content-length", b" , ,X-A;"]
        case "header_block":
            return http2.seeds_of_blocks()
        case "http2_frames":
            return http2.seeds_of_frames()
        case "proxy_protocol":
            v2 = SIGNATURE_V2 + b"\x21\x11\x00\x0c\xc0\x00\x02\x01\x7f\x00\x00\x01\x12\x34\x00\x50"
            return [b"PROXY TCP4 192.0.2.1 127.0.0.1 1234 80\r\n", b"PROXY UNKNOWN\r\n", v2]
        case "dialect":
            return [
                b'{"instances": [[1.0, 2.0]]}',
                b'{"inputs": {"x": [[1, 2]]}, "signature_name": "serving_default"}',
                b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}',
                b'#85\n{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": '
                b'{"binary_data_size": 8}}]}12345678',
            ]
        case "dialect_readers":
            return dialects.seeds()
        case "exchange":
            return [random.Random(number).randbytes(800) for number in range(20)]
    return []
