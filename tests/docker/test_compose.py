from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.__main__ import _parser as backend_parser
from backends.repository import Choice
from gateway.cli.main import parser as gateway_parser
from tests.docker.files import DOCKER, compose, read_dockerfile, services, stages

SERVICES = services()
EACH = sorted(SERVICES)
OURS = [name for name in EACH if "build" in SERVICES[name]]
BACKENDS = [name for name in EACH if name.startswith("digits")]

# The keys that this file uses, of those that the Compose Specification gives a service.
KNOWN = frozenset(
    [
        "build",
        "cap_drop",
        "command",
        "depends_on",
        "environment",
        "healthcheck",
        "image",
        "ports",
        "profiles",
        "read_only",
        "restart",
        "security_opt",
        "stop_grace_period",
        "tmpfs",
        "user",
        "volumes",
    ]
)


def has_healthcheck(name: str) -> bool:
    service = SERVICES[name]
    if "healthcheck" in service:
        return True
    if "build" not in service:
        return False
    file = DOCKER.parent / service["build"]["dockerfile"]
    return any(step.word == "HEALTHCHECK" for step in stages(read_dockerfile(file))[-1])


def test_everything_is_there() -> None:
    assert set(EACH) == {
        *("gateway", "etcd", "redis", "digits-v1-a", "digits-v1-b", "digits-v2-a", "digits-lite-a"),
        *("prometheus", "grafana", "jaeger", "locust"),
    }


def test_top_level_keys_are_the_specifications() -> None:
    keys = {key for key in compose() if not key.startswith("x-")}
    assert keys == {"name", "services", "volumes"}


@pytest.mark.parametrize("name", EACH)
def test_a_service_has_known_keys_only(name: str) -> None:
    assert set(SERVICES[name]) <= KNOWN


@pytest.mark.parametrize("name", EACH)
def test_images_are_pinned_by_tag(name: str) -> None:
    image: str = SERVICES[name]["image"]
    _, _, tag = image.rpartition(":")
    if "build" in SERVICES[name]:
        assert tag == "local"  # what was built here, not something of that name from a registry
    else:
        assert re.fullmatch(r"v?\d+\.\d+\.\d+(-[a-z]+)?", tag), image


@pytest.mark.parametrize("name", OURS)
def test_what_we_build_has_its_dockerfile(name: str) -> None:
    build = SERVICES[name]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert context == DOCKER.parent
    assert (context / build["dockerfile"]).is_file()


@pytest.mark.parametrize("name", OURS)
def test_what_we_build_runs_without_privileges_on_a_read_only_root(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "/tmp" in service["tmpfs"]


@pytest.mark.parametrize("name", EACH)
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        address, published, _ = port.split(":")
        assert address == "127.0.0.1"
        assert 1024 <= int(published) < 65536


def test_no_port_is_published_twice() -> None:
    published = [port.split(":")[1] for name in EACH for port in SERVICES[name].get("ports", ())]
    assert len(published) == len(set(published))


@pytest.mark.parametrize("name", EACH)
def test_who_is_waited_for_exists_and_can_say_that_it_is_well(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert how == {"condition": "service_healthy"}
        assert has_healthcheck(other)


def test_nobody_waits_in_a_circle() -> None:
    waiting = {name: set(SERVICES[name].get("depends_on", ())) for name in EACH}
    while waiting:
        free = {name for name, others in waiting.items() if not others & waiting.keys()}
        assert free, f"a circle among {sorted(waiting)}"
        waiting = {name: others for name, others in waiting.items() if name not in free}


@pytest.mark.parametrize("name", EACH)
def test_mounted_files_exist_and_named_volumes_are_declared(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (DOCKER / source).exists(), source
            assert volume.endswith(":ro")
        else:
            assert source in compose()["volumes"]


def test_the_policy_folder_is_mounted_whole() -> None:
    """A bind-mounted file keeps showing the old inode when an editor saves by rename."""
    sources = [volume.split(":")[0] for volume in SERVICES["gateway"]["volumes"]]
    assert any((DOCKER / source).is_dir() for source in sources if source.startswith("."))


@pytest.mark.parametrize("name", EACH)
def test_no_secret_is_written_down(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"TOKEN|PASSWORD|SECRET|KEY", variable):
            assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value)


def test_every_variable_is_in_the_example_and_has_no_value_there() -> None:
    asked_for = set(re.findall(r"\$\{([A-Z_]+)[:}]", (DOCKER / "compose.yaml").read_text()))
    example = dict(
        line.split("=", 1)
        for line in (DOCKER / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert set(example) == asked_for
    assert not any(example.values())


@pytest.mark.parametrize("name", ["gateway", *BACKENDS])
def test_a_stop_leaves_time_to_drain(name: str) -> None:
    seconds = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert seconds > (30 if name == "gateway" else 10)


# What the services are told


def read_backend(command: list[str]) -> dict[str, Any]:
    return vars(backend_parser().parse_args(command))


@pytest.mark.parametrize(
    ("file", "name"),
    [*(("compose.yaml", name) for name in BACKENDS), ("compose.cuda.yaml", "digits-v1-a")],
)
def test_a_model_server_understands_its_command_and_tells_etcd_where_it_is(file: str, name: str) -> None:
    flags = read_backend(services(file)[name]["command"])
    assert str(flags["registry_advertise"]) == f"{name}:8500"
    assert str(flags["address"]) == "0.0.0.0:8500"
    assert flags["registry_url"] == "etcd://etcd:2379"
    [choice] = flags["models"]
    assert isinstance(choice, Choice)
    assert (DOCKER.parent / "backends" / "models" / choice.name / str(choice.version)).is_dir()


def test_every_pool_of_the_policies_finds_somebody() -> None:
    pools = yaml.safe_load((DOCKER / "policies" / "digits.yaml").read_text())["pools"]
    registered = {
        (flags["registry_service"], flags["registry_version"])
        for flags in (read_backend(SERVICES[name]["command"]) for name in BACKENDS)
    }
    for pool in pools.values():
        assert any(
            service == pool["find"] and pool.get("version", version) == version
            for service, version in registered
        )


def test_the_gateway_understands_the_images_command() -> None:
    stage = stages(read_dockerfile(DOCKER / "gateway.Dockerfile"))[-1]
    command = next(step for step in stage if step.word == "CMD").exec_form
    args = gateway_parser().parse_args(command)
    mounted = [volume.split(":")[1] for volume in SERVICES["gateway"]["volumes"]]
    assert str(args.policies) in mounted
    assert args.http.startswith("0.0.0.0:")
    assert args.admin_listen.startswith("0.0.0.0:")


def test_prometheus_scrapes_services_at_ports_that_their_images_have() -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    targets = [
        target
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    for target in targets:
        name, port = target.split(":")
        file = DOCKER.parent / SERVICES[name]["build"]["dockerfile"]
        exposed = next(step for step in stages(read_dockerfile(file))[-1] if step.word == "EXPOSE").words
        assert port in exposed
    assert {target.split(":")[0] for target in targets} == {"gateway", *BACKENDS}


def test_grafana_asks_the_services_that_are_there() -> None:
    folder = DOCKER / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    ports = {name: [port.split(":")[2] for port in SERVICES[name].get("ports", ())] for name in EACH}
    for source in sources:
        host, port = source["url"].removeprefix("http://").split(":")
        assert port in ports[host]
    [provider] = yaml.safe_load((folder / "dashboards" / "headgate.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DOCKER / "grafana" / "dashboards" / Path(home).name).is_file()


def test_the_cuda_file_changes_only_services_that_are_there() -> None:
    changed = services("compose.cuda.yaml")
    assert set(changed) <= set(SERVICES)
    for service in changed.values():
        assert (DOCKER.parent / service["build"]["dockerfile"]).is_file()
        assert "cuda" in service["command"]


def test_secrets_of_this_machine_stay_out_of_git() -> None:
    assert ".env" in (DOCKER / ".gitignore").read_text().split()
