from __future__ import annotations

import argparse
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.cli import keys
from gateway.config.load import load
from gateway.config.units import parse_instant
from gateway.filters.catalog import KINDS


def headgate(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="headgate")
    keys.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["keys", *words])
    status: int = args.run(args)
    return status


def test_the_first_line_is_the_key_and_the_rest_holds_only_its_hash(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert headgate("new", "alice") == 0
    key, _, rest = capsys.readouterr().out.partition("\n")

    assert key.startswith("hg_")
    assert len(key) == 3 + 32
    assert key not in rest
    assert f"sha256:{sha256(key.encode()).hexdigest()}" in rest


def test_no_two_keys_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        headgate("new", "alice")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hg_")]
    assert len(set(lines)) == 20


def test_the_lines_are_a_policy_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    headgate(
        "new",
        "no",
        "--plan",
        "on",
        "--tenant",
        "1.10",
        "--model",
        "digits",
        "--expires",
        "30d",
        "--prefix",
        "x-",
    )
    key, _, rest = capsys.readouterr().out.partition("\n")
    page = "pools: {p: {instances: ['127.0.0.1:1']}}\nendpoints: {d: {model: digits, send: p}}\n"
    (tmp_path / "who.yaml").write_text(rest + "plans: {'on': {}}\n" + page)

    loaded = load(tmp_path, KINDS)
    assert loaded.schema is not None, loaded.report()
    (principal,) = loaded.schema.principals.values()
    (hashed,) = principal.keys
    assert (principal.name, principal.plan, principal.tenant) == ("no", "on", "1.10")
    assert principal.may.models == ("digits",)
    assert hashed.digest == sha256(key.encode()).digest()
    assert key.startswith(hashed.prefix)
    assert hashed.expires is not None
    assert 30 * 86400 <= hashed.expires - time.time() + 1 <= 30 * 86400 + 61


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2999-01-01", parse_instant("2999-01-01")), ("2999-01-01 12:30Z", parse_instant("2999-01-01 12:30Z"))],
)
def test_an_expiry_may_be_a_date(text: str, expected: float) -> None:
    assert keys._expiry(text) == expected


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["new"], id="no name"),
        pytest.param(["new", "a b"], id="name with a space"),
        pytest.param(["new", 'a"\nb'], id="name with a quote"),
        pytest.param(["new", "alice", "--expires", "30"], id="no unit"),
        pytest.param(["new", "alice", "--expires", "0"], id="at once"),
        pytest.param(["new", "alice", "--expires", "2020-01-01"], id="past"),
        pytest.param(["new", "alice", "--prefix", "a.b"], id="prefix with a dot"),
        pytest.param(["old"], id="unknown command"),
    ],
)
def test_a_wrong_command_line_is_told_and_ends_with_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        headgate(*words)
    assert end.value.code == 2
    assert "headgate keys" in capsys.readouterr().err


def test_a_key_that_may_call_nothing_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    headgate("new", "alice")
    assert "may call nothing" in capsys.readouterr().err
    headgate("new", "alice", "--model", "digits")
    assert capsys.readouterr().err == ""


def test_the_command_line_starts_without_the_gateways_libraries() -> None:
    import subprocess

    heavy = "{'asyncio', 'aiohttp', 'jwt', 'cryptography', 'numpy', 'yaml'}"
    code = f"import sys, gateway.cli.keys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
