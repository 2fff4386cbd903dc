"""The composition as processes of this machine: its commands, policies and health checks, no containers.

Only names and places are replaced: a service's name by a port on 127.0.0.1, a volume by a folder. What this
cannot show is what a container engine does: images, networks, mounts, limits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docker.files import DOCKER, ROOT, read_dockerfile, services, stages
from tests.services.etcd import EtcdServers, free_port, require_etcd
from tests.services.redis import RedisServer, need_redis

pytestmark = [pytest.mark.slow, pytest.mark.service("etcd"), pytest.mark.service("redis")]

TOKEN = "a token of this test"
BACKENDS = [name for name in services() if name.startswith("digits")]
PORTS = ("http", "admin", *BACKENDS)
PATIENCE = 60.0  # s until everything must be up; shared machines are slow


@dataclass(slots=True)
class Composition:
    """The composition, running. ports: of the gateway (HTTP and admin) and of each model server."""

    folder: Path
    redis: RedisServer
    ports: Mapping[str, int]
    processes: list[subprocess.Popen[bytes]]

    def ask(
        self, port: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[port]}{path}", data=body, headers=dict(headers or {})
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, dict(answer.headers.items()), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers.items()), error.read()


def image_command(dockerfile: str, command: list[str] | None = None) -> list[str]:
    """Return what the image runs, with the CMD replaced if the service has a command."""
    stage = stages(read_dockerfile(DOCKER / dockerfile))[-1]
    entry = next(step for step in stage if step.word == "ENTRYPOINT").exec_form
    default = next(step for step in stage if step.word == "CMD").exec_form
    return [*entry, *(default if command is None else command)]


def replaced(words: list[str], places: Mapping[str, str]) -> list[str]:
    """Return the words with every name of the composition replaced by its place on this machine."""
    changed = []
    for word in words:
        for name, place in places.items():
            word = word.replace(name, place)
        changed.append(word)
    programs = {"python": sys.executable, "headgate": str(Path(sys.executable).parent / "headgate")}
    changed[0] = programs.get(changed[0], changed[0])
    return changed


@pytest.fixture(scope="module")
def composition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    require_etcd()
    need_redis()
    folder = tmp_path_factory.mktemp("composition")
    etcd = EtcdServers(folder / "etcd")
    redis_server = RedisServer(folder / "redis")
    running = Composition(folder, redis_server, {name: free_port() for name in PORTS}, [])
    try:
        start(running, etcd.nodes[0].port)
        wait_until_ready(running)
        yield running
    finally:
        for process in running.processes:
            process.terminate()
        for process in running.processes:
            process.wait(timeout=20)
        redis_server.kill()
        etcd.close()


def start(running: Composition, etcd_port: int) -> None:
    folder, ports = running.folder, running.ports
    state, policies = folder / "state", folder / "policies"
    state.mkdir()
    shutil.copytree(DOCKER / "policies", policies)
    places = {
        "http://etcd:2379": f"http://127.0.0.1:{etcd_port}",
        "etcd://etcd:2379": f"etcd://127.0.0.1:{etcd_port}",
        "redis://redis:6379": f"redis://127.0.0.1:{running.redis.port}",
        "http://jaeger:4318": "http://127.0.0.1:1",  # nobody there: traces are lost, requests are not
        "/var/lib/headgate": str(state),
        "/etc/headgate/policies": str(policies),
        "/models": str(ROOT / "backends" / "models"),
        "0.0.0.0:8080": f"127.0.0.1:{ports['http']}",
        "0.0.0.0:9080": f"127.0.0.1:{ports['admin']}",
    }
    for file in policies.glob("*.yaml"):
        file.write_text(replaced([file.read_text()], places)[0])
    commands = {"gateway": replaced(image_command("gateway.Dockerfile"), places)}
    for name in BACKENDS:
        here = f"127.0.0.1:{ports[name]}"
        command = image_command("backend.Dockerfile", services()[name]["command"])
        commands[name] = replaced(command, {**places, f"{name}:8500": here, "0.0.0.0:8500": here})
    environment = {**os.environ, "HEADGATE_ADMIN_TOKEN": TOKEN}
    for name, command in commands.items():
        with (folder / f"{name}.log").open("wb") as log:
            running.processes.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            )


def wait_until_ready(running: Composition) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if len(instances(running)) == len(BACKENDS) and running.ask("admin", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    logs = {path.name: path.read_text()[-800:] for path in running.folder.glob("*.log")}
    pytest.fail(f"not ready within {PATIENCE:g} s: {logs}")


def instances(running: Composition) -> list[dict[str, Any]]:
    _, _, body = running.ask("admin", "/instances", headers={"Authorization": f"Bearer {TOKEN}"})
    found: list[dict[str, Any]] = json.loads(body)
    return found


def test_the_composition_answers_a_prediction_and_remembers_it_in_redis(composition: Composition) -> None:
    sample = json.loads((ROOT / "backends" / "models" / "samples.json").read_text())[0]
    body = json.dumps({"instances": [sample["pixels"]]}).encode()
    headers = {"X-API-Key": "demo-pro", "x-headgate-send": "stable"}
    status, first, answer = composition.ask("http", "/v1/models/digits:predict", body, headers)
    assert status == 200, answer
    assert json.loads(answer)["predictions"][0]["label"] == sample["label"]
    status, second, _ = composition.ask("http", "/v1/models/digits:predict", body, headers)
    assert status == 200
    assert first["cache-status"].startswith("headgate; fwd=miss")
    assert second["cache-status"] == "headgate; hit"
    control = composition.redis.control()
    keys = {int(name[2:]): count["keys"] for name, count in control.info("keyspace").items()}
    control.close()
    assert keys.get(0, 0) > 0, "counters"
    assert keys.get(1, 0) > 0, "answers"


def test_every_model_server_is_found_under_the_address_it_told(composition: Composition) -> None:
    found = {(one["pool"], one["address"]) for one in instances(composition)}
    told = {(name.rpartition("-")[0], f"127.0.0.1:{composition.ports[name]}") for name in BACKENDS}
    assert found == told


def test_the_admin_port_is_open_to_prometheus_and_closed_to_others(composition: Composition) -> None:
    status, _, page = composition.ask("admin", "/metrics")
    assert status == 200
    assert b"headgate_instance_up" in page
    assert composition.ask("admin", "/config")[0] == 401
    assert composition.ask("admin", "/config", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_the_images_health_checks_pass_while_it_serves_and_fail_when_it_does_not(
    composition: Composition,
) -> None:
    for file, port, name in (("gateway", 9080, "admin"), ("backend", 8500, "digits-v1-a")):
        stage = stages(read_dockerfile(DOCKER / f"{file}.Dockerfile"))[-1]
        check = next(step for step in stage if step.word == "HEALTHCHECK").text.split("CMD ", 1)[1]
        for here, expected in ((composition.ports[name], 0), (1, 1)):
            words: list[str] = json.loads(check.replace(f"127.0.0.1:{port}", f"127.0.0.1:{here}"))
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, check=False)
            assert done.returncode == expected, done.stderr


def test_the_registrys_last_known_instances_are_kept_on_the_volume(composition: Composition) -> None:
    kept = composition.folder / "state" / "etcd.json"
    ports = [str(composition.ports[name]) for name in BACKENDS]
    end = time.monotonic() + PATIENCE
    while not (kept.exists() and all(port in kept.read_text() for port in ports)):
        assert time.monotonic() < end, "the snapshot is not what is registered"
        time.sleep(0.1)
