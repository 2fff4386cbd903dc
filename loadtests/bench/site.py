"""The folder of one run: instances, keys in every gateway's format, a certificate, the load generators'
files.

Keys: 10,000 of 100 tenants, and one more whose tenant `limited` has a bucket of 5/s. Requests that carry keys
take 1,000 of them in turn, of all tenants alike, so that what a gateway remembers of a key is neither always
nor never at hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests.bench import processes

PEERS: Final = Path(__file__).parents[1] / "peers"
KEYS: Final = 10_000
TENANTS: Final = 100
IN_TURN: Final = 1_000  # different requests of a load
LIMITED: Final = "limited"  # a tenant with 5/s
TARGET: Final = "/v2/models/m1/infer"


@dataclass(frozen=True, slots=True)
class Site:
    """Where things are. stable, canary: ports of the instances. ports: hundreds of one more instance, for
    growth."""

    folder: Path
    stable: int
    canary: int
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def turns(self) -> Path:
        return self.folder / "turns"


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Site]:
    """Build the tools, start two instances, write keys and certificate.

    Raises NotStarted, CalledProcessError.
    """
    folder.chmod(0o755)  # a gateway that gives up root must still get to its own folder
    for program in ("backend", "openloop"):
        build(PEERS / f"{program}.c", folder / program)
    stable, canary = processes.free_ports(2)
    write_keys(folder)
    write_certificate(folder)
    (folder / "turns").write_text(turns([TARGET]))
    words = {
        "STABLE": str(stable),
        "CANARY": str(canary),
        "KEYS": str(folder),
        "CREDENTIALS": (folder / "envoy.json").read_text(),
        "CERTIFICATE": str(folder / "certificate.pem"),
        "PRIVATE": str(folder / "private.pem"),
        "PEM": str(folder / "both.pem"),
    }
    with instance("stable", [stable], folder), instance("canary", [canary], folder):
        yield Site(folder, stable, canary, words)


def build(source: Path, target: Path) -> None:
    """Compile one of the load generators. Raises CalledProcessError."""
    subprocess.run(["cc", "-O2", "-o", str(target), str(source)], check=True)


@contextlib.contextmanager
def instance(name: str, ports: Sequence[int], folder: Path) -> Iterator[int]:
    """Run an instance that listens on all of these ports; yields its pid. Raises NotStarted."""
    own = folder / f"instance-{name}"
    own.mkdir()
    command = [str(folder / "backend"), name, *map(str, ports)]
    with processes.started(command, ports[-1], processes.LOAD, own) as pid:
        yield pid


# Configuration


def fill_in(text: str, words: Mapping[str, str]) -> str:
    """Put words in for @NAME@. Raises KeyError for a name that nobody knows."""
    return re.sub("@([A-Z]+)@", lambda match: words[match[1]], text)


# Keys


def key(number: int) -> str:
    """Return the API key of this number: always the same one."""
    return "sk-" + hashlib.sha256(f"bench {number}".encode()).hexdigest()[:32]


def tenants(count: int = KEYS) -> dict[str, str]:
    """Return key → tenant; the last key is the limited tenant's."""
    known = {key(number): f"tenant-{number % TENANTS:02}" for number in range(count)}
    return known | {key(-1): LIMITED}


def write_keys(folder: Path, count: int = KEYS) -> None:
    """Write the same keys for every gateway that can check them."""
    known = tenants(count)
    (folder / "nginx.map").write_text("".join(f"{one} {tenant};\n" for one, tenant in known.items()))
    (folder / "haproxy.map").write_text("".join(f"{one} {tenant}\n" for one, tenant in known.items()))
    credentials = [{"key": one, "client": tenant} for one, tenant in known.items()]
    (folder / "envoy.json").write_text(json.dumps(credentials))
    (folder / "keys.yaml").write_text(headgate_keys(known))


def headgate_keys(known: Mapping[str, str]) -> str:
    """Return a policy file with one principal per tenant and its keys."""
    hashes: dict[str, list[str]] = {}
    for one, tenant in known.items():
        hashes.setdefault(tenant, []).append(f'"sha256:{hashlib.sha256(one.encode()).hexdigest()}"')
    lines = ["principals:"]
    for tenant, own in hashes.items():
        plan = "small" if tenant == LIMITED else "large"
        lines += [f"  {tenant}:", f"    plan: {plan}", f"    tenant: {tenant}"]
        lines += ['    may: {endpoints: ["*"], models: ["*"]}', f"    keys: [{', '.join(own)}]"]
    return "\n".join(lines) + "\n"


def turns(targets: Sequence[str], keys: int = KEYS) -> str:
    """Return the lines `TARGET KEY` of a load: IN_TURN of them, spread over all targets and all keys."""
    return "".join(
        f"{targets[number * len(targets) // IN_TURN if len(targets) > IN_TURN else number % len(targets)]} "
        f"{key(number * keys // IN_TURN if keys > IN_TURN else number % keys)}\n"
        for number in range(IN_TURN)
    )


# TLS


def write_certificate(folder: Path) -> None:
    """Write a certificate for localhost that nobody trusts: ECDSA P-256, a day. Raises CalledProcessError."""
    private, certificate = folder / "private.pem", folder / "certificate.pem"
    words = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    command = [*words.split(), "-keyout", str(private), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "both.pem").write_text(certificate.read_text() + private.read_text())
