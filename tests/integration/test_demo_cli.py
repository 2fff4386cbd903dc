"""The commands beside a running demo: what they print, and their exit codes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from tests.integration.running import POLICIES, PREDICT, Demo, command, fresh_row, tfs, until

KEY_LINE = re.compile(r"hash: sha256:([0-9a-f]{64})")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a copy of the demo's policies."""
    shutil.copytree(POLICIES, tmp_path / "policies", ignore=shutil.ignore_patterns("overrides.yaml"))
    return tmp_path


def change(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / "policies" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# check and diff


def test_check_counts_what_is_good(folder: Path) -> None:
    done = command("check", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "policies: 2 endpoints, 4 pools, 4 policies, 3 principals: good\n"


def test_check_tells_every_error_at_once_with_its_place_and_the_nearest_word(folder: Path) -> None:
    change(folder, "digits.yaml", "timeout: 2s", "timeot: 2s")
    change(folder, "house-rules.yaml", "weight: 10%", "weight: ten")
    change(folder, "who.yaml", "plan: pro", "plan: prof")
    done = command("check", cwd=folder)
    assert done.returncode == 1
    for place in ("policies/digits.yaml:19:5", "policies/house-rules.yaml:16:", "policies/who.yaml:"):
        assert place in done.stdout
    assert "timeout" in done.stdout
    assert "3 errors in policies" in done.stdout


def test_check_prints_the_json_schema(folder: Path) -> None:
    done = command("check", "--schema", cwd=folder)
    assert done.returncode == 0
    assert json.loads(done.stdout)["$defs"]


def test_diff_of_two_folders_names_the_line_that_changed(folder: Path) -> None:
    assert command("diff", "--against", POLICIES, cwd=folder).returncode == 0
    change(folder, "digits.yaml", "timeout: 2s", "timeout: 3s")
    done = command("diff", "--against", POLICIES, cwd=folder)
    assert done.returncode == 1
    changed = [
        line for line in done.stdout.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert len(changed) == 2
    assert all("endpoints.digits" in line and "timeout" in line for line in changed)


def test_diff_compares_with_the_running_gateway(demo: Demo, folder: Path) -> None:
    env = {"HEADGATE_ADMIN_PORT": str(demo.admin)}
    done = command("diff", cwd=folder, env=env)
    assert (done.returncode, done.stdout) == (0, "nothing would change\n")
    change(folder, "house-rules.yaml", "weight: 10%", "weight: 20%")
    done = command("diff", cwd=folder, env=env)
    assert done.returncode == 1
    assert "weight" in done.stdout


# explain and endpoints


def test_explain_shows_each_decision_with_numbers_and_the_line_that_says_so(demo: Demo) -> None:
    body = tfs(fresh_row()).decode()
    done = demo.headgate("explain", "POST", PREDICT, "-H", "X-API-Key: demo-free", "-d", body)
    assert (done.returncode, done.stderr) == (0, "")
    for told in (
        "endpoint  digits",
        "principal=free-user",
        "limit=5/s per principal burst 5",
        "policies/house-rules.yaml:12:",
        "pool digits-v1",
        "=> 200",
        "would be sent to",
    ):
        assert told in done.stdout


def test_explain_spends_and_sends_nothing(demo: Demo) -> None:
    body = tfs(fresh_row()).decode()
    before = [one["successes"] for one in demo.instances()]
    for _ in range(8):
        done = demo.headgate("explain", "POST", PREDICT, "-H", "X-API-Key: demo-free", "-d", body)
        assert "remaining=4" in done.stdout
    assert [one["successes"] for one in demo.instances()] == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["POST", PREDICT, "-d", "{}"], "401 missing_credentials"),
        (["POST", PREDICT, "-H", "X-API-Key: demo-guest", "-d", "{}"], "403 not_allowed"),
        (["POST", PREDICT, "-H", "X-API-Key: demo-pro", "-d", '{"instances": [[1]]}'], "422 wrong_shape"),
        (["GET", "/nowhere"], "404 unknown_endpoint"),
    ],
    ids=["nobody", "guest", "shape", "nowhere"],
)
def test_explain_says_why_a_request_would_be_refused(demo: Demo, arguments: list[str], reason: str) -> None:
    done = demo.headgate("explain", *arguments)
    assert done.returncode == 1
    assert f"=> {reason}" in done.stdout


def test_explain_reads_the_body_from_a_file_and_takes_a_whole_url(demo: Demo) -> None:
    url = f"http://127.0.0.1:{demo.http}{PREDICT}"
    done = demo.headgate("explain", "POST", url, "-H", "X-API-Key: demo-pro", "-d", "@.demo/digit.json")
    assert done.returncode == 0
    missing = demo.headgate("explain", "POST", url, "-d", "@nothing.json")
    assert missing.returncode == 2
    assert "nothing.json" in missing.stderr


def test_endpoints_lists_versions_labels_pools_and_instances(demo: Demo) -> None:
    done = demo.headgate("endpoints")
    assert done.returncode == 0
    assert "digits  (model digits; policies/digits.yaml:13:3)" in done.stdout
    assert "version 1 stable -> pool digits-v1" in done.stdout
    assert "version 2 canary -> pool digits-v2" in done.stdout
    for one in demo.instances():
        assert one["address"] in done.stdout


# keys


def test_a_new_key_is_shown_once_and_its_hash_is_what_the_policies_take(folder: Path) -> None:
    done = command("keys", "new", "alice", "--plan", "pro", "--model", "digits", cwd=folder)
    assert done.returncode == 0
    key, _, rest = done.stdout.partition("\n")
    found = KEY_LINE.search(rest)
    assert found is not None
    assert found[1] == hashlib.sha256(key.encode()).hexdigest()
    assert key not in rest
    lines = rest[rest.index("principals:") :]
    (folder / "policies/alice.yaml").write_text(lines)
    assert command("check", cwd=folder).returncode == 0


@pytest.mark.slow
def test_a_new_key_opens_the_running_gateway_once_its_lines_are_saved(tmp_path: Path) -> None:
    with Demo(tmp_path) as demo:
        printed = demo.headgate("keys", "new", "alice", "--plan", "pro", "--model", "digits").stdout
        key = printed.splitlines()[0]
        assert demo.predict(headers={"X-API-Key": key}).status == 401
        (demo.policies / "alice.yaml").write_text(printed[printed.index("principals:") :])
        until(lambda: demo.predict(headers={"X-API-Key": key}).status == 200, "the new key", 2)
        (demo.policies / "alice.yaml").unlink()
        until(lambda: demo.predict(headers={"X-API-Key": key}).status == 401, "its revocation", 2)


# Overrides, without a gateway


def test_an_override_prints_its_diff_and_its_end_and_clear_takes_it_back(folder: Path) -> None:
    done = command("throttle", "digits", "20/s", "--for", "30m", cwd=folder)
    assert done.returncode == 0
    written = (folder / "policies/overrides.yaml").read_text()
    (until_when,) = re.findall(r'until: "(\S+ \S+)Z"', written)
    assert "+digits: {throttle: 20/s, until:" in done.stdout
    assert f"ends {until_when}Z (in 30m)" in done.stdout
    assert command("check", cwd=folder).returncode == 0
    assert command("clear", "digits", cwd=folder).stdout.count("-digits: {throttle: 20/s") == 1
    again = command("clear", "digits", cwd=folder)
    assert (again.returncode, again.stdout) == (0, "nothing to change\n")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["throttle", "nope", "1/s"], 1, "nope"),
        (["throttle", "digits", "1x"], 1, "1x"),
        (["throttle", "digits", "1/s", "--for", "1y"], 2, "1y"),
        (["degrade", "digits", "--to", "nowhere"], 1, "nowhere"),
        (["send", "digits", "v9"], 1, "v9"),
        (["degrade", "digits"], 2, "--to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_an_override_that_makes_no_sense_is_refused(
    folder: Path, arguments: list[str], code: int, named: str
) -> None:
    done = command(*arguments, cwd=folder)
    assert done.returncode == code
    assert named in done.stdout + done.stderr
    assert not (folder / "policies/overrides.yaml").exists()


# Nobody there, nothing there


@pytest.mark.parametrize(
    "arguments", [["endpoints"], ["diff"], ["explain", "GET", "/"]], ids=lambda arguments: arguments[0]
)
def test_a_command_without_a_gateway_says_so(folder: Path, arguments: list[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = command(*arguments, cwd=folder, env={"HEADGATE_ADMIN_PORT": str(nobody.getsockname()[1])})
    assert done.returncode == 3
    assert "no gateway answers" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_a_missing_policy_folder_is_named(tmp_path: Path, verb: str) -> None:
    done = command(verb, "--policies", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert "nowhere" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    assert command("fly", cwd=tmp_path).returncode == 2
