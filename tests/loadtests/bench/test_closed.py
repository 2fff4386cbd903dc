"""What wrk is told, and what it says."""

from __future__ import annotations

import pytest

from loadtests.bench.closed import Load, read, wrk
from loadtests.bench.window import Broken

PRINTED = """Running 1s test @ http://127.0.0.1:9000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.17ms  196.98us   3.48ms   87.11%
    Req/Sec    50.85k     3.06k   61.73k    80.00%
  Latency Distribution
     50%  950.00us
     75%    1.20ms
     90%    1.90ms
     99%    2.48ms
  50000 requests in 1.01s, 15.45MB read
"""
END = "Requests/sec:  49504.95\nTransfer/sec:     15.29MB\n"


def test_a_window_is_read_from_what_wrk_prints() -> None:
    window = read(PRINTED + END, cpu_ns=1_000_000_000)
    assert (window.requests, window.cpu_us, window.rate) == (50_000, 20.0, 49504.95)
    assert (window.p50, window.p99, window.failed) == (0.95, 2.48, 0)


@pytest.mark.parametrize(
    ("closes", "failed"), [(False, 3 + 1 + 2 + 4 + 5), (True, 3 + 1)], ids=["kept alive", "closed by plan"]
)
def test_answers_that_are_no_2xx_and_broken_sockets_are_failures(closes: bool, failed: int) -> None:
    errors = "  Socket errors: connect 1, read 2, write 4, timeout 5\n  Non-2xx or 3xx responses: 3\n"
    assert read(PRINTED + errors + END, 1, closes).failed == failed


def test_a_window_in_which_nothing_was_answered_has_no_cost() -> None:
    nothing = "  0 requests in 1.00s, 0.00B read\nRequests/sec:      0.00\n"
    with pytest.raises(Broken, match="nothing was answered"):
        read(nothing, cpu_ns=5)


def test_wrk_gets_the_url_and_what_to_send() -> None:
    words = wrk(Load("GET", "/x", tls=True, close=True, connections=8, seconds=2), 9000, "-")
    assert "https://127.0.0.1:9000/x" in words
    assert words[words.index("--") + 1 :] == ["GET", "/x", "0", "-", "close"]
    assert {"-c8", "-d2s"} <= set(words)
