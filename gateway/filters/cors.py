"""Pages of other origins that may call from a browser (the Fetch standard's CORS protocol).

`cors: [https://app.example.org]`. A preflight (OPTIONS with Origin and Access-Control-Request-Method) carries
no credentials, so it is answered here, before authenticate; it says what the browser may ask and lets nothing
in. On every other answer, refusals included, the origin's permission is added and whatever the upstream said
about origins is taken out: one place decides. `Vary: Origin` is there whenever the answer depends on it (RFC
9110 §12.5.5), also for origins that may not, so that no cache hands one origin's answer to another.

Not a guard: a program that is no browser ignores all this. `*` goes with neither credentials nor any pattern,
and `null` (sandboxed frames, local files: anybody's) can't be allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.kind import setting
from gateway.config.units import Duration
from gateway.http.message import Headers, Request, Response, find_all
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.promise import Eventual

ANY: Final = "*"
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(\*\.)?([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS: Final = b"access-control-"


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other origins may call from a browser, and how."""

    origins: tuple[str, ...] = setting(
        (),
        "scheme://host[:port], https://*.example.org, or * alone",
        example="[https://app.example.org]",
        short=True,
    )
    methods: tuple[str, ...] = setting(
        ("GET", "POST"), "methods beyond the simple ones", example="[GET, POST, PUT]"
    )
    headers: tuple[str, ...] = setting(
        ("authorization", "content-type", "x-api-key"),
        "request fields that pages may set",
        example="[content-type]",
    )
    expose: tuple[str, ...] = setting(
        (
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "x-headgate-policy",
            "x-headgate-reason",
            "x-request-id",
        ),
        "answer fields that pages may read",
        example="[x-request-id]",
    )
    credentials: bool = setting(False, "let browsers send cookies and HTTP authentication")
    max_age: Duration = setting(
        Duration(600.0),
        "how long a browser may keep a preflight's answer",
        example="10m",
        at_least=0,
        at_most=86400,
    )

    def __post_init__(self) -> None:
        if not self.origins:
            raise ValueError("expected at least one origin like https://app.example.org, found none")
        if ANY in self.origins and (len(self.origins) > 1 or self.credentials):
            raise ValueError("the origin * stands alone and goes without credentials; write the origins out")
        for origin in self.origins:
            if origin != ANY and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"expected an origin like https://app.example.org (no path), found {origin!r}"
                )
        for name in (*self.methods, *self.headers, *self.expose):
            if not _TOKEN.fullmatch(name) or name == "*":
                raise ValueError(f"expected the names of methods and header fields, found {name!r}")


class CorsFilter(Filter):
    """Answers preflights and marks answers."""

    name = "cors"

    def __init__(self, config: Cors, policy: str) -> None:
        self._any = ANY in config.origins
        self._exact = frozenset(origin.encode() for origin in config.origins)
        self._patterns = tuple(_pattern(origin) for origin in config.origins if "//*." in origin)
        self._policy = policy
        credentials: Headers = [(b"access-control-allow-credentials", b"true")] if config.credentials else []
        self._preflight: Headers = [
            *credentials,
            (b"access-control-allow-methods", _joined(config.methods)),
            (b"access-control-allow-headers", _joined(config.headers)),
            (b"access-control-max-age", b"%d" % config.max_age),
        ]
        self._actual: Headers = [*credentials]
        if config.expose:
            self._actual.append((b"access-control-expose-headers", _joined(config.expose)))

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Answer a preflight; let everything else pass."""
        if ctx.request.method != b"OPTIONS" or not is_preflight(ctx.request):
            return None
        if self._allowed(ctx.request) is None:
            return Refusal(
                403,
                "origin_not_allowed",
                "pages of this origin may not call this endpoint",
                policy=self._policy,
            )
        return Response(204, [*self._preflight])

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Say whether a page of the request's origin may read the answer."""
        preflight = ctx.request.method == b"OPTIONS" and ctx.answered_by == self.name
        if not preflight:
            response.headers = [field for field in response.headers if not field[0].startswith(_OURS)]
        allowed = self._allowed(ctx.request)
        if allowed is not None:
            response.headers.append((b"access-control-allow-origin", allowed))
            if not preflight:
                response.headers += self._actual
        if preflight:
            vary = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
            response.headers.append((b"vary", vary))
        elif not self._any:
            response.headers.append((b"vary", b"Origin"))
        return response

    def _allowed(self, request: Request) -> bytes | None:
        """Return what Access-Control-Allow-Origin says to this request, None when its origin may not."""
        origins = find_all(request.headers, b"origin")
        if len(origins) != 1:
            return None
        if self._any:
            return b"*"
        origin = origins[0]
        fits = origin in self._exact or any(pattern.fullmatch(origin) for pattern in self._patterns)
        return origin if fits else None


def is_preflight(request: Request) -> bool:
    """Tell whether a browser asks for leave before the request proper (Fetch §3.2.2)."""
    return (
        request.method == b"OPTIONS"
        and request.header(b"origin") is not None
        and request.header(b"access-control-request-method") is not None
    )


def _pattern(origin: str) -> re.Pattern[bytes]:
    """`https://*.example.org`: any host below, however deep, but not example.org itself."""
    scheme, _, rest = origin.partition("*")
    return re.compile(
        re.escape(scheme.encode()) + rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*" + re.escape(rest.encode())
    )


def _joined(names: Iterable[str]) -> bytes:
    return ", ".join(names).encode()


def _build(rules: Sequence[Rule[Cors]], parts: Parts) -> Iterable[Filter]:
    return [CorsFilter(rules[0].value, rules[0].policy)]


KIND = FilterKind(
    "cors",
    Cors,
    summary="pages of other origins that may call from a browser",
    by_principal=False,  # a preflight carries no credentials: nobody is known yet
    build=_build,
)
