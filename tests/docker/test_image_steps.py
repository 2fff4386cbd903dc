"""The build steps of the images, replayed in an empty folder that holds only what COPY brings."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.files import DOCKER, ROOT, read_dockerfile, stages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def replay(name: str, folder: Path) -> Path:
    """Run a Dockerfile's build stage with `folder` in place of the image's root. Returns its environment."""
    environment, source = folder / "opt" / "headgate", folder / "src"
    source.mkdir(parents=True)
    for step in stages(read_dockerfile(DOCKER / name))[0]:
        if step.word == "COPY":
            *copied, target = step.words
            for path in copied:
                if (ROOT / path).is_dir():
                    shutil.copytree(
                        ROOT / path, source / target, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(ROOT / path, source / target)
        elif step.word == "RUN" and not step.text.startswith("apt-get"):  # not this machine's packages
            # The compiled form takes minutes, and make twin builds it; here it is about files and pins.
            command = step.text.replace("$HEADGATE_NATIVE", "0")
            command = command.replace("/opt/headgate", shlex.quote(str(environment)))
            command = command.replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv")
            done = subprocess.run(
                ["sh", "-c", command], cwd=source, env=clean(), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return environment


def clean() -> dict[str, str]:
    """Return an environment in which no other Python's settings reach the one under test."""
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "PIP_INDEX_URL",
        "PIP_CONFIG_FILE",
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
        "NO_PROXY",
    )
    return {name: os.environ[name] for name in kept if name in os.environ}


def ask(environment: Path, *command: str, cwd: Path) -> str:
    """Run a command of the new environment, away from the checkout, and return what it printed."""
    done = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def assert_everything_is_pinned(environment: Path, cwd: Path) -> None:
    """What pip installed is what constraints.txt says, dependencies of dependencies too."""
    pins = {
        line.strip().lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    frozen = ask(environment, "python", "-m", "pip", "freeze", cwd=cwd).splitlines()
    installed = {line.lower().replace("_", "-") for line in frozen if not line.startswith("headgate")}
    assert len(installed) > 10
    assert installed - pins == set()


def test_the_gateways_image_can_serve(tmp_path: Path) -> None:
    environment = replay("gateway.Dockerfile", tmp_path / "image")
    away = tmp_path / "away"
    away.mkdir()
    assert "serve" in ask(environment, "headgate", "--help", cwd=away)
    policies = away / "policies"
    policies.mkdir()
    (policies / "gateway.yaml").write_text("telemetry: {otlp: 'http://127.0.0.1:4318/v1/traces'}\n")
    assert "good" in ask(environment, "headgate", "check", "--policies", str(policies), cwd=away)
    exporter = "import opentelemetry.exporter.otlp.proto.http.trace_exporter"
    ask(environment, "python", "-c", f"import gateway.runtime.worker; {exporter}", cwd=away)
    assert ask(environment, "python", "-m", "pip", "check", cwd=away).startswith("No broken requirements")
    assert_everything_is_pinned(environment, away)


def test_the_backends_image_can_serve(tmp_path: Path) -> None:
    environment = replay("backend.Dockerfile", tmp_path / "image")
    away = tmp_path / "away"
    away.mkdir()
    assert "--repository" in ask(environment, "python", "-m", "backends", "serve", "--help", cwd=away)
    ask(environment, "python", "-c", "import backends.server, onnxruntime", cwd=away)
    assert ask(environment, "python", "-m", "pip", "check", cwd=away).startswith("No broken requirements")
    assert_everything_is_pinned(environment, away)


def test_the_load_images_locust_knows_our_flags(tmp_path: Path) -> None:
    environment = replay("load.Dockerfile", tmp_path / "image")
    away = tmp_path / "away"
    shutil.copytree(
        ROOT / "loadtests", away / "loadtests", ignore=shutil.ignore_patterns("__pycache__", "out")
    )
    command = ("locust", "-f", "loadtests/locustfile.py", "--model", "digits", "--list")
    assert "KServeV2User" in ask(environment, *command, cwd=away)
    assert_everything_is_pinned(environment, away)
