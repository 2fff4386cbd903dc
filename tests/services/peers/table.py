"""Write docs/peers.md from what tests/integration/test_[failing_]model_servers.py saw.

python -m tests.services.peers.table OUTCOMES.jsonl docs/peers.md
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

SHORT = {"ok": "✓", "ok, its own error": "✓ °", "not spoken": "–"}
HEAD = """# Real model servers, asked in every dialect

Written by `make test-peers` on {date}. Every server serves the same small model behind a whole gateway
(`tests/services/peers/servers.py`); every client predicts, compares the numbers, and then sends a tensor of
the wrong shape. ✓: the right numbers, and the mistake came back as the client's own, in its own dialect,
and blamed no instance. ° passes untouched, so the server's own words for a mistake reach the client. –: the
server does not speak that form (KServe V1 knows no columns, MLServer no binary tensors), and what is spoken
by both sides is not translated.

Clients nobody here wrote: tritonclient over HTTP and gRPC, TensorFlow Serving's own stubs, PaddleServing's
own client of its C++ server, requests, httpx.

{table}

## When they fail

Two clients go on asking, with a timeout of 0.5 s, while a server is stopped (hangs), works for 0.1 s after
each 1.5 s of nothing (crawls), is killed and started twice (crashes); then one of two is stopped, and killed.
Nobody was told anything but the numbers or the policy's constant answer, nor waited longer than the timeout
and a second for a busy machine; where one of two failed, nobody was told anything but the numbers. Seconds
until the gateway left the server alone → until it answered clients again, once it could.

{failing}

- Left alone after two bad readiness checks, one every 0.2 s (hangs, crashes); three failures in a row, by the
  breaker (crawls), which probes after 0.5 s, 1 s, 2 s, …; two that are doubted, or one where nobody listens,
  by the ejector (one of two).
- A server that starts gets no call before it is ready. PaddleServing has no readiness: it is tried again and
  again, and those who try get the constant answer.

## Notes

- The KServe SDK says nothing but "Internal server error" over gRPC, whatever failed; its endpoint has
  `validate: true`, so that the gateway tells a client's mistake before the server is asked.
- TorchServe, MMS and PaddleServing tell no signature; their pools write one (`signature:`).
- TorchServe over gRPC (`torchserve-grpc`) reads typed contents only, and is written those.
- A stream is taken apart, a prediction at a time, also where the server speaks gRPC itself.
- TorchServe's `/ping` says Healthy with no worker alive, and gRPC's ModelReady says yes before one is ready:
  readiness is asked of its management API.
- PaddleServing binds every address and runs in a network namespace of its own.
- Not here: TensorFlow Serving's own server and PaddleServing's C++ server are in no package registry.
  Their dialects are held to vectors written from their sources (`tests/dialects`), and TensorFlow
  Serving's gRPC to its own stubs.
- LitServe, BentoML and FastAPI have APIs of their own, which pass untranslated (`speaks: http`).
"""


FAULTS = ("hangs", "crawls", "crashes", "crashes, gRPC", "one of two hangs", "one of two dies")


def write(lines: list[dict[str, object]], date: str) -> str:
    """Return the page."""
    spoken = [line for line in lines if "outcomes" in line]
    failing = [line for line in lines if "fault" in line]
    return HEAD.format(date=date, table=_spoken(spoken), failing=_failing(failing))


def _spoken(lines: list[dict[str, object]]) -> str:
    clients = list(dict.fromkeys(name for line in lines for name in _outcomes(line) if name != "its own"))
    rows = [["server", "version", "`speaks:`", *clients], ["---"] * (3 + len(clients))]
    for line in lines:
        said = _outcomes(line)
        own = "✓ its own API" if "its own" in said else ""
        told = [SHORT.get(said[name], "✗") if name in said else "" for name in clients]
        rows.append([str(line["server"]), str(line["version"]), f"{line['speaks']} {own}".strip(), *told])
    return _table(rows)


def _failing(lines: list[dict[str, object]]) -> str:
    seen = {(line["server"], line["fault"]): f"{line['out']:.1f} → {line['back']:.1f}" for line in lines}
    servers = list(dict.fromkeys(str(line["server"]) for line in lines))
    rows = [[server, *(seen.get((server, fault), "") for fault in FAULTS)] for server in servers]
    return _table([["server", *FAULTS], ["---"] * (1 + len(FAULTS)), *rows])


def _table(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _outcomes(line: dict[str, object]) -> dict[str, str]:
    said = line["outcomes"]
    assert isinstance(said, dict)
    return said


if __name__ == "__main__":
    read = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    page = write(read, f"{datetime.now(UTC):%Y-%m-%d}")
    Path(sys.argv[2]).write_text(page)
    print(page)
