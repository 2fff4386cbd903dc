"""Is it the same work? Asked of every peer before it is measured; whoever fails is left out, and says why.

Checked: the answer (status and every byte of the body); of a policy that a wrong and a missing key are
refused, that the limited tenant is held back while others aren't, that both pools get their share, that
answers carry a request id, that every request leaves a JSON line in the log; of a cache that a hit doesn't
reach the instance. Not checked: breakers (nothing fails here), what metrics say.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.bench import openloop
from loadtests.bench.closed import Load
from loadtests.bench.peers import Running
from loadtests.bench.rows import Row
from loadtests.bench.site import Site, key

SPLIT: Final = 400  # requests that show the split; 10 % of them is 40 ± 18 (three standard deviations)
LOGGED: Final = 50
PATIENCE: Final = 5.0  # s until log lines must have been written


class Different(Exception):
    """A peer that doesn't do the work; the text says what it does instead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. instance: who answered, as the instance itself says."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def instance(self) -> str:
        return str(self.headers.get("X-Instance", ""))


Ask = Callable[[str | None], Answer]


def check(running: Running, row: Row, site: Site) -> None:
    """Raise Different unless the peer does the row's work."""
    load = row.load_of(running.peer.name)
    with_key = asking(running.port, load)
    expected = asking(site.stable, Load(load.method, load.target, load.body))(key(0))
    _same_answer(with_key(key(0)), expected)
    lesser = running.peer.name in row.lesser
    if row.governed:
        _refuses_strangers(with_key)
    if row.governed and not lesser:
        _holds_back_the_limited_tenant(with_key)
        _names_requests(with_key)
        _reaches_both_pools(with_key, cached=row.cached)
        _logs(with_key, running.log, row.cached)
    if row.cached:
        _answers_from_memory(with_key, site)


def asking(port: int, load: Load) -> Ask:
    """Return what sends one request of this load over a new connection. Raises Different."""

    def ask(api_key: str | None) -> Answer:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key is not None:
            headers["X-API-Key"] = api_key
        body = None if load.method == "GET" else (b"x" * load.body or openloop.prediction())
        connection = _connection(port, load.tls)
        try:
            connection.request(load.method, load.target, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), response.headers)
        except (OSError, http.client.HTTPException) as error:
            raise Different(f"{load.method} {load.target}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    return ask


def _connection(port: int, tls: bool) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    trusting.minimum_version = ssl.TLSVersion.TLSv1_3
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting)


def _same_answer(got: Answer, expected: Answer) -> None:
    if got.status != 200:
        raise Different(f"answers {got.status} instead of 200: {got.body[:200]!r}")
    if got.body != expected.body:
        raise Different(f"another body: {len(got.body)} bytes instead of {len(expected.body)}")


def _refuses_strangers(ask: Ask) -> None:
    for words, api_key in (("a wrong key", "sk-" + "0" * 31 + "g"), ("no key", None)):
        status = ask(api_key).status
        if status not in (401, 403):
            raise Different(f"answers {status} to {words} instead of 401")


def _holds_back_the_limited_tenant(ask: Ask) -> None:
    statuses = Counter(ask(key(-1)).status for _ in range(30))
    if not statuses[200] or not statuses[429] or set(statuses) != {200, 429}:
        raise Different(f"a tenant with 5/s that asks 30 times at once gets {dict(statuses)}")
    if (status := ask(key(1)).status) != 200:
        raise Different(f"answers {status} to a tenant while another one is over its limit")


def _names_requests(ask: Ask) -> None:
    names = {ask(key(number)).headers.get("X-Request-Id") for number in range(3)}
    if None in names or len(names) != 3:
        raise Different(f"no request id of its own in every answer: {names}")


def _reaches_both_pools(ask: Ask, cached: bool) -> None:
    seen = Counter(ask(key(number)).instance for number in range(SPLIT))
    share = seen["canary"] / SPLIT
    if set(seen) - {"stable", "canary"} or not 0.04 <= share <= 0.17:
        raise Different(f"answers came from {dict(seen)} instead of 10 % from canary{' (cached)' * cached}")


def _logs(ask: Ask, log: Path, cached: bool) -> None:
    before = len(_log_lines(log))
    for number in range(LOGGED):
        ask(key(number))
    limit = time.monotonic() + PATIENCE
    while (written := len(_log_lines(log)) - before) < LOGGED and time.monotonic() < limit:
        time.sleep(0.1)
    if written < LOGGED:
        raise Different(f"{written} lines in the log after {LOGGED} requests")
    last = json.loads(_log_lines(log)[-1])
    wanted = {"request_id", "tenant", "status", "path"} | (set() if cached else {"pool"})
    missing = wanted - set(last)
    if missing:
        raise Different(f"log lines without {', '.join(sorted(missing))}")


def _log_lines(log: Path) -> list[bytes]:
    """Return the complete JSON lines; what else a gateway prints there is not a line."""
    if not log.exists():
        return []
    return [line for line in log.read_bytes().split(b"\n")[:-1] if line.startswith(b"{")]


def _answers_from_memory(ask: Ask, site: Site) -> None:
    for number in range(100):  # both pools' answers are in the cache after these, but for one case in 37,000
        ask(key(number))
    before = sum(reached(site))
    for number in range(100):
        ask(key(number))
    if asked := sum(reached(site)) - before:
        raise Different(f"{asked} of 100 repeated requests reached an instance")


def reached(site: Site) -> Iterator[int]:
    """Yield how many requests each instance has answered."""
    for port in (site.stable, site.canary):
        yield int(asking(port, Load("GET", "/count"))(None).body)
