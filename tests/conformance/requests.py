"""Requests that two servers could read differently, made from small parts. RFC 9110, RFC 9112.

Most of what is hostile is hostile in many spellings: a Content-Length that is no plain number, a coding that
is nearly `chunked`, a control character at each place of a head. So each rule is a list of spellings and a
list of places, and the table is their product. What each name says is what is wrong; everything else about
the request is right, so a server that overlooks the fault would answer it.

REFUSED: never reaches an instance; 4xx and close. BROKEN_BODIES: the head is good, the chunks are not.
ACCEPTED: odd, but of one meaning: must be served, so that strictness isn't bought by refusing everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

GET = b"GET /x HTTP/1.1\r\n"
POST = b"POST /x HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"  # what must never be understood as a request


def get(*lines: bytes) -> bytes:
    """A GET with these further header lines."""
    return GET + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """A POST with these further header lines, and a body."""
    return POST + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def show(data: bytes) -> str:
    """A name for bytes that may be anything."""
    text = repr(data)[2:-1]
    return text if len(text) <= 40 else f"{text[:28]}…{len(data)} B"


# Where the body ends. RFC 9112 §6.1 to §6.3

LENGTHS = [
    *(
        b"",
        b"-1",
        b"+5",
        b"-0",
        b"5.",
        b"5.0",
        b".5",
        b"5e0",
        b"0x5",
        b"0X5",
        b"5h",
        b"0o5",
        b"0b101",
        b"1_0",
    ),
    *(b"5,5", b"5, 5", b"5,", b",5", b"5;5", b"5 5", b"5\t5", b"5 a", b"a", b"five", b"NaN", b"inf", b'"5"'),
    *(b"'5'", b"(5)", b"05", b"005", b"00", b"5\x00", b"\x005", b"5\x0b", b"\x0c5", b"5\x1f", b"5\x7f"),
    *(b"\xb5", b"5\xa0", b"\xa05", "٥".encode(), "５".encode(), "²".encode(), b"%35", b"5%20", b"5=5", b"=5"),
    *(b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"18446744073709551621"),
    *(
        b"4294967301",
        b"9" * 30,
        b"1" + b"0" * 5000,
        b"5, 6",
        b"6, 5",
        b"5 , 5",
        b"5\\",
        b"5/5",
        b"5:5",
        b"~5",
    ),
]
CODINGS = [
    *(b"", b"identity", b"gzip", b"deflate", b"compress", b"x-chunked", b"xchunked", b"chunkedx", b"chunk"),
    *(b"chunked, chunked", b"chunked,chunked", b"chunked,", b",chunked", b", chunked", b"chunked, identity"),
    *(
        b"identity, chunked",
        b"gzip, chunked",
        b"gzip,chunked",
        b"chunked, gzip",
        b"chunked;q=1",
        b"chunked; a",
    ),
    *(b"chunked;", b";chunked", b'"chunked"', b"'chunked'", b"Chunked", b"CHUNKED", b"chunKed", b"cHunked"),
    *(
        b"chunked x",
        b"x chunked",
        b"chunked\tx",
        b"chunked\x00",
        b"\x00chunked",
        b"\x0bchunked",
        b"chunked\x0b",
    ),
    *(b"\x0cchunked", b"chunked\x0c", b"chunked\x1f", b"\x7fchunked", b"chunked\x7f", b"\xa0chunked"),
    *(
        b"chunked\xa0",
        b"chun\x00ked",
        b"chunk\x65d\xff",
        "сhunked".encode(),
        "ｃhunked".encode(),
        b"chu nked",
    ),
    *(
        b"chunked/1",
        b"=chunked",
        b"chunked=",
        b"chunked:",
        b"(chunked)",
        b"[chunked]",
        b"{chunked}",
        b"chunked\\",
    ),
    *(b"%63hunked", b"chunked%20", b"null", b"none", b"true", b"trailers", b"chunked, trailers", b"tchunked"),
]
BOTH = [b"Content-Length: 5", b"Transfer-Encoding: chunked"]


def _framing() -> Iterator[tuple[str, bytes]]:
    for value in LENGTHS:
        yield f"length {show(value)}", post(b"Content-Length: " + value, body=b"hello")
    for value in (b"5", b"0"):
        yield f"GET, length {show(value)} in a list", get(b"Content-Length: " + value + b", " + value)
    for first, second in product((b"5", b"6", b"0"), repeat=2):
        pair = (b"Content-Length: " + first, b"Content-Length: " + second)
        yield f"lengths {show(first)} and {show(second)}", post(*pair, body=b"hello")
        yield f"lengths {show(first)} … {show(second)}", post(pair[0], b"X: y", pair[1], body=b"hello")
    for value in CODINGS:
        line = b"Transfer-Encoding: " + value
        yield f"coding {show(value)}", post(line, body=b"5\r\nhello\r\n0\r\n\r\n")
        yield f"coding {show(value)} with length", post(line, b"Content-Length: 5", body=b"hello")
    for value in (b"chunked", b"identity", b"x"):
        for other in (b"chunked", b"identity", b"x"):
            lines = (b"Transfer-Encoding: " + value, b"Transfer-Encoding: " + other)
            yield f"codings {show(value)} and {show(other)}", post(*lines, body=b"0\r\n\r\n")
    for name, lines in (("length first", BOTH), ("coding first", BOTH[::-1])):
        for spelling in (bytes.title, bytes.lower, bytes.upper):
            spelled = [spelling(line.partition(b":")[0]) + b":" + line.partition(b":")[2] for line in lines]
            yield f"both, {name}, {spelling(b'aa').decode()}", post(*spelled, body=b"0\r\n\r\n")
        yield f"both, {name}, GET", get(*lines) + b"0\r\n\r\n"
        yield (
            f"both, {name}, length 0",
            post(*(line.replace(b"5", b"0") for line in lines), body=b"0\r\n\r\n"),
        )
    for version, method in product((b"HTTP/1.0",), (b"POST", b"GET", b"PUT")):
        head = method + b" /x " + version + b"\r\n" + HOST
        yield f"chunked in {version.decode()} {method.decode()}", head + BOTH[1] + b"\r\n\r\n0\r\n\r\n"
        yield (
            f"both in {version.decode()} {method.decode()}",
            head + b"\r\n".join(BOTH) + b"\r\n\r\n0\r\n\r\n",
        )


# Lines and characters. RFC 9112 §2.2, §5

CONTROLS = [bytes((code,)) for code in (*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)]
SEPARATORS = [b"(", b")", b",", b"/", b";", b"<", b"=", b">", b"?", b"@", b"[", b"\\", b"]", b"{", b"}", b'"']
SPECIAL = [b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close", b"X: y"]


def _lines() -> Iterator[tuple[str, bytes]]:
    for code in CONTROLS:
        yield f"{show(code)} in a value", get(b"X: a" + code + b"b")
        yield f"{show(code)} at a value's end", get(b"X: a" + code)
        yield f"{show(code)} in a name", get(b"X" + code + b"Y: a")
        yield f"{show(code)} in the target", b"GET /a" + code + b"b HTTP/1.1\r\n" + HOST + b"\r\n"
        yield f"{show(code)} in the method", b"G" + code + b"ET / HTTP/1.1\r\n" + HOST + b"\r\n"
        yield f"{show(code)} in the version", b"GET / HTTP/1.1" + code + b"\r\n" + HOST + b"\r\n"
    for code in (*SEPARATORS, b" ", b"\t", b"\xe9", b"\xff"):
        yield f"{show(code)} in a name", get(b"X" + code + b"Y: a")
        yield f"{show(code)} before a name", get(code + b"X: a")
    for line in SPECIAL:
        name, _, value = line.partition(b":")
        body = b"0\r\n\r\n" if b"chunked" in line else b"hello"
        others = [other for other in (b"Host: a",) if other != line]
        for gap in (b" ", b"\t", b"  ", b" \t", b"\x0b", b"\x00", b"\xa0"):
            lines = b"\r\n".join([*others, name + gap + b":" + value])
            yield f"{name.decode()}, {show(gap)} before the colon", POST + lines + b"\r\n\r\n" + body
        for fold in (b"\r\n ", b"\r\n\t", b"\r\n  \t"):
            lines = b"\r\n".join([*others, name + b":" + fold + value.strip()])
            yield f"{name.decode()} folded by {show(fold)}", POST + lines + b"\r\n\r\n" + body
            lines = b"\r\n".join([*others, line + fold + b"more"])
            yield f"{name.decode()} continued by {show(fold)}", POST + lines + b"\r\n\r\n" + body
        yield f"{name.decode()} without colon", POST + b"\r\n".join([*others, name]) + b"\r\n\r\n" + body
        yield f"{name.decode()} behind a bare CR", POST + HOST + b"X: y\r" + line + b"\r\n\r\n" + body
        yield f"{name.decode()} behind a bare LF", POST + HOST + b"X: y\n" + line + b"\r\n\r\n" + body
        yield f"{name.decode()} behind LF CR", POST + HOST + b"X: y\n\r" + line + b"\r\n\r\n" + body
        yield f"{name.decode()} ended by CR CR LF", POST + HOST + line + b"\r\r\n\r\n" + body
    for name_, ending in (("LF", b"\n"), ("CR", b"\r"), ("LF CR", b"\n\r"), ("CR CR LF", b"\r\r\n")):
        yield f"lines ended by {name_}", ending.join((b"GET / HTTP/1.1", b"Host: a", b"", b""))
        yield f"head ended by {name_}", GET + b"Host: a\r\n" + ending + b"\r\n"
        yield f"request line ended by {name_}", b"GET / HTTP/1.1" + ending + b"Host: a\r\n\r\n"
    yield "first field folded", GET + b" X: y\r\n" + HOST + b"\r\n"
    yield "first field folded by a tab", GET + b"\tX: y\r\n" + HOST + b"\r\n"
    yield "empty name", get(b": y")
    yield "no name but a space", get(b" : y")
    yield "only a colon", get(b":")
    yield "line of spaces", get(b"   ")
    yield "two empty lines first", b"\r\n\r\n" + get()
    yield "spaces before the request", b"  " + get()
    yield "a tab before the request", b"\t" + get()
    yield "a bare LF before the request", b"\n" + get()
    yield "NUL before the request", b"\x00" + get()
    yield "a BOM before the request", b"\xef\xbb\xbf" + get()
    for name in (b"Content_Length", b"Transfer_Encoding", b"X_Forwarded_For"):
        yield f"underscores: {name.decode()}", post(name + b": 5", body=b"hello")


# The request line. RFC 9112 §3; RFC 9110 §9

METHODS = [
    *(
        b"get",
        b"Get",
        b"gET",
        b"GET,POST",
        b"GET/",
        b"G(T",
        b"G@T",
        b'"GET"',
        b"G\xc9T",
        b"<GET>",
        b"GET:",
        b"{GET}",
    ),
    *(
        b"CONNECT",
        b"TRACE",
        b"TRACK"[:4] + b"e",
        b"A" * 100,
        b"-GET",
        b"GET-",
        b"GE\\T",
        b"GET;",
        b"GE=T",
        b"G[T",
    ),
]
VERSIONS = [
    *(
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/1.9",
        b"HTTP/2.0",
        b"HTTP/2",
        b"HTTP/3.0",
        b"HTTP/9.9",
        b"HTTP/1",
        b"HTTP/1.",
    ),
    *(
        b"HTTP/.1",
        b"HTTP/01.1",
        b"HTTP/1.01",
        b"HTTP/1.10",
        b"HTTP/1.1.1",
        b"HTTP/1,1",
        b"HTTP/1 1",
        b"http/1.1",
    ),
    *(
        b"Http/1.1",
        b"HTTP1.1",
        b"HTTP//1.1",
        b"HTTP /1.1",
        b"HTTP/ 1.1",
        b"HTTPS/1.1",
        b"HTP/1.1",
        b"XHTTP/1.1",
    ),
    *(
        b"HTTP/1.1x",
        b"HTTP/1.1 ",
        b"HTTP/1.1\t",
        b"HTTP/-1.1",
        b"HTTP/+1.1",
        b"HTTP/1.-1",
        b"HTTP/A.B",
        b"ICY/1.1",
    ),
    *(b"HTTP\\1.1", b"HTTP/1.1 HTTP/1.1", b"HTTP/1.1 x", b"SIP/2.0", b"RTSP/1.0", "HTTP/１.1".encode(), b""),
]
TARGETS = [
    *(
        b"",
        b"x",
        b"*",
        b"**",
        b"*/",
        b"?",
        b"?x",
        b"#",
        b"/#",
        b"/a#b",
        b"/a?b#c",
        b"a/b",
        b"./a",
        b"../a",
        b":80",
    ),
    *(
        b"/a b",
        b"/a\tb",
        b" /a",
        b"/a ",
        b"/\xc3\xa9",
        b"/\xff",
        b"/a\\b",
        b"\\a",
        b"/a<b",
        b"/a>b",
        b'/a"b',
        b"/a^b",
    ),
    *(
        b"/a`b",
        b"/a{b",
        b"/a}b",
        b"/a?b c",
        b"/a?\xe9",
        b"/a%",
        b"/a%2",
        b"/a%zz",
        b"/a%0",
        b"/a%%",
        b"/%u0041",
    ),
    *(
        b"/a%00b",
        b"/a%0ab",
        b"/a%0d%0ab",
        b"/a%09b",
        b"/a%1fb",
        b"/a%7fb",
        b"/a%2fb",
        b"/a%2Fb",
        b"/%2f",
        b"/a%5cb",
    ),
    *(b"/a%5Cb", b"/..", b"/../", b"/../a", b"/a/../..", b"/a/../../b", b"/%2e%2e", b"/%2e%2e/a", b"/.%2e/a"),
    *(
        b"/a/%2E%2e/%2e./b",
        b"/a/..;/b",
        b"/a/..;x=y/b",
        b"/a/.;/b",
        b"/a/%2e%2e;/b",
        b"/%c0%af",
        b"/%c0%ae%c0%ae/",
    ),
    *(
        b"/%e0%80%af",
        b"/%f0%80%80%af",
        b"/%ed%a0%80",
        b"/%ff",
        b"/%c3",
        b"/%fe%fe",
        b"/a%c0%80b",
        b"/%f5%80%80%80",
    ),
    *(b"//" + b"../" * 3, b"http:/a", b"http:a", b"http://", b"http:///x", b"http://?x", b"//a@b/../../x"),
    *(
        b"http://b/",
        b"http://a:81/",
        b"http://a.b/",
        b"http://u@a/",
        b"http://u:p@a/",
        b"http://a,b/",
        b"http://a b/",
    ),
    *(
        b"http://a\\b/",
        b"http://a#b",
        b"http://a:x/",
        b"http://a:99999/",
        b"http://[::1/",
        b"http://a%62/",
        b"a:80",
    ),
    *(
        b"ftp://a/",
        b"ws://a/",
        b"file:///etc/passwd",
        b"javascript:x",
        b"data:x",
        b"urn:x",
        b"http:\\\\a\\",
        b"://a/",
    ),
    *(
        b"http://a/../x",
        b"http://a/%00",
        b"http://a/%2f",
        b"http://a/ x",
        b"HTTP://B/",
        b"gopher://a/",
        b"mailto:a@b",
    ),
]


def _first_line() -> Iterator[tuple[str, bytes]]:
    for method in METHODS:
        yield f"method {show(method)}", method + b" / HTTP/1.1\r\n" + HOST + b"\r\n"
    for version in VERSIONS:
        yield f"version {show(version)}", b"GET / " + version + b"\r\n" + HOST + b"\r\n"
    for target in TARGETS:
        yield f"target {show(target)}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    for target in (b"a:80", b"a", b"/", b"*", b"http://a/", b"a:80/x", b"[::1]:80"):
        yield f"CONNECT {show(target)}", b"CONNECT " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    for method in (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"PATCH"):
        yield f"* with {method.decode()}", method + b" * HTTP/1.1\r\n" + HOST + b"\r\n"
    for gap in (b"  ", b"\t", b" \t", b"\x0b", b"\x0c", b"\xa0", b""):
        yield f"{show(gap)} behind the method", b"GET" + gap + b"/ HTTP/1.1\r\n" + HOST + b"\r\n"
        yield f"{show(gap)} before the version", b"GET /" + gap + b"HTTP/1.1\r\n" + HOST + b"\r\n"
    yield "HTTP/0.9", b"GET /\r\n\r\n"
    yield "TLS on a clear port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 64
    yield "SSH on an HTTP port", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"
    yield "no request line", HOST + b"\r\n"
    yield "a response", b"HTTP/1.1 200 OK\r\n" + HOST + b"\r\n"


# Host. RFC 9112 §3.2

HOSTS = [
    *(
        b"",
        b" ",
        b"a, b",
        b"a,b",
        b"a b",
        b"a\tb",
        b"a/b",
        b"a/",
        b"/a",
        b"a?b",
        b"a#b",
        b"u@a",
        b"u:p@a",
        b"@a",
        b"a@",
    ),
    *(
        b"a:",
        b":80",
        b"a:x",
        b"a:-1",
        b"a:+80",
        b"a:8 0",
        b"a:65536",
        b"a:99999",
        b"a:80:80",
        b"a:0x50",
        b"[::1",
        b"::1",
    ),
    *(
        b"[::1]x",
        b"[x]",
        b"[]",
        b"[::1]:x",
        b"a;b",
        b"a=b",
        b'"a"',
        b"a\\b",
        b"a%62",
        b"a%00",
        b"a\x00b",
        b"<a>",
        b"{a}",
    ),
    *(
        "ä".encode(),
        b"\xff",
        b"http://a",
        b"a|b",
        b"a^b",
        b"a`b",
        b"a" * 300,
        b"a!b",
        b"a$b",
        b"a&b",
        b"a'b",
        b"a(b",
    ),
]


def _hosts() -> Iterator[tuple[str, bytes]]:
    yield "no Host", GET + b"\r\n"
    yield "no Host but a field", GET + b"X: y\r\n\r\n"
    yield "no Host, absolute form", b"GET http://a/ HTTP/1.1\r\n\r\n"
    for value in HOSTS:
        yield f"Host {show(value)}", GET + b"Host: " + value + b"\r\n\r\n"
        yield f"Host {show(value)} in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: " + value + b"\r\n\r\n"
    for other in (b"a", b"b", b"", b"A"):
        yield f"Hosts a and {show(other)}", GET + HOST + b"Host: " + other + b"\r\n\r\n"
        yield f"Hosts a … {show(other)}", GET + HOST + b"X: y\r\nHost: " + other + b"\r\n\r\n"
        yield (
            f"Hosts in HTTP/1.0 {show(other)}",
            b"GET / HTTP/1.0\r\n" + HOST + b"Host: " + other + b"\r\n\r\n",
        )
    yield "Host and HOST", GET + HOST + b"HOST: a\r\n\r\n"


# Sizes and wishes


def _sizes() -> Iterator[tuple[str, bytes]]:
    yield "a target too long", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    yield "an endless target", b"GET /" + b"a" * 50_000
    yield "an endless method", b"G" * 50_000
    yield "a field too long", get(b"X: " + b"a" * 40_000)
    yield "a name too long", get(b"X" * 300 + b": y")
    yield "an endless field", GET + HOST + b"X: " + b"a" * 60_000
    yield "too many fields", get(*[b"X: y"] * 101)
    yield "a thousand fields", get(*[b"X%d: y" % number for number in range(1000)])
    yield "a body too large", post(b"Content-Length: 999999999999")
    for value in (b"200-ok", b"100-continue, x", b"", b"100", b"100-continue;q=1", b"x"):
        yield f"Expect {show(value)}", post(b"Expect: " + value, b"Content-Length: 5", body=b"hello")


REFUSED: dict[str, bytes] = {
    **dict(_framing()),
    **dict(_lines()),
    **dict(_first_line()),
    **dict(_hosts()),
    **dict(_sizes()),
}

# Chunks. RFC 9112 §7.1

SIZES = [
    *(
        b"",
        b" ",
        b"-5",
        b"+5",
        b"0x5",
        b"0X5",
        b"5h",
        b"x",
        b"g",
        b"5g",
        b"5.",
        b"5_0",
        b" 5",
        b"\t5",
        b"5 ",
        b"5\t",
    ),
    *(
        b"5 5",
        b"5,5",
        b'"5"',
        b"\x005",
        b"5\x00",
        b"5\x0b",
        b"\xb5",
        "٥".encode(),
        "５".encode(),
        b"~5",
        b"%35",
    ),
    *(
        b"10000000000000005",
        b"100000000000000000000000000000005",
        b"fffffffffffffffff",
        b"-",
        b"0" * 40 + b"5",
    ),
    *(
        b"8000000000000000",
        b"ffffffffffffffff",
        b"FFFFFFFFFFFFFFFFF",
        b"5\n",
        b"5\r",
        b"\n5",
        b"\r5",
        b"5\\",
        b"5=",
    ),
]
EXTENSIONS = [
    *(
        b";\x00",
        b";a=\x00",
        b";a\x0bb",
        b';a="',
        b';a="b',
        b';a=b"',
        b';a="b"c',
        b";\x7f",
        b";a=\x1f",
        b";\xff=a",
    ),
    *(
        b";a b",
        b";=b",
        b";a=",
        b";a==b",
        b";a=b=c",
        b";;a",
        b";a;;b",
        b";",
        b"; ",
        b";a\rb",
        b";a\nb",
        b";a=b\n",
    ),
    *(b';a="\x01"', b';a="\n"', b";(", b";a=(b)", b" a", b" ;", b"a=b", b";a=[", b";a,b", b";" + b"a" * 9000),
]
TRAILERS = [
    *(
        b"x",
        b" x: y",
        b"x : y",
        b"x\t: y",
        b": y",
        b"x: a\x00b",
        b"x: a\x01b",
        b"x: a\x7fb",
        b"x\x00: y",
        b"x: y\r\n z",
    ),
    *(
        b"x: y\n",
        b"x: y\rz: z",
        b"x y: z",
        b"x(y): z",
        b"\xff: y",
        b"x: " + b"y" * 9000,
        b"X" * 9000 + b": y",
    ),
]
FORBIDDEN = [
    *(
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Host: b",
        b"Trailer: x",
        b"Connection: close",
        b"TE: x",
    ),
    *(
        b"Authorization: Bearer x",
        b"Cookie: a=b",
        b"Set-Cookie: a=b",
        b"Content-Type: x",
        b"Content-Encoding: gzip",
    ),
    *(b"Content-Range: bytes 0-1/2", b"Cache-Control: no-store", b"Expect: 100-continue", b"Max-Forwards: 1"),
    *(b"Proxy-Authorization: x", b"Range: bytes=0-1", b"Upgrade: x", b"Via: x", b"X-Forwarded-For: 1.2.3.4"),
    *(
        b"CONTENT-LENGTH: 5",
        b"transfer-encoding: x",
        b"Forwarded: for=x",
        b"Keep-Alive: x",
        b"WWW-Authenticate: x",
    ),
]
CHUNKED = post(BOTH[1])


def _bodies() -> Iterator[tuple[str, bytes]]:
    for size in SIZES:
        yield f"size {show(size)}", size + b"\r\nhello\r\n0\r\n\r\n"
        yield f"second size {show(size)}", b"1\r\na\r\n" + size + b"\r\nhello\r\n0\r\n\r\n"
    for extension in EXTENSIONS:
        yield f"extension {show(extension)}", b"5" + extension + b"\r\nhello\r\n0\r\n\r\n"
        yield f"last extension {show(extension)}", b"5\r\nhello\r\n0" + extension + b"\r\n\r\n"
    for trailer in (*TRAILERS, *FORBIDDEN):
        yield f"trailer {show(trailer)}", b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n"
        yield f"later trailer {show(trailer)}", b"0\r\na: b\r\n" + trailer + b"\r\n\r\n"
    for name, end in (
        ("LF", b"\n"),
        ("CR", b"\r"),
        ("nothing", b""),
        ("LF CR", b"\n\r"),
        ("two CRLF", b"\r\n\r\n"),
    ):
        yield f"size line ended by {name}", b"5" + end + b"hello\r\n0\r\n\r\n"
        yield f"data ended by {name}", b"5\r\nhello" + end + b"0\r\n\r\n"
    yield "data longer than its size", b"4\r\nhello\r\n0\r\n\r\n"
    yield "data shorter than its size", b"6\r\nhello\r\n0\r\n\r\n"
    yield "all lines ended by LF", b"5\nhello\n0\n\n"
    yield "last chunk ended by LF", b"5\r\nhello\r\n0\n\n"
    yield "trailer section ended by LF", b"5\r\nhello\r\n0\r\nx: y\r\n\n"
    yield (
        "extensions without end",
        b"".join(b"1;a=%d\r\nx\r\n" % number for number in range(4000)) + b"0\r\n\r\n",
    )
    yield (
        "trailers without end",
        b"0\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(4000)) + b"\r\n",
    )


BROKEN_BODIES: dict[str, bytes] = dict(_bodies())


# What looks odd and means one thing


def _accepted() -> Iterator[tuple[str, bytes]]:
    for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
        yield f"{method.decode()} without body", method + b" /x HTTP/1.1\r\n" + HOST + b"\r\n"
    for method in (b"POST", b"PUT", b"PATCH", b"DELETE", b"GET", b"REPORT", b"M-SEARCH"):
        head = method + b" /x HTTP/1.1\r\n" + HOST
        yield f"{method.decode()} with a length", head + b"Content-Length: 5\r\n\r\nhello"
        yield f"{method.decode()} chunked", head + BOTH[1] + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    yield "HTTP/1.0", b"GET /x HTTP/1.0\r\n\r\n"
    yield "HTTP/1.0 with Host", b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n"
    yield "absolute form", b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "absolute form without path", b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "absolute form, https", b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "an empty line first", b"\r\n" + get()
    for host in (b"a", b"A", b"a.b", b"a:80", b"127.0.0.1:8080", b"[::1]", b"[::1]:80", b"a-b_c"):
        yield f"Host {show(host)}", GET + b"Host: " + host + b"\r\n\r\n"
    for target in (
        *(
            b"/",
            b"//",
            b"/a//b",
            b"/./a",
            b"/a/./b/",
            b"/a/../b",
            b"/%41",
            b"/a%20b",
            b"/a;b=c/d",
            b"/%c3%a9",
        ),
        *(
            b"/a?",
            b"/a?b=c&d",
            b"/a?b=http://c/?d",
            b"/a?%00",
            b"/a?%2f",
            b"/~a",
            b"/a:b",
            b"/a@b",
            b"/a,b!$&'()*+",
        ),
        *(b"/a%25b", b"/a%3fb", b"/a%23b", b"/" + b"a" * 8000, b"/?" + b"a" * 8000, b"/a|b", b"/[a]"),
    ):
        yield f"target {show(target)}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    for value in (
        b"y",
        b"",
        b" y",
        b"\ty\t",
        b"  y  z  ",
        b"y\tz",
        b"\xe9",
        b'"y, z"',
        b"y:z",
        b"(y;z)",
        b"a" * 8000,
    ):
        yield f"value {show(value)}", get(b"X:" + value)
    for name in (b"x!y", b"x#$%&'*+.^`|~y", b"1", b"X" * 200, b"x-y-z"):
        yield f"name {show(name)}", get(name + b": y")
    yield "a field twice", get(b"X: y", b"X: z")
    yield "a hundred fields", GET + HOST + b"X: y\r\n" * 99 + b"\r\n"
    for options in (
        b"close",
        b"keep-alive",
        b"Close",
        b"close, x",
        b"x, y",
        b"",
        b"Host",
        b"Content-Length",
        b"x-headgate-a",
    ):
        yield (
            f"Connection {show(options)}",
            post(b"Connection: " + options, b"Content-Length: 5", body=b"hello"),
        )
    for body in (
        *(b"5\r\nhello\r\n0\r\n\r\n", b"05\r\nhello\r\n00\r\n\r\n", b"0000000000005\r\nhello\r\n0\r\n\r\n"),
        *(
            b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
            b"5;a\r\nhello\r\n0;b=c\r\n\r\n",
            b'5;a="b;c"\r\nhello\r\n0\r\n\r\n',
        ),
        *(
            b"5 ; a = b\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\nx: y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nx:\r\nz: y\r\n\r\n",
        ),
    ):
        yield f"chunks {show(body)}", CHUNKED + body
    yield "chunks, A in capitals", CHUNKED + b"A\r\nhellohello\r\n0\r\n\r\n"
    yield "chunks, a in small letters", CHUNKED + b"a\r\nhellohello\r\n0\r\n\r\n"
    yield "length 0", post(b"Content-Length: 0")
    yield "length with spaces around", post(b"Content-Length: \t5 ", body=b"hello")
    yield "length without space", post(b"Content-Length:5", body=b"hello")
    yield "chunked with spaces around", post(b"Transfer-Encoding: \tchunked ", body=b"0\r\n\r\n")


ACCEPTED: dict[str, bytes] = dict(_accepted())
